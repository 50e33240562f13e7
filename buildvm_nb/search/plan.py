"""What a search is given and gives: plan, questions and answers, repetitions, survey."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from buildvm_nb.errors import SearchError

__all__ = [
    "Answer",
    "Ask",
    "Assumption",
    "AssumptionKind",
    "Disagreement",
    "Plan",
    "Probe",
    "Rhythm",
    "State",
    "Stretch",
    "Survey",
    "Transition",
    "coin_confidence",
    "count_states",
    "is_split",
]

# Questions put to the thing under study, and what it answered.
#
# Positions are plain integers: seconds since 1970 on the date axis, indexes into a list of kernels
# or commits elsewhere.
#
# A step takes time and the clock runs meanwhile. An answer is therefore about a stretch of
# positions: the step looked at the clock at one or several unknown moments of it. GOOD says that
# every look was good, BAD that at least one was bad. Either way *some moment of the stretch has the
# answer's state*, and this is all that the search ever concludes from a single answer.


class State(StrEnum):
    """What a question was answered with."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    """Skipped: trouble with the machine, or nothing to judge. It never moves a boundary."""

    @property
    def opposite(self) -> "State":
        """BAD for GOOD and GOOD for BAD; UNKNOWN has none but itself."""
        if self is State.UNKNOWN:
            return self
        return State.BAD if self is State.GOOD else State.GOOD


@dataclass(frozen=True, kw_only=True, order=True)
class Probe:
    """A question: which state does position `at` have."""

    at: int
    """Position at which the step starts."""
    held: bool = False
    """Whether the clock is held inside this one second for as long as the step runs."""
    attempt: int = 0
    """0 the first time, 1 and more for repetitions of the same question."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, and the positions that the step ran through.

    Raises
    ------
    SearchError
        If `first` is greater than `last`.
    """

    state: State
    first: int
    last: int
    """Equal to `first` under a held clock and on an axis without duration."""

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise SearchError(
                f"an answer ends before it begins: first {self.first}, last {self.last}; "
                "allowed: first <= last"
            )


Ask = Callable[[Sequence[Probe]], Sequence[Answer]]
"""Answers probes in their order; those of one call may run side by side."""


# Repetitions: what they agree on, and how much that is worth.


def coin_confidence(agreeing: int) -> float:
    """Return 1 less the chance that a thrown coin gives the same run of agreeing answers.

    Parameters
    ----------
    agreeing : int
        How many confirming answers agreed, from 0.

    Returns
    -------
    float
        From 0 up to, and for very many answers rounded to, 1.

    Raises
    ------
    SearchError
        If `agreeing` is negative.
    """
    if agreeing < 0:
        raise SearchError(f"agreeing out of range: {agreeing}; allowed: 0 or more")
    return 1 - 0.5**agreeing


def count_states(states: Iterable[State]) -> dict[State, int]:
    """Count the answers to one question."""
    counts = Counter(states)
    return {state: counts[state] for state in State if counts[state]}


def is_split(counts: Mapping[State, int]) -> bool:
    """Tell whether the same question was answered both GOOD and BAD."""
    return bool(counts.get(State.GOOD)) and bool(counts.get(State.BAD))


# What a search found: transitions, the stretches between them, and what was taken for granted.


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A change of state: its first position T satisfies last_before < T <= first_after."""

    last_before: int
    first_after: int
    before: State
    after: State
    is_exact: bool
    """Whether both sides are no further apart than the resolution, and all confirmations came."""
    confirmed: int
    """How many confirming runs agreed; none disagreed."""
    hint: int | None
    """The hint (T is it or the position after it) or rhythm (T is it) that T equals."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A stretch of positions whose answers agree, from the first answer to the end of the last."""

    state: State
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """The same question was answered both GOOD and BAD."""

    at: int
    held: bool
    counts: Mapping[State, int]


