"""None"""

import os
import platform
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.errors import HostError, SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.facts import host_facts
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.machine import ImageSpec, MachineSpec
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.study.laboratory import Order, run_probe
from buildvm_nb.study.run import (
    Log,
    Setting,
    attempt,
    gather,
    known_cpu,
    open_machine,
    run_case,
    run_steps,
    trouble,
)
from buildvm_nb.vm import CommandResult, Provision

DATE = datetime(2019, 5, 1, tzinfo=UTC)
ROOM_KIB = 100_000
FULL = "the guest's disk was full (4 KiB left)"
TOO_FEW = "exited with 0, but ran 3 tests; at least 5 must run"


@pytest.fixture
def no_mke2fs(monkeypatch, tmp_path):
    """A host whose Debian has no e2fsprogs, and which reaches no mirror."""

    def which(name, **options):
        return None if name == "mke2fs" else shutil_which(name, **options)

    shutil_which = shutil.which
    monkeypatch.setattr("buildvm_nb.host.process.shutil.which", which)
    monkeypatch.setenv("BUILDVM_DEBIAN_MIRROR", f"file:{tmp_path}/none")


def test_a_disk_that_cannot_be_made_is_told_before_anything_is(no_mke2fs, tmp_path):
    cache, missing = Cache(tmp_path / "cache"), "program not found on this host: mke2fs"
    spec = MachineSpec.parse({"date": DATE, "accelerator": "tcg"})
    with pytest.raises(HostError, match=missing) as caught:
        open_machine(spec, cache=cache, provision=Provision(scratch_mib=20480))
    assert caught.value.hint.endswith(" e2fsprogs")
    with pytest.raises(HostError, match=missing):
        open_machine(MachineSpec.parse({"date": DATE, "accelerator": "uml"}), cache=cache)
    steps = [{"name": "test", "run": "true"}]
    fields = {"id": "a", "source": {"kind": "local", "path": "none"}, "steps": steps}
    with pytest.raises(HostError, match=missing):
        gather(Case.parse(fields | {"limits": {"disk_mib": 100}}), cache=cache)


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


def ended(status=0, *, signal=None, timed_out=False, shortage="", drift_s=None):
    return CommandResult(
        exit_status=None if signal or timed_out else status,
        signal=signal,
        timed_out=timed_out,
        clock_started_at=DATE,
        clock_ended_at=DATE + timedelta(seconds=2),
        duration_s=1.23456,
        free_kib=ROOM_KIB,
        shortage=shortage,
        drift_s=drift_s,
    )


def case(*steps, **fields):
    return Case.parse({"id": "a", "steps": list(steps)} | fields)


def judge(printed, result, **step):
    machine = Scripted((printed, result))
    log = Log(10_000)
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
        (b"", ended(1, shortage=FULL), {}, Verdict.ERROR, FULL),
        (b"", ended(signal=4, shortage=FULL), {}, Verdict.ERROR, FULL),
        (b"", ended(timed_out=True, shortage=FULL), {}, Verdict.ERROR, FULL),
        (b"", ended(shortage=FULL), {}, Verdict.PASSED, ""),
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


@pytest.mark.parametrize(
    "printed",
    [
        b"test_no_space ... No space left on device ... ok\nssl.SSLError: certificate expired\n",
        b"cc1: error: a.o: No space left on device\n",
        b"MemoryError\n",
        b"KeyError: 'x'\nDuring handling of the above\nMemoryError\n",
        b"virtual memory exhausted: Cannot allocate memory\n",
        b"cc1plus: fatal error: out of memory allocating 65536 bytes after a total of 1 b\n",
        b"terminate called after ...\n  what():  std::bad_alloc\nAborted\n",
    ],
)
@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (ended(1), Verdict.FAILED),
        (ended(signal=4), Verdict.CRASHED),
        (ended(timed_out=True), Verdict.TIMEOUT),
        (ended(), Verdict.PASSED),
    ],
)
def test_words_about_memory_and_space_change_no_verdict(printed, result, verdict):
    assert judge(printed, result).verdict is verdict


def test_what_the_guest_had_left_is_noted_where_the_failing_line_speaks_of_it():
    said = judge(b"cc1: error: a.o: No space left on device\n", ended(1)).reason
    assert "exited with 1 (of the guest's own disks at least 100000 KiB were free" in said
    said = judge(b"MemoryError\n", ended(1)).reason
    assert "exited with 1 (the guest has 1024 MiB" in said
    assert "killed nothing for lack of memory" in said
    assert judge(b"test_MemoryError ok\nValueError: no\n", ended(1)).reason == "test: exited with 1"


def test_a_failure_shows_the_line_of_the_log_and_a_crash_what_the_kernel_said():
    assert judge(b"a\nError: no\nb\n", ended(2)).evidence == "Error: no"
    crash = judge(b"Illegal instruction\n", ended(signal=4)).evidence
    assert crash.startswith("Illegal instruction\n[   14.2] traps: a[2] trap invalid opcode")
    assert judge(b"fine\n", ended()).evidence == ""


