"""Whole diagnoses of a simulated world: workers answer in place of guests, all else is real."""

from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta
from errno import ENOSPC
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildvm_nb.catalog import Catalog
from buildvm_nb.errors import SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.model.machine import CPU_MODELS, MachineSpec
from buildvm_nb.model.outcome import Outcome, StepRecord, Verdict
from buildvm_nb.study import laboratory
from buildvm_nb.study.diagnose import diagnose
from buildvm_nb.study.executors import Means
from buildvm_nb.study.laboratory import Laboratory, Order
from buildvm_nb.study.questions import Questions
from buildvm_nb.study.run import Trial

KERNELS = {
    "debian:bullseye": "5.10.0-35-cloud-amd64",
    "debian:bookworm": "6.1.0-41-cloud-amd64",
    "debian:bookworm-backports": "6.12.48+deb12-cloud-amd64",
    "debian:sid": "7.0.1-cloud-amd64",
}
MODELS = [model.name for model in CPU_MODELS]
FEATURES = ("aes", "avx", "avx2", "bmi2", "fma", "movbe", "rdrand", "sse4.2")
CASE = Case.parse({"id": "demo", "steps": [{"name": "test", "run": "run-tests"}]})
SPAN = {"first": datetime(2015, 1, 1, tzinfo=UTC), "last": datetime(2040, 1, 1, tzinfo=UTC)}
DATE, CPU, KERNEL = ((axis,) for axis in (Axis.DATE, Axis.CPU, Axis.KERNEL))
NAMES = count()


def features_of(cpu):
    """Return the features of a CPU: later models have more, `max` has all."""
    model, *changes = cpu.split(",")
    number = len(MODELS) if model == "max" else MODELS.index(model)
    have = set(FEATURES[: len(FEATURES) * number // len(MODELS)])
    for change in changes:
        (have.add if change[0] == "+" else have.discard)(change[1:])
    return have


class World(Executor):
    """Runs one-second tests: `passes` says what they come to, `breaks` where no guest comes up."""

    def __init__(self, passes, *, breaks=lambda _spec: False, line="AssertionError: no"):
        self.passes = passes
        self.breaks = breaks
        self.line = line
        self.ran = []

    def submit(self, _fn, /, order, *_):
        future = Future()
        future.set_result(self.run(order))
        return future

    def run(self, order):
        spec = order.machine
        self.ran.append(spec)
        known = {
            "case": order.case,
            "machine": spec,
            "probing": order.probing.model_copy(update={"drift_s": 0.01}),
        }
        if self.breaks(spec):
            lost = Outcome(verdict=Verdict.ERROR, reason="the guest was lost", **known)
            return Trial(outcome=lost, log=b"")
        passed = self.passes(spec)
        verdict = Verdict.PASSED if passed else Verdict.FAILED
        ends = spec.date if order.probing.held else spec.date + timedelta(seconds=1)
        step = StepRecord(
            name="test",
            verdict=verdict,
            clock_started_at=spec.date,
            clock_ended_at=ends,
            duration_s=1,
        )
        outcome = Outcome(
            verdict=verdict,
            reason="" if passed else "test: exited with 1",
            evidence="" if passed else self.line,
            failing_step=None if passed else "test",
            steps=(step,),
            **self.made(order, cpu_features=tuple(sorted(features_of(spec.cpu)))),
            **known,
        )
        return Trial(outcome=outcome, log=self.line.encode())


def had(spec, *_):
    """Have a kernel: the far end is Debian's archive."""
    if spec.kernel not in KERNELS:
        raise SourceError(f"no such kernel: {spec.kernel}")
    return SimpleNamespace(release=KERNELS[spec.kernel])


@pytest.fixture
def study(tmp_path, monkeypatch, made):
    monkeypatch.setattr("buildvm_nb.study.ordered.kernel_for", had)
    monkeypatch.setattr("buildvm_nb.study.laboratory.kvm_status", lambda _cache: (False, ""))

    def run(
        world,
        *,
        axes=None,
        workers=1,
        case=CASE,
        fresh=True,
        overrides=None,
        made_by=Laboratory,
        **asked,
    ):
        world.made = made
        with Catalog(tmp_path / f"{next(NAMES)}.sqlite") as catalog:
            means = Means(cache=Cache(tmp_path / "cache"), catalog=catalog, fresh=fresh)
            lab = made_by(case, means, world, workers)
            asked = SPAN | ({"axes": axes} if axes else {}) | asked
            finding = diagnose(lab, Questions(use_hints=False, **asked), overrides)
            assert finding.runs == len(world.ran)
            return finding

    return run


def always(_spec):
    return True


def after(year):
    return datetime(year, 1, 1, tzinfo=UTC)


def test_a_case_that_passes_in_all_runs_is_sound_and_says_what_was_not_looked_at(study):
    finding = study(World(always))
    assert finding.kind is FindingKind.SOUND
    assert finding.summary.startswith("passed in each of ")
    assert "further change that is undone within" in finding.summary
    assert any("further change that is undone within" in one for one in finding.assumptions)
    assert "everywhere" not in finding.summary


def test_a_window_between_two_looks_is_not_denied(study):
    window = World(lambda spec: not after(2019) <= spec.date < after(2020))
    finding = study(window, axes=DATE)
    assert finding.kind is FindingKind.TIME_TRAP or finding.assumptions


@pytest.mark.parametrize("passes", [True, False])
def test_dates_at_which_no_guest_comes_up_are_a_gap_and_not_sound(study, passes):
    world = World(lambda _spec: passes, breaks=lambda spec: spec.date >= after(2030))
    finding = study(world, axes=DATE)
    assert finding.kind is FindingKind.UNDETERMINED
    assert finding.summary.startswith("no verdict at ")
    assert "to 2040-01-01T00:00:00Z (the guest was lost)" in finding.summary
    assert finding.repeats == "no confirming run"


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("cpu", "core2duo", "no verdict on CPU core2duo (the guest was lost)"),
        ("kernel", "debian:sid", "no verdict on kernel debian:sid (the guest was lost)"),
    ],
)
def test_a_cpu_or_kernel_without_a_verdict_is_a_gap(study, passes, field, value, told):
    world = World(lambda _spec: passes, breaks=lambda spec: getattr(spec, field) == value)
    finding = study(world)
    assert finding.kind is FindingKind.UNDETERMINED
    assert finding.summary.startswith(told)


