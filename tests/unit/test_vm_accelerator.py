import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from buildvm_nb.errors import HostError
from buildvm_nb.model.machine import Accelerator
from buildvm_nb.vm import accelerator
from buildvm_nb.vm.accelerator import choose_accelerator, prove_kvm
from buildvm_nb.vm.command import BootFiles
from buildvm_nb.vm.qemu import Emulator

BOOT = BootFiles(
    kernel=Path("/k/vmlinuz"),
    kernel_release="6.1.0-40-amd64",
    initramfs=Path("/k/initramfs.cpio"),
    root=Path("/i/root.squashfs"),
)
COMES_UP = "echo 'buildvm: a guest without settings has come up'"
HANGS = "echo 'Booting the kernel.'; exec sleep 60"
REFUSES = "echo 'failed to initialize kvm: Device or resource busy' >&2; exit 1"


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A file in place of /dev/kvm that this user may open."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(accelerator, "_DEVICE", path)
    return path


@pytest.fixture
def qemu(tmp_path):
    """Write a fake QEMU that does what a script says and counts its starts."""

    def write(script, version="7.2.22"):
        path = tmp_path / "qemu"
        path.write_text(f'#!/bin/sh\necho "$*" >>"$0.calls"\n{script}\n')
        path.chmod(0o755)
        return Emulator(path=str(path), version=version, models=frozenset(), features=frozenset())

    return write


def starts(emulator):
    log = Path(f"{emulator.path}.calls")
    return log.read_text().splitlines() if log.exists() else []


def test_a_host_without_the_device_has_no_kvm(device, qemu):
    device.unlink()
    emulator = qemu(COMES_UP)
    works, seen = prove_kvm(emulator, BOOT)
    assert not works
    assert seen == f"{device} does not exist: the host's processor or kernel offers no KVM"
    assert starts(emulator) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_user_who_may_not_open_the_device_is_told_the_group(device, qemu):
    device.chmod(0)
    works, seen = prove_kvm(qemu(COMES_UP), BOOT)
    assert not works
    assert "this user may not open it (group kvm)" in seen


def test_a_device_that_the_system_does_not_let_us_open_is_no_kvm(device, qemu, monkeypatch):
    monkeypatch.setattr(accelerator.os, "access", lambda *_: False)
    works, seen = prove_kvm(qemu(COMES_UP), BOOT)
    assert not works
    assert "may not open it" in seen


def test_without_a_kernel_at_hand_nothing_is_claimed(device, qemu):
    works, seen = prove_kvm(qemu(COMES_UP), None)
    assert not works
    assert "it will be tried when the first machine boots" in seen


def test_a_guest_that_comes_up_proves_kvm_with_the_very_kernel(device, qemu):
    emulator = qemu(COMES_UP)
    assert prove_kvm(emulator, BOOT) == (True, "a guest under KVM came up")
    (line,) = starts(emulator)
    assert "-accel kvm" in line
    assert "-kernel /k/vmlinuz -initrd /k/initramfs.cpio" in line


def test_a_guest_that_hangs_is_given_up_at_the_deadline(device, qemu, monkeypatch):
    monkeypatch.setattr(accelerator, "_DEADLINE_S", 0.5)
    began = time.monotonic()
    works, seen = prove_kvm(qemu(HANGS), BOOT)
    assert time.monotonic() - began < 10
    assert not works
    assert seen.startswith("a guest under KVM hung for ")


def test_a_guest_that_ends_without_coming_up_disproves_kvm_in_qemu_s_words(device, qemu):
    works, seen = prove_kvm(qemu(REFUSES), BOOT)
    assert not works
    assert seen == (
        "a guest under KVM did not come up: QEMU exited with 1; it said: "
        "failed to initialize kvm: Device or resource busy"
    )


@pytest.mark.parametrize("script", [COMES_UP, REFUSES])
def test_the_answer_is_remembered_until_the_host_boots_again(
    device, qemu, tmp_path, monkeypatch, script
):
    boot_id, memo = tmp_path / "boot_id", tmp_path / "kvm.json"
    boot_id.write_text("first\n")
    monkeypatch.setattr(accelerator, "_BOOT_ID", boot_id)
    emulator = qemu(script)
    first = prove_kvm(emulator, BOOT, memo)
    assert prove_kvm(emulator, BOOT, memo) == first
    assert len(starts(emulator)) == 1
    boot_id.write_text("second\n")
    assert prove_kvm(emulator, BOOT, memo) == first
    assert len(starts(emulator)) == 2


def test_a_failure_is_tried_again_after_an_hour_and_success_is_not(
    device, qemu, tmp_path, monkeypatch
):
    memo, clock = tmp_path / "kvm.json", [1000.0]
    monkeypatch.setattr(accelerator, "_uptime", lambda: clock[0])
    emulator = qemu(REFUSES)
    for later, tries in ((0, 1), (3599, 1), (2, 2), (10, 2)):
        clock[0] += later
        assert prove_kvm(emulator, BOOT, memo)[0] is False
        assert len(starts(emulator)) == tries
    qemu(COMES_UP)
    for later in (3601, 7200, 1_000_000):
        clock[0] += later
        assert prove_kvm(emulator, BOOT, memo)[0] is True
    assert len(starts(emulator)) == 3


