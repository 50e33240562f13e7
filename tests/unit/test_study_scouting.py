"""Dates are searched on the fast engine, and what decides is seen on the strict one as well."""

from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest
from worlds import World, diagnosed, without_host

from buildvm_nb.errors import SourceError
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import Accelerator
from buildvm_nb.model.outcome import Verdict

OWN = datetime(2017, 6, 12, 14, 31, 7, tzinfo=UTC)
EDGE = datetime(2024, 11, 27, 15, 28, 58, tzinfo=UTC)


_OF_WORLD = ("lasts_s", "breaks", "slower", "strays_s", "bears_hold")


@pytest.fixture(autouse=True)
def _two_engines():
    with without_host(), patch("buildvm_nb.study.scouting.uml_status", lambda _: (True, "")):
        yield


@pytest.fixture
def found(tmp_path):
    def run(passes, **asked):
        asked = {"own": OWN, "axes": (Axis.DATE,), "lasts_s": 20} | asked
        known = {name: asked.pop(name) for name in _OF_WORLD if name in asked}
        world = World(passes=passes, **known)
        return diagnosed(world, tmp_path, **asked), world.ran

    return run


def _of(ran, accelerator):
    return [one for one in ran if one.machine.accelerator is accelerator]


def test_an_edge_is_searched_on_one_engine_and_seen_on_both(found):
    finding, ran = found(lambda look: look.at < EDGE)
    [edge] = finding.boundaries
    assert (finding.kind, parse_instant(edge.first_after)) == (FindingKind.TIME_TRAP, EDGE)
    assert finding.support.engines == ("qemu 7.2.22", "uml 6.12.113")
    assert "seen on two engines" in finding.support.covered
    strict, fast = _of(ran, Accelerator.TCG), _of(ran, Accelerator.UML)
    held = {one.machine.date: one.verdict for one in strict if one.probing.held}
    assert held == {EDGE - timedelta(seconds=1): Verdict.PASSED, EDGE: Verdict.FAILED}
    assert len(strict) < 12 < len(fast)
    assert finding.environment.accelerator is Accelerator.TCG
    assert {one.id for one in strict if one.probing.held} <= set(finding.evidence)


def test_a_rule_is_seen_on_both(found):
    finding, ran = found(lambda look: look.at.weekday() != 0)
    assert (finding.kind, finding.recurs) == (FindingKind.RECURRING, "FREQ=WEEKLY;BYDAY=MO")
    strict = _of(ran, Accelerator.TCG)
    assert {one.verdict for one in strict} == {Verdict.PASSED, Verdict.FAILED}
    assert len(strict) < 12
    assert finding.environment.accelerator is Accelerator.TCG


def test_what_nothing_explains_is_seen_on_both_and_not_searched_twice(found):
    finding, ran = found(lambda look: (look.at.timetuple().tm_yday * 7919) % 5 != 0)
    assert finding.kind is FindingKind.UNDETERMINED
    assert "seen on two engines" in finding.support.covered
    assert "nothing is known of the dates between those that were looked at" in finding.assumptions
    assert len(finding.assumptions) < 6
    strict, fast = _of(ran, Accelerator.TCG), _of(ran, Accelerator.UML)
    assert {one.verdict for one in strict} == {Verdict.PASSED, Verdict.FAILED}
    assert len(strict) < 12 < len(fast)


def test_a_held_clock_that_strays_on_one_engine_is_no_disagreement(found):
    def strays_s(order):
        return (
            4 if order.machine.accelerator is Accelerator.TCG and not order.probing.attempt else 0
        )

    finding, ran = found(lambda look: look.at < EDGE, strays_s=strays_s)
    assert parse_instant(finding.boundaries[0].first_after) == EDGE
    assert "seen on two engines" in finding.support.covered
    assert len(_of(ran, Accelerator.TCG)) < 16


