"""Probes: forks of a prepared case, and builds carried over from one machine to another."""

import pathlib

import pytest

from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Probing, Verdict
from buildvm_nb.study import laboratory as probe
from buildvm_nb.study.laboratory import Order, run_probe

pytestmark = pytest.mark.vm

PREPARED_AT = parse_instant("2015-01-01")
EMULATED = {"cpu": "Westmere", "accelerator": "tcg"}
STEPS = [
    {"name": "build", "run": "date -u +%Y >built; uname -r >kernel"},
    {"name": "test", "run": "cat built; date -u +%F; uname -r; test $(cat built) = 2015"},
]


@pytest.fixture
def order_for(tmp_path):
    def order(
        date,
        *,
        steps=STEPS,
        prepare_on="each",
        kernel="debian:bookworm",
        engine=EMULATED,
        **probing,
    ):
        case = Case.parse(
            {"id": str(tmp_path.name), "steps": steps, "image": "debian:bookworm,python3"}
            | {"limits": {"memory_mib": 512}, "prepare_on": prepare_on}
        )
        spec = {"date": date, "kernel": kernel, "image": case.image, "memory_mib": 512}
        machine = MachineSpec.parse(spec | engine)
        return Order(case=case, machine=machine, probing=Probing(**probing))

    return order


def test_a_fork_builds_once_and_tests_at_its_own_date(order_for, engine):
    trial = run_probe(order_for("2031-06-01", engine=engine, prepared_at=PREPARED_AT))
    assert trial.outcome.verdict is Verdict.PASSED
    assert trial.log.decode().splitlines()[1:3] == ["2015", "2031-06-01"]
    build, test = trial.outcome.steps
    assert build.clock_started_at.year == 2015
    assert test.clock_started_at.year == 2031
    assert trial.outcome.probing.prepared_at == PREPARED_AT


def test_a_damaged_checkpoint_is_made_again_without_a_word(order_for):
    first = order_for("2030-01-01", prepared_at=PREPARED_AT)
    assert run_probe(first).outcome.verdict is Verdict.PASSED
    [prepared] = probe._known.values()
    place = prepared.place
    with (place / "state").open("r+b") as state:
        state.seek(pathlib.Path(place / "state").stat().st_size // 2)
        state.write(b"damage")
    again = run_probe(order_for("2030-01-02", prepared_at=PREPARED_AT))
    assert again.outcome.verdict is Verdict.PASSED


def test_a_case_that_cannot_be_prepared_there_is_no_verdict_about_the_date(order_for, fastest):
    steps = [{"name": "build", "run": "test $(date +%Y) -gt 2016"}, STEPS[1]]
    order = order_for("2030-01-01", steps=steps, engine=fastest, prepared_at=PREPARED_AT)
    outcome = run_probe(order).outcome
    assert outcome.verdict is Verdict.ERROR
    assert outcome.failing_step == "build"
    assert outcome.machine.date.year == 2030


def test_a_build_is_carried_over_to_another_kernel(order_for, fastest):
    steps = [STEPS[0], {"name": "test", "run": "cat kernel; uname -r; ! uname -r | diff kernel -"}]
    home = order_for("2015-03-01", engine=fastest).machine
    order = order_for(
        "2015-03-01",
        steps=steps,
        prepare_on="once",
        kernel="debian:bullseye",
        engine=fastest,
        prepared_on=home,
    )
    trial = run_probe(order)
    assert trial.outcome.verdict is Verdict.PASSED
    kernels = trial.log.decode().splitlines()[1:3]
    assert kernels[0].startswith("6.1.")
    assert kernels[1].startswith("5.10.")
    assert [step.name for step in trial.outcome.steps] == ["build", "test"]


def test_a_source_that_is_gone_is_unavailable(order_for, tmp_path):
    order = order_for("2020-01-01")
    case = order.case.model_dump(mode="json", by_alias=True)
    case["source"] = {"kind": "local", "path": "not/there"}
    order = order.model_copy(update={"case": Case.parse(case)})
    assert run_probe(order, Cache().root, tmp_path).outcome.verdict is Verdict.UNAVAILABLE


@pytest.fixture(autouse=True)
def _forget():
    yield
    probe._known.clear()
