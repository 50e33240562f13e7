"""The fewest changes that explain all answers.

Each answer says that some moment of its stretch has its state. The search believes in the smallest
number of changes with which all answers can be true, and derives from it, for every change, the
first and the last position at which it can be: an answer "before" proves that the change comes
after the answer's beginning, an answer "after" that it comes no later than the answer's end.
Where one answer covers just the moment at which another begins or ends, and says otherwise, that
moment is not the one that the other answer is about.

How many changes there are is for answers under a running clock to say. Answers under a held clock
only narrow them down: software may dislike a clock that stands still, and where held answers would
need further changes they are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

from buildvm_nb.search.answers import Probe, State
from buildvm_nb.search.evidence import Evidence, Record

__all__ = ["Change", "Explanation", "explain", "lone_dissenters"]

_Span = tuple[int, int, State]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of state whose first position T satisfies low < T <= high."""

    low: int
    high: int
    before: State
    after: State
    trusts_hold: bool
    """Whether held answers around it do not contradict those under a running clock."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The fewest changes that explain the answers, and the answers that they explain."""

    changes: tuple[Change, ...]
    records: tuple[Record, ...]
    """Ordered by the positions they are about."""
    rejected: tuple[Record, ...]
    """Answers under a held clock that contradict those under a running one."""

    def stretch(self, index: int) -> tuple[Record, ...]:
        """Return the answers that may be about the positions between two changes.

        Parameters
        ----------
        index : int
            0 for those before the first change, 1 for those after it, and so on.

        Returns
        -------
        tuple of Record
            Those with the stretch's state that reach into it; at least one.
        """
        if not self.changes:
            return self.records
        previous = self.changes[index - 1] if index > 0 else None
        following = self.changes[index] if index < len(self.changes) else None
        state = previous.after if previous else self.changes[0].before
        return tuple(
            (probe, answer)
            for probe, answer in self.records
            if answer.state is state
            and (previous is None or answer.last > previous.low)
            and (following is None or answer.first < following.high)
        )


def explain(evidence: Evidence) -> Explanation:
    """Find the fewest changes that explain the sound answers.

    Parameters
    ----------
    evidence : Evidence
        What is known.

    Returns
    -------
    Explanation
        Without changes when there is nothing to explain.
    """
    running = [record for record in evidence.sound if not record[0].held]
    held = [record for record in evidence.sound if record[0].held]
    base = _fewest(running)
    rejected: list[Record] = []
    if not base.resembles(_fewest(evidence.sound)):
        for low, high in _zones(base.brackets):
            near = [record for record in held if low <= record[1].first and record[1].last <= high]
            if not base.resembles(_fewest([*running, *near])):
                rejected += near
    used = tuple(record for record in evidence.sound if record not in rejected)
    if not base.resembles(_fewest(used)):
        rejected, used = held, tuple(running)
    return _compose(used, tuple(dict.fromkeys(rejected)), base.brackets)


def lone_dissenters(evidence: Evidence) -> list[Probe]:
    """Return the probes that stand alone against all others about whether a held clock is borne.

    Parameters
    ----------
    evidence : Evidence
        What is known.

    Returns
    -------
    list of Probe
        Those asked only once without whose answer held and running clocks would agree.
    """
    alone = []
    for probe, _answer in evidence.sound:
        if evidence.is_lone(probe):
            others = [record for record in evidence.sound if record[0] != probe]
            running = [record for record in others if not record[0].held]
            if _fewest(running).resembles(_fewest(others)):
                alone.append(probe)
    return alone


@dataclass(frozen=True, kw_only=True)
class _Course:
    """The fewest changes that make answers true."""

    start: State
    """The state to begin with."""
    brackets: list[tuple[int, int]]
    """For every change, the positions between which it can be."""
    conflicts: int
    """How many answers no change can make true: other answers name all of their moments."""

    def resembles(self, other: "_Course") -> bool:
        """Tell whether both have as many changes, in the same directions."""
        return (self.start, len(self.brackets), self.conflicts) == (
            other.start,
            len(other.brackets),
            other.conflicts,
        )


def _compose(
    used: tuple[Record, ...], rejected: tuple[Record, ...], brackets: list[tuple[int, int]]
) -> Explanation:
    changes = []
    course = _fewest(used)
    state = course.start
    for (low, high), zone in zip(course.brackets, _zones(brackets), strict=True):
        doubted = any(zone[0] <= answer.first and answer.last <= zone[1] for _, answer in rejected)
        changes.append(
            Change(low=low, high=high, before=state, after=state.opposite, trusts_hold=not doubted)
        )
        state = state.opposite
    return Explanation(changes=tuple(changes), records=used, rejected=rejected)


def _zones(brackets: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """Return, for every change, from where to where answers bear on it and on no other change."""
    infinite = float("inf")
    fenced = [(-infinite, -infinite), *brackets, (infinite, infinite)]
    return [
        (min(previous[1], low), max(following[0], high))
        for (previous, (low, high)), (_, following) in pairwise(pairwise(fenced))
    ]


def _fewest(records: Sequence[Record]) -> _Course:
    stretches = [(answer.first, answer.last, answer.state) for _, answer in records]
    spans = _possible(stretches)
    if not spans:
        return _Course(start=State.UNKNOWN, brackets=[], conflicts=len(stretches))
    turns = {start: _latest(spans, start) for start in (State.GOOD, State.BAD)}
    start = min(turns, key=lambda state: len(turns[state]))
    latest = turns[start]
    end = start if len(latest) % 2 == 0 else start.opposite
    mirrored = [(-last, -first, state) for first, last, state in spans]
    earliest = [-turn for turn in reversed(_latest(mirrored, end))]
    return _Course(
        start=start,
        brackets=list(zip(earliest, latest, strict=True)),
        conflicts=len(stretches) - len(spans),
    )


def _possible(spans: list[_Span]) -> list[_Span]:
    """Cut off moments at the ends of answers that other answers, about just them, contradict."""
    named: dict[int, State] = {}
    for first, last, state in spans:
        if first == last:
            named.setdefault(first, state)
    shortened = []
    for first, last, state in spans:
        while first <= last and named.get(first, state) is not state:
            first += 1  # noqa: PLW2901
        while first <= last and named.get(last, state) is not state:
            last -= 1  # noqa: PLW2901
        if first <= last:
            shortened.append((first, last, state))
    return shortened


def _latest(spans: list[_Span], state: State) -> list[int]:
    """Return the fewest changes from `state` on, each as late as the answers allow.

    A change is due no later than the first end of an answer that the present state cannot explain;
    an answer that began before the present state did is explained by the state before.
    """
    turns: list[int] = []
    for first, last, wanted in sorted(spans, key=itemgetter(1, 0)):
        if wanted is not state and (not turns or first >= turns[-1]):
            turns.append(last)
            state = wanted
    return turns