def test_a_clock_that_cannot_be_held_on_the_strict_engine_is_a_gap_and_no_disagreement(found):
    def strays_s(order):
        return 4 if order.machine.accelerator is Accelerator.TCG else 0

    finding, ran = found(lambda look: look.at < EDGE, strays_s=strays_s)
    assert parse_instant(finding.boundaries[0].first_after) == EDGE
    assert "under QEMU the guest's clock could not be held there" in finding.summary
    assert "seen on two engines" not in finding.support.covered
    assert len(_of(ran, Accelerator.TCG)) < 16


def test_what_takes_a_second_on_one_engine_and_ten_on_the_other_is_seen_with_a_held_clock(found):
    finding, ran = found(lambda look: look.at < EDGE, lasts_s=1, slower=20)
    assert parse_instant(finding.boundaries[0].first_after) == EDGE
    assert "seen on two engines" in finding.support.covered
    strict = _of(ran, Accelerator.TCG)
    held = {one.machine.date: one.verdict for one in strict if one.probing.held}
    assert held == {EDGE - timedelta(seconds=1): Verdict.PASSED, EDGE: Verdict.FAILED}
    assert len(strict) < 12


@pytest.mark.parametrize("lasts_s", [1, 20])
def test_a_test_that_bears_no_held_clock_is_seen_on_both_beside_an_edge(found, lasts_s):
    known = {"lasts_s": lasts_s, "slower": 20, "bears_hold": False}
    finding, ran = found(lambda look: look.at < EDGE, **known)
    [edge] = finding.boundaries
    assert parse_instant(edge.last_before) < EDGE <= parse_instant(edge.first_after)
    assert "seen on two engines" in finding.support.covered
    assert not any("QEMU's answers count" in one for one in finding.assumptions)
    assert len(_of(ran, Accelerator.TCG)) < 20


@pytest.mark.parametrize("off_s", [-1, 1, 5])
def test_engines_that_differ_by_a_second_are_told_apart_where_one_is_slower(found, off_s):
    def passes(look):
        return look.at < (EDGE + timedelta(seconds=off_s) if look.is_fast else EDGE)

    finding, _ = found(passes, lasts_s=1, slower=20)
    assert parse_instant(finding.boundaries[0].first_after) == EDGE
    assert any("QEMU's answers count" in one for one in finding.assumptions)


@pytest.mark.parametrize(
    "fast",
    [
        pytest.param(lambda look: look.at < EDGE - timedelta(days=400), id="another edge"),
        pytest.param(lambda look: look.at < EDGE - timedelta(seconds=1), id="a second off"),
        pytest.param(lambda _look: False, id="nothing passes"),
    ],
)
def test_where_engines_do_not_agree_that_is_told_and_the_strict_one_counts(found, fast):
    finding, ran = found(lambda look: fast(look) if look.is_fast else look.at < EDGE)
    [edge] = finding.boundaries
    assert parse_instant(edge.first_after) == EDGE
    assert any("QEMU's answers count" in one for one in finding.assumptions)
    assert finding.support.engines == ("qemu 7.2.22",)
    located = [one for one in _of(ran, Accelerator.TCG) if one.probing.held]
    assert {EDGE - timedelta(seconds=1), EDGE} <= {one.machine.date for one in located}


def test_where_the_fast_engine_loses_guests_all_is_searched_on_the_strict_one(found):
    def breaks(look):
        return look.is_fast and look.at.year == 2020

    finding, _ = found(lambda look: look.at < EDGE, breaks=breaks)
    assert parse_instant(finding.boundaries[0].first_after) == EDGE
    assert any("lost some of its guests" in one for one in finding.assumptions)


@pytest.mark.parametrize(
    "asked", [{"lasts_s": 1}, {"effort": "quick"}, {"overrides": {"cpu": "Haswell"}}]
)
def test_it_is_left_alone_where_it_gains_nothing_or_a_machine_was_asked_for(found, asked):
    _, ran = found(lambda look: look.at < EDGE, **asked)
    assert _of(ran, Accelerator.UML) == []


