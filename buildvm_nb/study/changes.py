"""From surveys of the whole and of its tests to the changes that a forecast tells."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from buildvm_nb.model.forecast import Change, ChangeKind
from buildvm_nb.model.hint import VALIDITY_ENDS, Hint, HintKind
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.plaintext import steady
from buildvm_nb.search import AssumptionKind, State, Survey, Transition
from buildvm_nb.study.dates import position, state_of, when
from buildvm_nb.study.evidence import failing_lines
from buildvm_nb.study.explaining import explain_boundary
from buildvm_nb.study.schedule import Schedule
from buildvm_nb.study.testnames import section_of
from buildvm_nb.study.timeline import Judge, Timeline

__all__ = ["Track", "find_tracks", "tell_assumptions", "tell_changes"]

_DAY_S = 86_400
_MOST_SUSPECTS = 8
_MOST_REASONS = 4
"""With more changes of the failing line it says nothing: it holds a time or a number."""
_REPEATS = 1
"""Confirming runs for a test whose change does not change the verdict of the whole."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Something that passes or fails: the whole, or tests that no run tells apart."""

    tests: tuple[str, ...] = ()
    """Empty: the whole."""
    judge: Judge
    survey: Survey


@dataclass(kw_only=True)
class _Event:
    """Transitions of several tracks at the same time, in the same direction."""

    transition: Transition
    judge: Judge
    of_whole: bool
    tests: list[str] = field(default_factory=list)


def find_tracks(
    timeline: Timeline, hints: Sequence[Hint], runs: Iterable[int | None]
) -> Iterator[Track]:
    """Look at each test that is named as failed somewhere.

    Parameters
    ----------
    timeline : Timeline
        Whose whole was searched.
    hints : sequence of Hint
        Where changes are likely.
    runs : iterable of int or None
        How many more runs each search may ask for, asked anew for each.

    Yields
    ------
    Track
        One for tests that no run tells apart.
    """
    instants = [hint.instant for hint in hints if hint.instant]
    budgets = iter(runs)
    done: set[str] = set()
    while left := [test for test in _named(timeline) if test not in done]:
        judge = timeline.judge_of(left[0])
        survey = timeline.search(judge, hints=instants, repeats=_REPEATS, budget=next(budgets))
        states = timeline.states(judge)
        alike = [test for test in left if timeline.states(timeline.judge_of(test)) == states]
        done.update(alike, left[:1])
        yield Track(tests=tuple(alike), judge=judge, survey=survey)


def tell_changes(
    timeline: Timeline, tracks: Sequence[Track], hints: Sequence[Hint]
) -> tuple[Change, ...]:
    """Put the changes of all tracks into one list.

    Parameters
    ----------
    timeline : Timeline
        With all outcomes.
    tracks : sequence of Track
        The whole first.
    hints : sequence of Hint
        What may explain them.

    Returns
    -------
    tuple of Change
        Ordered by time; what changes at the same second in the same direction is one.
    """
    changes = [_change(timeline, event, hints) for event in _events(tracks)]
    if not any(track.tests for track in tracks):
        changes += _new_reasons(timeline, changes, hints)
    return tuple(sorted(changes, key=lambda change: (change.first_after, change.last_before)))


def tell_assumptions(tracks: Sequence[Track], schedule: Schedule) -> Iterator[str]:
    """Say what was taken for granted, to people who do not know how the search works.

    Parameters
    ----------
    tracks : sequence of Track
        The whole first.
    schedule : Schedule
        Where it was looked.

    Yields
    ------
    str
        A sentence.
    """
    whole = tracks[0].survey
    steps = [one.step for one in whole.assumptions if one.kind is AssumptionKind.NO_SHORT_WINDOW]
    if steps:
        days = max(steps) // _DAY_S
        yield (
            f"what breaks and heals again between two looks, at most {days} days apart, is not seen"
        )
    if schedule.left_out:
        yield (
            f"{len(schedule.left_out)} ends of certificates, keys and tokens were not looked at "
            "one by one; what they break for good is found all the same"
        )
    if whole.exhausted:
        yield "the budget of runs ended before the questions did"
    if any(track.survey.exhausted for track in tracks[1:]):
        yield "the runs for single tests ended before each of their changes was located"
    if whole.is_flaky:
        places = ", ".join(
            f"{format_instant(when(one.at))} ({one.counts.get(State.GOOD, 0)} of "
            f"{sum(one.counts.values())} passed)"
            for one in whole.disagreements
        )
        yield f"it does not always end alike: {places}"


