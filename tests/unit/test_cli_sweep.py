"""``buildvm sweep`` without guests: what it would run, what it refuses, how it shows verdicts."""

import json

import pytest

from buildvm_nb.catalog import read_csv
from buildvm_nb.cli import main
from buildvm_nb.cli.command import Session
from buildvm_nb.cli.sweep import _show, describe_cell, verdict_table
from buildvm_nb.errors import HostError
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.laboratory import Order
from buildvm_nb.study.sweep import CellResult, Grid, SweepResult

# with a scheduler, this host's QEMU is not asked
ELSEWHERE = ("--scheduler", "tcp://localhost:8786", "--dry-run")
CASE = 'schema = 1\nid = "demo"\n[[step]]\nname = "test"\nrun = "true"\n'


@pytest.fixture
def sweep(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.toml").write_text(CASE)

    def call(*words):
        status = main(["sweep", "case.toml", *words])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def results_of(grid):
    case = Case.parse({"id": "demo", "steps": [{"name": "test", "run": "true"}]})
    results = []
    for date in grid.dates:
        for cpu in grid.cpus or ("Westmere",):
            for cores in grid.cores or (1,):
                spec = MachineSpec(date=date, cpu=cpu, cpu_count=cores)
                cell = Order(case=case, machine=spec)
                verdict = "passed" if date.year < 2020 or cpu == "Haswell" else "failed"
                reason = "" if verdict == "passed" else "test: exited with 1\nmore"
                outcome = Outcome(case=case, machine=spec, verdict=verdict, reason=reason)
                results.append(CellResult(cell=cell, outcome=outcome))
    return results


def test_two_axes_make_a_matrix_with_the_longer_one_downwards():
    grid = Grid(
        dates=("2018-01-01", "2020-01-01", "2022-01-01T06:00:00Z"), cpus=("Westmere", "Haswell")
    )
    columns, rows = verdict_table(results_of(grid), grid)
    assert columns == ("date", "Westmere", "Haswell")
    assert rows == [
        ("2018-01-01", "passed", "passed"),
        ("2020-01-01", "failed", "passed"),
        ("2022-01-01T06:00:00Z", "failed", "passed"),
    ]
    grid = Grid(dates=("2018-01-01", "2020-01-01"), cpus=("Westmere", "Haswell", "max"))
    assert verdict_table(results_of(grid), grid)[0] == ("CPU", "2018-01-01", "2020-01-01")


def test_other_sweeps_make_a_list_with_reasons():
    grid = Grid(dates=("2018-01-01", "2020-01-01"), cpus=("Westmere", "Haswell"), cores=(1, 2))
    columns, rows = verdict_table(results_of(grid), grid)
    assert columns == ("date", "CPU", "cores", "verdict", "why")
    assert len(rows) == 8
    assert rows[4] == ("2020-01-01", "Westmere", "1", "failed", "test: exited with 1")
    grid = Grid(dates=("2018-01-01",))
    (only,) = results_of(grid)
    assert verdict_table([only], grid)[1] == [("2018-01-01", "Westmere", "passed", "")]
    assert describe_cell(only.cell, grid) == "2018-01-01, Westmere"


def test_a_dry_run_lists_the_cells(sweep):
    status, out, err = sweep(
        "--dates", "2018..2019/1Y", "--cpus", "Westmere,Haswell,-avx2", "--cores", "2", *ELSEWHERE
    )
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["cell", "date", "CPU", "kernel", "cores"],
        ["1", "2018-01-01", "Westmere", "debian:bookworm", "2"],
        ["2", "2018-01-01", "Haswell,-avx2", "debian:bookworm", "2"],
        ["3", "2019-01-01", "Westmere", "debian:bookworm", "2"],
        ["4", "2019-01-01", "Haswell,-avx2", "debian:bookworm", "2"],
    ]


def test_kernels_and_fixed_options_are_those_of_a_machine(sweep):
    status, out, _ = sweep("--kernels", "all", "--memory", "2G", "--json", *ELSEWHERE)
    cells = json.loads(out)
    assert status == 0
    assert [cell["machine"]["kernel"] for cell in cells][:2] == [
        "debian:bullseye",
        "debian:bookworm",
    ]
    assert {cell["machine"]["memory_mib"] for cell in cells} == {2048}
    assert [cell["index"] for cell in cells] == list(range(len(cells)))
    digests = ["image_digest", "kernel_digest", "source_digests", "engine"]
    assert [*cells[0]] == ["index", "case", "machine", *digests]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dates", "2018..2020"), "--dates: not a range of dates: '2018..2020'"),
        (("--cpus", "+avx2"), "--cpus: a feature without a model before it"),
        (("--kernels", "sid"), "did you mean debian:sid?"),
        (("--cores", "0"), "--cores: not a number of cores: '0'"),
        (("--commits", "-x"), "--commits: not a commit: '-x'"),
        (("--memory", "1"), "memory"),
        (("--dates", "2018..2020/1H"), "17,521 cells; allowed without --yes: 10,000"),
        (("--scheduler", "localhost"), "not a scheduler's address: 'localhost'"),
    ],
)
def test_a_wrong_request_names_the_option(sweep, words, message):
    status, out, err = sweep(*words)
    assert (status, out) == (2, "")
    assert message in err


def test_a_large_grid_may_be_looked_at_without_being_asked_for_twice(sweep):
    status, out, _ = sweep("--dates", "2018-01-01..2019-03-01/1H", *ELSEWHERE)
    assert status == 0
    assert len(out.splitlines()) > 10_000


def test_cells_that_could_not_be_run_are_named_after_all_is_shown(capsys, tmp_path):
    grid = Grid(dates=("2018-01-01", "2019-01-01"))
    first, second = results_of(grid)
    lost = second.outcome.model_copy(update={"verdict": Verdict.ERROR, "reason": "worker x died"})
    results = (first, CellResult(cell=second.cell, outcome=lost))
    with pytest.raises(HostError) as caught:
        _show(Session(), SweepResult(study="sweep-1", results=results), grid, tmp_path / "x.csv")
    assert caught.value.message == ("1 of 2 cells could not be run:\n  2019-01-01: worker x died")
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split() == ["2018-01-01", "passed"]
    assert "sweep-1: 1 passed, 1 error; all with cpu Westmere, kernel debian:bookworm" in err
    assert read_csv(tmp_path / "x.csv")["verdict"].tolist() == ["passed", "error"]
