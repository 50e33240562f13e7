"""What a search found: transitions, the stretches between them, and what was taken for granted."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from buildvm_nb.search.answers import Answer, Probe, State

__all__ = ["Assumption", "AssumptionKind", "Disagreement", "Stretch", "Survey", "Transition"]


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
