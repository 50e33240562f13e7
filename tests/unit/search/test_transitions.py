"""What holds for every search, on guests that answer honestly."""

from datetime import UTC, datetime

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from buildvm_nb.search import AssumptionKind, Plan, Probe, State, find_transitions

DAY = 86400
SINCE = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())
UNTIL = int(datetime(2050, 1, 1, tzinfo=UTC).timestamp())
YEAR_TURNS = [int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in range(1970, 2100)]
LOOKS = st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.99, 1.0]), min_size=1, max_size=3).map(tuple)
WORKERS = st.sampled_from([1, 2, 5])
STATES = st.sampled_from([State.GOOD, State.BAD])


def year_turns(low, high):
    return [turn for turn in YEAR_TURNS if low < turn < high]


def midnights(low, high):
    return range(low // DAY * DAY + DAY, high, DAY)


def evenly(first, last, count):
    return [first + (last - first) * index // (count - 1) for index in range(1, count - 1)]


def outline(survey):
    return [
        (found.last_before, found.first_after, found.before, found.after, found.is_exact)
        for found in survey.transitions
    ]


def assert_true(survey, guest):
    """Every bracket holds a change in that direction, and exact ones are what they say."""
    for found in survey.transitions:
        within = [
            change
            for change in guest.changes
            if found.last_before < change <= found.first_after
            and guest.truth(change) is found.after
        ]
        assert within, (found, guest.changes)
        if found.is_exact and found.first_after - found.last_before == 1:
            assert found.first_after in guest.changes


@settings(deadline=None, max_examples=50)
@given(st.data(), WORKERS, LOOKS, STATES)
def test_every_bracket_holds_a_true_change_and_exact_ones_are_right_to_the_second(
    guest, data, workers, looks, starts
):
    duration = data.draw(st.integers(0, 30))
    last = data.draw(st.integers(2000, 10**6))
    room = 12 * (duration + 2)
    changes = data.draw(st.lists(st.integers(1, last // room), max_size=5, unique=True))
    changes = sorted(change * room for change in changes)
    hints = data.draw(st.lists(st.sampled_from([*changes, last // 3]), max_size=3))
    software = guest(changes, starts=starts, duration=duration, looks=looks, most=workers)
    plan = Plan(
        first=0,
        last=last,
        scan=data.draw(st.lists(st.integers(0, last), max_size=8)),
        hints=hints,
        resolution=data.draw(st.sampled_from([1, 1, 10, 1000])),
        workers=workers,
        can_hold=data.draw(st.booleans()),
    )
    survey = find_transitions(software, plan)
    assert_true(survey, software)
    assert not survey.is_flaky
    assert not survey.exhausted
    assert survey.asked == len(software.asked)
    if plan.can_hold or not duration:
        assert all(found.is_exact for found in survey.transitions)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 500), max_size=12, unique=True),
    st.lists(st.integers(0, 500), max_size=6),
    st.tuples(st.integers(0, 60), st.integers(0, 20)),
    LOOKS,
    WORKERS,
)
def test_exact_changes_are_true_however_short_the_windows_are(
    guest, changes, hints, lasting, looks, workers
):
    duration, jitter = lasting
    software = guest(changes, duration=duration, jitter=jitter, looks=looks, most=workers)
    plan = Plan(first=0, last=500, scan=[100, 200, 333], hints=hints, workers=workers)
    survey = find_transitions(software, plan)
    for found in survey.transitions:
        assert found.last_before <= found.first_after
        if found.is_exact:
            assert software.truth(found.last_before) is found.before
            assert software.truth(found.first_after) is found.after


@settings(deadline=None, max_examples=10)
@given(st.data(), WORKERS, LOOKS, STATES)
def test_all_windows_wider_than_the_scans_step_are_found(guest, data, workers, looks, starts):
    scan = evenly(SINCE, UNTIL, 13)
    step = scan[1] - scan[0] + 100
    gaps = data.draw(st.lists(st.integers(step, 3 * step), max_size=5))
    changes = [SINCE + sum(gaps[: index + 1]) for index in range(len(gaps))]
    changes = [change for change in changes if change < UNTIL - 100]
    software = guest(changes, starts=starts, looks=looks, jitter=4, most=workers)
    survey = find_transitions(software, Plan(first=SINCE, last=UNTIL, scan=scan, workers=workers))
    assert [found.first_after for found in survey.transitions] == changes
    assert all(found.is_exact for found in survey.transitions)
    assert len(survey.stretches) == len(changes) + 1


@settings(deadline=None, max_examples=25)
@given(
    st.integers(SINCE + DAY, UNTIL - 40 * DAY),
    st.integers(1000, 30 * DAY),
    st.sampled_from([0, 1]),
    st.sampled_from([0, 1]),
    WORKERS,
)
def test_a_window_between_two_points_of_the_scan_is_found_when_hints_name_its_ends(
    guest, begins, width, early, late, workers
):
    software = guest([begins, begins + width], starts=State.BAD, most=workers)
    plan = Plan(
        first=SINCE,
        last=UNTIL,
        scan=[SINCE + 17],
        hints=[begins - early, begins + width - late, begins - 10**9, begins + 3 * 10**9],
        workers=workers,
    )
    survey = find_transitions(software, plan)
    assert outline(survey) == [
        (begins - 1, begins, State.BAD, State.GOOD, True),
        (begins + width - 1, begins + width, State.GOOD, State.BAD, True),
    ]
    assert [found.hint for found in survey.transitions] == [begins - early, begins + width - late]


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.integers(150_000, 400_000), max_size=4),
    st.lists(st.integers(0, 900_000), max_size=5),
    st.lists(st.tuples(st.integers(0, 900_000), st.integers(1, 30_000)), max_size=3),
    st.booleans(),
)
def test_the_result_does_not_depend_on_the_number_of_workers(guest, gaps, hints, skips, can_hold):
    changes = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    unknown = frozenset(at for start, width in skips for at in range(start, start + width))
    outlines = []
    for workers in (1, 2, 5):
        software = guest(changes, most=workers, duration=5 * can_hold, unknown=unknown)
        plan = Plan(
            first=0,
            last=900_000,
            scan=evenly(0, 900_000, 7),
            hints=[*hints, *changes[:1]],
            can_hold=can_hold,
            workers=workers,
        )
        survey = find_transitions(software, plan)
        assert_true(survey, software)
        assert all(found.is_exact or unknown for found in survey.transitions)
        outlines.append(
            [
                (found.first_after if found.is_exact else None, found.after, found.hint)
                for found in survey.transitions
            ]
        )
    assert outlines[0] == outlines[1] == outlines[2]


@settings(deadline=None, max_examples=25)
@given(st.data(), WORKERS)
def test_the_budget_is_never_exceeded_and_what_was_found_is_reported(guest, data, workers):
    change = data.draw(st.integers(SINCE + 1000, UNTIL - 1000))
    budget = data.draw(st.integers(0, 60))
    software = guest([change], most=workers)
    plan = Plan(
        first=SINCE, last=UNTIL, scan=evenly(SINCE, UNTIL, 5), workers=workers, budget=budget
    )
    survey = find_transitions(software, plan)
    assert survey.asked == len(software.asked) <= budget
    assert_true(survey, software)
    if survey.exhausted:
        assert survey.asked == budget
        assert not any(found.is_exact for found in survey.transitions)
    else:
        assert outline(survey) == [(change - 1, change, State.GOOD, State.BAD, True)]


@settings(deadline=None, max_examples=25)
@given(st.data(), st.booleans())
def test_a_resumed_search_asks_nothing_again_and_ends_the_same(guest, data, can_hold):
    changes = data.draw(st.lists(st.integers(10, 1000), max_size=3, unique=True))
    changes = [change * 900 for change in changes]

    def search(known):
        software = guest(changes, duration=7, looks=(0.5, 1.0))
        plan = Plan(
            first=0,
            last=10**6,
            scan=evenly(0, 10**6, 9),
            hints=[changes[0] - 1, 400_000] if changes else [],
            can_hold=can_hold,
        )
        return software, find_transitions(software, plan, known)

    software, whole = search(None)
    half = software.asked[: data.draw(st.integers(0, len(software.asked)))]
    resumed_software, resumed = search({probe: whole.answers[probe] for probe in half})
    assert resumed.transitions == whole.transitions
    assert resumed.asked == whole.asked - len(half)
    assert not set(resumed_software.asked) & set(half)


@pytest.mark.parametrize("duration", [0, 1, 5, 60, 900])
@pytest.mark.parametrize("scan", [5, 7])
def test_one_edge_in_sixty_years_takes_at_most_45_probes(guest, duration, scan):
    for change in range(SINCE + 40_000_003, UNTIL, 197_000_001):
        software = guest([change], duration=duration, looks=(0.0, 0.5, 1.0))
        plan = Plan(first=SINCE, last=UNTIL, scan=evenly(SINCE, UNTIL, scan))
        survey = find_transitions(software, plan)
        assert outline(survey) == [(change - 1, change, State.GOOD, State.BAD, True)]
        assert survey.asked <= 45


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("duration", [1, 5, 60, 900])
def test_one_edge_at_a_hint_takes_at_most_10_probes(guest, late, duration):
    change = SINCE + 987_654_321
    software = guest([change], duration=duration, looks=(0.0, 0.5, 1.0))
    plan = Plan(first=SINCE, last=UNTIL, hints=[change - late], repeats=1)
    survey = find_transitions(software, plan)
    (found,) = survey.transitions
    assert found.is_exact
    assert found.hint == change - late
    assert found.confirmed == 4
    assert survey.asked <= 10


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("duration", [1, 5, 60])
def test_a_likely_hint_among_many_others_takes_at_most_8_probes(guest, late, duration):
    change = SINCE + 987_654_321
    software = guest([change], duration=duration, looks=(0.0, 0.5, 1.0))
    others = range(SINCE, UNTIL, 10_000_019)
    plan = Plan(
        first=SINCE,
        last=UNTIL,
        hints=[*others, change - late],
        likely=[change - late],
        repeats=1,
        reveal=0,
    )
    survey = find_transitions(software, plan)
    (found,) = survey.transitions
    assert (found.is_exact, found.first_after, found.confirmed) == (True, change, 4)
    assert survey.asked <= 8


@pytest.mark.parametrize(("turn", "most"), [("year", 20), ("day", 31)])
def test_an_edge_at_a_turn_of_the_calendar_is_found_by_the_rhythms(guest, turn, most):
    year = YEAR_TURNS[53]
    change = year if turn == "year" else year + 137 * DAY
    plan = Plan(
        first=SINCE,
        last=UNTIL,
        scan=evenly(SINCE, UNTIL, 7),
        rhythms=[year_turns, midnights],
    )
    survey = find_transitions(guest([change]), plan)
    assert [(found.first_after, found.hint) for found in survey.transitions] == [(change, change)]
    assert survey.asked <= most


def test_rhythms_that_miss_cost_few_probes(guest):
    plan = Plan(
        first=SINCE,
        last=UNTIL,
        scan=evenly(SINCE, UNTIL, 7),
        rhythms=[year_turns, midnights],
    )
    for change in range(SINCE + 40_000_003, UNTIL, 197_000_001):
        survey = find_transitions(guest([change]), plan)
        assert outline(survey) == [(change - 1, change, State.GOOD, State.BAD, True)]
        assert survey.transitions[0].hint is None
        assert survey.asked <= 49


def test_free_workers_shorten_the_search(guest):
    change = SINCE + 987_654_321
    calls = {}
    for workers in (1, 2, 5, 12):
        software = guest([change], most=workers)
        plan = Plan(
            first=SINCE, last=UNTIL, scan=evenly(SINCE, UNTIL, 7), repeats=1, workers=workers
        )
        find_transitions(software, plan)
        calls[workers] = software.calls
    assert calls[2] < 0.7 * calls[1]
    assert calls[5] < 0.45 * calls[1]
    assert calls[12] < calls[5]


def test_without_a_held_clock_the_bracket_is_as_wide_as_a_step_takes(guest):
    change = SINCE + 987_654_321
    software = guest([change], duration=60, looks=(0.5,))
    survey = find_transitions(software, Plan(first=SINCE, last=UNTIL, can_hold=False))
    (found,) = survey.transitions
    assert found.last_before < change <= found.first_after
    assert 60 <= found.first_after - found.last_before <= 62
    assert not found.is_exact
    assert found.confirmed == 4
    assert not any(probe.held for probe in software.asked)
    assert AssumptionKind.ONE_CHANGE in {taken.kind for taken in survey.assumptions}


def test_a_step_that_begins_late_moves_no_boundary(guest):
    change = SINCE + 987_654_321
    software = guest([change], delay=30, duration=40, jitter=20, looks=(0.5,))
    survey = find_transitions(software, Plan(first=SINCE, last=UNTIL))
    assert outline(survey) == [(change - 1, change, State.GOOD, State.BAD, True)]


def test_a_coarse_resolution_needs_no_held_clock(guest):
    change = SINCE + 987_654_321
    software = guest([change])
    survey = find_transitions(software, Plan(first=SINCE, last=UNTIL, resolution=DAY))
    (found,) = survey.transitions
    assert found.is_exact
    assert found.last_before < change <= found.first_after <= found.last_before + DAY
    assert not any(probe.held for probe in software.asked)
    assert survey.asked < 25


def test_versions_on_an_index_axis_are_found_to_the_neighbour(guest):
    software = guest([17], duration=0)
    survey = find_transitions(software, Plan(first=0, last=40, can_hold=False, repeats=1))
    (found,) = survey.transitions
    assert (found.last_before, found.first_after, found.is_exact) == (16, 17, True)
    assert found.confirmed == 2
    assert survey.asked <= 12


def test_of_two_versions_that_differ_both_are_confirmed(guest):
    software = guest([1], duration=0)
    survey = find_transitions(software, Plan(first=0, last=1, can_hold=False, repeats=2))
    assert outline(survey) == [(0, 1, State.GOOD, State.BAD, True)]
    assert survey.transitions[0].confirmed == 4
    assert survey.asked == 6


def test_without_a_change_the_scan_is_all_that_is_asked(guest):
    survey = find_transitions(guest([]), Plan(first=0, last=1000, scan=[500, 250]))
    assert survey.transitions == ()
    assert [(s.state, s.first, s.last) for s in survey.stretches] == [(State.GOOD, 0, 1005)]
    assert survey.asked == 4
    (taken,) = survey.assumptions
    assert taken.kind is AssumptionKind.NO_SHORT_WINDOW
    assert (taken.first, taken.last, taken.step) == (0, 1005, 500)


def test_a_range_of_one_position_is_one_question(guest):
    survey = find_transitions(guest([], starts=State.BAD), Plan(first=7, last=7))
    assert survey.asked == 1
    assert [stretch.state for stretch in survey.stretches] == [State.BAD]
    assert survey.assumptions == ()


@pytest.mark.parametrize("change", [1, 2, 999, 1000])
def test_a_change_next_to_an_end_of_the_range_is_exact(guest, change):
    survey = find_transitions(guest([change]), Plan(first=0, last=1000))
    assert outline(survey) == [(change - 1, change, State.GOOD, State.BAD, True)]


def test_a_change_after_the_last_start_is_reported_as_far_as_it_shows(guest):
    survey = find_transitions(guest([1003], looks=(1.0,)), Plan(first=0, last=1000))
    assert outline(survey) == [(1000, 1005, State.GOOD, State.BAD, False)]


def test_the_ends_need_not_be_asked_when_they_are_known(guest):
    first = find_transitions(guest([600]), Plan(first=0, last=1000, budget=2)).answers
    software = guest([600])
    survey = find_transitions(software, Plan(first=0, last=1000, scan_ends=False), first)
    assert outline(survey) == [(599, 600, State.GOOD, State.BAD, True)]
    assert not {Probe(at=0), Probe(at=1000)} & set(software.asked)


def test_known_answers_in_between_save_questions(guest):
    plan = Plan(first=SINCE, last=UNTIL)
    change = SINCE + 987_654_321
    near = guest([change])
    known = [Probe(at=change - 1000), Probe(at=change + 1000)]
    near.most = 2
    answers = dict(zip(known, near(known), strict=True))
    survey = find_transitions(guest([change]), plan, answers)
    assert outline(survey) == [(change - 1, change, State.GOOD, State.BAD, True)]
    assert survey.asked <= 22


def test_hints_close_together_share_one_probe(guest):
    hints = [500_000, 500_001, 500_002, 500_004, 700_000]
    software = guest([])
    survey = find_transitions(software, Plan(first=0, last=10**6, hints=hints))
    assert survey.asked == 4
    assert {probe.at for probe in software.asked} == {0, 10**6, 500_005, 700_001}


def test_only_so_many_hints_are_probed_as_was_allowed_and_the_newest_first(guest):
    hints = range(1000, 900_000, 1000)
    software = guest([])
    find_transitions(software, Plan(first=0, last=10**6, hints=hints, reveal=3))
    assert [probe.at for probe in software.asked[2:]] == [899_001, 898_001, 897_001]


@settings(deadline=None, max_examples=15)
@given(st.data(), WORKERS)
def test_hints_elsewhere_do_not_lead_astray(guest, data, workers):
    change = data.draw(st.integers(SINCE + 1000, UNTIL - 1000))
    hints = data.draw(st.lists(st.integers(SINCE, UNTIL), max_size=40))
    assume(change not in hints)
    assume(change - 1 not in hints)
    software = guest([change], most=workers)
    likely = data.draw(st.lists(st.sampled_from(hints), max_size=3)) if hints else []
    plan = Plan(first=SINCE, last=UNTIL, hints=hints, likely=likely, workers=workers)
    survey = find_transitions(software, plan)
    assert outline(survey) == [(change - 1, change, State.GOOD, State.BAD, True)]
    assert survey.transitions[0].hint is None
