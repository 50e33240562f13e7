"""Commands in a guest: their output, their end, their time."""

import io
import threading

import pytest

from buildvm_nb.errors import CommandFailed, MachineError, StateError
from buildvm_nb.vm import session

from .conftest import output_of

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def machine(machine_at, engine):
    with machine_at(**engine) as running:
        yield running


def test_commands_run_as_an_ordinary_user_in_a_clean_environment(machine):
    _, text = output_of(
        machine, "id -u; pwd; env | cut -d= -f1 | sort | tr '\\n' ' '; echo; cat /proc/1/comm"
    )
    user, place, names, first = text.splitlines()
    assert user == "1000"
    assert place == "/build"
    assert set(names.split()) == {
        "BUILD", "HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "TZ", "USER",
    }  # fmt: skip
    assert first == "step"


def test_a_build_sees_neither_our_server_nor_a_network(machine):
    _, text = output_of(
        machine,
        "ls /sys/class/net; cat /proc/net/tcp | wc -l; ls /proc | grep -c '^[0-9]'; "
        "cat $(ls /dev/vport*p1 /dev/ttyS1 2>/dev/null | head -1) 2>&1 | head -1",
    )
    lines = text.splitlines()
    assert lines[0] == "lo"
    assert lines[1] == "1"
    assert int(lines[2]) < 8
    assert "Permission denied" in lines[3]


def test_the_guest_can_resolve_its_own_name(machine):
    script = (
        "import socket; print(socket.gethostname(), socket.gethostbyname(socket.gethostname()))"
    )
    _, text = output_of(machine, ["python3", "-c", script])
    assert text.split() == ["build-vm", "127.0.1.1"]


def test_standard_output_and_error_come_apart(machine):
    out, err = bytearray(), bytearray()
    machine.run("echo out; echo err >&2", stdout=out.extend, stderr=err.extend)
    assert (bytes(out), bytes(err)) == (b"out\n", b"err\n")


def test_merged_output_keeps_the_order_in_which_it_was_written(machine):
    script = "for i in $(seq 500); do echo out $i; echo err $i >&2; done"
    printed = bytearray()
    machine.run(script, stdout=printed.extend, merged=True)
    expected = [f"{name} {i}" for i in range(1, 501) for name in ("out", "err")]
    assert printed.decode().splitlines() == expected


def test_output_comes_while_the_command_runs(machine):
    seen = threading.Event()

    def watch(data):
        if b"first" in data:
            seen.set()

    class Input(io.RawIOBase):
        """Gives the command its input only after its first output was seen."""

        def readable(self):
            return True

        def readinto(self, _):
            assert seen.wait(600)
            return 0

    result = machine.run("echo first; cat; echo last", stdout=watch, stdin=Input())
    assert result.exit_status == 0
    assert seen.is_set()


def test_a_step_that_reads_sleeps_and_sets_timers_sees_one_clock(machine):
    script = (
        "use Time::HiRes qw(time alarm sleep); my ($last, $rang) = (time, 0);"
        " for (1 .. 100_000) { my $t = time; die 'back' if $t < $last; $last = $t }"
        " my $slept = time; sleep 0.3; $slept = time - $slept;"
        " $SIG{ALRM} = sub { $rang = 1 }; my $began = time; alarm 0.3;"
        " until ($rang) { } $began = time - $began;"
        " die qq($slept $began) if $slept < 0.3 or $began < 0.3; print qq(done\n)"
    )
    result, said = output_of(machine, ["perl", "-e", script])
    assert (result.status, said) == (0, "done\n")


@pytest.mark.parametrize(
    ("command", "status", "signal"),
    [
        ("true", 0, None),
        ("exit 3", 3, None),
        ("exit 132", 132, None),
        (["python3", "-c", "import sys; sys.exit(134)"], 134, None),
        ("sh -c 'kill -ILL $$'; exit $?", None, 4),
        ("sh -c 'kill -ABRT $$'; exit $?", None, 6),
        ("sh -c 'kill -ABRT $$' || exit 132", 132, None),
        ("kill -ILL $$", None, 4),
        ("kill -SEGV $$", None, 11),
        (["/bin/sh", "-c", "exit 7"], 7, None),
        (["/no/such/program"], 127, None),
    ],
)
def test_a_command_ends_as_it_does_in_a_shell(machine, command, status, signal):
    result = machine.run(command)
    assert (result.exit_status, result.signal) == (status, signal)


