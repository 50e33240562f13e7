"""``buildvm diagnose`` with real guests: interrupted, gone on with, and not run twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.model.finding import Finding

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
WORDS = ("--axis", "date", "--from", "2015", "--to", "2030", "--accelerator", "tcg", "--jobs", "2")
PATIENCE_S = 600.0


@pytest.fixture
def diagnose(tmp_path):
    """Start the program in a process group of its own."""
    (tmp_path / "case.toml").write_text(CASE)

    def start(*words):
        environment = {
            **os.environ,
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
    with diagnose() as process:
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

    with diagnose("--json") as process:
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

    with diagnose("--json") as process:
        again = json.loads(process.communicate(timeout=PATIENCE_S)[0])
    assert again["runs"] == 0
    assert again["boundaries"] == json.loads(out)["boundaries"]
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert sorted(catalog.outcomes()["id"]) == sorted(finding.evidence)

    with diagnose("--markdown", "--quiet") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert err == ""
    assert out.startswith("# tiny: ")
    assert "\nbuildvm build case.toml --date 2021-11-27T15:28:58Z --cpu " in out
