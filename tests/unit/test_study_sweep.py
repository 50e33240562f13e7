"""The cells of a sweep: complete, in order, and the same wherever they run."""

import pickle
import re
from concurrent.futures import BrokenExecutor, Executor, Future
from types import SimpleNamespace

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, GitSource
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import Environment, MachineSpec
from buildvm_nb.model.outcome import Outcome, SourceRecord
from buildvm_nb.study.executors import Means
from buildvm_nb.study.laboratory import Laboratory, Order, compared, run_probe
from buildvm_nb.study.run import Basis, Trial
from buildvm_nb.study.sweep import Grid, _local_path, make_cells, run_cells

STEP = [{"name": "test", "run": "true"}]


FAR = "tcp://elsewhere:8786"


@pytest.fixture
def far(tmp_path):
    """Plan cells that go to other hosts, so that none of this one's programs is asked."""
    means = Means(cache=Cache(tmp_path / "cache"), catalog=None, base=tmp_path, scheduler=FAR)
    return lambda case, *grid: make_cells(Laboratory(case, means), *grid)


def case_of(**fields):
    return Case.parse({"id": "demo", "steps": STEP, **fields})


def test_a_grid_has_all_combinations_in_order(far):
    grid = Grid(dates=("2018-01-01", "2019-01-01"), cpus=("Westmere", "Haswell"), cores=(1, 2))
    cells = far(case_of(), grid)
    assert len(cells) == grid.size == 8
    assert grid.varying == ("dates", "cpus", "cores")
    seen = [(c.machine.date.year, c.machine.cpu, c.machine.cpu_count) for c in cells]
    assert seen[:3] == [(2018, "Westmere", 1), (2018, "Westmere", 2), (2018, "Haswell", 1)]
    assert len(set(seen)) == 8


def test_an_empty_grid_is_one_cell():
    assert Grid().size == 1
    assert Grid(dates=("2018-01-01",)).varying == ()


def test_a_cpu_that_is_left_out_does_not_vary_with_the_date(far):
    cells = far(case_of(), Grid(dates=("2008-01-01", "2019-01-01")))
    assert len({cell.machine.cpu for cell in cells}) == 1
    assert far(case_of(), Grid())[0].machine.date == parse_instant("today")


def test_overrides_hold_for_all_cells_and_cpus_are_studied_under_emulation(far):
    grid = Grid(cpus=("Westmere", "Haswell"))
    cells = far(case_of(), grid, {"memory_mib": 512, "date": "2019-05-01"})
    assert {cell.machine.memory_mib for cell in cells} == {512}
    assert {str(cell.machine.date.date()) for cell in cells} == {"2019-05-01"}
    assert {cell.machine.accelerator for cell in cells} == {"tcg"}


def test_a_cell_survives_json_and_pickling(far):
    (cell,) = far(case_of(), Grid(cpus=("Haswell,-avx2",)))
    assert Order.model_validate_json(cell.model_dump_json()) == cell
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
        far(case_of(**fields), Grid())
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
        far(case_of(), grid, overrides)


def test_commits_need_a_git_source(far):
    with pytest.raises(UsageError, match=r"commit 'v1' of what.* demo is none; allowed: git"):
        far(case_of(), Grid(commits=("v1",)))


def test_a_value_that_is_none_is_refused(far):
    with pytest.raises(UsageError, match="no such!"):
        far(case_of(), Grid(cpus=("no such!",)))


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
        far(case_of(), grid, fixed)


# Sweeps over an executor that answers by itself: what is recorded, reused and tried again.

IMAGE, KERNEL, SOURCE = "1" * 64, "2" * 64, "3" * 64


class Answering(Executor):
    """Answers each call at once with what a list has for the cell's year."""

    def __init__(self, answers):
        self.answers = {year: list(some) for year, some in answers.items()}
        self.asked = []

    def submit(self, _fn, cell, *_where):
        year = cell.machine.date.year
        self.asked.append(year)
        answer = self.answers[year].pop(0)
        if isinstance(answer, BrokenExecutor):
            raise answer
        future = Future()
        if isinstance(answer, str):
            future.set_result(trial_of(cell, answer))
        elif isinstance(answer, dict):
            future.set_result(trial_of(cell, **answer))
        elif answer is None:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(answer)
        return future