class AssumptionKind(StrEnum):
    """What was taken for granted."""

    NO_SHORT_WINDOW = "no-short-window"
    """No further window between neighbouring answers that agree; at most `step` apart."""
    ONE_CHANGE = "one-change"
    """Only one change between both sides of a transition that is not exact."""
    HELD_CONTRADICTED = "held-contradicted"
    """The software answers otherwise under a held clock; answers of that kind were left out."""
    HELD_DISAGREED = "held-disagreed"
    """The same question under a held clock was answered in two ways; those were left out."""


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """One thing that was taken for granted, in numbers."""

    kind: AssumptionKind
    first: int
    last: int
    step: int
    """The greatest distance, within this stretch, that no answer looks into."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a search found."""

    transitions: tuple[Transition, ...]
    """In the order of positions."""
    stretches: tuple[Stretch, ...]
    """States before, between and after the transitions: one more than those, or none at all."""
    unknown: tuple[Stretch, ...]
    """Neighbouring positions that were asked and could not be judged."""
    disagreements: tuple[Disagreement, ...]
    """Positions that were not the same twice, with the counts."""
    assumptions: tuple[Assumption, ...]
    answers: Mapping[Probe, Answer]
    """All answers, those known before included: hand them in as `known` to resume."""
    asked: int
    """How many probes were asked; known answers do not count."""
    exhausted: bool
    """Whether the budget ended before the questions did."""

    @property
    def is_flaky(self) -> bool:
        """Whether any question was answered in two ways."""
        return bool(self.disagreements)


Rhythm = Callable[[int, int], Sequence[int]]
"""Generic candidates between two positions, for example all turns of a year."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The range to search and what is known about where changes are likely.

    Raises
    ------
    SearchError
        If a field is out of its range.
    """

    first: int
    """First position of the range."""
    last: int
    """Last position of the range; it belongs to it."""
    scan: Sequence[int] = ()
    """Positions of the coarse scan, the most important first."""
    scan_ends: bool = True
    """Whether both ends of the range are part of the scan."""
    hints: Sequence[int] = ()
    """Positions where something is said to end or begin, in any order.

    Whether ``h`` is the last position of the old or the first one of the new state depends on the
    software, so that both ``h`` and ``h + 1`` are tried. Those outside the range do not matter.
    """
    likely: Sequence[int] = ()
    """A few hints that are very likely the changes looked for: tried before all else."""
    rhythms: Sequence[Rhythm] = field(default=(), repr=False)
    """Generic candidates, coarse to fine; each is tried as the first position of the new state.

    They are called with two positions and return the candidates between them, in any order.
    """
    resolution: int = 1
    """Distance between both sides of a change at which it counts as exact, from 1."""
    repeats: int = 2
    """Confirming runs on each side of each change, from 0."""
    workers: int = 1
    """How many probes to ask together, from 1."""
    budget: int | None = None
    """How many probes to ask at most, from 0; None: as many as it takes."""
    can_hold: bool = True
    """Whether the clock can be held inside one second."""
    behind: Sequence[int] | None = None
    """Hints to look behind for windows that the scan steps over, the most promising first.

    None: all hints, the newest first.
    """
    reveal: int = 32
    """How many hints to look behind at most, from 0."""

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise SearchError(
                f"the range ends before it begins: first {self.first}, last {self.last}; "
                "allowed: first <= last"
            )
        _check_least("resolution", self.resolution, 1)
        _check_least("repeats", self.repeats, 0)
        _check_least("workers", self.workers, 1)
        _check_least("reveal", self.reveal, 0)
        if self.budget is not None:
            _check_least("budget", self.budget, 0)
        for position in self.scan:
            if not self.first <= position <= self.last:
                raise SearchError(
                    f"scan position out of range: {position}; allowed: {self.first} to {self.last}"
                )

    @cached_property
    def scanned(self) -> tuple[int, ...]:
        """All positions of the coarse scan, each once, in the order of asking."""
        ends = (self.first, self.last) if self.scan_ends else ()
        return tuple(dict.fromkeys((*ends, *self.scan)))


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise SearchError(f"{name} out of range: {value}; allowed: {least} or more")