def test_a_kernel_that_cannot_be_had_is_a_gap(study):
    finding = study(World(always), axes=KERNEL, kernels=("debian:sid", "/no/such"))
    assert finding.kind is FindingKind.UNDETERMINED
    assert "kernel /no/such cannot be had: no such kernel: /no/such" in finding.summary


def test_what_was_seen_to_differ_stays_found_and_names_the_gap(study):
    world = World(
        lambda spec: spec.date < after(2020), breaks=lambda spec: spec.date >= after(2038)
    )
    finding = study(world, axes=DATE)
    assert finding.kind is FindingKind.TIME_TRAP
    [boundary] = finding.boundaries
    assert boundary.first_after == "2020-01-01T00:00:00Z"
    assert "no verdict at 2040-01-01T00:00:00Z (the guest was lost)" in finding.summary


def test_a_run_that_failed_once_to_give_a_verdict_is_no_gap(study):
    tried = []

    def breaks(spec):
        tried.append(spec)
        return len(tried) == 3

    assert study(World(always, breaks=breaks), axes=DATE).kind is FindingKind.SOUND


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    year=st.integers(2016, 2039),
    passes=st.booleans(),
    workers=st.integers(1, 3),
    cpus=st.sets(st.sampled_from(["core2duo", "max"])),
    kernels=st.sets(st.sampled_from(sorted(KERNELS)), max_size=3),
)
def test_no_run_that_broke_is_ever_counted_as_alike(study, year, passes, workers, cpus, kernels):
    world = World(
        lambda _spec: passes,
        breaks=lambda spec: spec.date >= after(year) or spec.cpu in cpus or spec.kernel in kernels,
    )
    finding = study(world, workers=workers)
    assert finding.kind is FindingKind.UNDETERMINED
    assert "the guest was lost" in finding.summary


def test_what_fails_everywhere_for_lack_of_a_module_says_so(study):
    world = World(lambda _spec: False, line="ModuleNotFoundError: No module named 'numpy'")
    finding = study(world)
    assert finding.kind is FindingKind.ALWAYS_FAILING
    assert "(note: ModuleNotFoundError: numpy)" in finding.summary