def test_kvm_asked_for_by_name_is_tried_again_at_once(device, qemu, tmp_path):
    memo = tmp_path / "kvm.json"
    emulator = qemu(REFUSES)
    assert choose_accelerator(Accelerator.AUTO, emulator, BOOT, memo) is Accelerator.TCG
    qemu(COMES_UP)
    assert choose_accelerator(Accelerator.AUTO, emulator, BOOT, memo) is Accelerator.TCG
    assert choose_accelerator(Accelerator.KVM, emulator, BOOT, memo) is Accelerator.KVM
    assert choose_accelerator(Accelerator.AUTO, emulator, BOOT, memo) is Accelerator.KVM


def test_each_kernel_is_tried_and_each_answer_kept(device, qemu, tmp_path):
    memo = tmp_path / "kvm.json"
    others = [replace(BOOT, kernel_digest=name * 64) for name in "ab"]
    emulator = qemu(COMES_UP)
    for boot in (BOOT, *others, *others, BOOT):
        assert prove_kvm(emulator, boot, memo)[0] is True
    assert len(starts(emulator)) == 3


def test_of_many_who_ask_at_once_one_tries(device, qemu, tmp_path):
    memo, emulator = tmp_path / "kvm.json", qemu(f"sleep 0.2; {COMES_UP}")
    together, answers = threading.Barrier(4), []

    def ask():
        together.wait()
        answers.append(prove_kvm(emulator, BOOT, memo))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(True, "a guest under KVM came up")] * 4
    assert len(starts(emulator)) == 1


def test_a_memory_that_cannot_be_written_is_done_without(device, qemu, tmp_path):
    (tmp_path / "no directory").touch()
    memo = tmp_path / "no directory" / "kvm.json"
    assert prove_kvm(qemu(COMES_UP), BOOT, memo) == (True, "a guest under KVM came up")


def test_a_trial_ends_with_the_process_that_made_it_even_if_that_is_killed(qemu, tmp_path):
    os.mkfifo(tmp_path / "alive")
    # who reads the other end sees its end when the last process that has it open is gone
    emulator = qemu(f"exec 3>{tmp_path}/alive; echo $$ >&3; exec sleep 600")
    asking = f"""
from pathlib import Path
from buildvm_nb.vm import accelerator
from buildvm_nb.vm.command import BootFiles
from buildvm_nb.vm.qemu import Emulator
accelerator._DEVICE, accelerator._DEADLINE_S = Path({str(emulator.path)!r}), 600.0
emulator = Emulator(
    path={emulator.path!r}, version="7.2", models=frozenset(), features=frozenset()
)
boot = BootFiles(kernel=Path("k"), kernel_release="6", initramfs=Path("i"), root=Path("r"))
accelerator.prove_kvm(emulator, boot)
"""
    asker = subprocess.Popen([sys.executable, "-c", asking])
    with (tmp_path / "alive").open("rb", buffering=0) as alive:
        trial = int(alive.readline())
        asker.send_signal(signal.SIGKILL)
        asker.wait()
        ended, _, _ = select.select([alive], [], [], 60)
        if not ended:
            os.kill(trial, signal.SIGKILL)
        assert ended
        assert alive.read() == b""


def test_another_qemu_is_tried_anew(device, qemu, tmp_path):
    memo = tmp_path / "kvm.json"
    assert prove_kvm(qemu(REFUSES, "7.2.22"), BOOT, memo)[0] is False
    assert prove_kvm(qemu(COMES_UP, "10.0.0"), BOOT, memo)[0] is True


@pytest.mark.parametrize("content", ["", "{", "[]", "null", json.dumps({"stamp": []})])
def test_a_damaged_memory_is_tried_again(device, qemu, tmp_path, content):
    memo = tmp_path / "kvm.json"
    memo.write_text(content)
    assert prove_kvm(qemu(COMES_UP), BOOT, memo) == (True, "a guest under KVM came up")


@pytest.mark.parametrize(
    ("wanted", "script", "chosen"),
    [
        (Accelerator.AUTO, COMES_UP, Accelerator.KVM),
        (Accelerator.AUTO, REFUSES, Accelerator.TCG),
        (Accelerator.KVM, COMES_UP, Accelerator.KVM),
        (Accelerator.TCG, COMES_UP, Accelerator.TCG),
    ],
)
def test_kvm_is_used_only_where_it_was_seen_to_work(device, qemu, wanted, script, chosen):
    emulator = qemu(script)
    assert choose_accelerator(wanted, emulator, BOOT) is chosen
    assert len(starts(emulator)) == (0 if wanted is Accelerator.TCG else 1)


def test_kvm_that_was_asked_for_but_does_not_work_is_an_error(device, qemu):
    with pytest.raises(HostError, match="KVM does not work on this host: a guest under") as caught:
        choose_accelerator(Accelerator.KVM, qemu(REFUSES), BOOT)
    assert "--accelerator tcg" in caught.value.hint
