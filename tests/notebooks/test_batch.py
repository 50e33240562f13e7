"""Batches through papermill and real kernels; the notebook is a small one that boots no guests."""

import json
import subprocess
import sys

import pytest

from buildvm_nb.batch import SUMMARY, run_batch
from buildvm_nb.batch.run import read_outcomes
from buildvm_nb.catalog import Catalog, read_csv
from buildvm_nb.cli import main
from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.study.again import batch_notebook

CASE = 'schema = 1\nid = "{}"\n[[step]]\nname = "test"\nrun = "true"\n'
RUN = """
import os
import pathlib
from buildvm_nb.batch import HandOver, check_parameters
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

asked = check_parameters(case=case, date=date, jobs=jobs)
(pathlib.Path(case).parent / "ran").open("a").write(f"{asked.date}\\n")
(one,) = asked.cases()
if one.id == "dies" and not pathlib.Path(case).with_suffix(".healed").exists():
    os.kill(os.getpid(), 9)
verdict = "failed" if asked.date == "2024" else "error" if one.id == "broken" else "passed"
spec = MachineSpec(date=asked.date + "-01-01", cpu="Westmere")
ran = HandOver((Outcome(case=one, machine=spec, verdict=verdict, reason="because\\nof it"),))
None if one.id == "silent" else ran
"""


def cell(source, *tags):
    shared = {"id": f"c{abs(hash(source))}", "metadata": {"tags": list(tags)}, "source": source}
    return {"cell_type": "code", "execution_count": None, "outputs": [], **shared}


@pytest.fixture
def batch(tmp_path):
    """Write cases, a notebook and a plan of the rows; return what runs it."""
    for name in ("good", "broken", "dies", "silent"):
        (tmp_path / f"{name}.toml").write_text(CASE.format(name))
    parameters = 'case = date = repository = commit = cpu = kernel = catalog = ""\njobs = 1'
    notebook = {
        "cells": [cell(parameters, "parameters"), cell(RUN), cell("ran.check()")],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "small.ipynb").write_text(json.dumps(notebook))
    plan = tmp_path / "plan.csv"

    def run(*rows, **options):
        plan.write_text("\n".join(["case,date", *rows]))
        return run_batch(plan, notebook=tmp_path / "small.ipynb", jobs=2, **options)

    return run


def ran(tmp_path):
    path = tmp_path / "ran"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.long
def test_a_batch_keeps_evidence_goes_on_and_breaks_alone(batch, tmp_path, capsys):
    rows = ("good.toml,2020", "good.toml,2024", "broken.toml,2021", "dies.toml,2022")
    rows += ("silent.toml,2023",)
    seen = []
    result = batch(*rows, on_row=seen.append)
    states = {one.row.number: one.state.value for one in result.results}
    assert states == {2: "finished", 3: "finished", 4: "broken", 5: "broken", 6: "broken"}
    assert sorted(one.row.number for one in seen) == [2, 3, 4, 5, 6]
    _, failed, broken, died, silent = result.results
    assert failed.outcomes[0].verdict == "failed"  # data
    assert "HostError: 1 of 1 runs could not be made: because" in broken.problem
    assert died.problem.startswith("DeadKernelError")
    assert silent.problem.startswith("the notebook hands no outcomes over")
    assert broken.notebook.name.endswith(".broken.ipynb")

    # the evidence: a notebook with its outcomes within, and the same beside it
    document = json.loads(failed.notebook.read_text())
    assert read_outcomes(document) == failed.outcomes
    assert document["metadata"]["buildvm"]["parameters"]["date"] == "2024"
    beside = read_csv(failed.notebook.with_suffix(".outcomes.csv"))
    assert list(beside["id"]) == [failed.outcomes[0].id]
    summary = read_csv(result.out / "summary.csv", SUMMARY)
    assert summary.equals(result.frame)
    assert list(summary["verdict"]) == ["passed", "failed", *["error"] * 3]

    # a second time only what broke is tried again
    before = len(ran(tmp_path))
    (tmp_path / "dies.healed").touch()
    (tmp_path / "plan.csv").write_text("\n".join(["case,date", *rows[:4]]))
    words = ["batch", str(tmp_path / "plan.csv"), "--notebook", str(tmp_path / "small.ipynb")]
    assert main([*words, "--json"]) == 1
    out, err = capsys.readouterr()
    states = [row["state"] for row in json.loads(out)["rows"]]
    assert states == ["known", "known", "broken", "finished"]
    assert json.loads(err.splitlines()[-1])["error"]["message"].startswith("1 of 4 notebooks broke")
    assert sorted(ran(tmp_path)[before:]) == ["2021", "2022"]
    assert not list(result.out.glob("dies-*.broken.ipynb"))

    # builds that fail are no trouble
    (tmp_path / "plan.csv").write_text("\n".join(["case,date", *rows[:2]]))
    assert main(words) == 0
    assert "row 3: known: failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no json", "not a notebook"),
        ("[]", "not a notebook"),
        ('{"cells": []}', "no cell of .* is tagged 'parameters'"),
    ],
)
def test_what_is_no_notebook_is_refused(batch, tmp_path, text, told):
    (tmp_path / "small.ipynb").write_text(text)
    with pytest.raises(UsageError, match=told):
        batch("good.toml,2020")


def test_without_papermill_the_extra_is_named(batch, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(HostError, match="papermill and ipykernel") as caught:
        batch("good.toml,2020")
    assert caught.value.hint == "pip install 'buildvm-nb[notebook]'"


def test_a_directory_that_cannot_be_made_is_named(batch, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"cannot make the directory .*file/out"):
        batch("good.toml,2020", out=tmp_path / "file" / "out")


def papermill(out, *words):
    """Run the notebook that comes with this; return how it ended, and what it told."""
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(batch_notebook()),
        str(out),
        "--no-progress-bar",
    ]
    done = subprocess.run([*command, *words], check=False, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(
            (),
            "case: missing; allowed: a case file or the id of a curated case",
            marks=pytest.mark.long,
        ),
        (("-r", "case", "cityhash-0.4.10", "-r", "kernal", "debian:sid"), "did you mean kernel?"),
        pytest.param(
            ("-p", "case", "7"), "case: no text any more, but the int 7", marks=pytest.mark.long
        ),
    ],
)
def test_the_notebook_runs_no_default_for_what_was_meant(tmp_path, monkeypatch, words, told):
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    status, error = papermill(tmp_path / "ran.ipynb", *words)
    assert status == 1
    assert told in error
    assert not (tmp_path / "catalog.sqlite").exists()  # nothing was run


@pytest.mark.vm
@pytest.mark.long
def test_the_notebook_makes_a_round_trip_with_real_machines(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    words = ("-r", "case", "cityhash-0.4.10", "-r", "cpu", "core2duo,Nehalem")
    status, error = papermill(tmp_path / "ran.ipynb", *words)
    assert status == 0, error
    outcomes = read_outcomes(json.loads((tmp_path / "ran.ipynb").read_text()))
    assert [(one.machine.cpu, one.verdict.value) for one in outcomes] == [
        ("core2duo", "crashed"),
        ("Nehalem", "passed"),
    ]
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert sorted(catalog.outcomes()["id"]) == sorted(one.id for one in outcomes)
