"""All answers so far, and which of them to trust."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from functools import cached_property

from buildvm_nb.search.agreement import count_states, is_split
from buildvm_nb.search.answers import Answer, Probe, State
from buildvm_nb.search.plan import Plan

__all__ = ["Evidence", "Record"]

Record = tuple[Probe, Answer]
"""A question with its answer."""

_HOLD_TRIES = 3
"""After so many held probes without any verdict, holding the clock does not work."""

_REPEATED = 2
"""So many answers make a repetition."""

_ERRATIC_PLACES = 3
"""So many places that were answered in two ways are not about any of them."""


class Evidence:
    """The answers that a search has, those inside its range.

    A *place* is a position together with whether the clock is held there. A place is split when
    it was answered in both ways; a position is solid when several answers agree on it.

    Parameters
    ----------
    plan : Plan
        What is searched.
    answers : mapping of Probe to Answer
        All answers.
    """

    def __init__(self, plan: Plan, answers: Mapping[Probe, Answer]) -> None:
        self._plan = plan
        self.answers = {
            probe: answer
            for probe, answer in answers.items()
            if plan.first <= probe.at <= plan.last
        }

    def extended(self, more: Mapping[Probe, Answer]) -> "Evidence":
        """Return this evidence with further answers."""
        return Evidence(self._plan, {**self.answers, **more})

    @cached_property
    def places(self) -> Mapping[tuple[int, bool], Counter[State]]:
        """How often each place got which answer, in order."""
        counts: defaultdict[tuple[int, bool], Counter[State]] = defaultdict(Counter)
        for probe, answer in self.answers.items():
            counts[probe.at, probe.held][answer.state] += 1
        return {place: counts[place] for place in sorted(counts)}

    @cached_property
    def split(self) -> tuple[tuple[int, bool], ...]:
        """The places that were answered in both ways."""
        return tuple(place for place, counts in self.places.items() if is_split(counts))

    @property
    def is_erratic(self) -> bool:
        """Whether so many places are split that there is no point in going on."""
        return len(self.split) >= _ERRATIC_PLACES

    @cached_property
    def duration(self) -> int:
        """The longest time that a step was seen to run."""
        return max(
            (
                answer.last - answer.first
                for probe, answer in self.answers.items()
                if not probe.held and answer.state is not State.UNKNOWN
            ),
            default=0,
        )

    @cached_property
    def can_hold(self) -> bool:
        """Whether held probes are possible and were not all in vain."""
        held = [answer.state for probe, answer in self.answers.items() if probe.held]
        in_vain = len(held) >= _HOLD_TRIES and set(held) == {State.UNKNOWN}
        return self._plan.can_hold and not in_vain

    @cached_property
    def sound(self) -> tuple[Record, ...]:
        """The answers GOOD and BAD to reason from, ordered by the positions they are about.

        Split places are left out. Where one lies, lone answers around it are left out as well, as
        far as the next position that was repeated or belongs to the scan: they may be tosses of
        the same coin. When the answers are erratic only those at repeated positions are left.
        """
        records = [
            record
            for record in self.answers.items()
            if record[1].state is not State.UNKNOWN
            and (record[0].at, record[0].held) not in self.split
        ]
        if self.split:
            repeated = {
                probe.at
                for probe, answer in records
                if self._agreeing_at(probe.at, answer.state) >= _REPEATED
            }
            firm = sorted(repeated.union(self._plan.scanned))
            records = [
                (probe, answer)
                for probe, answer in records
                if probe.at in repeated
                or not (self.is_erratic or self._is_near_split(probe.at, firm))
            ]
        return tuple(
            sorted(records, key=lambda record: (record[1].first, record[1].last, record[0]))
        )

    def _is_near_split(self, at: int, firm: list[int]) -> bool:
        """Tell whether only a split place separates `at` from the next firm position."""
        if at in firm:
            return False
        cut = bisect_left(firm, at)
        low, high = firm[:cut][-1:], firm[cut:][:1]
        return any(
            (not low or low[0] <= place) and (not high or place <= high[0])
            for place, _held in self.split
        )

    def _agreeing_at(self, at: int, state: State) -> int:
        places = [(at, held) for held in (False, True) if (at, held) not in self.split]
        return sum(self.places[place][state] for place in places if place in self.places)

    @property
    def caution(self) -> int:
        """How many answers must agree for a position to be solid: more once any place is split."""
        return _REPEATED * 2 if self.split else _REPEATED

    def is_solid(self, at: int, state: State) -> bool:
        """Tell whether enough answers agree that position `at` has `state`."""
        return self._agreeing_at(at, state) >= self.caution

    def is_lone(self, probe: Probe) -> bool:
        """Tell whether the place of `probe` was asked no more than once."""
        return sum(self.places.get((probe.at, probe.held), {}).values()) < _REPEATED

    def agreeing(self, at: int, state: State, *, held: bool) -> int:
        """Return how many answers at a place have `state`."""
        return self.places[at, held][state] if (at, held) in self.places else 0

    def counts(self, at: int, *, held: bool) -> dict[State, int]:
        """Return how often a place got which answer."""
        return count_states(self.places[at, held].elements())

    def unasked(self, probes: Collection[Probe]) -> list[Probe]:
        """Return those of `probes` that have no answer, in their order."""
        return [probe for probe in probes if probe not in self.answers]

    @cached_property
    def _unknown(self) -> Mapping[bool, list[int]]:
        found: dict[bool, list[int]] = {False: [], True: []}
        for (at, held), counts in self.places.items():
            if set(counts) == {State.UNKNOWN}:
                found[held].append(at)
        return found

    def unknown_between(self, low: int, high: int, *, held: bool) -> list[int]:
        """Return the positions strictly between two others that could not be judged."""
        positions = self._unknown[held]
        return positions[bisect_right(positions, low) : bisect_left(positions, high)]
