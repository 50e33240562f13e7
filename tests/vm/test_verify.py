"""``buildvm catalog verify`` with real guests: a claim to the second, borne out and refuted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from buildvm_nb.catalog.curated import load_proof

pytestmark = [pytest.mark.vm]

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from buildvm_nb.cli import main; sys.exit(main())"
CASE = """
schema = 1
id = "tiny-1.0"
[limits]
memory_mib = 512
[[step]]
name = "test"
run = "test $(date +%s) -lt 1638026938 || {{ echo expired; exit 1; }}"
[claim]
kind = "time-trap"
passes_until = {until}
evidence = "expired"
[entry]
status = "proposed"
"""
PATIENCE_S = 600.0


@pytest.fixture
def verify(tmp_path):
    (tmp_path / "cases").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BUILDVM_CATALOG": str(tmp_path / "catalog.sqlite"),
    }

    def run(until, *words):
        (tmp_path / "cases" / "tiny-1.0.toml").write_text(CASE.format(until=until))
        return subprocess.run(
            [
                *(sys.executable, "-W", "error", "-c", PROGRAM),
                *("catalog", "verify", "cases/tiny-1.0.toml", "--jobs", "1", *words),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=tmp_path,
            env=environment,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    return run


def test_a_quick_check_tells_a_true_claim_from_one_that_is_off_by_a_second(verify):
    good = verify("2021-11-27T15:28:57Z", "--quick")
    assert (good.returncode, good.stdout) == (
        0,
        "tiny-1.0: agrees (passes at 2021-11-27T15:28:57Z; fails at 2021-11-27T15:28:58Z)\n",
    ), good.stderr
    bad = verify("2021-11-27T15:28:56Z", "--quick", "--json")
    assert bad.returncode == 1, bad.stderr
    [result] = json.loads(bad.stdout)
    assert (result["check"]["agreement"], result["trouble"]) == ("disagrees", "")
    assert result["check"]["why"] == ["it passes at 2021-11-27T15:28:57Z"]


@pytest.mark.long
def test_a_proof_is_of_runs_of_its_own_and_carries_them(verify, tmp_path):
    until = "2021-11-27T15:28:57Z"
    (tmp_path / "README.md").write_text("# Demo\n")
    assert verify(until, "--quick").returncode == 0  # what it recorded is no part of the proof
    written = verify(until, "--write")
    assert written.returncode == 0, written.stderr
    proof = load_proof(tmp_path / "proofs" / "tiny-1.0.json")
    [finding] = proof.findings
    assert finding.runs == len(finding.evidence) == len(proof.outcomes)
    assert proof.missing == ()
    assert "expired" in "".join(proof.excerpts.values())
