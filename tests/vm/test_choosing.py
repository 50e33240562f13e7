"""``buildvm build --environment auto`` with real guests: what a diagnosis found is made use of."""

import json

import pytest

import buildvm_nb
from buildvm_nb.cli import main
from buildvm_nb.model.instants import parse_instant

pytestmark = [pytest.mark.vm]

EXPIRY = 1638026938  # 2021-11-27T15:28:58Z
CASE = """
schema = 1
id = "{name}"
[limits]
memory_mib = 512
[[step]]
name = "test"
run = "test $(date +%s) {condition}"
"""
RANGE = ("--axis", "date", "--from", "2015", "--to", "2030", "--resolution", "1d")


@pytest.fixture
def buildvm(capsysbinary, tmp_path, monkeypatch):
    """Call the program in this process: status, standard output, standard error."""
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    monkeypatch.chdir(tmp_path)
    for name, condition in (("expired", f"-lt {EXPIRY}"), ("other", "-gt 0")):
        text = CASE.format(name=name, condition=condition)
        (tmp_path / f"{name}.toml").write_text(text)

    def call(*words):
        status = main([*map(str, words), "--json"])
        out, err = capsysbinary.readouterr()
        return status, json.loads(out) if out else None, err.decode()

    return call


@pytest.mark.long
def test_a_case_is_built_where_its_diagnosis_saw_it_pass(buildvm):
    build = ("build", "expired.toml", "--environment", "auto")
    status, outcome, err = buildvm(*build)
    assert (status, outcome["verdict"]) == (3, "failed")
    assert "buildvm: Nothing is known about expired: " in err
    assert "is a guess" in err

    status, finding, err = buildvm("diagnose", "expired.toml", *RANGE, "--jobs", "1", "--quiet")
    assert (status, finding["kind"]) == (0, "time-trap"), err

    status, outcome, err = buildvm(*build)
    assert (status, outcome["verdict"]) == (0, "passed"), err
    assert "For expired the date has to be chosen; it passes at " in err
    assert f"buildvm: see `buildvm catalog show {finding['id']}`" in err
    built, window = outcome["machine"], finding["windows"][0]
    assert parse_instant(built["date"]) < parse_instant(window["passes_until"])
    assert built["cpu"] == finding["environment"]["cpu"]

    again = buildvm_nb.build("expired.toml", environment="auto", cpu="Haswell")
    assert (again.verdict, again.chosen_by) == ("passed", (finding["id"],))
    assert (again.machine.cpu, again.machine.date) == ("Haswell", parse_instant(built["date"]))

    status, outcome, err = buildvm(*build, "--date", "2025-01-01", "--kernel", built["kernel"])
    assert (status, outcome["verdict"]) == (3, "failed")
    assert f"--date 2025-01-01T00:00:00Z takes precedence over {built['date']}" in err
    assert "--kernel" not in err

    status, outcome, err = buildvm("build", "other.toml", "--environment", "auto")
    assert (status, outcome["verdict"]) == (0, "passed")
    assert "Nothing is known about other" in err
