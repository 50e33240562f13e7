"""The next probe that narrows a bracket down.

Hints come first, then the rhythms from coarse to fine, then halving. While the bracket is much
wider than a step takes, halving asks with a running clock, which every software bears; below that
the clock must be held.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from buildvm_nb.search.answers import Probe, State
from buildvm_nb.search.bracket import SLACK, Bracket, Question
from buildvm_nb.search.evidence import Record

__all__ = ["likely_probe", "next_probe", "suspect_ends"]

_UNKNOWN_TRIES = 8
"""With so many positions inside that cannot be judged a bracket is left as it is."""


def likely_probe(bracket: Bracket) -> Probe | None:
    """Return a probe beside a likely place, if there is one in a bracket.

    Parameters
    ----------
    bracket : Bracket
        Where the change lies.

    Returns
    -------
    Probe or None
        None when all of them have been asked about. Two answers right beside a change make the
        far ends of its bracket unimportant, so these come before all doubts about those.
    """
    if bracket.is_narrow or bracket.is_split or not bracket.plan.likely:
        return None
    likely = _around(bracket, bracket.plan.likely)
    return next(_at_candidates(bracket, [likely], held=bracket.holds), None)


def next_probe(bracket: Bracket) -> Probe | None:
    """Return the probe that narrows a bracket most.

    Parameters
    ----------
    bracket : Bracket
        Where the change lies.

    Returns
    -------
    Probe or None
        None when it is as narrow as it can be made.
    """
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

    Parameters
    ----------
    bracket : Bracket
        Where the change lies.

    Returns
    -------
    list of Question
        Empty when both ends are sure.
    """
    if bracket.is_narrow:
        return []
    before, after = bracket.change.before, bracket.change.after
    near_low = sorted(bracket.before, key=lambda record: -record[1].first)
    near_high = sorted(bracket.after, key=lambda record: record[1].last)
    return [
        *_asked_again(bracket, near_low, before),
        *_asked_again(bracket, near_high, after),
    ]


def _asked_again(bracket: Bracket, side: list[Record], state: State) -> list[Question]:
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