def test_outputs_that_could_not_be_made_are_a_gap(study):
    case = Case.parse(
        {
            "id": "made",
            "artifacts": ["out"],
            "steps": [{"name": "test", "run": "run-tests"}],
        }
    )

    class Unheld(World):
        def run(self, order):
            self.breaks = lambda _spec: order.probing.held
            return super().run(order)

    finding = study(Unheld(always), axes=CPU, case=case)
    assert finding.kind is FindingKind.UNDETERMINED
    assert "outputs were not compared" in finding.summary


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("axes", [DATE, CPU, KERNEL, (Axis.DATE, Axis.CPU, Axis.KERNEL)])
@pytest.mark.parametrize("budget", [0, 1, 2, 5, 12, 20])
def test_no_axis_makes_more_runs_than_the_budget(study, budget, axes, workers):
    world = World(lambda spec: {"avx2", "fma"} <= features_of(spec.cpu))
    finding = study(world, axes=axes, workers=workers, budget=budget)
    assert len(world.ran) <= budget
    if finding.kind is FindingKind.UNDETERMINED:
        assert f"the budget of {budget} runs ended" in finding.summary


@pytest.mark.parametrize("budget", [3, 7, 8])
def test_runs_that_break_count_towards_the_budget(study, budget):
    world = World(always, breaks=lambda spec: spec.date >= after(2030))
    study(world, axes=DATE, budget=budget)
    assert len(world.ran) <= budget


class Spendthrift(Laboratory):
    """Stands in for a laboratory and keeps no budget of its own."""

    budget = property(lambda _self: None, lambda _self, _budget: None)


@pytest.mark.parametrize("axes", [DATE, CPU, KERNEL, (Axis.DATE, Axis.CPU, Axis.KERNEL)])
@pytest.mark.parametrize("budget", [1, 7, 12])
def test_what_stands_in_for_a_laboratory_makes_no_more_runs_either(study, budget, axes):
    world = World(lambda spec: {"avx2", "fma"} <= features_of(spec.cpu))
    study(world, axes=axes, budget=budget, made_by=Spendthrift)
    assert len(world.ran) <= budget


def test_a_budget_that_suffices_changes_nothing(study):
    whole = World(lambda spec: spec.date < after(2020))
    unlimited = study(whole, axes=DATE)
    again = study(World(whole.passes), axes=DATE, budget=len(whole.ran))
    assert (again.kind, again.summary) == (unlimited.kind, unlimited.summary)


@pytest.mark.parametrize(
    "releases",
    [
        ("6.1.0-9-amd64", "6.1.0-28-cloud-amd64", "6.1.0-41-amd64"),
        ("5.10.0-35-cloud-amd64", "6.1.0-9-amd64", "6.12.48+deb12-cloud-amd64", "7.0.1-amd64"),
        ("6.12.9+deb12-amd64", "6.12.48+deb12-amd64", "6.12.48+deb13-amd64"),
        ("6.6-rc1", "6.6-rc7", "6.6", "6.6.12", "6.6.100"),
        ("4.19.0-custom_1", "4.19.0-custom_2"),
    ],
)
def test_kernels_are_in_the_order_of_debians_versions(study, monkeypatch, releases):
    names = {f"/k/{at}": release for at, release in enumerate(releases)}
    monkeypatch.setattr(f"{__name__}.KERNELS", KERNELS | names)
    last = f"/k/{len(releases) - 1}"
    world = World(lambda spec: spec.kernel == last)
    finding = study(world, axes=KERNEL, kernels=tuple(reversed(names)))
    shown = [edge for edge in finding.boundaries if edge.first_after == releases[-1]]
    assert [edge.last_before for edge in shown] == [releases[-2]]


def test_two_kernels_of_one_release_are_told_apart_or_named(study, monkeypatch):
    names = {"/k/a": "6.6.1", "/k/b": "6.6.1"}
    monkeypatch.setattr(f"{__name__}.KERNELS", KERNELS | names)
    finding = study(World(always), axes=KERNEL, kernels=tuple(names))
    assert finding.kind is FindingKind.UNDETERMINED
    assert "kernel /k/b is left out: it has the release of /k/a" in finding.summary


def test_two_series_of_debian_with_one_kernel_are_no_gap(study, monkeypatch):
    names = {"debian:trixie": "6.12.48", "debian:bookworm-backports": "6.12.48"}
    monkeypatch.setattr(f"{__name__}.KERNELS", KERNELS | names)
    finding = study(World(always), axes=KERNEL, kernels=tuple(names))
    assert finding.kind is FindingKind.SOUND
    told = "kernel debian:bookworm-backports is the same as debian:trixie: 6.12.48"
    assert told in finding.assumptions
    finding = study(
        World(lambda spec: spec.kernel != "debian:trixie"), axes=KERNEL, kernels=tuple(names)
    )
    assert finding.kind is FindingKind.KERNEL_DEPENDENT
    assert finding.assumptions.count(told) == 1


