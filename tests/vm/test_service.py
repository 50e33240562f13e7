"""Machines that stay, with real guests: started, logged in to, crashed, and started again."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from buildvm_nb.service import Places
from buildvm_nb.service.places import birth
from buildvm_nb.vm import ChannelKeys

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]
FILE = """\
image = "debian:bookworm,python3"
date = {date}
cpu = "Westmere"
cpu_count = 1
memory_mib = 512
accelerator = "tcg"
port_forwardings = [{{ host = {port}, guest = 22 }}]
secrets = "../secrets"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Directories for machine files and states, and a port."""
    root = tmp_path_factory.mktemp("machines")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "machines").mkdir()
    for name, mode in (("etc/guix/acl", 0o644), ("etc/guix/signing-key.sec", 0o400)):
        path = root / "secrets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(mode)
    return root, port


@pytest.fixture(scope="module")
def call(place):
    """Call ``buildvm machine``; whatever runs at the end is stopped."""
    root, port = place
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BUILDVM_CONFIG": str(root),
        "BUILDVM_STATE": str(root),
    }
    write_file(root, port)

    def call(*words, timeout=600):
        argv = [sys.executable, "-W", "error", "-m", "buildvm_nb.cli", "--quiet", "machine"]
        result = subprocess.run(
            [*argv, *map(str, words)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return result.returncode, result.stdout, result.stderr

    yield call
    call("stop", "vm")


def write_file(root, port, date="2019-05-01"):
    (root / "machines/vm.toml").write_text(FILE.format(date=date, port=port))


def status_of(call):
    return json.loads(call("status", "vm", "--json")[1])


@pytest.fixture
def running(call):
    status, _, err = call("start", "vm")
    assert status == 0, err
    return status_of(call)


def is_gone(pid, born):
    return birth(pid) != born


def test_a_machine_is_what_its_file_says_to_whoever_logs_in(call, running):
    assert running["phase"] == "ready"
    script = "id -un; date -u +%F; grep -c Westmere /proc/cpuinfo; pwd; echo $HOME; exit 7"
    status, out, err = call("ssh", "vm", script)
    assert (status, out) == (7, "build\n2019-05-01\n1\n/build\n/home/build\n"), err
    assert call("ssh", "vm", "echo kept >/build/file")[0] == 0
    assert call("ssh", "vm", "cat /build/file")[1] == "kept\n"


def test_a_machine_has_its_secrets_before_anybody_logs_in(call, running):
    status, out, err = call(
        "ssh", "vm", "cd /etc/guix; stat -c '%n %a %U' *; cat acl; cat signing-key.sec"
    )
    assert out == "acl 644 root\nsigning-key.sec 400 root\netc/guix/acl"
    assert status == 1
    assert "signing-key.sec: Permission denied" in err


def test_a_machine_that_runs_is_listed_and_not_started_twice(call, running):
    assert "ready" in call("list")[1]
    assert call("start", "vm")[0] == 0
    assert status_of(call)["record"] == running["record"]
    status, _, err = call("run", "vm")
    assert status == 1
    assert f"run already by process {running['record']['pid']}" in err


def test_the_port_is_open_on_the_loopback_interface_only(place, running):
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{place[1]:04X} 00000000:0000 0A" in listening
    assert f"00000000:{place[1]:04X} 00000000:0000 0A" not in listening


def test_the_console_is_shown_and_kept(call, running):
    status, out, _ = call("console", "vm", "--lines", "1000")
    assert status == 0
    assert "Pubkey auth succeeded for 'build'" in out


def test_another_host_key_is_refused(call, place, running):
    known = Places(files=place[0], states=place[0] / "machines").state("vm").root / "known_hosts"
    right = known.read_text()
    other = ChannelKeys.generate().host.public_key().public_bytes_raw()
    prefix = bytes.fromhex("0000000b7373682d6564323535313900000020")
    known.write_text(f"vm ssh-ed25519 {base64.b64encode(prefix + other).decode()}\n")
    try:
        status, out, err = call("ssh", "vm", "echo reached")
    finally:
        known.write_text(right)
    assert (status, out) == (255, "")
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in err
    assert call("ssh", "vm", "echo reached")[1] == "reached\n"


def test_a_restart_at_another_date_needs_no_new_keys(call, place, running):
    write_file(*place, date="2031-02-03")
    try:
        assert call("restart", "vm")[0] == 0
        assert call("ssh", "vm", "date -u +%F")[1] == "2031-02-03\n"
    finally:
        write_file(*place)


def test_a_killed_supervisor_leaves_no_guest_and_is_told(call, running):
    running = status_of(call)
    pid, qemu = running["record"]["pid"], running["record"]["qemu_pid"]
    born = birth(qemu)
    os.kill(pid, signal.SIGKILL)
    deadline = 200
    while not is_gone(qemu, born) and deadline:
        threading.Event().wait(0.05)
        deadline -= 1
    assert is_gone(qemu, born)
    status, out, _ = call("status", "vm")
    assert status == 3
    assert f"the process that ran it, {pid}, was killed" in out
    assert call("ssh", "vm", "true")[0] == 1
    assert call("start", "vm")[0] == 0
    assert call("ssh", "vm", "true")[0] == 0


def test_a_guest_that_dies_ends_its_machine_with_a_reason(call, running):
    running = status_of(call)
    os.kill(running["record"]["qemu_pid"], signal.SIGKILL)
    born, pid = running["record"]["born"], running["record"]["pid"]
    deadline = 600
    while not is_gone(pid, born) and deadline:
        threading.Event().wait(0.05)
        deadline -= 1
    status, out, _ = call("status", "vm")
    assert status == 3
    assert "failed" in out
    assert "ended by itself" in out
    assert call("stop", "vm")[0] == 0
    assert call("status", "vm")[1].split() == ["machine", "vm", "state", "stopped"]


def test_a_port_that_is_taken_is_told_before_the_boot(call, place):
    call("stop", "vm")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", place[1]))
        other.listen()
        status, _, err = call("start", "vm")
    assert status == 1
    assert f"port {place[1]} of 127.0.0.1" in err
    assert "Address already in use" in err
