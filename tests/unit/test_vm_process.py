"""QEMU's process, with small Python programs in its place: started, heard, ended, described."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from buildvm_nb.errors import HostError, LaunchError
from buildvm_nb.vm import process as process_module
from buildvm_nb.vm.console import Console
from buildvm_nb.vm.process import OwnedProcess

SOON_S = 600.0
STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""
OWNER = """
import signal
from buildvm_nb.vm.console import Console
from buildvm_nb.vm.process import OwnedProcess
print(OwnedProcess(["sleep", "1000"], inherit=(), console=Console()).pid, flush=True)
signal.pause()
"""


@pytest.fixture
def start():
    started = []

    def start(script, *, inherit=(), console=None):
        argv = [sys.executable, "-c", script]
        process = OwnedProcess(argv, inherit=inherit, console=console or Console())
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.close()


def wait_for(condition):
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_it_prints_is_the_guests_console_to_the_last_byte(start):
    console = Console()
    process = start("import sys; sys.stdout.write('x' * 300_000 + 'end')", console=console)
    assert process.wait(SOON_S)
    assert len(console.text) == 300_003
    assert console.text.endswith("xend")


def test_it_reads_nothing_and_is_no_part_of_our_terminals_group(start):
    console = Console()
    script = "import os, sys; print(repr(sys.stdin.read()), os.getsid(0) == os.getpid())"
    assert start(script, console=console).wait(SOON_S)
    assert console.text == "'' True\n"


def test_it_inherits_the_descriptors_that_it_is_given_and_no_others(start):
    ours, theirs = os.pipe()
    _, other = os.pipe()
    script = (
        f"import os; os.write({theirs}, b'hello'); print(os.path.exists('/proc/self/fd/{other}'))"
    )
    console = Console()
    assert start(script, inherit=[theirs], console=console).wait(SOON_S)
    assert console.text == "False\n"
    assert os.read(ours, 100) == b"hello"
    for descriptor in (ours, theirs, _, other):
        os.close(descriptor)


def test_an_exit_is_described_with_its_own_words(start):
    script = """
import sys
print("warning: TCG doesn't support requested feature: CPUID.01H:ECX.fma", file=sys.stderr)
print("-machine q36: unsupported machine type", file=sys.stderr)
sys.exit(3)
"""
    process = start(script)
    assert process.wait(SOON_S)
    assert not process.is_running
    assert process.describe_end() == (
        "QEMU exited with 3; it said: -machine q36: unsupported machine type"
    )


def test_of_very_many_words_the_last_are_told(start):
    process = start("import sys; sys.stderr.write('x' * 100_000 + 'the end')")
    assert process.wait(SOON_S)
    assert process.describe_end().endswith("xthe end")
    assert len(process.describe_end()) < 2100


def test_a_death_by_a_signal_is_described_by_its_name(start):
    process = start(STUBBORN)
    assert process.describe_end() == "QEMU is running"
    process.kill()
    assert process.wait(SOON_S)
    assert process.describe_end() == "QEMU was killed by SIGKILL"
    process.close()
    assert process.describe_end() == "QEMU was killed by SIGKILL"


def test_waiting_for_what_goes_on_ends_in_time(start):
    process = start(STUBBORN)
    assert not process.wait(0.05)
    assert process.is_running


def test_closing_asks_first_and_may_be_repeated(start):
    console = Console()
    script = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready", flush=True)
signal.sigwait({signal.SIGTERM})
print("bye", flush=True)
sys.exit(7)
"""
    process = start(script, console=console)
    wait_for(lambda: "ready\n" in console.text)
    process.close()
    process.close()
    assert console.text == "ready\nbye\n"
    assert process.describe_end() == "QEMU exited with 7"


def test_closing_ends_what_does_not_listen(start, monkeypatch):
    monkeypatch.setattr(process_module, "_KILL_AFTER_S", 0.1)
    console = Console()
    process = start(STUBBORN, console=console)
    wait_for(lambda: "ready\n" in console.text)
    process.close()
    assert process.describe_end() == "QEMU was killed by SIGKILL"
    assert not is_there(process.pid)


def test_its_memory_is_told_while_it_runs(start):
    console = Console()
    script = "import signal\nx = bytearray(40_000_000)\nprint('ready', flush=True)\nsignal.pause()"
    process = start(script, console=console)
    wait_for(lambda: "ready\n" in console.text)
    assert process.resident_bytes() > 40_000_000
    process.close()
    assert process.resident_bytes() == 0


def test_a_program_that_is_not_there_ends_at_once_with_its_name():
    process = OwnedProcess(["/no/such/qemu"], inherit=(), console=Console())
    try:
        assert process.wait(SOON_S)
        assert "/no/such/qemu: not found" in process.describe_end()
    finally:
        process.close()


def test_what_cannot_be_started_at_all_is_a_launch_error():
    with pytest.raises(LaunchError, match="QEMU cannot be started: qemu: Argument list too long"):
        OwnedProcess(["qemu", "x" * 10_000_000], inherit=(), console=Console())


@pytest.mark.parametrize("missing", ["setpriv", "sh"])
def test_what_never_started_leaves_no_file_open(missing, monkeypatch, tmp_path):
    if missing == "setpriv":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:

        def stopped(*_args, **_kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(process_module.subprocess, "Popen", stopped)
    process_module._starter(os.getpid()).submit(int).result()  # its thread's own files are there
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises((HostError, KeyboardInterrupt)):
        OwnedProcess(["true"], inherit=(), console=Console())
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_an_owner_that_died_before_it_was_guarded_has_none(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # so that its parent seems to be another one
    console = Console()
    process = OwnedProcess(["echo", "started"], inherit=(), console=console)
    try:
        assert process.wait(SOON_S)
        assert console.text == ""
        assert process.describe_end() == "QEMU exited with 1"
    finally:
        process.close()


def test_it_does_not_outlive_an_owner_that_is_killed():
    argv = [sys.executable, "-c", OWNER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert is_there(pid)
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_there(pid))
