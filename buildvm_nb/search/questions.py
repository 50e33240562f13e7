"""What to ask next: a function of the plan and of the answers so far, and of nothing else.

As the search keeps no other state, it can be resumed from any set of answers, and it can look
ahead: pretend an answer, and see what would be asked then.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from buildvm_nb.search.explanation import (
    Change,
    Evidence,
    Explanation,
    Record,
    explain,
    lone_dissenters,
)
from buildvm_nb.search.plan import Plan, Probe, State

__all__ = [
    "Bracket",
    "Question",
    "confirmations",
    "count_confirmed",
    "next_questions",
]

# A bracket: the positions between which a change is known to lie, in its surroundings.

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


# Runs that confirm a change once it is located.
#
# Where held answers mark the change, they are repeated on both sides, and a run whose clock goes on
# has to agree on each side as well, wholly on its own side: software may dislike a held clock, and
# a boundary that only such a clock shows is none.


@dataclass(frozen=True, kw_only=True)
class _Check:
    """A number of runs that have to agree."""

    state: State
    probes: list[Probe]
    agreed: int
    wanted: int


def confirmations(bracket: Bracket) -> list[Question]:
    """Return the confirming questions that are still to be asked."""
    if bracket.is_split:
        return []
    return [
        Question(probe=probe, expected=check.state)
        for check in _checks(bracket)
        if check.agreed < check.wanted
        for probe in bracket.evidence.unasked(check.probes)
    ]


def count_confirmed(bracket: Bracket) -> int:
    """Return how many confirming runs agreed."""
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


# When held and running clocks contradict each other: which of them is to be believed.
#
# Either the software dislikes a held clock, or there are windows that no running clock has seen
# yet.


def settle_contradictions(
    plan: Plan, evidence: Evidence, explanation: Explanation
) -> list[Question]:
    """Return the questions that settle whether answers under a held clock are to be left out.

    An answer that stands alone against all others is asked again first. Then a running clock is
    asked at a place where a held one contradicts it, and right before that. If it answers there as
    the held one did, there is a window. If it does not, the contradiction is proven, and there is
    nothing more to ask.
    """
    proofs = [_Proof(plan, evidence, probe, answer.state) for probe, answer in explanation.rejected]
    if any(proof.is_complete and proof.is_repeated for proof in proofs):
        return []
    if proofs and (alone := lone_dissenters(evidence)):
        return [_asked_again(evidence, probe) for probe in alone]
    if any(proof.is_complete for proof in proofs):
        return []
    begun = sorted(
        (proof for proof in proofs if proof.missing),
        key=lambda proof: (len(proof.missing), -proof.remoteness),
    )
    return [Question(probe=probe) for proof in begun[:1] for probe in proof.missing]


class _Proof:
    """What a running clock says where a held one contradicts it, and right before that."""

    def __init__(self, plan: Plan, evidence: Evidence, held: Probe, state: State) -> None:
        ran = {probe.at: answer.state for probe, answer in evidence.sound if not probe.held}
        before = max(plan.first, held.at - 2 * evidence.duration - SLACK)
        spots = [Probe(at=at) for at in sorted({before, held.at})]
        self.missing = evidence.unasked(spots)
        """Questions that were not asked yet."""
        self.is_complete = all(ran.get(spot.at) is state.opposite for spot in spots)
        """Whether the running clock says the opposite everywhere."""
        running = sum(evidence.agreeing(s.at, state.opposite, held=False) for s in spots)
        self.is_repeated = running > 1 and not evidence.is_lone(held)
        """Whether both clocks said so more than once."""
        self.remoteness = min((abs(held.at - at) for at in ran), default=0)
        """Distance to the nearest place where a running clock was asked."""


def _asked_again(evidence: Evidence, probe: Probe) -> Question:
    answer = evidence.answers[probe]
    again = Probe(at=probe.at, held=probe.held, attempt=probe.attempt + 1)
    return Question(probe=again, expected=answer.state)


# The next probe that narrows a bracket down.
#
# Hints come first, then the rhythms from coarse to fine, then halving. While the bracket is much
# wider than a step takes, halving asks with a running clock, which every software bears; below that
# the clock must be held.

_UNKNOWN_TRIES = 8
"""With so many positions inside that cannot be judged a bracket is left as it is."""


def likely_probe(bracket: Bracket) -> Probe | None:
    """Return a probe beside a likely place, if there is one in a bracket.

    Returns: None when all of them have been asked about. Two answers right beside a change make the
    far ends of its bracket unimportant, so these come before all doubts about those.
    """
    if bracket.is_narrow or bracket.is_split or not bracket.plan.likely:
        return None
    likely = _around(bracket, bracket.plan.likely)
    return next(_at_candidates(bracket, [likely], held=bracket.holds), None)


def next_probe(bracket: Bracket) -> Probe | None:
    """Return the probe that narrows a bracket most."""
    if bracket.is_narrow or bracket.is_split:
        return None
    return next(_proposals(bracket), None)


def _proposals(bracket: Bracket) -> Iterator[Probe]:
    yield from _at_candidates(bracket, _levels(bracket), held=bracket.holds)
    if bracket.holds:
        if bracket.high - bracket.low > bracket.reach:
            yield from _by_halves(bracket, held=False)
        yield from _by_halves(bracket, held=True)
    yield from _by_halves(bracket, held=False)


def _at_candidates(bracket: Bracket, levels: Iterable[list[int]], *, held: bool) -> Iterator[Probe]:
    low, evidence = bracket.low, bracket.evidence
    blur = 0 if held else evidence.duration
    high = min(bracket.high, bracket.plan.last + blur)
    if len(evidence.unknown_between(low, high, held=held)) >= _UNKNOWN_TRIES:
        return
    for candidates in levels:
        inside = [Probe(at=c, held=held) for c in candidates if low < c < high - blur]
        inside = evidence.unasked(inside)
        if inside:
            yield inside[(len(inside) - 1) // 2]
        edge = [c - 1 - blur for c in candidates if high - blur <= c <= high]
        yield from evidence.unasked([Probe(at=at, held=held) for at in edge[:1] if at > low])


def _levels(bracket: Bracket) -> Iterator[list[int]]:
    """Yield the candidates for the change's first position, the likeliest kind first."""
    low, high = bracket.low, bracket.high
    yield _around(bracket, bracket.plan.hints)
    for rhythm in bracket.plan.rhythms:
        yield _sorted_within(low, high, rhythm(low, high + 1))


