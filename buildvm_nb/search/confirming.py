"""Runs that confirm a change once it is located.

Where held answers mark the change, they are repeated on both sides, and a run whose clock goes on
has to agree on each side as well, wholly on its own side: software may dislike a held clock, and
a boundary that only such a clock shows is none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from buildvm_nb.search.answers import Probe, State
from buildvm_nb.search.bracket import SLACK, Bracket, Question

__all__ = ["confirmations", "count_confirmed"]


@dataclass(frozen=True, kw_only=True)
class _Check:
    """A number of runs that have to agree."""

    state: State
    probes: list[Probe]
    agreed: int
    wanted: int


def confirmations(bracket: Bracket) -> list[Question]:
    """Return the confirming questions that are still to be asked.

    Parameters
    ----------
    bracket : Bracket
        As narrow as it can be made.

    Returns
    -------
    list of Question
        Empty when there is nothing left to confirm.
    """
    if bracket.is_split:
        return []
    return [
        Question(probe=probe, expected=check.state)
        for check in _checks(bracket)
        if check.agreed < check.wanted
        for probe in bracket.evidence.unasked(check.probes)
    ]


def count_confirmed(bracket: Bracket) -> int:
    """Return how many confirming runs agreed.

    Parameters
    ----------
    bracket : Bracket
        Where the change lies.

    Returns
    -------
    int
        At most as many as were wanted.
    """
    if bracket.is_split:
        return 0
    return sum(min(check.agreed, check.wanted) for check in _checks(bracket))


def _checks(bracket: Bracket) -> Iterator[_Check]:
    by_hold = bracket.holds and (bracket.is_narrow or _is_marked_by_hold(bracket))
    if by_hold or not bracket.evidence.duration:
        yield _at_end(bracket, bracket.low, bracket.change.before, held=by_hold)
        yield _at_end(bracket, bracket.high, bracket.change.after, held=by_hold)
    if bracket.evidence.duration:
        wanted = 1 if by_hold else bracket.repeats
        yield from _running_before(bracket, wanted)
        yield from _running_after(bracket, wanted)


def _is_marked_by_hold(bracket: Bracket) -> bool:
    return any(
        probe.held and answer.first == bracket.low for probe, answer in bracket.before
    ) or any(probe.held and answer.last == bracket.high for probe, answer in bracket.after)


def _at_end(bracket: Bracket, at: int, state: State, *, held: bool) -> _Check:
    repeats = bracket.repeats if bracket.plan.first <= at <= bracket.plan.last else 0
    return _Check(
        state=state,
        probes=[Probe(at=at, held=held, attempt=attempt) for attempt in range(repeats + 1)],
        agreed=max(0, bracket.evidence.agreeing(at, state, held=held) - 1),
        wanted=repeats,
    )


def _running_before(bracket: Bracket, wanted: int) -> Iterator[_Check]:
    clear = 2 * bracket.evidence.duration + SLACK
    start = max(bracket.floor, bracket.low + 1 - clear)
    if start + bracket.evidence.duration <= bracket.low:
        agreed = [
            answer
            for probe, answer in bracket.before
            if not probe.held
            and answer.last <= bracket.low
            and answer.first > bracket.low - 2 * clear
        ]
        yield _repeated(start, bracket.change.before, len(agreed), wanted)


def _running_after(bracket: Bracket, wanted: int) -> Iterator[_Check]:
    clear = 2 * bracket.evidence.duration + SLACK
    if bracket.high + bracket.evidence.duration <= bracket.ceiling:
        agreed = [
            answer
            for probe, answer in bracket.after
            if not probe.held
            and answer.first >= bracket.high
            and answer.last < bracket.high + 2 * clear
        ]
        yield _repeated(bracket.high, bracket.change.after, len(agreed), wanted)


def _repeated(start: int, state: State, agreed: int, wanted: int) -> _Check:
    probes = [Probe(at=start, attempt=attempt) for attempt in range(wanted)]
    return _Check(state=state, probes=probes, agreed=agreed, wanted=wanted)
