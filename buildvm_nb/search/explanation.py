"""All answers so far, and the fewest changes that explain them.

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

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from operator import itemgetter

from buildvm_nb.search.plan import Answer, Plan, Probe, State, count_states, is_split

__all__ = [
    "Change",
    "Evidence",
    "Explanation",
    "Record",
    "explain",
    "lone_dissenters",
]

# All answers so far, and which of them to trust.

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

        `index`: 0 for those before the first change, 1 for those after it, and so on.
        Returns: those with the stretch's state that reach into it; at least one.
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
    """Find the fewest changes that explain the sound answers."""
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

    Returns: those asked only once without whose answer held and running clocks would agree.
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
