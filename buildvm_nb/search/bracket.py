"""A bracket: the positions between which a change is known to lie, in its surroundings."""

from dataclasses import dataclass
from functools import cached_property

from buildvm_nb.search.answers import Probe, State
from buildvm_nb.search.evidence import Evidence, Record
from buildvm_nb.search.explanation import Change, Explanation
from buildvm_nb.search.plan import Plan

__all__ = ["SLACK", "Bracket", "Question"]

SLACK = 2
"""Positions to keep clear of a change beside what durations ask for."""

_NEAR_DURATIONS = 4
"""A bracket of so many durations is too narrow for a clock that runs."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A probe to ask next."""

    probe: Probe
    expected: State | None = None
    """The answer to expect; None: any."""


@dataclass(frozen=True)
class Bracket:
    """One change of an explanation, with everything that decides on the next question about it."""

    plan: Plan
    evidence: Evidence
    explanation: Explanation
    index: int
    """Of the change."""

    @property
    def change(self) -> Change:
        """The change that lies in it."""
        return self.explanation.changes[self.index]

    @property
    def low(self) -> int:
        """The change comes after this position."""
        return self.change.low

    @property
    def high(self) -> int:
        """The change comes no later than at this position."""
        return self.change.high

    @property
    def floor(self) -> int:
        """First position that belongs to the state before the change."""
        previous = self.explanation.changes[: self.index]
        return max([self.plan.first, *(change.high for change in previous)])

    @property
    def ceiling(self) -> int:
        """Last position that belongs to the state after the change."""
        following = self.explanation.changes[self.index + 1 :]
        return min([self.plan.last, *(change.low for change in following)])

    @property
    def is_narrow(self) -> bool:
        """Whether the resolution is reached."""
        return 0 < self.high - self.low <= self.plan.resolution

    @property
    def repeats(self) -> int:
        """Confirming runs on each side: twice as many once any place was answered in two ways."""
        return self.plan.repeats * 2 if self.evidence.split else self.plan.repeats

    @property
    def reach(self) -> int:
        """Width below which a running clock tells little."""
        duration = self.evidence.duration
        return _NEAR_DURATIONS * (duration + SLACK) if duration else 0

    @property
    def needs_hold(self) -> bool:
        """Whether a running clock is too coarse for the resolution."""
        return self.plan.resolution < self.reach

    @cached_property
    def holds(self) -> bool:
        """Whether to ask with a held clock where a running one is too coarse."""
        return self.needs_hold and self.evidence.can_hold and self.change.trusts_hold

    @cached_property
    def is_split(self) -> bool:
        """Whether a place inside was answered in two ways, so that nothing here can be exact."""
        return self.evidence.is_erratic or any(
            self.low <= at <= self.high for at, _held in self.evidence.split
        )

    @cached_property
    def before(self) -> tuple[Record, ...]:
        """The answers of the stretch before the change."""
        return self.explanation.stretch(self.index)

    @cached_property
    def after(self) -> tuple[Record, ...]:
        """The answers of the stretch after the change."""
        return self.explanation.stretch(self.index + 1)
