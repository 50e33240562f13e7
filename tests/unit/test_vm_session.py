"""Command lines for the guest's ``step`` script."""

import io
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress

import paramiko
import pytest

from buildvm_nb.errors import GuestLost
from buildvm_nb.vm import channel as channel_module
from buildvm_nb.vm import session as session_module
from buildvm_nb.vm.channel import GuestChannel, _private
from buildvm_nb.vm.session import ChannelKeys, GuestCommand, ask, stream, upload


def words_of(**fields):
    return shlex.split(GuestCommand(argv=("id", "a b"), **fields).line("s1"))


def test_a_command_runs_as_the_unprivileged_user_in_a_clean_environment():
    words = words_of(env={"LANG": "C"})
    assert words[:5] == ["step", "s1", "-", "/build", "1000"]
    assert words[-3:] == ["--", "id", "a b"]
    assert {"HOME=/home/build", "USER=build", "LANG=C", "TZ=UTC"} < set(words)


def test_a_command_that_sets_a_machine_up_runs_as_root():
    words = words_of(as_root=True)
    assert words[:5] == ["step", "s1", "-", "/build", "-"]
    assert words[-3:] == ["--", "id", "a b"]
    assert {"HOME=/root", "USER=root", "LOGNAME=root"} < set(words)
    assert not any("1000" in word or "=build" in word for word in words)


# A guest's command from beginning to end: our client, a real SSH server, real shells behind it.

# ruff: noqa: ARG002 - paramiko says what its methods are given
SOON_S = 600.0
STEP = 'step() { while [ "$1" != -- ]; do shift; done; shift; exec "$@"; }\n'

GONE = (EOFError, OSError, paramiko.SSHException)
"""What a server meets whose client has gone."""


class Guest(paramiko.ServerInterface):
    """Runs what it is told in shells of this host; ``stop`` signals a step as the guest's does."""

    def __init__(self, run):
        self.run = run  # in place of /run
        self.gone = threading.Event()
        self.lines = []
        self.obeys = True
        self.answers = True
        self.asked = threading.Event()
        self.steps = {}
        self.threads = []

    def check_auth_publickey(self, username, key):
        return paramiko.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username):
        return "publickey"

    def check_channel_request(self, kind, chanid):
        if self.lines:
            self.asked.set()
        if not self.answers:
            self.gone.wait(SOON_S)
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        line = command.decode()
        self.lines.append(line)
        self._start(self._stop if line.startswith("stop ") else self._step, channel, line)
        return True

    def _start(self, target, *arguments):
        self.threads.append(threading.Thread(target=target, args=arguments, name="fake guest"))
        self.threads[-1].start()

    def _stop(self, channel, line):
        _, step, name = shlex.split(line)
        if self.obeys:
            os.killpg(self.steps[step].pid, getattr(signal, f"SIG{name}"))
        with suppress(*GONE):
            channel.send_exit_status(0)
            channel.recv(1)  # to its end: what is closed before it was granted is refused
            channel.close()

    def _step(self, channel, line):
        argv = ["sh", "-c", STEP + line.replace("/run/", f"{self.run}/")]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        ) as process:
            self.steps["s1"] = process
            feeder = threading.Thread(target=feed, args=(channel, process.stdin))
            feeder.start()
            errors = threading.Thread(target=pump, args=(process.stderr, channel.sendall_stderr))
            errors.start()
            pump(process.stdout, channel.sendall)
            errors.join()
            feeder.join()
        with suppress(*GONE):
            channel.send_exit_status(process.returncode % 256)
            channel.close()


def feed(channel, target):
    while data := channel.recv(1 << 16):
        with suppress(OSError):  # the command may not want all of it
            target.write(data)
            target.flush()
    with suppress(OSError):
        target.close()


def pump(source, send):
    while data := os.read(source.fileno(), 1 << 16):
        with suppress(OSError):
            send(data)


@pytest.fixture
def guest(tmp_path):
    return Guest(tmp_path)


