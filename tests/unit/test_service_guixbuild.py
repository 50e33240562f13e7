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
from buildvm_nb.service.control import Record
from buildvm_nb.service.guixbuild import Where, build_with_guix, guix_commands
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
HASH = "0123456789abcdfghijklmnpqrsvwxyz"
DRV = f"/gnu/store/{HASH}-hello-2.10.drv"
TAR = f"/gnu/store/{HASH[::-1]}-hello-2.10.tar.gz.drv"
OFFLOADED = f"offloading '{DRV}' to '127.0.0.1'..."
DONE = f"done with offloaded '{DRV}'"
FAILED = f"derivation '{DRV}' offloaded to '127.0.0.1' failed: build of it failed"
SSH = """\
#!/bin/sh
# a machine: asks are answered with files of this test's; its clock has gone on a while
[ ! -e {place}/gone ] || exit 255
for last; do :; done
echo "$last" | sed -e 's#/var/log/guix#{place}/log#g' -e 's#/proc/vmstat#{place}/vmstat#' \\
    -e "s#df -Pk /gnu/store#cat {place}/df#" -e 's#/build/guix-case#{place}/case#g' | sh
"""


def case_of(text=CASE):
    return parse_case(text, "case.toml")


def test_the_commands_follow_from_the_source():
    build = f"{TRAVEL}build --no-grafts --no-substitutes hello@2.10"
    assert [(step.name, step.run) for step in case_of().steps] == [
        ("prepare", f"{TRAVEL}environment hello@2.10 -- true\n{build} --derivations"),
        ("build", build),
        ("test", f"{build} --check"),
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
    build = f"{travel} -- build --no-grafts --no-substitutes '--manifest=my manifest.scm'"
    assert [step.run for step in case_of(text).steps] == [
        f"{travel} -- describe\n{build} --derivations",
        build,
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
    assert commands[1][1][2].endswith(f"&& {TRAVEL}build --no-grafts --no-substitutes hello@2.10")
    assert [name for name, _ in commands] == ["prepare", "build", "test"]


def test_what_would_be_built_on_this_host_today_is_left_out(tmp_path):
    commands = guix_commands(case_of(), Where.HOST, tmp_path)
    assert [name for name, _ in commands] == ["prepare", "build"]


@pytest.fixture
def places(tmp_path):
    return Places(files=tmp_path, states=tmp_path)


def ready(**fields):
    machine = MachineFile(name="vm", offload=True, **fields)
    record = Record(machine=machine, file="vm.toml", pid=1, born=1, phase=Phase.READY, since=now())
    return Status(name="vm", phase=Phase.READY, record=record)


def there(drv):
    """What Guix says, and what is in the machine then, when a derivation is built there."""
    name = drv.rpartition("/")[2]
    logs = f"$PLACE/log/drvs/{name[:2]}"
    said = f"offloading '{drv}' to '127.0.0.1'..."
    return f'echo "{said}"; mkdir -p {logs} && touch {logs}/{name[2:]}.gz'


NAMED = f"*--derivations) echo {DRV};; *environment*) ;;"
THERE = there(DRV)


@pytest.fixture
def built(tmp_path, places, monkeypatch):
    """Build with a guix that says and does what a script says, and a machine that is asked."""

    def built(script, case=None, where=Where.HOST):
        programs = tmp_path / "bin"
        programs.mkdir(exist_ok=True)
        texts = {
            "guix": f'#!/bin/sh\nPLACE={tmp_path}\ncase "$*" in {script} esac\n',
            "ssh": SSH.format(place=tmp_path),
        }
        for name, text in texts.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (tmp_path / "vmstat").write_text("pgfault 7\noom_kill 2\n")
        (tmp_path / "df").write_text("Filesystem 1024-blocks\nnone 9 9 500000 1% /\n")
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        status = ready(network="user")
        trial = build_with_guix(case or case_of(), status, where, places=places, base=tmp_path)
        return trial.outcome, trial.log.decode()

    return built


def test_what_was_built_in_the_machine_has_passed_at_the_clock_it_had_then(built):
    outcome, log = built(f'{NAMED} *build*) {THERE}; echo "{DONE}";;')
    assert outcome.verdict is Verdict.PASSED, outcome.reason
    assert [step.name for step in outcome.steps] == ["prepare", "build"]
    assert OFFLOADED in log
    assert f"==> build: {TRAVEL}build" in log
    build = outcome.steps[-1]
    assert build.clock_started_at <= build.clock_ended_at
    # the clock of the machine here is this host's: not the date at which it was started
    assert outcome.machine.date == build.clock_started_at.replace(microsecond=0)
    assert abs((outcome.machine.date - now()).total_seconds()) < 600


NOT_FOUND = "'download failed https://x.example/a 404 Not Found'"
KILLS = "echo oom_kill 3 >$PLACE/vmstat"
FULL = "echo a b c 900 1% >$PLACE/df"
CANNOT = "Guix of that commit, or what the packages need"


@pytest.mark.parametrize(
    ("script", "verdict", "step", "reason"),
    [
        ("*environment*) echo no network; exit 1;;", "error", "prepare", f"{CANNOT}, could not"),
        (
            "*environment*) echo Git error: object not found - no match for id; exit 1;;",
            "unavailable",
            "prepare",
            "no match for id",
        ),
        (
            f"*environment*) echo {NOT_FOUND}; exit 1;;",
            "unavailable",
            "prepare",
            "404",
        ),
        (
            f'*environment*) echo "{TOO_EARLY}"; exit 1;;',
            "unavailable",
            "prepare",
            "older than 4a0b87f0ec5b.*v1.0.0, of 2019-05-01",
        ),
        ("*) ;;", "error", "prepare", "does not name the derivation"),
        # it failed there, by Guix's word and the machine's
        (
            f'{NAMED} *build*) {THERE}; echo "{FAILED}"; exit 1;;',
            "failed",
            "build",
            f"{DRV} failed",
        ),
        # a build of this host, a daemon that is gone, a full store of this host
        (f"{NAMED} *build*) exit 1;;", "error", "build", "on this host, today"),
        (f'{NAMED} *build*) echo "{FAILED}"; exit 1;;', "error", "build", "on this host, today"),
        (
            f"{NAMED} *build*) {THERE}; echo 'failed to connect to daemon'; exit 1;;",
            "error",
            "build",
            "on this host, today",
        ),
        (
            f"{NAMED} *build*) echo {NOT_FOUND}; exit 1;;",
            "unavailable",
            "build",
            "404",
        ),
        # nothing, something else, or on another machine of that name
        (f"{NAMED} *build*) ;;", "error", "build", "not built in the machine"),
        (f'{NAMED} *build*) echo "{OFFLOADED}"; echo "{DONE}";;', "error", "build", "not built in"),
        (
            f'{NAMED} *build*) {there(TAR)}; echo "{DONE}";;',
            "error",
            "build",
            "not built in the machine",
        ),
        (
            f'{NAMED} *build*) {THERE}; {KILLS}; echo "{FAILED}"; exit 1;;',
            "error",
            "build",
            "killed 1 processes for lack of memory",
        ),
        (
            f'{NAMED} *build*) {THERE}; {FULL}; echo "{FAILED}"; exit 1;;',
            "error",
            "build",
            "store was full",
        ),
    ],
)
def test_how_it_ended_is_a_verdict_with_its_reason(built, script, verdict, step, reason):
    outcome, _ = built(script)
    assert (outcome.verdict, outcome.failing_step) == (verdict, step), outcome.reason
    assert re.search(reason, outcome.reason), outcome.reason


@pytest.mark.parametrize(
    ("script", "verdict", "reason"),
    [
        (f"{NAMED} *--check*) ;; *build*) {THERE};;", "passed", ""),
        (f"{NAMED} *build*) ;;", "error", "it was there already"),
        (f"{NAMED} *build*) {THERE}; exit 3;;", "failed", "^exited with 3$"),
        (f"{NAMED} *build*) {THERE}; kill -SEGV $$;;", "crashed", "^died of SIGSEGV$"),
        (
            f"{NAMED} *build*) {THERE}; echo MemoryError; exit 1;;",
            "failed",
            "exited with 1 .the guest has 2048 MiB, and its kernel killed nothing",
        ),
        (f"{NAMED} *build*) {THERE}; {KILLS}; exit 1;;", "error", "processes for lack of memory"),
        (f"{NAMED} *build*) exit 1;;", "error", "exited with 1 before it built what was asked"),
        (f"{NAMED} *build*) echo {NOT_FOUND}; exit 1;;", "unavailable", "404"),
        (f"{NAMED} *build*) {THERE}; exit 255;;", "error", "the way into the machine broke"),
        (f"{NAMED} *--check*) exit 1;; *build*) {THERE};;", "error", "before it built"),
        (
            f"{NAMED} *--check*) {THERE}; exit 1;; *build*) {THERE};;",
            "failed",
            "built again, the result is another",
        ),
    ],
)
def test_a_build_by_the_machines_own_guix_is_judged_as_any_case(built, script, verdict, reason):
    outcome, _ = built(script, where=Where.GUEST)
    assert outcome.verdict == verdict, outcome.reason
    assert re.search(reason, outcome.reason), outcome.reason


def test_a_machine_that_is_lost_on_the_way_is_no_failure(built):
    outcome, _ = built(f'{NAMED} *build*) {THERE}; >$PLACE/gone; echo "{FAILED}"; exit 1;;')
    assert outcome.verdict is Verdict.ERROR
    assert "does not say what it is" in outcome.reason


def test_a_log_from_before_proves_nothing(built, tmp_path):
    log = tmp_path / "log/drvs" / HASH[:2] / f"{DRV[13:]}.gz"
    log.parent.mkdir(parents=True)
    log.touch()
    os.utime(log, (1, 1))
    outcome, _ = built(f'{NAMED} *build*) echo "{OFFLOADED}"; echo "{DONE}";;')
    assert outcome.verdict is Verdict.ERROR


def test_a_build_without_an_end_is_ended(built):
    case = case_of(CASE + "[limits]\nstep_timeout_s = 1\n")
    outcome, _ = built(f"{NAMED} *build*) {THERE}; exec tail -f /dev/null;;", case)
    assert outcome.verdict is Verdict.TIMEOUT
    assert DRV in outcome.reason


def test_a_wait_for_what_is_not_being_built_in_the_machine_is_no_time_out(built):
    case = case_of(CASE + "[limits]\nstep_timeout_s = 1\n")
    for script in (
        "*environment*) exec tail -f /dev/null;;",
        f"{NAMED} *) exec tail -f /dev/null;;",
    ):
        assert built(script, case)[0].verdict is Verdict.ERROR


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
    assert "\n".join(lines) == "\n".join(step.run for step in case_of().steps[:2])
    assert "buildvm machine ssh build-vm" in call("--in", "guest")
    assert [one["step"] for one in json.loads(call("--json"))] == ["prepare", "build"]
