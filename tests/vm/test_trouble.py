"""Trouble of the machine: noticed at once, told apart, and nothing left behind."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from buildvm_nb.errors import GuestLost, HostError, LaunchError, MachineError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.study.run import prepare
from buildvm_nb.vm import BuildMachine, Provision, accelerator
from buildvm_nb.vm.accelerator import choose_accelerator

from .conftest import IMAGE, is_running, output_of

pytestmark = pytest.mark.vm


def test_a_qemu_killed_in_the_middle_of_a_command_is_told(machine_at):
    with machine_at() as machine:
        pid = machine.pid
        with pytest.raises(GuestLost, match="SIGKILL"):
            machine.run("echo begun; sleep 1000", stdout=lambda _: os.kill(pid, signal.SIGKILL))
    assert not is_running(pid)


def test_a_guest_that_is_paused_is_told(machine_at):
    with machine_at() as machine:
        monitor = machine._up().monitor

        def pause(_):
            monitor._wait(monitor._client.execute("stop"))

        with pytest.raises(GuestLost, match="QEMU has paused the guest, and nobody has asked"):
            machine.run("echo begun; sleep 1000", stdout=pause)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_of_the_host_is_the_hosts_trouble(cache, tmp_path):
    spec = MachineSpec.parse({"date": "2019-05-01", "image": IMAGE, "accelerator": "tcg"})
    boot = prepare(spec, cache=cache)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", tmp_path], check=True)
    try:
        small = Cache(tmp_path)
        with (
            BuildMachine(spec, boot, cache=small, provision=Provision(scratch_mib=2000)) as machine,
            pytest.raises(GuestLost, match="disk 'scratch': No space left") as caught,
        ):
            machine.run("dd if=/dev/urandom of=/build/big bs=1M count=200 conv=fsync || exit 1")
        assert "make room" in caught.value.hint
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_kernel_panic_is_told(machine_at):
    with machine_at() as machine:
        panic = "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"
        machine._up().channel.start(panic)
        with pytest.raises(GuestLost, match=r"kernel (panic|oops)") as caught:
            machine.run("sleep 1000", timeout_s=100)
    assert "sysrq" in caught.value.evidence.lower()


def test_a_command_that_takes_all_memory_is_the_machines_trouble(machine_at):
    with machine_at() as machine:
        with pytest.raises(MachineError, match="ran out of memory") as caught:
            machine.run(["python3", "-c", HOG], timeout_s=600)
        assert "--memory" in caught.value.hint
        assert machine.run("true").exit_status == 0


def test_a_fork_bomb_ends_and_the_machine_lives(machine_at):
    with machine_at(provision=Provision(processes=100)) as machine:
        result, text = output_of(machine, "f() { sleep 20 & f; }; f", timeout_s=600)
        assert result.status != 0
        assert "fork" in text.lower()
        assert result.shortage.endswith("processes or threads: more than 100 at once")
        assert not machine.run("exit 1").shortage
        assert machine.run("true").exit_status == 0


def test_a_full_disk_in_the_guest_is_seen(machine_at):
    with machine_at() as machine:
        result = machine.run("head -c 2000000000 /dev/zero >/build/big")
        assert result.status != 0
        assert result.shortage.startswith("the guest's disk was full (")
        assert machine.run("rm /build/big; exit 1").shortage  # full when it began
        assert not machine.run("exit 1").shortage


def test_a_disk_that_was_full_only_for_a_while_is_seen(machine_at):
    script = "head -c 2000000000 /dev/zero >/tmp/big; sleep 1.2; rm /tmp/big; exit 1"
    with machine_at() as machine:
        result = machine.run(script.replace("zero >/tmp/big", "zero >/tmp/big || true"))
        assert result.shortage.startswith("/tmp was full (")


def test_a_disk_without_inodes_is_seen(machine_at):
    script = "import itertools\nfor i in itertools.count(): open(f'/tmp/{i}', 'x').close()"
    with machine_at(memory_mib=256) as machine:
        result = machine.run(["python3", "-c", script])
        assert result.exit_status == 1
        assert "/tmp had no room for more files (0 inodes left)" in result.shortage


def test_a_qemu_that_does_not_start_says_why(machine_at):
    machine = machine_at()
    machine.boot_files = type(machine.boot_files)(
        kernel=Path("/no/such/kernel"), kernel_release="", initramfs=machine.boot_files.initramfs,
        root=machine.boot_files.root,
    )  # fmt: skip
    with pytest.raises(LaunchError, match="/no/such/kernel"):
        machine.boot()


def test_an_image_that_is_none_is_told(machine_at, tmp_path):
    broken = tmp_path / "root.squashfs"
    broken.write_bytes(b"\0" * 1_000_000)
    machine = machine_at()
    files = machine.boot_files
    machine.boot_files = type(files)(
        kernel=files.kernel, kernel_release=files.kernel_release, initramfs=files.initramfs,
        root=broken,
    )  # fmt: skip
    with pytest.raises(GuestLost, match="init failed") as caught:
        machine.boot()
    assert "root file system" in caught.value.evidence


def test_a_kernel_that_is_not_the_one_asked_for_is_refused(machine_at):
    machine = machine_at()
    files = machine.boot_files
    machine.boot_files = type(files)(
        kernel=files.kernel, kernel_release="9.9.9", initramfs=files.initramfs, root=files.root
    )
    with pytest.raises(MachineError, match=r"9\.9\.9"):
        machine.boot()


def test_leaving_a_machine_leaves_nothing(machine_at, fastest, cache):
    with machine_at(**fastest) as machine:
        pid = machine.pid
        directories = set((cache.root / "machines").glob("machine-*"))
    assert not is_running(pid)
    assert len(set((cache.root / "machines").glob("machine-*")) & directories) < len(directories)


HOG = """
taken = []
while True:
    taken.append(b"x" * 10_000_000)
"""

SCRIPT = """
import json, sys
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.study import open_machine
spec = MachineSpec.parse({"date": "2019-05-01", "image": "debian:bookworm,python3",
                          "memory_mib": 512} | json.loads(sys.argv[1]))
with open_machine(spec, cache=Cache()) as machine:
    print(machine.pid, flush=True)
    machine.run("sleep 1000")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_tool_leaves_no_guest(machine_at, engine, fastest, number):
    argv = [sys.executable, "-c", SCRIPT, json.dumps(engine)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tool:
        pid = int(tool.stdout.readline())
        argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        place = next(Path(word).parent for word in argv if word.endswith("/initramfs.cpio"))
        assert place.is_dir()
        watch = os.pidfd_open(pid)
        tool.send_signal(number)
        tool.wait(600)
        try:
            assert select.select([watch], [], [], 600)[0], "the guest outlived its tool"
        finally:
            os.close(watch)
    with machine_at(**fastest):  # the next start clears what was left
        assert not place.exists()


def test_kvm_that_does_not_work_is_never_chosen(machine_at, cache, monkeypatch):
    from buildvm_nb.study import kvm_status

    works, seen = kvm_status(cache)
    assert seen
    machine = machine_at(accelerator="auto")
    assert machine.spec.accelerator == ("kvm" if works else "tcg")
    if not works:
        monkeypatch.setattr(accelerator, "_DEADLINE_S", 1.0)  # it has hung for longer already
        with pytest.raises(HostError, match="KVM does not work"):  # tried again, as it is asked for
            choose_accelerator(Accelerator.KVM, machine.emulator, machine.boot_files)