def test_input_variables_and_directory_reach_the_command(machine):
    _, text = output_of(
        machine,
        'cat; echo "$ODD"; pwd',
        env={"ODD": 'it\'s "odd" $HOME `x`\nüber'},
        cwd="/tmp",
        stdin=io.BytesIO(b"from the host\n"),
    )
    assert text == 'from the host\nit\'s "odd" $HOME `x`\nüber\n/tmp\n'


def test_a_script_longer_than_a_command_line_may_be_runs(machine):
    script = f"x='{'y' * 50_000}'\necho ${{#x}}"
    assert output_of(machine, script)[1] == "50000\n"


def test_check_raises_where_a_command_fails(machine):
    with pytest.raises(CommandFailed) as caught:
        machine.run("exit 9", check=True)
    assert caught.value.exit_status == 9


def test_a_command_that_ignores_sigterm_is_stopped(machine, monkeypatch):
    monkeypatch.setattr(session, "_TERM_GRACE_S", 0.5)  # it ends by SIGKILL alone
    result, text = output_of(
        machine, "trap '' TERM; echo began; while :; do sleep 1; done", timeout_s=2
    )
    assert result.timed_out
    assert result.exit_status is None
    assert text.startswith("began\n")
    assert machine.run("true").exit_status == 0


def test_processes_left_behind_by_a_command_are_ended(machine):
    machine.run("sleep 1000 & setsid sleep 1000 & true")
    _, names, _ = machine._ask(["sh", "-c", "cat /proc/[0-9]*/comm"])
    assert b"sleep" not in names.split()


def test_binary_output_arrives_unchanged(machine):
    out = bytearray()
    machine.run("head -c 300000 /dev/urandom | tee sample; sha256sum <sample", stdout=out.extend)
    import hashlib

    digest, _, _ = bytes(out[300000:]).partition(b" ")
    assert hashlib.sha256(out[:300000]).hexdigest().encode() == digest


def test_a_terminal_needs_a_terminal(machine):
    from buildvm_nb.errors import UsageError

    with pytest.raises(UsageError, match="terminal"):
        machine.shell()


def test_a_machine_that_is_not_up_says_so(machine_at):
    machine = machine_at()
    with pytest.raises(StateError):
        machine.run("true")
    machine.close()


def test_an_error_of_the_callers_own_sink_is_his_and_the_machine_lives_on(machine):
    def broken(_):
        message = "his disk is full"
        raise OSError(message)

    with pytest.raises(OSError, match="his disk"):
        machine.run("echo x; sleep 1000", stdout=broken, timeout_s=60)
    assert machine.run("true").exit_status == 0


def test_commands_in_quick_succession_each_get_their_own_session(machine):
    statuses = [machine.run(f"exit {number}").exit_status for number in range(25)]
    assert statuses == list(range(25))


def test_a_command_that_has_closed_its_outputs_is_waited_for(machine):
    result = machine.run("exec >&- 2>&-; sleep 2; exit 7")
    assert result.exit_status == 7


def test_a_directory_that_is_not_there_is_no_fault_of_the_command(machine):
    with pytest.raises(MachineError, match=r"cannot enter the directory /build/no/such: No such"):
        machine.run("true", cwd="no/such")
    with pytest.raises(MachineError, match="cannot enter the directory /etc/passwd: Not a dir"):
        machine.run(["true"], cwd="/etc/passwd")
    assert machine.run("true").exit_status == 0


def test_a_command_finds_no_signal_ignored_or_blocked(machine):
    _, text = output_of(machine, ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
    assert text.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_the_process_that_died_is_named(machine):
    result = machine.run("python3 -c 'import os; os.abort()'; exit $?")
    assert (result.signal, result.victim) == (6, "python3")
