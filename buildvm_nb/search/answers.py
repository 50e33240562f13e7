"""Questions put to the thing under study, and what it answered.

Positions are plain integers: seconds since 1970 on the date axis, indexes into a list of kernels
or commits elsewhere.

A step takes time and the clock runs meanwhile. An answer is therefore about a stretch of positions:
the step looked at the clock at one or several unknown moments of it. GOOD says that every look was
good, BAD that at least one was bad. Either way *some moment of the stretch has the answer's state*,
and this is all that the search ever concludes from a single answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from buildvm_nb.errors import SearchError

__all__ = ["Answer", "Ask", "Probe", "State"]


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