def test_given_kernels_are_tried_in_place_of_debians_series(study):
    world = World(always)
    study(world, axes=KERNEL, kernels=("debian:sid",))
    assert {spec.kernel for spec in world.ran} == {"debian:bookworm", "debian:sid"}


class Cluster(World):
    """Every second call runs on a worker of another kind; some workers are killed."""

    def __init__(self, passes, *, other=None, killed=()):
        super().__init__(passes)
        self.other = other
        self.killed = killed

    def submit(self, _fn, /, order, *_):
        future = Future()
        trial = self.run(order)
        number = len(self.ran)
        if number in self.killed:
            future.set_exception(RuntimeError("attempted to run task 4 times"))
            return future
        if self.other and number % 2 == 0:
            outcome = trial.outcome.model_copy(update={"verdict": Verdict.FAILED} | self.other)
            trial = Trial(outcome=outcome, log=b"")
        future.set_result(trial)
        return future


@pytest.mark.parametrize(
    "other",
    [{"image_digest": "a" * 64}, {"kernel_digest": "a" * 64}, {"environment": None}],
    ids=str,
)
def test_an_answer_of_a_worker_with_something_else_is_never_believed(study, other):
    finding = study(Cluster(always, other=other), axes=DATE)
    assert finding.kind is FindingKind.SOUND


def test_where_only_such_workers_are_left_nothing_is_told(study):
    class Other(Cluster):
        def run(self, order):
            trial = super().run(order)
            outcome = trial.outcome.model_copy(update={"image_digest": "a" * 64})
            return Trial(outcome=outcome, log=b"")

    finding = study(Other(always), axes=DATE)
    assert finding.kind is FindingKind.UNDETERMINED
    assert "a worker has other image" in finding.summary


@pytest.mark.parametrize("killed", [{1}, {3}, {2, 5}])
def test_a_worker_that_is_killed_is_an_error_of_its_run_which_is_tried_again(study, killed):
    finding = study(Cluster(always, killed=killed), axes=DATE)
    assert finding.kind is FindingKind.SOUND


def test_an_answer_of_another_qemu_is_not_recalled(tmp_path, study, made, monkeypatch):
    order = Order(case=CASE, machine=MachineSpec(date="2020-01-01", cpu="Nehalem"))
    with Catalog(tmp_path / "recall.sqlite") as catalog:

        def answered(*, passes):
            world = World(lambda _spec: passes)
            world.made = made
            lab = Laboratory(CASE, Means(cache=Cache(tmp_path), catalog=catalog), world)
            return lab.run([order])[0].verdict, len(world.ran)

        assert answered(passes=True) == ("passed", 1)
        assert answered(passes=False) == ("passed", 0)
        monkeypatch.setattr("buildvm_nb.study.laboratory.engine_for", lambda *_: "qemu 10.0.2")
        assert answered(passes=False) == ("error", 2)


def test_a_host_that_refuses_to_have_a_kernel_ready_ends_no_study(study, monkeypatch):
    ready = laboratory.prepare

    def prepare(spec, **how):
        if spec.kernel == "debian:sid":
            raise OSError(ENOSPC, "No space left on device", "/cache/kernels")
        return ready(spec, **how)

    monkeypatch.setattr(laboratory, "prepare", prepare)
    finding = study(World(always), axes=KERNEL)
    assert finding.kind is FindingKind.UNDETERMINED
    assert "on kernel debian:sid (this host refused it: No space left on device" in finding.summary


def test_a_diagnosis_of_dates_refuses_a_machine_with_a_date(study):
    world = World(always)
    with pytest.raises(UsageError, match=r"varies the date itself, .*date=2010-05-05") as caught:
        study(world, axes=(Axis.CPU, Axis.DATE), overrides={"date": "2010-05-05"})
    assert "leave the date of the machine out" in caught.value.hint
    assert world.ran == []


def test_a_fixed_date_fixes_the_clock_and_not_which_cpu_is_todays(study):
    world = World(always)
    study(world, axes=CPU, overrides={"date": "2012-05-05"})
    assert {spec.date.year for spec in world.ran} == {2012}
    first, second = (spec.cpu for spec in world.ran[:2])
    assert MODELS.index(first) < MODELS.index(second)
