"""Skips, coin tosses, software that dislikes a held clock, and requests that make no sense."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildvm_nb.errors import SearchError
from buildvm_nb.search import Answer, AssumptionKind, Plan, Probe, State, find_transitions

SINCE, UNTIL = 631152000, 2524608000
CHANGE = 1684293255


def scan(count=7):
    return [SINCE + (UNTIL - SINCE) * index // (count - 1) for index in range(1, count - 1)]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 1500)), max_size=6),
    st.sampled_from([0, 5]),
    st.booleans(),
    st.sampled_from([1, 2, 5]),
)
def test_what_cannot_be_judged_never_moves_a_boundary(
    guest, change, skips, duration, can_hold, workers
):
    unknown = frozenset(at for start, width in skips for at in range(start, start + width))
    software = guest([change], unknown=unknown, duration=duration, most=workers)
    plan = Plan(first=0, last=10_000, scan=[2500, 5000], can_hold=can_hold, workers=workers)
    survey = find_transitions(software, plan)
    assert len(survey.transitions) <= 1
    for found in survey.transitions:
        assert found.last_before < change <= found.first_after
        assert (found.before, found.after) == (State.GOOD, State.BAD)
        if found.is_exact and (can_hold or not duration):
            assert found.first_after == change
    for skipped in survey.unknown:
        assert {skipped.first, skipped.last} <= unknown
    assert not survey.is_flaky


def test_commits_that_do_not_build_are_left_in_the_bracket(guest):
    software = guest([57], duration=0, unknown=frozenset(range(50, 62)))
    survey = find_transitions(software, Plan(first=0, last=100, can_hold=False))
    (found,) = survey.transitions
    assert (found.last_before, found.first_after, found.is_exact) == (49, 62, False)
    assert found.confirmed == 4
    (skipped,) = survey.unknown
    assert (skipped.first, skipped.last) == (50, 61)
    assert survey.asked <= 25


def test_nothing_is_concluded_when_nothing_can_be_judged(guest):
    software = guest([500], unknown=frozenset(range(1001)))
    survey = find_transitions(software, Plan(first=0, last=1000, scan=[250, 750], hints=[500]))
    assert survey.transitions == survey.stretches == survey.assumptions == ()
    assert [(gap.first, gap.last) for gap in survey.unknown] == [(0, 1000)]
    assert survey.asked == 5


def test_a_clock_that_cannot_be_held_leaves_the_bracket_of_a_running_one(guest):
    software = guest([CHANGE], held=State.UNKNOWN, looks=(0.5,))
    plan = Plan(first=SINCE, last=UNTIL, scan=scan(), hints=[CHANGE])
    survey = find_transitions(software, plan)
    (found,) = survey.transitions
    assert found.last_before < CHANGE <= found.first_after <= found.last_before + 7
    assert not found.is_exact
    assert found.hint is None
    assert sum(probe.held for probe in software.asked) == 3


@settings(deadline=None, max_examples=20)
@given(
    st.integers(SINCE + 1000, UNTIL - 1000),
    st.sampled_from([State.GOOD, State.BAD]),
    st.integers(1, 60),
    st.sampled_from([1, 5]),
    st.booleans(),
)
def test_a_boundary_that_only_a_held_clock_shows_is_never_exact(
    guest, change, held, duration, workers, hinted
):
    software = guest([change], held=held, duration=duration, looks=(0.0, 1.0), most=workers)
    hints = [change - 50_000, change] if hinted else []
    plan = Plan(first=SINCE, last=UNTIL, scan=scan(), hints=hints, workers=workers)
    survey = find_transitions(software, plan)
    (found,) = survey.transitions
    assert not found.is_exact
    assert found.last_before < change <= found.first_after
    assert found.first_after - found.last_before <= 2 * duration + 2
    assert AssumptionKind.HELD_CONTRADICTED in {taken.kind for taken in survey.assumptions}
    assert not survey.is_flaky
    assert workers > 1 or survey.asked <= 50


class LateUnderHold:
    """Software that, under a held clock, sees the change some seconds late or early."""

    def __init__(self, guest, change, late):
        self.running, self.held = guest([change]), guest([change + late])

    def __call__(self, probes):
        return [(self.held if probe.held else self.running)([probe])[0] for probe in probes]


@pytest.mark.parametrize("late", [-86400, -300, -30, 30, 300, 86400])
def test_a_held_clock_that_shifts_the_boundary_is_found_out_by_running_ones(guest, late):
    survey = find_transitions(
        LateUnderHold(guest, CHANGE, late), Plan(first=SINCE, last=UNTIL, scan=scan())
    )
    (found,) = survey.transitions
    assert not found.is_exact
    assert found.last_before < CHANGE <= found.first_after <= found.last_before + 7


def test_a_lone_wrong_answer_is_flaky_and_no_boundary(guest):
    class OnceWrong(guest):
        def _state(self, probe, first, lasted, chance):
            if probe == Probe(at=scan()[2]):
                return State.BAD
            return super()._state(probe, first, lasted, chance)

    survey = find_transitions(OnceWrong([]), Plan(first=SINCE, last=UNTIL, scan=scan()))
    assert survey.transitions == ()
    (seen,) = survey.disagreements
    assert (seen.at, seen.held) == (scan()[2], False)
    assert seen.counts == {State.GOOD: 5, State.BAD: 1}
    assert survey.is_flaky
    assert survey.asked <= 18


def test_a_boundary_beside_a_flaky_place_is_still_found(guest):
    class OnceWrong(guest):
        def _state(self, probe, first, lasted, chance):
            if probe == Probe(at=scan()[0]):
                return State.BAD
            return super()._state(probe, first, lasted, chance)

    survey = find_transitions(OnceWrong([CHANGE]), Plan(first=SINCE, last=UNTIL, scan=scan()))
    (found,) = survey.transitions
    assert (found.first_after, found.is_exact) == (CHANGE, True)
    assert found.confirmed == 10
    assert survey.is_flaky


@pytest.mark.parametrize(("workers", "count"), [(1, 50), (5, 20)])
def test_coin_tosses_end_as_flaky_and_seldom_cost_a_bisection(guest, workers, count):
    surveys = [
        find_transitions(
            guest([], flakiness=0.5, seed=seed, most=workers),
            Plan(first=SINCE, last=UNTIL, scan=scan(), workers=workers),
        )
        for seed in range(count)
    ]
    assert sum(survey.is_flaky for survey in surveys) >= 0.95 * count
    assert not any(found.is_exact for survey in surveys for found in survey.transitions)
    asked = sorted(survey.asked for survey in surveys)
    assert asked[count // 2] <= 25 + 4 * workers


def test_rare_failures_do_not_become_an_exact_boundary(guest):
    for seed in range(25):
        software = guest([CHANGE], flakiness=0.05, seed=seed)
        survey = find_transitions(software, Plan(first=SINCE, last=UNTIL, scan=scan()))
        exact = [found.first_after for found in survey.transitions if found.is_exact]
        assert set(exact) <= {CHANGE}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first": 5, "last": 4}, "the range ends before it begins: first 5, last 4"),
        ({"resolution": 0}, "resolution out of range: 0; allowed: 1 or more"),
        ({"repeats": -1}, "repeats out of range: -1; allowed: 0 or more"),
        ({"workers": 0}, "workers out of range: 0; allowed: 1 or more"),
        ({"budget": -2}, "budget out of range: -2; allowed: 0 or more"),
        ({"reveal": -1}, "reveal out of range: -1; allowed: 0 or more"),
        ({"scan": [5, 11]}, "scan position out of range: 11; allowed: 0 to 10"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(SearchError) as caught:
        Plan(**{"first": 0, "last": 10, **wrong})
    assert message in caught.value.message


def test_an_answer_that_ends_before_it_begins_is_refused():
    with pytest.raises(SearchError, match="first 3, last 2; allowed: first <= last"):
        Answer(state=State.GOOD, first=3, last=2)


def test_too_few_answers_are_refused():
    with pytest.raises(SearchError, match=r"wrong number of answers: 0; allowed: one for each"):
        find_transitions(lambda _probes: [], Plan(first=0, last=10))


def test_what_the_oracle_raises_is_passed_on():
    def ask(probes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_transitions(ask, Plan(first=0, last=10))


def test_the_opposite_of_unknown_is_unknown():
    assert [state.opposite for state in State] == [State.BAD, State.GOOD, State.UNKNOWN]