def test_a_panel_that_names_fields_which_nobody_set_asks_for_nothing(found):
    left_open = {"accelerator": "auto", "cpu": None, "kernel": None}
    _, ran = found(lambda look: look.at < EDGE, overrides=left_open)
    assert _of(ran, Accelerator.UML)
    assert {one.machine.accelerator for one in ran} == {Accelerator.UML, Accelerator.TCG}


def test_where_the_budget_ends_before_the_proof_the_finding_says_so(found):
    whole, ran = found(lambda look: look.at < EDGE)
    decided = sum(one.probing.held for one in _of(ran, Accelerator.TCG))
    finding, _ = found(lambda look: look.at < EDGE, budget=whole.runs - decided)
    told = "seen under user-mode Linux alone, with kernel debian:trixie: the budget of runs ended"
    assert told in finding.summary
    assert "seen on two engines" not in finding.support.covered
    assert parse_instant(finding.boundaries[0].first_after) == EDGE


def test_the_environment_that_a_finding_names_was_seen_on_the_strict_engine(found):
    finding, ran = found(lambda look: look.at < EDGE, own=datetime(2026, 1, 1, tzinfo=UTC))
    assert finding.environment.accelerator is Accelerator.TCG
    assert finding.environment.date < EDGE - timedelta(days=1)
    seen = {one.machine for one in ran if one.verdict is Verdict.PASSED}
    assert finding.environment in seen


SEARCHED = "the search was made with kernel debian:trixie"


def test_the_search_has_a_kernel_that_is_faster_and_the_finding_says_so(found):
    finding, ran = found(lambda look: look.at < EDGE)
    assert {one.machine.kernel for one in _of(ran, Accelerator.UML)} == {"debian:trixie"}
    assert {one.machine.kernel for one in _of(ran, Accelerator.TCG)} == {"debian:bookworm"}
    assert sum(one.startswith(SEARCHED) for one in finding.assumptions) == 1
    assert finding.support.kernels == ("debian:bookworm", "debian:trixie")


@pytest.mark.parametrize("kernel", ["debian:bookworm", "debian:bullseye"])
def test_a_kernel_that_was_asked_for_is_kept(found, kernel):
    finding, ran = found(lambda look: look.at < EDGE, overrides={"kernel": kernel})
    assert _of(ran, Accelerator.UML)
    assert {one.machine.kernel for one in ran} == {kernel}
    assert not any(one.startswith(SEARCHED) for one in finding.assumptions)


def test_where_the_faster_kernel_cannot_be_had_the_usual_one_does(found):
    def missing(spec, *_):
        raise SourceError(f"no such kernel: {spec.kernel}")

    with patch("buildvm_nb.study.scouting.kernel_for", missing):
        _, ran = found(lambda look: look.at < EDGE)
    assert _of(ran, Accelerator.UML)
    assert {one.machine.kernel for one in ran} == {"debian:bookworm"}


def test_where_the_kernel_of_the_search_makes_a_difference_the_usual_one_counts(found):
    finding, _ = found(lambda look: look.kernel.startswith("6.1.") or look.at < EDGE)
    assert finding.kind is FindingKind.SOUND
    assert any("QEMU's answers count" in one for one in finding.assumptions)


def test_outputs_are_compared_in_machines_that_the_strict_engine_has(found):
    known = {"id": "made", "steps": [{"name": "test", "run": "make"}], "artifacts": ["out"]}
    axes = (Axis.DATE, Axis.CPU, Axis.KERNEL)
    finding, ran = found(lambda _look: True, case=Case.parse(known), axes=axes)
    assert _of(ran, Accelerator.UML)
    strict = _of(ran, Accelerator.TCG)
    compared = [one.machine for one in strict if one.probing.held]
    assert len({one.cpu for one in compared}) > 1
    assert len({one.kernel for one in compared}) > 1
    assert {"host", "debian:trixie"}.isdisjoint(
        named for one in strict for named in (one.machine.cpu, one.machine.kernel)
    )
    assert finding.kind is FindingKind.SOUND


def test_a_sound_case_is_called_so_by_both(found):
    finding, _ = found(lambda _look: True)
    assert finding.kind is FindingKind.SOUND
    assert len(finding.support.engines) > 1
