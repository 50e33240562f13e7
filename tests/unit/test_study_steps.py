import os
import platform
from datetime import UTC, datetime, timedelta

import pytest

from buildvm_nb.host.facts import host_facts
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.study.steps import Log, run_steps
from buildvm_nb.vm import CommandResult

DATE = datetime(2019, 5, 1, tzinfo=UTC)
ROOM_KIB = 100_000
TOO_FEW = "exited with 0, but ran 3 tests; at least 5 must run"


class Scripted:
    """Stands for a machine: prints and ends as a script says, and notes what it was asked."""

    def __init__(self, *results):
        self.spec = MachineSpec.parse({"date": DATE})
        self.results = list(results)
        self.asked = []

    def run(self, command, *, stdout, **options):
        printed, result = self.results.pop(0)
        self.asked.append((command, options))
        for piece in printed.splitlines(keepends=True):
            stdout(piece)
        return result

    def kernel_log(self):
        return "[   14.2] traps: a[2] trap invalid opcode ip:401136 sp:7ffe error:0 in a[4+1]\n"


def ended(status=0, *, signal=None, timed_out=False, free_kib=ROOM_KIB, drift_s=None):
    return CommandResult(
        exit_status=None if signal or timed_out else status,
        signal=signal,
        timed_out=timed_out,
        clock_started_at=DATE,
        clock_ended_at=DATE + timedelta(seconds=2),
        duration_s=1.23456,
        free_kib=free_kib,
        drift_s=drift_s,
    )


def case(*steps, **fields):
    return Case.parse({"id": "a", "steps": list(steps)} | fields)


def judge(printed, result, **step):
    machine = Scripted((printed, result))
    log = Log(limit=10_000)
    return run_steps(machine, case({"name": "test", "run": "x"} | step), "a-1.0", log)


@pytest.mark.parametrize(
    ("printed", "result", "step", "verdict", "reason"),
    [
        (b"fine\n", ended(), {}, Verdict.PASSED, ""),
        (b"Error: no\n", ended(2), {}, Verdict.FAILED, "exited with 2"),
        (b"", ended(signal=4), {}, Verdict.CRASHED, "died of SIGILL"),
        (b"", ended(signal=70 - 6), {}, Verdict.CRASHED, "died of SIGRTMAX"),
        (b"", ended(timed_out=True), {"timeout_s": 7}, Verdict.TIMEOUT, "did not end in 7 s"),
        (b"", ended(timed_out=True), {}, Verdict.TIMEOUT, "did not end in 600 s"),
        (b"all good\n", ended(), {"expect": "good$"}, Verdict.PASSED, ""),
        (b"a\ngood\nb\n", ended(), {"expect": "^good$"}, Verdict.PASSED, ""),
        (b"bad\n", ended(), {"expect": "good"}, Verdict.FAILED, "but its output lacks 'good'"),
        (b"5 passed in 0.1s\n", ended(), {"min_tests": 5}, Verdict.PASSED, ""),
        (b"3 passed, 4 skipped in 0.1s\n", ended(), {"min_tests": 5}, Verdict.FAILED, TOO_FEW),
        (b"ok\n", ended(), {"min_tests": 1}, Verdict.FAILED, "ran an unknown number of tests"),
        (b"", ended(1, free_kib=4), {}, Verdict.ERROR, "the guest's disk was full (4 KiB left)"),
        (
            b"cc1: error: a.o: No space left on device\n",
            ended(1),
            {},
            Verdict.ERROR,
            "the guest's disk was full",
        ),
        (b"", ended(free_kib=4), {}, Verdict.PASSED, ""),
        (b"MemoryError\n", ended(1), {}, Verdict.ERROR, "the guest refused memory"),
        (
            b"KeyError: 'x'\nDuring handling of the above\nMemoryError\n",
            ended(1),
            {},
            Verdict.ERROR,
            "the guest refused memory",
        ),
        (
            b"virtual memory exhausted: Cannot allocate memory\n",
            ended(1),
            {},
            Verdict.ERROR,
            "raise memory_mib",
        ),
        (
            b"cc1plus: fatal error: out of memory allocating 65536 bytes after a total of 1 b\n",
            ended(1),
            {},
            Verdict.ERROR,
            "raise memory_mib",
        ),
        (
            b"terminate called after ...\n  what():  std::bad_alloc\nAborted\n",
            ended(signal=6),
            {},
            Verdict.ERROR,
            "raise memory_mib",
        ),
        (b"test_MemoryError ok\nValueError: bad date\n", ended(1), {}, Verdict.FAILED, "with 1"),
    ],
)
def test_a_step_is_judged_by_how_it_ended_and_what_it_printed(
    printed, result, step, verdict, reason
):
    judgement = judge(printed, result, **step)
    assert judgement.verdict is verdict
    assert reason in judgement.reason
    assert bool(judgement.reason) == (verdict is not Verdict.PASSED)
    (record,) = judgement.steps
    assert record.verdict is verdict
    assert record.duration_s == 1.235
    assert (record.clock_started_at, record.clock_ended_at) == (DATE, DATE + timedelta(seconds=2))


