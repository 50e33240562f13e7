"""``buildvm run`` and ``buildvm build`` with real guests: statuses, streams, records."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from buildvm_nb.catalog import Catalog

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from buildvm_nb.cli import main; sys.exit(main())"
EMULATED = ("--image", "debian:bookworm,python3", "--memory", "512", "--accelerator", "tcg")


@pytest.fixture(scope="module")
def machine(fastest):
    """Words that ask for a machine, wherever what is shown does not depend on what runs it."""
    return (*EMULATED[:-1], fastest["accelerator"])


@pytest.fixture
def start(tmp_path):
    """Start the program in a directory of its own, named ``work``, with a catalog beside it."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "data").write_text("from the host\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BUILDVM_CATALOG": str(tmp_path / "catalog.sqlite"),
    }

    def start(*words, stdin=subprocess.DEVNULL):
        argv = [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv, stdin=stdin, stdout=pipe, stderr=pipe, cwd=work, env=environment, text=True
        )

    return start


@pytest.fixture
def call(start):
    def call(*words, text=None):
        stdin = subprocess.DEVNULL if text is None else subprocess.PIPE
        with start(*words, stdin=stdin) as process:
            out, err = process.communicate(text, timeout=600)
        return process.returncode, out, err

    return call


def test_run_is_env_for_date_and_cpu(call, tmp_path):
    script = "date +%F; pwd; cat data -; echo lost >data; echo told >&2; exit 7"
    words = ("--date", "2038-01-19T03:14:08Z", "--cpu", "Westmere", "--", "sh", "-c", script)
    status, out, err = call("run", *EMULATED, *words, text="from a pipe\n")
    assert status == 7
    assert out == "2038-01-19\n/build/work\nfrom the host\nfrom a pipe\n"
    assert "told\nbuildvm: ran from 2038-01-19T03:14:08" in err
    assert "buildvm: 2038-01-19T03:14:08Z, Westmere, Linux " in err
    assert (tmp_path / "work/data").read_text() == "from the host\n"


def test_a_held_clock_stands_still_while_the_command_runs(call, machine):
    last = "2038-01-19T03:14:07Z"
    shown = "date +%s; sleep 2.5; date +%s"
    words = ("run", *machine, "--no-share", "--date", last, "--hold", "--")
    status, out, err = call(*words, "sh", "-c", shown)
    assert (status, set(out.split())) == (0, {"2147483647"})
    assert f"buildvm: ran at {last}, the guest's clock held: it strayed by 0." in err


def test_a_build_with_a_held_clock_is_recorded_as_one(call, machine):
    words = ("build", "--local", ".", *machine, "--date", "2031-01-01", "--hold", "--json")
    status, out, _ = call(*words, "--", "test $(date +%s) = $(sleep 2; date +%s)")
    outcome = json.loads(out)
    assert (status, outcome["verdict"]) == (0, "passed")
    assert outcome["probing"]["held"] is True
    assert outcome["probing"]["drift_s"] < 1


def test_run_passes_a_signal_on_and_keeps_quiet(call, machine):
    status, out, err = call("run", "-q", *machine, "--no-share", "--", "sh", "-c", "kill -9 $$")
    assert (status, out) == (128 + signal.SIGKILL, "")
    assert "buildvm" not in err


def test_run_ends_a_command_at_its_timeout(call, machine):
    assert call("run", "-q", *machine, "--timeout", "1", "--", "sleep", "60")[0] == 124


def test_run_ends_when_nobody_reads_any_more(start, machine):
    with start("run", "-q", *machine, "--", "yes") as process:
        assert process.stdout.read(2) == "y\n"
        process.stdout.close()
        assert process.wait(timeout=600) == 128 + signal.SIGPIPE
        assert process.stderr.read() == ""


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_machine_behind(start, machine, number, expected):
    with start("run", "-q", *machine, "--", "sh", "-c", "echo up; sleep 100") as process:
        assert process.stdout.readline() == "up\n"
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [child for task in tasks for child in task.read_text().split()]
        process.send_signal(number)
        _, err = process.communicate(timeout=600)
    assert process.returncode == expected
    assert "Traceback" not in err
    assert children
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_dry_run_prints_the_command_of_the_machine(call):
    status, out, _ = call("run", *EMULATED, "--date", "2019-05-01", "--dry-run", "--", "true")
    words = shlex.split(out)
    assert status == 0
    assert words[words.index("-cpu") + 1] == "Cascadelake-Server"
    status, out, _ = call("run", *EMULATED, "--date", "2019-05-01", "--dry-run", "--json", "true")
    assert json.loads(out) == words


def test_build_records_a_failure_and_tells_how_to_see_it_and_to_do_it_again(
    call, machine, tmp_path
):
    words = ("build", "--local", ".", *machine, "--date", "2031-01-01")
    status, out, _ = call(*words, "--", "cat data; echo 'error: certificate expired'; exit 3")
    assert status == 3
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert told["verdict"] == "failed"
    assert told["evidence"] == "error: certificate expired"
    assert told["date"] == "2031-01-01T00:00:00Z"
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert catalog.outcome(told["outcome"]).verdict == "failed"
    status, out, _ = call(*shlex.split(told["log"])[1:])
    assert "from the host\nerror: certificate expired\n" in out
    status, out, _ = call(*shlex.split(told["again"])[1:], "--json")
    assert status == 3  # --json came after --, so it belongs to the command


def test_build_passes_and_follows_the_steps(call, machine):
    words = ("build", "--local", ".", *machine, "--follow", "--json", "--", "cat", "data")
    status, out, err = call(*words)
    assert status == 0
    assert json.loads(out)["verdict"] == "passed"
    assert "from the host\n" in err
