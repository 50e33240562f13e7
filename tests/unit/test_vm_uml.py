"""User-mode Linux without running it: its command line, what it cannot give, its frozen disks."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.image.uml import fetch_uml_kernel
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.vm import uml
from buildvm_nb.vm.accelerator import choose_accelerator
from buildvm_nb.vm.command import BootFiles, MachineFiles
from buildvm_nb.vm.events import Events
from buildvm_nb.vm.instance import _disk_digest
from buildvm_nb.vm.uml import _claim_cpu, _PacedLine, prove_uml, uml_argv


@pytest.fixture
def boot(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bwrap").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "lib64").mkdir()
    return BootFiles(
        kernel=root / "usr/bin/linux.uml",
        kernel_release="6.1.0",
        initramfs=Path("/cache/initramfs.cpio"),
        root=Path("/cache/root.squashfs"),
    )


def test_the_sandbox_shows_the_machines_files_and_nothing_else(boot, tmp_path):
    spec = MachineSpec(date="2019-05-01", accelerator="uml", memory_mib=512)
    files = MachineFiles(
        initramfs=Path("/m/initramfs.cpio"),
        inputs=None,
        exports=Path("/m/exports.tar"),
        scratch=Path("/m/scratch.ext4"),
    )
    argv = uml_argv(spec, boot, files, {"events": 5, "channel": 7})
    sandbox, program = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    assert {"--unshare-all", "--die-with-parent", "--clearenv"} <= set(sandbox)
    bound = {
        (word, sandbox[i + 1], sandbox[i + 2])
        for i, word in enumerate(sandbox)
        if word in {"--bind", "--ro-bind"}
    }
    assert bound == {
        ("--ro-bind", f"{tmp_path}/root/usr", "/usr"),
        ("--ro-bind", f"{tmp_path}/root/lib64", "/lib64"),
        ("--ro-bind", "/cache/root.squashfs", "/root"),
        ("--ro-bind", "/m/initramfs.cpio", "/initramfs"),
        ("--bind", "/m/exports.tar", "/exports"),
        ("--bind", "/m/scratch.ext4", "/scratch"),
    }
    assert program[0] == "/usr/bin/linux.uml"
    assert {"ubd0r=/root", "ubd1=/exports", "ubd2=/scratch", "mem=512M"} <= set(program)
    assert {"ssl0=fd:5", "ssl1=fd:7", "con0=null,fd:1", "ENGINE=uml"} <= set(program)
    (tmp_path / "bin/taskset").touch(mode=0o755)
    kept = uml_argv(spec, boot, files, {"events": 5, "channel": 7}, cpu=3)
    assert kept == [f"{tmp_path}/bin/taskset", "--cpu-list", "3", *argv]


def test_each_guest_keeps_to_a_cpu_of_its_own_as_long_as_there_are_some():
    name = f"test-{uuid4()}"  # others may run guests meanwhile
    cpus = sorted(os.sched_getaffinity(0))
    claims = [_claim_cpu(name) for _ in cpus]
    assert [number for number, _ in claims] == cpus
    assert _claim_cpu(name) is None
    claims[-1][1].close()
    again, claim = _claim_cpu(name)
    assert again == cpus[-1]
    for one in (claim, *(one for _, one in claims)):
        one.close()


def test_a_claim_ends_with_the_process_that_made_it_and_is_not_inherited():
    name = f"test-{uuid4()}"
    code = (
        "import subprocess, sys\nfrom buildvm_nb.vm.uml import _claim_cpu\n"
        f"while claimed := _claim_cpu({name!r}): globals()[f'kept{{claimed[0]}}'] = claimed\n"
        "left = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
        "print(left.pid, flush=True); sys.stdin.read()"
    )
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **streams) as other:
        left = int(other.stdout.readline())
        assert _claim_cpu(name) is None
        other.kill()
        other.wait()
    _, claim = _claim_cpu(name)
    claim.close()
    os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cpu": "Westmere"}, "user-mode Linux has cpu host; got Westmere"),
        ({"cpu_count": 2}, "user-mode Linux has cpu_count 1; got 2"),
        ({"network": "user"}, "user-mode Linux has network off; got user"),
        ({"port_forwardings": [{"host": 2222, "guest": 22}]}, "network off; got restricted"),
    ],
)
def test_what_user_mode_linux_cannot_give_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        MachineSpec.parse({"date": "2019-05-01", "accelerator": "uml", **fields})


def test_its_cpu_is_the_hosts_at_any_date():
    assert MachineSpec(date="2005-05-01", accelerator="uml").cpu == "host"


@pytest.mark.parametrize("name", ["/boot/own", "debian:bookworm-backports", "fedora:40"])
def test_a_kernel_without_a_package_is_refused_with_those_that_have_one(name, tmp_path):
    with pytest.raises(UsageError, match="expected one of debian:bullseye, debian:bookworm"):
        fetch_uml_kernel(name, Cache(tmp_path))


def test_a_disk_image_is_for_qemu():
    with pytest.raises(UsageError, match="boots no disk images"):
        choose_accelerator(Accelerator.UML, None, None)


def test_the_digest_of_a_sparse_disk_tells_what_it_holds_and_where(tmp_path):
    def disk(name, *pieces):
        path = tmp_path / name
        with path.open("wb") as stream:
            os.truncate(stream.fileno(), 1 << 24)
            for at, data in pieces:
                stream.seek(at)
                stream.write(data)
        return _disk_digest(path)

    first = disk("a", (0, b"x" * 4096), (1 << 20, b"y" * 4096))
    assert first == disk("b", (0, b"x" * 4096), (1 << 20, b"y" * 4096))
    others = {
        disk("c", (0, b"x" * 4096), (1 << 21, b"y" * 4096)),
        disk("d", (0, b"x" * 4096), (1 << 20, b"z" * 4096)),
        disk("e", (0, b"x" * 4096)),
        disk("f"),
    }
    assert len(others | {first}) == 5


def test_a_line_to_a_guest_that_takes_nothing_any_more_can_be_closed():
    (line, guest), (events, said) = socket.socketpair(), socket.socketpair()
    with line, guest, events, said:
        paced = _PacedLine(line, Events(events))
        paced.ours.sendall(b"the last words")
        assert guest.recv(100) == b"the last words"  # and "took 14" never comes
        closing = threading.Thread(target=paced.close, daemon=True)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()


def _bwrap(boot, script):
    """Put a sandbox program on the path that does as a host does which forbids it."""
    program = boot.kernel.parents[3] / "bin/bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    os.environ["PATH"] = f"{program.parent}:/usr/bin:/bin"  # the fixture puts it back


@pytest.mark.parametrize(
    ("script", "told"),
    [
        pytest.param(
            "echo 'bwrap: No permissions to create new namespace' >&2; exit 1",
            "No permissions to create new namespace",
            id="no user name spaces",
        ),
        pytest.param(
            "echo 'check_ptrace : expected SIGSTOP, got status = 256' >&2; kill -ABRT $$",
            "check_ptrace",
            id="ptrace is forbidden",
        ),
        pytest.param(
            "echo 'mapping mem failed, error 1: /dev/shm is mounted noexec' >&2; exit 1",
            "noexec",
            id="no program may be in its memory",
        ),
        pytest.param("exec /bin/sleep 1000", "it hung for", id="it hangs"),
    ],
)
def test_where_it_does_not_come_up_that_is_said_and_not_remembered(
    boot, script, told, tmp_path, monkeypatch
):
    monkeypatch.setattr(uml, "_DEADLINE_S", 0.2 if "sleep" in script else 600.0)
    _bwrap(boot, script)
    memo = tmp_path / "uml.json"
    works, seen = prove_uml(boot, memo)
    assert not works
    assert told in seen
    assert not memo.exists()


def test_what_came_up_is_remembered_until_the_sandbox_or_the_kernel_changes(boot, tmp_path):
    memo = tmp_path / "uml.json"
    _bwrap(boot, "echo 'buildvm: a guest without settings has come up'")
    assert prove_uml(boot, memo) == (True, "a guest came up")
    assert prove_uml(boot, memo) == (True, "a guest came up before")
    _bwrap(boot, "exit 1")
    os.utime(boot.kernel.parents[3] / "bin/bwrap", ns=(1, 1))
    assert not prove_uml(boot, memo)[0]


def test_without_the_sandbox_program_it_says_which_package_has_it(boot, tmp_path):
    (boot.kernel.parents[3] / "bin/bwrap").unlink()
    works, seen = prove_uml(boot, tmp_path / "uml.json")
    assert not works
    assert "bwrap" in seen
