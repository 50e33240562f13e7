"""The main job from end to end, by the command line alone: for a home in which nothing is yet."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.network]

EXPIRED = """
schema = 1
id = "smoke"
[image]
base = "debian:bookworm"
[[step]]
name = "test"
run = 'test "$(date +%s)" -lt 1577836800 || { echo "Error: expired"; exit 1; }'
"""


QUICK = ("--effort", "quick")


def buildvm(tmp_path, *words):
    argv = [sys.executable, "-m", "buildvm_nb.cli", *words]
    return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_smoke_a_command_runs_in_a_machine_and_its_status_is_passed_on(tmp_path):
    script = "date -u +%F; uname -s; exit 3"
    done = buildvm(tmp_path, "run", "--date", "2019-05-01", "--no-share", "--", "sh", "-c", script)
    assert (done.stdout, done.returncode) == ("2019-05-01\nLinux\n", 3), done.stderr


def test_smoke_a_time_trap_is_found_recorded_and_exported(tmp_path):
    (tmp_path / "smoke.toml").write_text(EXPIRED)
    catalog = ["--catalog", str(tmp_path / "catalog.sqlite")]
    years = ["--axis", "date", "--from", "2018-01-01", "--to", "2022-01-01"]
    done = buildvm(tmp_path, "diagnose", "smoke.toml", *years, *catalog, *QUICK, "--json")
    finding = json.loads(done.stdout)
    assert finding["kind"] == "time-trap", done.stderr
    assert [edge["first_after"] for edge in finding["boundaries"]] == ["2020-01-01T00:00:00Z"]
    assert finding["failing_line"] == "Error: expired"
    done = buildvm(tmp_path, "catalog", "export", "failures.csv", "--failures", *catalog)
    assert done.returncode == 0, done.stderr
    assert "time-trap" in (tmp_path / "failures.csv").read_text()