def trial_of(cell, verdict, **fields):
    """Answer as a worker does that has what the cell asks for; fields may say otherwise."""
    digests = cell.basis.source_digests or ()
    engine = fields.pop("engine", cell.basis.engine)
    known = {
        "image_digest": cell.basis.image_digest,
        "kernel_digest": cell.basis.kernel_digest,
        "sources": tuple(
            SourceRecord(kind="local", name="x", version="", digest=digest) for digest in digests
        ),
        "environment": Environment(
            cpu="Westmere",
            cpu_features=(),
            cpu_flags=(),
            cpu_count=1,
            kernel_release="6.1",
            accelerator="tcg",
            engine=engine,
        ),
    }
    outcome = Outcome(case=cell.case, machine=cell.machine, verdict=verdict, **known | fields)
    return Trial(outcome=outcome, log=f"in {cell.machine.date.year}\n".encode())


def cells_of(*years, run="true", **basis):
    case = Case.parse({"id": "demo", "steps": [{"name": "test", "run": run}]})
    known = {"image_digest": IMAGE, "kernel_digest": KERNEL, "source_digests": (SOURCE,)}
    return tuple(
        Order(
            case=case,
            machine=MachineSpec(date=f"{year}-01-01", cpu="Westmere", accelerator="tcg"),
            basis=Basis(**known | {"engine": "qemu 7.2.22"} | basis),
        )
        for year in years
    )


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


class Planned(Laboratory):
    """A laboratory whose image, kernel, sources and QEMU are those that its cells name."""

    def boot_files(self, _spec):
        return None

    def _basis(self, order):
        return order.basis


@pytest.fixture
def run(tmp_path, catalog):
    def run(cells, answers, on_result=None, **options):
        executor = Answering(answers)
        means = Means(cache=Cache(tmp_path / "cache"), catalog=catalog, **options)
        result = run_cells(Planned(cells[0].case, means, executor), cells, on_result)
        return SimpleNamespace(
            asked=executor.asked,
            study=result.study,
            verdicts=[outcome.verdict.value for outcome in result.outcomes],
            reused=[each.reused for each in result.results],
            errors=result.errors,
            outcomes=result.outcomes,
        )

    return run


def test_each_outcome_is_recorded_with_its_log_under_one_study(run, catalog):
    told = []
    ran = run(
        cells_of(2018, 2019),
        {2018: ["passed"], 2019: ["failed"]},
        lambda result, far: told.append((result.outcome.verdict.value, far)),
    )
    assert ran.verdicts == ["passed", "failed"]
    assert catalog.outcomes(study=ran.study)["verdict"].tolist() == ["passed", "failed"]
    assert catalog.log(ran.outcomes[1].id) == b"in 2019\n"
    (first, left), last = told
    assert (first, last) == ("passed", ("failed", "2 of 2"))
    assert re.fullmatch(r"1 of 2, about \d+ s left", left)


def test_a_sweep_goes_on_where_it_was_and_keeps_its_name(run):
    cells = cells_of(2018, 2019, 2020)
    first = run(cells, {2018: ["passed"], 2019: ["error", "error"], 2020: ["unavailable"] * 2})
    again = run(cells, {2019: ["failed"], 2020: ["passed"]})
    assert again.asked == [2019, 2020]
    assert again.verdicts == ["passed", "failed", "passed"]
    assert again.reused == [True, False, False]
    assert again.study == first.study
    fresh = run(cells, {2018: ["passed"], 2019: ["passed"], 2020: ["passed"]}, fresh=True)
    assert fresh.reused == [False, False, False]


@pytest.mark.parametrize(
    "difference",
    [
        {"image_digest": "a" * 64},
        {"kernel_digest": "a" * 64},
        {"source_digests": ("a" * 64,)},
        {"source_digests": None},
        {"engine": "qemu 10.0.2"},
        {"run": "false"},
    ],
    ids=str,
)
def test_an_answer_about_something_else_does_not_count(run, difference):
    run(cells_of(2018), {2018: ["passed"]})
    assert run(cells_of(2018, **difference), {2018: ["failed"]}).verdicts == ["failed"]


def test_a_probe_with_a_held_clock_is_no_answer(run, catalog):
    cells = cells_of(2018)
    catalog.record(trial_of(*cells, "passed", probing={"held": True}).outcome)
    assert run(cells, {2018: ["failed"]}).verdicts == ["failed"]
    assert run(cells, {}).verdicts == ["failed"]