@pytest.fixture
def server(guest):
    ours, theirs = socket.socketpair()
    server = paramiko.Transport(theirs)
    server.ours = ours
    yield server
    guest.gone.set()
    for process in guest.steps.values():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    server.close()
    server.join(SOON_S)
    for thread in guest.threads:
        thread.join(SOON_S)
    theirs.close()
    ours.close()


@pytest.fixture
def channel(guest, server):
    keys = ChannelKeys.generate()
    server.add_server_key(_private(keys.host))
    server.start_server(threading.Event(), guest)
    channel = GuestChannel(server.ours, keys, timeout_s=SOON_S)
    yield channel
    channel.close()


@pytest.fixture
def call(channel):
    """Run a shell script as a step; returns whether its time was over, and what it printed."""

    def call(script, **fields):
        said, complained = bytearray(), bytearray()
        sinks = {"stdout": said.extend, "stderr": complained.extend} | fields
        command = GuestCommand(argv=("sh", "-c", script), **sinks)
        timed_out = stream(channel, command, "s1")
        return timed_out, bytes(said), bytes(complained)

    return call


def test_output_comes_out_whole_and_apart(call):
    assert call("echo out; echo err >&2; exit 7") == (False, b"out\n", b"err\n")
    _, said, _ = call("head -c 3000000 /dev/zero; echo end")
    assert len(said) == 3_000_004
    assert said.endswith(b"\0end\n")


def test_merged_output_keeps_the_order_of_both(call):
    script = "for i in 1 2 3; do echo $i; echo e$i >&2; done"
    assert call(script, merged=True) == (False, b"1\ne1\n2\ne2\n3\ne3\n", b"")


def test_output_that_nobody_wants_does_not_hold_a_command_up(call):
    script = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"
    assert call(script, stdout=None, stderr=None) == (False, b"", b"")


def test_a_command_reads_what_it_is_given_and_else_nothing(call):
    assert call("cat", stdin=io.BytesIO(b"x" * 500_000)) == (False, b"x" * 500_000, b"")
    assert call("cat; echo end") == (False, b"end\n", b"")


def test_a_command_need_not_read_what_it_is_given(call):
    assert call("echo done", stdin=io.BytesIO(b"x" * 5_000_000)) == (False, b"done\n", b"")


def test_a_command_that_closes_its_output_is_waited_for(call, tmp_path):
    script = f"exec >&- 2>&-; read x; echo late >{tmp_path}/file"
    reading, writing = os.pipe()
    with open(reading, "rb") as source:  # noqa: PTH123 - a pipe
        timer = threading.Timer(0.2, os.close, [writing])
        timer.start()
        assert call(script, stdin=source) == (False, b"", b"")
        timer.join()
    assert (tmp_path / "file").read_text() == "late\n"


def test_a_command_whose_time_is_over_is_told_to_stop(call, guest):
    script = "trap 'echo bye; exit 0' TERM; echo begun; while :; do sleep 0.05; done"
    started_at = time.monotonic()
    assert call(script, timeout_s=0.5)[:2] == (True, b"begun\nbye\n")
    assert time.monotonic() - started_at > 0.5
    assert guest.lines[1:] == ["stop s1 TERM"]


def test_a_command_that_prints_on_and_on_is_stopped_as_well(call, guest):
    timed_out, said, _ = call("while :; do echo on; done", timeout_s=0.3)
    assert timed_out
    assert said.startswith(b"on\non\n")
    assert guest.lines[1:] == ["stop s1 TERM"]


def test_a_command_that_does_not_stop_is_killed(call, guest, monkeypatch):
    monkeypatch.setattr(session_module, "_TERM_GRACE_S", 0.3)
    script = "trap '' TERM; echo begun; while :; do sleep 0.05; done"
    assert call(script, timeout_s=0.5) == (True, b"begun\n", b"")
    assert guest.lines[1:] == ["stop s1 TERM", "stop s1 KILL"]