def test_the_first_step_that_does_not_pass_is_the_last_one():
    steps = [{"name": name, "run": name} for name in ("prepare", "build", "test")]
    machine = Scripted((b"", ended()), (b"", ended(1)))
    judgement = run_steps(machine, case(*steps), "top", Log(100))
    assert judgement.reason == "build: exited with 1"
    assert [step.name for step in judgement.steps] == ["prepare", "build"]


def test_each_step_runs_where_and_as_the_case_says_and_the_first_at_the_date():
    steps = [
        {"name": "build", "run": "make", "env": {"A": "b"}},
        {"name": "test", "run": "make check", "cwd": "sub", "timeout_s": 9},
    ]
    machine = Scripted((b"", ended()), (b"", ended()))
    judgement = run_steps(machine, case(*steps, limits={"step_timeout_s": 30}), "top", Log(100))
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
    judgement = run_steps(machine, case(*steps), "", Log(100), held=True)
    assert [(options["clock"], options["held"]) for _, options in machine.asked] == [
        (DATE, True)
    ] * 2
    assert judgement.drift_s == 0.25


def test_only_some_steps_can_be_run():
    machine = Scripted((b"", ended()))
    both = case({"name": "build", "run": "make"}, {"name": "test", "run": "make check"})
    judgement = run_steps(machine, both, "", Log(100), steps=both.steps[1:])
    assert [step.name for step in judgement.steps] == ["test"]
    assert machine.asked[0][1]["clock"] == DATE


def test_colours_and_line_ends_of_terminals_do_not_hide_what_was_printed():
    printed = b"\x1b[32m\x1b[1m3 passed\x1b[0m\x1b[32m in 0.12s\x1b[0m\r\nall good\r\n"
    judgement = judge(printed, ended(), min_tests=3, expect="^all good$")
    assert judgement.verdict is Verdict.PASSED
    assert judgement.steps[0].tests_run == 3


def test_a_log_keeps_beginning_and_end_of_each_step_and_says_what_it_dropped():
    passed_on = []
    log = Log(10, lambda name, piece: passed_on.append((name, piece)))
    build, test = case({"name": "build", "run": "make\n"}, {"name": "test", "run": "t"}).steps
    log.begin(build)
    for piece in (b"01234567", b"89abcdef", b"ghijklmn"):
        log.write(piece)
    printed = log.end()
    assert printed.kept == "01234\n==> 14 bytes were printed here and dropped\njklmn"
    assert printed.whole == "0123456789abcdefghijklmn"
    assert printed.size_bytes == 24
    log.begin(test)
    log.write(b"ok")
    assert log.end().kept == "ok"
    assert log.data == (
        b"==> build: make\n01234\n==> 14 bytes were printed here and dropped\njklmn\n"
        b"==> test: t\nok\n"
    )
    assert passed_on == [
        ("build", b"01234567"), ("build", b"89abcdef"), ("build", b"ghijklmn"), ("test", b"ok"),
    ]  # fmt: skip


@given(
    pieces=st.lists(
        st.binary(min_size=1, max_size=9).map(lambda piece: piece.replace(b"\xff", b"x"))
    ),
    limit=st.integers(2, 30),
    judged=st.integers(0, 60),
)
def test_a_log_is_whole_or_says_what_it_lacks(pieces, limit, judged):
    log = Log(limit, judged=judged)
    log.begin(case({"name": "test", "run": "t"}).steps[0])
    for piece in pieces:
        log.write(piece)
    whole = b"".join(pieces)
    header = b"==> test: t\n"
    kept = log.data.removeprefix(header)
    half = limit // 2
    printed = log.end()
    assert printed.size_bytes == len(whole)
    if len(whole) <= 2 * half:
        assert kept.removesuffix(b"\n") == whole.removesuffix(b"\n")
        assert printed.whole == printed.kept
    else:
        dropped = len(whole) - 2 * half
        note = b"\n==> %d bytes were printed here and dropped\n" % dropped
        assert whole[:half] + note + whole[-half:] in {kept, kept.removesuffix(b"\n")}
        assert (printed.whole is None) == (len(whole) > judged)


@pytest.mark.parametrize(
    ("first", "last", "step", "verdict"),
    [
        (b"", b"all good\n", {"expect": "^all good$"}, Verdict.PASSED),
        (b"", b"9 passed in 1s\n", {"min_tests": 9}, Verdict.PASSED),
        (b"all good\n", b"", {"expect": "^all good$"}, Verdict.PASSED),
        (b"", b"bad\n", {"expect": "^all good$"}, Verdict.FAILED),
    ],
)
def test_what_is_cut_out_of_a_log_is_judged_as_well(first, last, step, verdict):
    noise = b"noise\n" * 400
    middle = noise + first + last + noise
    machine = Scripted((middle, ended()))
    judgement = run_steps(machine, case({"name": "test", "run": "x"} | step), "", Log(100))
    assert judgement.verdict is verdict