def test_trouble_since_then_does_not_hide_an_answer(run, catalog):
    cells = cells_of(2018)
    run(cells, {2018: ["passed"]})
    catalog.record(trial_of(*cells, "error").outcome)
    catalog.record(trial_of(*cells, "failed", engine="qemu 10.0.2").outcome)
    assert run(cells, {}).verdicts == ["passed"]


def test_an_error_is_tried_once_more_and_both_are_kept(run, catalog):
    ran = run(
        cells_of(2018, 2019, 2020),
        {2018: ["error", "passed"], 2019: [OSError("lost"), None], 2020: ["passed"]},
    )
    assert ran.verdicts == ["passed", "error", "passed"]
    assert [each.cell.machine.date.year for each in ran.errors] == [2019]
    assert ran.errors[0].outcome.reason == "the executor dropped it: was the cluster restarted?"
    reasons = catalog.outcomes(verdict="error")["reason"].fillna("").tolist()
    assert "the worker broke: OSError: lost" in reasons
    assert len(reasons) == 3


def test_an_executor_that_breaks_ends_the_sweep_and_what_has_ended_is_kept(run, catalog):
    cells = cells_of(2018, 2019)
    with pytest.raises(HostError, match="the executor takes no more runs: gone"):
        run(cells, {2018: ["error", BrokenExecutor("gone")], 2019: ["passed"]})
    assert len(catalog.outcomes()) >= 1


def test_what_has_not_begun_is_cancelled_when_the_sweep_is_interrupted(tmp_path, catalog):
    futures = []

    class Waiting(Executor):
        def submit(self, _fn, cell, *_where):
            futures.append(Future())
            if cell.machine.date.year == 2018:
                futures[0].set_result(trial_of(cell, "passed"))
            return futures[-1]

    def interrupt(_result, _far):
        raise KeyboardInterrupt

    cells, means = cells_of(2018, 2019, 2020), Means(cache=Cache(tmp_path), catalog=catalog)
    with pytest.raises(KeyboardInterrupt):
        run_cells(Planned(cells[0].case, means, Waiting()), cells, interrupt)
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert catalog.outcomes()["verdict"].tolist() == ["passed"]


def test_a_worker_that_lacks_something_gives_an_error_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (cell,) = cells_of(2018)
    trial = run_probe(cell, tmp_path / "file", tmp_path)
    assert trial.outcome.verdict == "error"
    assert trial.outcome.reason.startswith("worker ")
    assert "the cache is no directory" in trial.outcome.reason
    assert trial.outcome.host["cores"]


@pytest.mark.parametrize(
    ("verdict", "expected", "reason"),
    [
        ("failed", SOURCE, ""),
        ("failed", "a" * 64, f"a worker has other sources: {SOURCE}; expected {'a' * 64}"),
        ("unavailable", "a" * 64, "a worker cannot have the sources, which are here"),
    ],
)
def test_a_verdict_on_other_sources_is_taken_back(verdict, expected, reason):
    (cell,) = cells_of(2018)
    (other,) = cells_of(2018, source_digests=(expected,))
    seen = compared(other.basis, trial_of(cell, verdict)).outcome
    assert seen.verdict == ("error" if reason else verdict)
    assert reason in seen.reason


@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        ({"image_digest": "a" * 64}, f"a worker has other image: {'a' * 64}; expected {IMAGE}"),
        ({"kernel_digest": "a" * 64}, "a worker has other kernel: "),
        ({"engine": "qemu 10.0.2"}, "other QEMU: qemu 10.0.2; expected qemu 7.2.22"),
        ({"sources": ()}, f"other sources: none; expected {SOURCE}"),
        ({"environment": None}, "other QEMU: none"),
    ],
)
def test_what_a_worker_made_with_something_else_is_an_error_and_tried_elsewhere(
    run, difference, reason
):
    other = {"verdict": "failed"} | difference
    assert run(cells_of(2018), {2018: [other, "passed"]}).verdicts == ["passed"]
    ran = run(cells_of(2019), {2019: [other, other]})
    assert ran.verdicts == ["error"]
    assert reason in ran.outcomes[0].reason


def test_where_the_planning_host_has_no_qemu_the_first_worker_sets_the_version(run):
    answers = {2018: ["passed"], 2019: [{"verdict": "failed", "engine": "qemu 10.0.2"}] * 2}
    first = {2018: [{"verdict": "passed", "engine": "qemu 7.2.22"}]}
    ran = run(cells_of(2018, 2019, engine=""), answers | first, scheduler=FAR)
    assert ran.verdicts == ["passed", "error"]
