"""User-mode Linux: each kernel, any date, frozen disks, a whole diagnosis, nothing left behind."""

import os
import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from buildvm_nb.errors import GuestLost, MachineError
from buildvm_nb.host.cache import Cache
from buildvm_nb.image.uml import UML_KERNELS
from buildvm_nb.model.finding import FindingKind
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.study.run import uml_status
from buildvm_nb.vm import BuildMachine

from .conftest import output_of

pytestmark = pytest.mark.vm
UML = {"accelerator": "uml"}


@pytest.fixture(scope="module", autouse=True)
def usable(cache):
    works, seen = uml_status(cache)
    if not works:
        pytest.skip(seen)


def sandbox_of(machine):
    """Return the name space of a machine's processes: others run guests of theirs meanwhile."""
    child, *_ = Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split()
    return Path(f"/proc/{child}/ns/pid").readlink()


def wait_until_empty(sandbox):
    """Wait for the end of what has been killed: the kernel takes a moment for it."""
    deadline = time.monotonic() + 60
    while left := processes_in(sandbox):
        assert time.monotonic() < deadline, left


def processes_in(sandbox):
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_zombie = not (place / "cmdline").read_bytes()  # init has not asked for it yet
            if (place / "ns/pid").readlink() == sandbox and not is_zombie:
                found.add(place.name)
    return found


@pytest.mark.parametrize(
    ("kernel", "date"),
    [
        *zip(UML_KERNELS, ["1970-01-02T00:00:00Z", "2106-02-07T06:28:15Z"] * 2, strict=True),
        *(
            pytest.param(kernel, date, marks=pytest.mark.long)
            for kernel, date in zip(
                UML_KERNELS, ["2106-02-07T06:28:15Z", "1970-01-02T00:00:00Z"] * 2, strict=True
            )
        ),
        *(
            pytest.param("debian:bookworm", date, marks=pytest.mark.long)
            for date in ("2038-01-19T03:14:08Z", "2232-04-18T23:00:00Z")
        ),
    ],
)
def test_each_kernel_runs_at_any_date(machine_at, kernel, date):
    with machine_at(date, kernel=kernel, **UML) as machine:
        result, said = output_of(machine, "date -u +%FT%TZ; uname -r")
        printed, release = said.split()
        started, ended = result.clock_started_at, result.clock_ended_at
        assert parse_instant(date) <= started < parse_instant(printed) + timedelta(seconds=1)
        assert parse_instant(printed) <= ended
        assert release == machine.environment.kernel_release
        assert machine.environment.engine == f"uml {machine.environment.kernel_release}"
        killed, _ = output_of(machine, "sh -c 'kill -ILL $$'; exit $?")
        assert killed.signal == signal.SIGILL  # also where the kernel's ledger is of the old form
        log = machine.kernel_log()
        assert "command line" in log
        assert "raid6:" not in log  # takes a second of each boot
        early = [line for line in log.splitlines() if "uninitialized urandom read" in line]
        assert all("wake:" in line for line in early)  # which brings what there is to read


def test_a_held_clock_stays_within_its_second(machine_at):
    with machine_at(**UML) as machine:
        at = parse_instant("2038-01-19T03:14:08Z")
        result, said = output_of(machine, "sleep 0.5; date -u +%FT%TZ", clock=at, held=True)
        assert said == "2038-01-19T03:14:08Z\n"
        assert 0 <= result.drift_s < 1


def test_forks_have_what_was_prepared_and_do_not_see_each_other(machine_at, cache, tmp_path):
    machine = machine_at("1990-01-01", **UML)
    machine.boot()
    machine.run("echo prepared >state; ln state hard; mkfifo /tmp/pipe", check=True)
    checkpoint = machine.freeze(tmp_path)
    for date in ("1999-12-31T23:59:00Z", "2106-02-07T06:28:00Z"):
        spec = machine.spec.model_copy(update={"date": parse_instant(date)})
        fork = BuildMachine(spec, machine.boot_files, cache=cache, checkpoint=checkpoint)
        with fork:
            _, said = output_of(
                fork, "cat hard; test -p /tmp/pipe; date -u +%FT%H:%M; ls; echo more >>state"
            )
        assert said == f"prepared\n{date[:16]}\nhard\nstate\n"


@pytest.mark.long
@pytest.mark.timeout(7200)  # s; so many times a boot
def test_many_forks_one_after_another_leave_nothing_behind(machine_at, tmp_path):
    """BUILDVM_FORKS=200 makes more of them than continuous integration has time for."""
    machine = machine_at("1990-01-01", **UML)
    machine.boot()
    machine.run("echo prepared >state", check=True)
    (tmp_path / "checkpoint").mkdir()
    checkpoint = machine.freeze(tmp_path / "checkpoint")
    own, before = Cache(tmp_path / "cache"), None

    def left():
        return {
            "descriptors": len(set(Path("/proc/self/fd").iterdir())),
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "files": set(own.root.rglob("*")),
        }

    for number in range(int(os.environ.get("BUILDVM_FORKS", "12"))):
        date = machine.spec.date + timedelta(days=100 * number)
        spec = machine.spec.model_copy(update={"date": date})
        with BuildMachine(spec, machine.boot_files, cache=own, checkpoint=checkpoint) as fork:
            sandbox = sandbox_of(fork)
            fork.run("grep -q prepared state", check=True)
        wait_until_empty(sandbox)
        before = before or left()  # the first one makes what all share
        assert left() == before, number


def test_a_command_that_takes_all_memory_is_the_machines_trouble(machine_at):
    with machine_at(memory_mib=256, **UML) as machine:
        with pytest.raises(MachineError, match="ran out of memory"):
            machine.run(
                ["perl", "-e", "my @all; push @all, 'x' x 1_000_000 while 1"], timeout_s=600
            )
        assert machine.run("true").exit_status == 0


@pytest.mark.long
def test_a_time_trap_is_found_with_forks(find_out):
    finding = find_out(
        'test "$(date +%s)" -lt 1577836800 || { echo "Error: expired"; exit 1; }',
        overrides=UML,
        effort="quick",
        first="2018-01-01",
        last="2022-01-01",
    )
    assert finding.kind is FindingKind.TIME_TRAP
    assert [edge.first_after for edge in finding.boundaries] == ["2020-01-01T00:00:00Z"]
    assert finding.environment.accelerator == "uml"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_sandbox_dies_its_guest_does_too_and_it_is_told(machine_at, number):
    with machine_at(**UML) as machine:
        sandbox = sandbox_of(machine)
        assert processes_in(sandbox)
        with pytest.raises(GuestLost, match=number.name):
            machine.run("echo begun; sleep 1000", stdout=lambda _: os.kill(machine.pid, number))
    wait_until_empty(sandbox)


def test_a_kernel_that_panics_is_told(machine_at):
    with machine_at(**UML) as machine:
        machine._up().channel.start("echo c >/proc/sysrq-trigger")
        with pytest.raises(GuestLost):
            machine.run("sleep 1000", timeout_s=100)