def test_a_failure_shows_the_line_of_the_log_and_a_crash_what_the_kernel_said():
    assert judge(b"a\nError: no\nb\n", ended(2)).evidence == "Error: no"
    crash = judge(b"Illegal instruction\n", ended(signal=4)).evidence
    assert crash.startswith("Illegal instruction\n[   14.2] traps: a[2] trap invalid opcode")
    assert judge(b"fine\n", ended()).evidence == ""


def test_the_first_step_that_does_not_pass_is_the_last_one():
    steps = [{"name": name, "run": name} for name in ("prepare", "build", "test")]
    machine = Scripted((b"", ended()), (b"", ended(1)))
    judgement = run_steps(machine, case(*steps), "top", Log(limit=100))
    assert judgement.reason == "build: exited with 1"
    assert [step.name for step in judgement.steps] == ["prepare", "build"]


def test_each_step_runs_where_and_as_the_case_says_and_the_first_at_the_date():
    steps = [
        {"name": "build", "run": "make", "env": {"A": "b"}},
        {"name": "test", "run": "make check", "cwd": "sub", "timeout_s": 9},
    ]
    machine = Scripted((b"", ended()), (b"", ended()))
    judgement = run_steps(
        machine, case(*steps, limits={"step_timeout_s": 30}), "top", Log(limit=100)
    )
    assert judgement.verdict is Verdict.PASSED
    assert machine.asked == [
        (
            "make",
            {
                "cwd": "top",
                "env": {"A": "b"},
                "timeout_s": 30,
                "clock": DATE,
                "held": False,
                "merged": True,
            },
        ),
        (
            "make check",
            {"cwd": "sub", "env": {}, "timeout_s": 9, "clock": None, "held": False, "merged": True},
        ),
    ]


def test_a_held_clock_is_held_at_the_date_in_every_step():
    steps = [{"name": "build", "run": "make"}, {"name": "test", "run": "make check"}]
    machine = Scripted((b"", ended(drift_s=0.25)), (b"", ended(drift_s=0.125)))
    judgement = run_steps(machine, case(*steps), "", Log(limit=100), held=True)
    assert [(options["clock"], options["held"]) for _, options in machine.asked] == [
        (DATE, True)
    ] * 2
    assert judgement.drift_s == 0.25


def test_only_some_steps_can_be_run():
    machine = Scripted((b"", ended()))
    both = case({"name": "build", "run": "make"}, {"name": "test", "run": "make check"})
    judgement = run_steps(machine, both, "", Log(limit=100), steps=both.steps[1:])
    assert [step.name for step in judgement.steps] == ["test"]
    assert machine.asked[0][1]["clock"] == DATE


def test_colours_and_line_ends_of_terminals_do_not_hide_what_was_printed():
    printed = b"\x1b[32m\x1b[1m3 passed\x1b[0m\x1b[32m in 0.12s\x1b[0m\r\nall good\r\n"
    judgement = judge(printed, ended(), min_tests=3, expect="^all good$")
    assert judgement.verdict is Verdict.PASSED
    assert judgement.steps[0].tests_run == 3


def test_a_log_keeps_each_step_up_to_its_limit_and_says_what_it_dropped():
    passed_on = []
    log = Log(limit=10, output=lambda name, piece: passed_on.append((name, piece)))
    build, test = case({"name": "build", "run": "make\n"}, {"name": "test", "run": "t"}).steps
    log.begin(build)
    for _ in range(3):
        log.write(b"12345678")
    assert log.end() == "1234567812"
    assert log.seen == 24
    log.begin(test)
    log.write(b"ok")
    assert log.end() == "ok"
    assert bytes(log.data) == (
        b"==> build: make\n1234567812\n==> 14 more bytes were printed and dropped\n"
        b"==> test: t\nok\n"
    )
    assert passed_on == [("build", b"12345678")] * 3 + [("test", b"ok")]


def test_bytes_that_are_no_text_do_no_harm():
    log = Log(limit=10)
    log.begin(case({"name": "test", "run": "t"}).steps[0])
    log.write(b"\xff\xfe")
    assert log.end() == "\N{REPLACEMENT CHARACTER}" * 2


def test_a_step_record_says_how_much_was_printed_even_where_it_was_dropped():
    machine = Scripted((b"x" * 5000, ended()))
    judgement = run_steps(machine, case({"name": "test", "run": "t"}), "", Log(limit=10))
    assert judgement.steps[0].output_bytes == 5000


def test_the_facts_of_the_host_are_plain_and_true():
    facts = host_facts()
    assert set(facts) == {"cpu", "cores", "kernel", "system", "python"}
    assert facts["cores"] == os.cpu_count()
    assert facts["kernel"] == platform.release()
    assert facts["cpu"]
