"""The cells of a sweep: complete, in order, and the same wherever they run."""

import pickle

import pytest

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, GitSource
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.study.grid import Cell, Grid, Place, _local_path, make_cells

STEP = [{"name": "test", "run": "true"}]


@pytest.fixture
def far(tmp_path):
    """A place from which cells go to other hosts, so that none of this one's programs is asked."""
    return Place(cache=Cache(tmp_path / "cache"), base=tmp_path, remote=True)


def case_of(**fields):
    return Case.parse({"id": "demo", "steps": STEP, **fields})


def test_a_grid_has_all_combinations_in_order(far):
    grid = Grid(dates=("2018-01-01", "2019-01-01"), cpus=("Westmere", "Haswell"), cores=(1, 2))
    cells = make_cells(case_of(), grid, place=far)
    assert len(cells) == grid.size == 8
    assert grid.varying == ("dates", "cpus", "cores")
    assert [cell.index for cell in cells] == list(range(8))
    seen = [(c.machine.date.year, c.machine.cpu, c.machine.cpu_count) for c in cells]
    assert seen[:3] == [(2018, "Westmere", 1), (2018, "Westmere", 2), (2018, "Haswell", 1)]
    assert len(set(seen)) == 8


def test_an_empty_grid_is_one_cell():
    assert Grid().size == 1
    assert Grid(dates=("2018-01-01",)).varying == ()


def test_a_cpu_that_is_left_out_does_not_vary_with_the_date(far):
    cells = make_cells(case_of(), Grid(dates=("2008-01-01", "2019-01-01")), place=far)
    assert len({cell.machine.cpu for cell in cells}) == 1
    assert make_cells(case_of(), Grid(), place=far)[0].machine.date == parse_instant("today")


def test_overrides_hold_for_all_cells_and_cpus_are_studied_under_emulation(far):
    grid = Grid(cpus=("Westmere", "Haswell"))
    cells = make_cells(case_of(), grid, {"memory_mib": 512, "date": "2019-05-01"}, place=far)
    assert {cell.machine.memory_mib for cell in cells} == {512}
    assert {str(cell.machine.date.date()) for cell in cells} == {"2019-05-01"}
    assert {cell.machine.accelerator for cell in cells} == {"tcg"}


def test_a_cell_survives_json_and_pickling(far):
    (cell,) = make_cells(case_of(), Grid(cpus=("Haswell,-avx2",)), place=far)
    assert Cell.model_validate_json(cell.model_dump_json()) == cell
    assert pickle.loads(pickle.dumps(cell)) == cell


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"source": {"kind": "local", "path": "tree"}}, "tree"),
        ({"source": {"kind": "git", "url": "../repo", "commit": "main"}}, "../repo"),
        ({"source": {"kind": "git", "url": "file:///r", "commit": "main"}}, "file:///r"),
        (
            {"input": [{"path": "x", "source": {"kind": "local", "path": "/in"}}]},
            "/in",
        ),
    ],
)
def test_files_of_this_host_are_refused_where_others_run_the_cells(far, fields, named):
    with pytest.raises(UsageError) as caught:
        make_cells(case_of(**fields), Grid(), place=far)
    assert f"workers on other hosts have no files of this one: {named}" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("https://example.org/x.git", False),
        ("git@example.org:x.git", False),
        ("ssh://example.org/x", False),
        ("/srv/x.git", True),
        ("./a:b", True),
        ("file:///srv/x.git", True),
    ],
)
def test_where_a_git_repository_lies_is_told_from_its_url(url, is_local):
    source = GitSource(url=url, commit="main")
    assert bool(_local_path(source)) is is_local


@pytest.mark.parametrize("by", ["grid", "overrides"])
def test_a_kernel_of_this_host_is_refused_where_others_run_the_cells(far, by):
    grid = Grid(kernels=("/boot/mine",)) if by == "grid" else Grid()
    overrides = {} if by == "grid" else {"kernel": "/boot/mine"}
    with pytest.raises(UsageError, match="/boot/mine"):
        make_cells(case_of(), grid, overrides, place=far)


def test_commits_need_a_git_source(far):
    with pytest.raises(UsageError, match="commits need a git source; that of case demo is none"):
        make_cells(case_of(), Grid(commits=("v1",)), place=far)


def test_a_value_that_is_none_is_refused(far):
    with pytest.raises(UsageError, match="no such!"):
        make_cells(case_of(), Grid(cpus=("no such!",)), place=far)


@pytest.mark.parametrize(
    ("grid", "fixed"),
    [
        (Grid(dates=("2018-01-01",)), {"date": "2019-01-01"}),
        (Grid(cpus=("Westmere",)), {"cpu": "Haswell"}),
        (Grid(kernels=("debian:sid",)), {"kernel": "debian:bookworm"}),
        (Grid(cores=(1, 2)), {"cpu_count": 4}),
    ],
)
def test_what_varies_is_not_fixed_as_well(far, grid, fixed):
    with pytest.raises(UsageError, match=f"varies the {next(iter(fixed))} itself"):
        make_cells(case_of(), grid, fixed, place=far)
