"""``buildvm diagnose`` with real guests: interrupted, gone on with, and not run twice."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.model.finding import Finding

from .conftest import below, is_running

pytestmark = [pytest.mark.vm]

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from buildvm_nb.cli import main; sys.exit(main())"
CASE = """
schema = 1
id = "tiny"
[limits]
memory_mib = 512
[[step]]
name = "test"
run = "test $(date +%s) -lt 1638026938"
"""
WORDS = ("--axis", "date", "--from", "2015", "--to", "2030", "--jobs", "2")
TCG = ("--accelerator", "tcg")
PATIENCE_S = 600.0


@pytest.fixture
def scratch():
    """Where the program puts what is to be gone when it ends: paths of sockets are short."""
    with TemporaryDirectory(prefix="left-") as place:
        yield Path(place)


@pytest.fixture
def diagnose(tmp_path, scratch):
    """Start the program in a process group of its own."""
    (tmp_path / "case.toml").write_text(CASE)

    def start(*words):
        environment = {
            **os.environ,
            "TMPDIR": str(scratch),
            "PYTHONPATH": str(ROOT),
            "BUILDVM_CATALOG": str(tmp_path / "catalog.sqlite"),
        }
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, "diagnose", "case.toml", *WORDS, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.long
def test_a_trap_is_found_to_the_second_and_no_run_is_made_twice(diagnose, tmp_path):
    with diagnose(*TCG) as process:
        for line in process.stderr:
            if ", in a fork: " in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, ""), err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        done = len(catalog.outcomes())
    assert done >= 2

    with diagnose(*TCG, "--json") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    finding = Finding.model_validate_json(out)
    assert err.count(", from the catalog\n") == done
    assert "2021-11-27T15:28:58Z, " in err
    (edge,) = finding.boundaries
    assert (finding.kind, edge.before, edge.after) == ("time-trap", "passed", "failed")
    assert edge.is_exact
    assert edge.last_before == "2021-11-27T15:28:57Z"
    assert edge.first_after == "2021-11-27T15:28:58Z"
    assert len(finding.evidence) == finding.runs + done

    with diagnose(*TCG, "--json") as process:
        again = json.loads(process.communicate(timeout=PATIENCE_S)[0])
    assert again["runs"] == 0
    assert again["boundaries"] == json.loads(out)["boundaries"]
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert sorted(catalog.outcomes()["id"]) == sorted(finding.evidence)

    with diagnose(*TCG, "--markdown", "--quiet") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert err == ""
    assert out.startswith("# tiny: ")
    assert "\nbuildvm build case.toml --date 2021-11-27T15:28:58Z --cpu " in out


def processes_of(scratch):
    """Return the processes that have a directory for scratch in their environment."""
    wanted = f"TMPDIR={scratch}".encode()
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (place / "environ").read_bytes().split(b"\0"):
                found.add(int(place.name))
    return found


def abandoned(place):
    """Return the directories of machines whose owner is gone: nobody holds their lock."""
    left = set()
    for one in place.glob("[!.]*"):
        with suppress(OSError):
            lock = os.open(one, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                left.add(one)
            except BlockingIOError:
                pass
            finally:
                os.close(lock)
    return left


@pytest.mark.long
def test_a_diagnosis_that_was_killed_leaves_nothing_and_is_gone_on_with(
    diagnose, engine, cache, scratch, tmp_path
):
    day = ("--from", "2021-11-27", "--to", "2021-11-28", "--effort", "quick")
    words = ("--accelerator", engine["accelerator"], *day)
    with diagnose(*words) as process:
        for line in process.stderr:
            if ", in a fork: " in line:
                break
        started = below(process.pid) | processes_of(scratch)
        assert started
        process.kill()
        process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while left := {pid for pid in started | processes_of(scratch) if is_running(pid)}:
        assert time.monotonic() < deadline, left
    ours = abandoned(cache.root / "machines")  # those of other tests too, perhaps
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        done = sorted(catalog.outcomes()["id"])
    assert done

    with diagnose(*words, "--json") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    finding = Finding.model_validate_json(out)
    (edge,) = finding.boundaries
    assert (finding.kind, edge.is_exact) == ("time-trap", True)
    assert edge.first_after == "2021-11-27T15:28:58Z"
    assert set(done) <= set(finding.evidence)
    assert len(finding.evidence) == finding.runs + len(done)
    assert list(scratch.iterdir()) == []
    assert not ours & abandoned(cache.root / "machines")
    assert processes_of(scratch) == set()
