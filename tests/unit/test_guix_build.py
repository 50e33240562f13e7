"""Cases of kind guix: their commands, and what is told of how they end.

The guix at the far end is a script that says what Guix says; tests/guix has the real one.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from buildvm_nb.catalog import dump_case, parse_case
from buildvm_nb.errors import HostError, StateError, UsageError
from buildvm_nb.guix.machinefile import MachineFile
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.instants import now
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.service import Phase, Places, Status
from buildvm_nb.service.guixbuild import Where, build_with_guix, guix_commands
from buildvm_nb.service.record import Record
from buildvm_nb.source import fetch

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef" * 2 + "01234567"
CASE = f"""\
schema = 1
id = "hello"
[source]
kind = "guix"
commit = "{COMMIT}"
packages = ["hello@2.10"]
"""
TRAVEL = f"guix time-machine --no-channel-files --commit={COMMIT} -- "
TOO_EARLY = "cannot travel past commit \\`4a0b87f0ec5b' from May 1st, 2019"
OFFLOADED = "offloading '/gnu/store/x-hello.drv' to '127.0.0.1'..."


def case_of(text=CASE):
    return parse_case(text, "case.toml")


def test_the_commands_follow_from_the_source():
    assert [(step.name, step.run) for step in case_of().steps] == [
        ("prepare", f"{TRAVEL}environment hello@2.10 -- true"),
        ("build", f"{TRAVEL}build --no-substitutes hello@2.10"),
        ("test", f"{TRAVEL}build --no-substitutes hello@2.10 --check"),
    ]


def test_channels_and_a_manifest_may_be_files():
    text = """\
schema = 1
id = "mine"
[source]
kind = "guix"
channels = "channels.scm"
manifest = "my manifest.scm"
check = false
authenticate = false
"""
    travel = "guix time-machine --no-channel-files --channels=channels.scm --disable-authentication"
    assert [step.run for step in case_of(text).steps] == [
        f"{travel} -- describe",
        f"{travel} -- build --no-substitutes '--manifest=my manifest.scm'",
    ]


def test_a_case_that_was_written_is_read_as_the_same():
    case = case_of()
    assert case_of(dump_case(case)).build_digest() == case.build_digest()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (COMMIT, "v1.4.0", "commit"),
        (f'commit = "{COMMIT}"\n', "", "either commit or channels"),
        ('packages = ["hello@2.10"]\n', "", "either packages or manifest"),
        ("hello@2.10", "--fallback", "packages"),
        ("hello@2.10", "hello; reboot", "packages"),
        ('packages = ["hello@2.10"]', 'manifest = "../m.scm"', "unsafe path"),
    ],
)
def test_a_source_that_is_wrong_is_refused_with_its_key(old, new, message):
    with pytest.raises(UsageError, match=message):
        case_of(CASE.replace(old, new))


def test_such_a_source_is_not_fetched_by_us(tmp_path):
    with pytest.raises(UsageError, match="Guix itself") as caught:
        fetch(case_of().source, Cache(tmp_path))
    assert "buildvm guix build" in caught.value.hint


def test_in_the_machine_the_same_commands_run_after_a_login(tmp_path):
    commands = guix_commands(case_of(), Where.GUEST, tmp_path, ("ssh", "vm"))
    assert commands[1][1][:2] == ("ssh", "vm")
    assert commands[1][1][2].endswith(f"&& {TRAVEL}build --no-substitutes hello@2.10")


@pytest.fixture
def places(tmp_path):
    return Places(files=tmp_path, states=tmp_path)


def ready(**fields):
    machine = MachineFile(name="vm", offload=True, **fields)
    record = Record(machine=machine, file="vm.toml", pid=1, born=1, phase=Phase.READY, since=now())
    return Status(name="vm", phase=Phase.READY, record=record)


@pytest.fixture
def built(tmp_path, places, monkeypatch):
    """Build with a guix that says and does what a script says."""

    def built(script, case=None):
        guix = tmp_path / "bin/guix"
        guix.parent.mkdir(exist_ok=True)
        guix.write_text(f'#!/bin/sh\ncase "$*" in {script} esac\n')
        guix.chmod(0o755)
        monkeypatch.setenv("PATH", f"{guix.parent}:{os.environ['PATH']}")
        trial = build_with_guix(
            case or case_of(), ready(), Where.HOST, places=places, base=tmp_path
        )
        return trial.outcome, trial.log.decode()

    return built


def test_what_was_built_in_the_machine_and_again_here_has_passed(built):
    outcome, log = built(f'*--check) echo same;; *build*) echo "{OFFLOADED}";;')
    assert outcome.verdict is Verdict.PASSED
    assert [step.name for step in outcome.steps] == ["prepare", "build", "test"]
    assert OFFLOADED in log
    assert f"==> build: {TRAVEL}build" in log


@pytest.mark.parametrize(
    ("script", "verdict", "step", "reason"),
    [
        ("*environment*) echo no network; exit 1;;", "unavailable", "prepare", "cannot be had"),
        (
            f'*environment*) echo "{TOO_EARLY}"; exit 1;;',
            "unavailable",
            "prepare",
            "older than 4a0b87f0ec5b.*v1.0.0, of 2019-05-01",
        ),
        ("*build*) exit 1;;", "failed", "build", "build exited with 1"),
        ("*build*) ;;", "error", "build", "nothing was built in the machine"),
        (
            f'*build*) echo "{OFFLOADED.replace("127.0.0.1", "other.example")}";;',
            "error",
            "build",
            "nothing was built in the machine",
        ),
        (
            f'*--check) exit 1;; *build*) echo "{OFFLOADED}";;',
            "failed",
            "test",
            "the result is another",
        ),
    ],
)
def test_how_it_ended_is_a_verdict_with_its_reason(built, script, verdict, step, reason):
    outcome, _ = built(script)
    assert (outcome.verdict, outcome.failing_step) == (verdict, step)
    assert re.search(reason, outcome.reason)


def test_a_build_without_an_end_is_ended(built):
    text = CASE + "[limits]\nstep_timeout_s = 1\n"
    outcome, _ = built("*environment*) exec tail -f /dev/null;;", case_of(text))
    assert outcome.verdict is Verdict.TIMEOUT


def test_a_machine_that_cannot_take_it_is_told(places, tmp_path, monkeypatch):
    case = case_of()
    stopped = Status(name="vm", phase=Phase.STOPPED)
    with pytest.raises(StateError, match="is stopped"):
        build_with_guix(case, stopped, Where.HOST, places=places)
    with pytest.raises(StateError, match="does not reach the network"):
        build_with_guix(case, ready(), Where.GUEST, places=places)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="guix"):
        build_with_guix(case, ready(), Where.HOST, places=places, base=tmp_path)


def test_a_dry_run_shows_the_exact_commands_and_needs_no_machine(tmp_path):
    (tmp_path / "hello.toml").write_text(CASE)
    argv = [sys.executable, "-m", "buildvm_nb.cli", "guix", "build", "hello.toml", "--dry-run"]

    def call(*words):
        return subprocess.run(
            [*argv, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).stdout

    lines = [line for line in call().splitlines() if not line.startswith("#")]
    assert lines == [step.run for step in case_of().steps]
    assert "buildvm machine ssh build-vm" in call("--in", "guest")
    assert call().count("guix time-machine") == len(json.loads(call("--json")))