def _around(bracket: Bracket, hints: Sequence[int]) -> list[int]:
    candidates = [at for hint in hints for at in (hint, hint + 1)]
    return _sorted_within(bracket.low, bracket.high, candidates)


def _sorted_within(low: int, high: int, positions: Sequence[int]) -> list[int]:
    return sorted({position for position in positions if low < position <= high})


def _by_halves(bracket: Bracket, *, held: bool) -> Iterator[Probe]:
    """Halve what can still be told apart, keeping clear of positions that cannot be judged.

    With such positions inside, the gaps at both ends come first: only they can narrow the bracket
    without an answer from the midst of what cannot be judged.
    """
    blur = 0 if held else bracket.evidence.duration
    low = max(bracket.low, bracket.plan.first - 1)
    high = min(bracket.high - blur, bracket.plan.last + 1)
    unknown = bracket.evidence.unknown_between(low, high, held=held)
    if len(unknown) >= _UNKNOWN_TRIES:
        return
    gaps = list(pairwise([low, *unknown, high]))
    outer = {gaps[0], gaps[-1]}
    gaps.sort(key=lambda gap: (gap not in outer, gap[0] - gap[1]))
    middles = [Probe(at=(a + b) // 2, held=held) for a, b in gaps if b - a > 1]
    yield from bracket.evidence.unasked(middles)


def suspect_ends(bracket: Bracket) -> list[Question]:
    """Return the questions that make sure of both ends before a bracket is narrowed down.

    An end that was answered only once is asked again, so that a coin toss does not cost a whole
    bisection; several times if there was disagreement anywhere. Where held probes will be needed,
    the second question is asked with a held clock: it tells at once whether the software bears
    that. If the answer is another one, either the change comes while the step runs, or the
    software does not bear it, and a running clock right before that shows which.
    """
    if bracket.is_narrow:
        return []
    before, after = bracket.change.before, bracket.change.after
    near_low = sorted(bracket.before, key=lambda record: -record[1].first)
    near_high = sorted(bracket.after, key=lambda record: record[1].last)
    return [
        *_bounds_asked_again(bracket, near_low, before),
        *_bounds_asked_again(bracket, near_high, after),
    ]


def _bounds_asked_again(bracket: Bracket, side: list[Record], state: State) -> list[Question]:
    """Ask the nearest answer again, unless one as far as the scan's next position is solid."""
    evidence = bracket.evidence
    at = side[0][0].at
    is_disputed = bracket.holds and evidence.agreeing(at, state.opposite, held=True) > 0
    for probe, _answer in side:
        if evidence.is_solid(probe.at, state) and not (is_disputed and probe.at == at):
            return []
        if probe.at in bracket.plan.scanned:
            break
    again = [Probe(at=at, held=True)] if bracket.holds else []
    again += [Probe(at=at, attempt=attempt) for attempt in range(evidence.caution)]
    if is_disputed:
        clear = 2 * evidence.duration + SLACK
        again.append(Probe(at=max(bracket.plan.first, at - clear)))
    return [Question(probe=probe, expected=state) for probe in evidence.unasked(again)[:1]]


_COUNTED_TIMES = 6
"""How often a place that was answered in two ways is asked in all, to tell the odds."""

_COUNTED_PLACES = 2
"""At how many such places."""


def next_questions(plan: Plan, evidence: Evidence) -> list[Question]:
    """Return all questions whose turn it is, the most important first.

    Returns: None of them asked before; empty when the search is done.
    """
    scan = evidence.unasked([Probe(at=at) for at in plan.scanned])
    if scan:
        return [Question(probe=probe) for probe in scan]
    explanation = explain(evidence)
    if evidence.is_erratic:
        return _counting(evidence)
    if doubts := settle_contradictions(plan, evidence, explanation):
        return doubts
    questions = []
    for index in range(len(explanation.changes)):
        questions += _on_change(Bracket(plan, evidence, explanation, index))
    questions += _revealing(plan, evidence, explanation)
    questions += _counting(evidence)
    return list({question.probe: question for question in questions}.values())


def _on_change(bracket: Bracket) -> list[Question]:
    likely = likely_probe(bracket)
    if likely:
        return [Question(probe=likely)]
    ends = suspect_ends(bracket)
    if ends:
        return ends
    probe = next_probe(bracket)
    return [Question(probe=probe)] if probe else confirmations(bracket)


def _revealing(plan: Plan, evidence: Evidence, explanation: Explanation) -> list[Question]:
    """Look right behind hints where the answers around them agree: a window may begin there."""
    if evidence.split:
        return []
    hints = sorted(plan.hints, reverse=True) if plan.behind is None else plan.behind
    behind = list(dict.fromkeys(h + 1 for h in hints if plan.first <= h < plan.last))
    asked = sorted({probe.at for probe in evidence.answers})
    room = plan.reveal - sum(Probe(at=at) in evidence.answers for at in behind)
    probes: list[Probe] = []
    for at in behind:
        looked = [other for other in asked if at <= other <= at + evidence.duration]
        is_clustered = any(abs(probe.at - at) <= evidence.duration for probe in probes)
        is_located = any(change.low < at <= change.high + 1 for change in explanation.changes)
        if not (looked or is_clustered or is_located):
            probes.append(Probe(at=at))
    return [Question(probe=probe) for probe in probes[: max(room, 0)]]


def _counting(evidence: Evidence) -> list[Question]:
    return [
        Question(probe=probe)
        for at, held in evidence.split[:_COUNTED_PLACES]
        for probe in evidence.unasked(
            [Probe(at=at, held=held, attempt=attempt) for attempt in range(_COUNTED_TIMES)]
        )
    ]
