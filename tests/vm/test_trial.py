"""A case in a machine: each kind of verdict, for the right reason."""

import shutil

import pytest

from buildvm_nb.catalog import find_case_file, load_case, parse_case
from buildvm_nb.errors import UsageError
from buildvm_nb.study import run_case

pytestmark = [pytest.mark.vm, pytest.mark.network]

CASE = """
schema = 1
id = "sample"
artifacts = {artifacts}
[image]
base = "debian:bookworm"
packages = ["python3"]
[limits]
memory_mib = 512
log_mib = {log_mib}
[[step]]
name = "test"
run = '''
{run}
'''
{more}
"""


@pytest.fixture
def build(cache, fastest):
    def run(script, more="", artifacts="[]", log_mib=64, **overrides):
        text = CASE.format(run=script, more=more, artifacts=artifacts, log_mib=log_mib)
        case = parse_case(text)
        return run_case(case, fastest | {"date": "2019-05-01"} | overrides, cache=cache)

    return run


@pytest.mark.parametrize(
    ("script", "more", "verdict", "reason", "evidence"),
    [
        ("true", "", "passed", "", ""),
        ("echo 'ValueError: no'; exit 3", "", "failed", "test: exited with 3", "ValueError: no"),
        ("kill -SEGV $$", "", "crashed", "test: died of SIGSEGV", ""),
        ("sleep 1000", "timeout_s = 1", "timeout", "test: did not end in 1 s", ""),
        ("echo OK '(skipped=3)'", "expect = '^OK$'", "failed", "its output lacks", "OK"),
        (
            "printf 'Ran 3 tests in 0.1s\\n\\nOK (skipped=3)\\n'",
            "min_tests = 1",
            "failed",
            "ran 0 tests",
            "OK",
        ),
    ],
    ids=["passed", "failed", "crashed", "timeout", "expect", "skipped"],
)
def test_a_verdict_says_what_the_machine_showed(build, script, more, verdict, reason, evidence):
    outcome = build(script, more).outcome
    assert outcome.verdict == verdict
    assert reason in outcome.reason
    assert evidence in outcome.evidence
    assert outcome.host["cores"]
    assert outcome.environment.kernel_release.startswith("6.1")
    assert outcome.steps[-1].clock_started_at.year == 2019
    assert outcome.image_digest


@pytest.mark.parametrize(
    ("script", "reason", "evidence"),
    [
        ("head -c 900000000 /dev/zero >big", "disk was full", "No space left"),
        (
            "python3 -c \"x=[]\nwhile True: x.append(b'x' * 10000000)\"",
            "ran out of memory",
            "Killed process",
        ),
    ],
    ids=["disk", "memory"],
)
def test_what_the_machine_is_short_of_is_no_verdict(build, script, reason, evidence):
    outcome = build(script, accelerator="tcg").outcome  # its disk is in memory
    assert outcome.verdict == "error"
    assert reason in outcome.reason
    assert evidence in outcome.evidence
    assert outcome.host["cores"]


def test_artifacts_are_digested(build):
    outcome = build("mkdir out; echo hello >out/x", artifacts='["out/*"]').outcome
    assert [(artifact.path, artifact.size_bytes) for artifact in outcome.artifacts] == [
        ("out/x", 6)
    ]
    assert outcome.artifacts[0].digest.startswith("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d")


def test_a_pass_without_its_artifacts_is_a_failure(build):
    outcome = build("true", artifacts='["dist/*.whl"]').outcome
    assert outcome.verdict == "failed"
    assert "left no artifacts: nothing matches dist/*.whl" in outcome.reason


def test_very_much_output_is_counted_and_cut(build):
    trial = build("head -c 5000000 /dev/zero | tr '\\0' 'x'; exit 1", log_mib=1)
    assert trial.outcome.steps[0].output_bytes == 5_000_000
    assert 2**20 <= len(trial.log) < 2**20 + 1000
    assert b"bytes were printed here and dropped" in trial.log


def test_a_source_that_cannot_be_had_is_unavailable(cache):
    case = parse_case(
        CASE.format(run="true", more="", artifacts="[]", log_mib=64)
        + '[source]\nkind = "pypi"\nname = "requests-toolbelt"\nversion = "0.0.0.1"\n'
    )
    outcome = run_case(case, {"date": "2019-05-01"}, cache=cache).outcome
    assert outcome.verdict == "unavailable"
    assert "0.0.0.1" in outcome.reason
    assert "sought in" in outcome.reason


@pytest.mark.usefixtures("hasty_apt")
def test_a_server_or_mirror_that_does_not_answer_is_an_error(cache):
    text = CASE.format(run="true", more="", artifacts="[]", log_mib=64)
    source = '[source]\nkind = "git"\nurl = "http://127.0.0.1:9/x.git"\ncommit = "main"\n'
    for case, overrides in (
        (text + source, {}),
        (text, {"image": {"base": "debian:bookworm", "mirror": "http://127.0.0.1:9"}}),
    ):
        outcome = run_case(parse_case(case), {"date": "2019-05-01", **overrides}, cache=cache)
        assert outcome.outcome.verdict == "error"
        assert "http://127.0.0.1:9" in outcome.outcome.reason


def test_a_package_that_does_not_exist_is_unavailable(cache):
    text = CASE.format(run="true", more="", artifacts="[]", log_mib=64).replace(
        "python3", "no-such-pakcage"
    )
    outcome = run_case(parse_case(text), {"date": "2019-05-01"}, cache=cache).outcome
    assert outcome.verdict == "unavailable"
    assert "no-such-pakcage" in outcome.reason


def test_a_host_without_qemu_is_an_error_of_the_host(build, monkeypatch):
    from buildvm_nb.vm.qemu import find_emulator

    monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)
    find_emulator.cache_clear()
    outcome = build("true", accelerator="tcg").outcome
    find_emulator.cache_clear()
    assert outcome.verdict == "error"
    assert "program not found on this host: qemu-system-x86_64" in outcome.reason
    assert "apt-get install" in outcome.reason


def test_a_wrong_request_is_raised(build):
    with pytest.raises(UsageError, match="Wetmere"):
        build("true", cpu="Wetmere", accelerator="tcg")


def test_a_real_time_trap_springs(cache, fastest):
    case = load_case(find_case_file("chinesecalendar-1.8.0"))
    before = run_case(case, fastest | {"date": "2023-06-01"}, cache=cache).outcome
    after = run_case(case, fastest | {"date": "2024-06-01"}, cache=cache).outcome
    assert (before.verdict, after.verdict) == ("passed", "failed")
    assert "no available data for year 2024" in after.evidence


def test_a_real_cpu_case_dies_of_an_illegal_instruction(cache):
    case = load_case(find_case_file("cityhash-0.4.10"))
    outcome = run_case(case, {"cpu": "core2duo"}, cache=cache).outcome
    assert outcome.verdict == "crashed"
    assert outcome.steps[-1].signal == 4
    assert "trap invalid opcode" in outcome.evidence
    assert outcome.environment.accelerator == "tcg"


def test_what_is_left_out_follows_from_the_source(cache):
    case = load_case(find_case_file("cityhash-0.4.10"))
    outcome = run_case(case, {"accelerator": "tcg"}, cache=cache).outcome
    assert outcome.machine.date == outcome.sources[0].dated_at.replace(microsecond=0)
    assert outcome.machine.cpu == "Icelake-Server"