def test_a_guest_that_does_not_even_kill_is_lost(call, guest, monkeypatch):
    monkeypatch.setattr(session_module, "_TERM_GRACE_S", 0.1)
    monkeypatch.setattr(session_module, "_KILL_GRACE_S", 0.1)
    guest.obeys = False
    with pytest.raises(GuestLost, match="it did not stop a command when told to"):
        call("sleep 1000", timeout_s=0.1)


def test_a_command_may_be_silent_while_its_guest_answers(call, guest, monkeypatch, tmp_path):
    monkeypatch.setattr(session_module, "SILENCE_S", 0.1)
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def open_gate():
        assert guest.asked.wait(SOON_S)
        gate.write_text("late\n")

    opener = threading.Thread(target=open_gate)
    opener.start()
    assert call(f"read x <{gate}; echo $x") == (False, b"late\n", b"")
    opener.join()


def test_a_guest_that_has_fallen_silent_is_lost_though_the_command_has_no_limit(
    call, guest, monkeypatch
):
    monkeypatch.setattr(session_module, "SILENCE_S", 0.1)
    monkeypatch.setattr(channel_module, "_OPEN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(guest, "check_channel_exec_request", take_and_fall_silent(guest))
    with pytest.raises(GuestLost, match="the guest does not answer any more"):
        call("exec sleep 1000")


@pytest.mark.parametrize("call_it", [ask, upload])
def test_what_is_asked_of_a_silent_guest_has_a_deadline(channel, guest, monkeypatch, call_it):
    monkeypatch.setattr(session_module, "ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(guest, "check_channel_exec_request", take_and_fall_silent(guest))
    arguments = (channel, ["dmesg"], 0.3) if call_it is ask else (channel, "/run/x", b"x")
    with pytest.raises(GuestLost, match=r"the guest did not (end 'dmesg'|take /run/x) in 0 s"):
        call_it(*arguments)


def test_a_guest_that_never_takes_a_command_is_lost(call, guest, monkeypatch):
    monkeypatch.setattr(channel_module, "_OPEN_TIMEOUT_S", 0.3)

    def hesitate(channel, command):
        guest.gone.wait(SOON_S)
        return False

    monkeypatch.setattr(guest, "check_channel_exec_request", hesitate)
    with pytest.raises(GuestLost, match="the SSH session with the guest is gone"):
        call("true")


def take_and_fall_silent(guest):
    def take(channel, command):
        guest.answers = False
        return True

    return take


def test_a_command_longer_than_the_server_takes_goes_by_a_file(call, guest, tmp_path):
    script = f"echo {'x' * 20_000}"
    assert call(script) == (False, b"x" * 20_000 + b"\n", b"")
    assert guest.lines == ["umask 077; mkdir -p /run; cat >/run/s1.sh", ". /run/s1.sh"]
    assert (tmp_path / "s1.sh").stat().st_size > 20_000


def test_a_guest_without_room_for_a_command_is_lost(call, guest, tmp_path):
    (tmp_path / "s1.sh").symlink_to("/dev/full")
    with pytest.raises(GuestLost, match="its memory may be full"):
        call(f"echo {'x' * 20_000}")
    assert len(guest.lines) == 1


def test_a_session_that_breaks_off_does_not_wait_for_ever(call, server):
    def break_off(data):
        server.close()

    timed_out, *_ = call("echo begun; exec sleep 1000", stdout=break_off)
    assert not timed_out


def test_a_held_clock_is_set_to_a_whole_second(guest):
    from datetime import UTC, datetime

    at = datetime(2020, 1, 1, 0, 0, 0, 250000, tzinfo=UTC)
    words = [
        shlex.split(GuestCommand(argv=("id",), **fields).line("s1"))[2]
        for fields in ({}, {"clock": at}, {"clock": at, "held": True})
    ]
    assert words == ["-", "1577836800.250000", "=1577836800"]