def _named(timeline: Timeline) -> list[str]:
    """Return the names of failed tests, those that fail first in front."""
    return list(dict.fromkeys(t for _, _, failure in timeline.failures() for t in failure.tests))


def _events(tracks: Sequence[Track]) -> list[_Event]:
    events: list[_Event] = []
    for track in tracks:
        for transition in track.survey.transitions:
            if track.survey.is_flaky and not transition.is_exact:
                continue  # where the same run ends in two ways a bracket shows no change
            same = next((e for e in events if _coincide(e.transition, transition)), None)
            if same is None:
                same = _Event(transition=transition, judge=track.judge, of_whole=not track.tests)
                events.append(same)
            same.tests += track.tests
    return events


def _coincide(one: Transition, other: Transition) -> bool:
    """Tell whether two transitions are one, as far as is known."""
    if one.after is not other.after:
        return False
    if one.is_exact or other.is_exact:
        # a wide bracket around an exact change may be about something that this one hides
        return (one.last_before, one.first_after) == (other.last_before, other.first_after)
    return max(one.last_before, other.last_before) < min(one.first_after, other.first_after)


def _change(timeline: Timeline, event: _Event, hints: Sequence[Hint]) -> Change:
    found = event.transition
    heals = found.after is State.GOOD
    after = timeline.nearest(event.judge, found.first_after, found.after, is_after=True)
    before = timeline.nearest(event.judge, found.last_before, found.before, is_after=False)
    cause = None
    if found.is_exact and found.first_after - found.last_before == 1:
        cause = explain_boundary(hints, found.first_after, becomes_good=heals)
    return Change(
        kind=ChangeKind.HEALS if heals else ChangeKind.BREAKS,
        last_before=when(found.last_before),
        first_after=when(found.first_after),
        is_exact=found.is_exact,
        confirmed=found.confirmed,
        of_whole=event.of_whole,
        verdict=after.verdict if after else (Verdict.PASSED if heals else Verdict.FAILED),
        tests=tuple(dict.fromkeys(event.tests)),
        failing_line=_failing_line(timeline, event, before, after),
        cause=cause,
        suspects=_suspects(hints, found.last_before, found.first_after, known=cause),
        outcome=after.id if after else "",
    )


def _failing_line(
    timeline: Timeline, event: _Event, before: Outcome | None, after: Outcome | None
) -> str:
    """Return the line that tells the failing side from the other one."""
    heals = event.transition.after is State.GOOD
    bad, other = (before, after) if heals else (after, before)
    if bad is None:
        return ""
    if other is None or state_of(other) is not State.BAD:
        return bad.evidence
    text = timeline.failure(bad).text
    about = next(filter(None, (section_of(text, test) for test in event.tests)), "")
    return failing_lines(about) or bad.evidence


def _suspects(
    hints: Sequence[Hint], last_before: int, first_after: int, *, known: Hint | None = None
) -> tuple[Hint, ...]:
    inside = [
        hint
        for hint in hints
        if hint.instant
        and hint != known
        and (hint.kind in VALIDITY_ENDS or hint.kind is HintKind.ROLLOVER)
        and last_before <= position(hint.instant) <= first_after
    ]
    return tuple(dict.fromkeys(inside))[:_MOST_SUSPECTS]


def _new_reasons(
    timeline: Timeline, changes: Sequence[Change], hints: Sequence[Hint]
) -> list[Change]:
    """Tell where the failing line changes while it fails: all there is where no test is named."""
    found: list[Change] = []
    last: tuple[int, Outcome] | None = None
    for probe, outcome, _ in timeline.failures():
        if probe.held:
            continue
        if last and _reason(last[1]) != _reason(outcome):
            ends = (when(last[0]), when(probe.at))
            if not any(ends[0] <= c.last_before and c.first_after <= ends[1] for c in changes):
                found.append(
                    Change(
                        kind=ChangeKind.FAILS_OTHERWISE,
                        last_before=ends[0],
                        first_after=ends[1],
                        is_exact=False,
                        of_whole=False,
                        verdict=outcome.verdict,
                        failing_line=outcome.evidence,
                        suspects=_suspects(hints, last[0], probe.at),
                        outcome=outcome.id,
                    )
                )
        last = probe.at, outcome
    return found if len(found) <= _MOST_REASONS else []


def _reason(outcome: Outcome) -> tuple[str, ...]:
    # the dates of two runs differ, and so may every number that is made of them
    return outcome.verdict, outcome.reason, re.sub(r"\d+", "0", steady(outcome.evidence))