def test_a_failure_at_the_end_of_a_long_output_still_shows_its_line():
    machine = Scripted((b"noise\n" * 400 + b"ValueError: no\n", ended(1)))
    judgement = run_steps(machine, case({"name": "test", "run": "x"}), "", Log(100))
    assert judgement.evidence == "ValueError: no"


@pytest.mark.parametrize("step", [{"expect": "good"}, {"min_tests": 1}])
def test_a_rule_that_cannot_be_judged_says_nothing_about_the_case(step):
    def judged(result, **rules):
        machine = Scripted((b"good\n" * 400, result))
        steps = case({"name": "test", "run": "x"} | rules)
        return run_steps(machine, steps, "", Log(100, judged=1000))

    judgement = judged(ended(), **step)
    assert judgement.verdict is Verdict.ERROR
    assert "printed 2000 bytes" in judgement.reason
    assert judged(ended(3), **step).verdict is Verdict.FAILED
    assert judged(ended()).verdict is Verdict.PASSED


def test_a_step_that_the_machine_did_not_survive_keeps_what_it_printed():
    log = Log(100)
    log.begin(case({"name": "test", "run": "t"}).steps[0])
    log.write(b"begun")
    log.close()
    log.close()
    assert log.data == b"==> test: t\nbegun\n"


def test_an_output_that_the_host_cannot_keep_is_the_hosts_trouble():
    with pytest.raises(HostError, match="cannot keep what a step prints: No such file"):
        judge_with(Log(10, scratch=Path("/no/such/directory")), b"x" * 5000)


def judge_with(log, printed):
    return run_steps(Scripted((printed, ended())), case({"name": "test", "run": "x"}), "", log)


def test_bytes_that_are_no_text_do_no_harm():
    log = Log(10)
    log.begin(case({"name": "test", "run": "t"}).steps[0])
    log.write(b"\xff\xfe")
    assert log.end().kept == "\N{REPLACEMENT CHARACTER}" * 2


def test_a_step_record_says_how_much_was_printed_even_where_it_was_dropped():
    machine = Scripted((b"x" * 5000, ended()))
    judgement = run_steps(machine, case({"name": "test", "run": "t"}), "", Log(10))
    assert judgement.steps[0].output_bytes == 5000


def test_the_facts_of_the_host_are_plain_and_true():
    facts = host_facts()
    assert set(facts) == {"cpu", "cores", "kernel", "system", "python"}
    assert facts["cores"] == os.cpu_count()
    assert facts["kernel"] == platform.release()
    assert facts["cpu"]


def test_what_is_recorded_of_a_source_that_is_gone_tells_the_way_out():
    error = SourceError("no wheels for lib", sought=("https://a", "https://b"), hint="loosen it")
    case = Case(
        id="lib-1", image=ImageSpec(base="debian:bookworm"), steps=[Step(name="test", run="true")]
    )
    outcome = trouble(case, MachineSpec(), error, None).outcome
    assert outcome.verdict is Verdict.UNAVAILABLE
    assert outcome.reason == ("no wheels for lib (sought in https://a, https://b)\nHint: loosen it")


SPEC = MachineSpec(accelerator="tcg")


def case_of(**fields):
    return Case.parse({"id": "lib-1", "steps": [{"name": "test", "run": "true"}]} | fields)


def fill_a_disk(log):
    log.write(b"so far, so good\n")
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


def test_a_full_disk_is_an_error_of_that_run_and_its_log_is_kept(tmp_path):
    setting = Setting(case=case_of(), cache=Cache(tmp_path))
    trial = attempt(setting, SPEC, fill_a_disk)
    assert trial.outcome.verdict is Verdict.ERROR
    assert "this host refused it: No space left on device" in trial.outcome.reason
    assert "MiB are free in the cache" in trial.outcome.reason
    assert b"so far, so good" in trial.log


def test_a_kernel_that_cannot_be_had_is_unavailable_as_an_images_package_is(tmp_path):
    def fetch(_log):
        raise SourceError("no kernel debian:nowhere")

    trial = attempt(Setting(case=case_of(), cache=Cache(tmp_path)), SPEC, fetch)
    assert trial.outcome.verdict is Verdict.UNAVAILABLE
    assert trial.outcome.reason == "no kernel debian:nowhere"


def test_only_a_machine_that_qemu_runs_here_needs_it_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    cache = Cache(tmp_path)
    assert known_cpu(MachineSpec(accelerator="uml", cpu="host"), cache) == "host"
    assert known_cpu(SPEC, cache, elsewhere=True) == SPEC.cpu
    with pytest.raises(HostError, match="qemu-system"):
        known_cpu(SPEC, cache)


@pytest.mark.parametrize("run", ["probe", "case"])
def test_what_the_system_refuses_while_sources_are_had_is_an_error_too(tmp_path, run):
    case = case_of(source={"kind": "local", "path": f"{'x' * 300}/y"})
    if run == "probe":
        trial = run_probe(Order(case=case, machine=SPEC), tmp_path, tmp_path)
    else:
        trial = run_case(case, cache=Cache(tmp_path), base=tmp_path)
    assert trial.outcome.verdict is Verdict.ERROR
    assert "File name too long" in trial.outcome.reason
