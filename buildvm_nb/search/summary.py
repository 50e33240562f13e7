"""From all answers to what the search concludes."""

from collections.abc import Iterator
from itertools import pairwise

from buildvm_nb.search.answers import State
from buildvm_nb.search.bracket import Bracket
from buildvm_nb.search.confirming import confirmations, count_confirmed
from buildvm_nb.search.evidence import Evidence, Record
from buildvm_nb.search.explanation import Explanation, explain
from buildvm_nb.search.plan import Plan
from buildvm_nb.search.survey import (
    Assumption,
    AssumptionKind,
    Disagreement,
    Stretch,
    Survey,
    Transition,
)

__all__ = ["summarize"]


def summarize(plan: Plan, evidence: Evidence, asked: int, *, exhausted: bool) -> Survey:
    """Write down what the answers say.

    Parameters
    ----------
    plan : Plan
        What was searched.
    evidence : Evidence
        All answers.
    asked : int
        How many of them were asked for.
    exhausted : bool
        Whether there were questions left.

    Returns
    -------
    Survey
        The conclusions.
    """
    explanation = explain(evidence)
    transitions = tuple(
        _describe(Bracket(plan, evidence, explanation, index))
        for index in range(len(explanation.changes))
    )
    stretches = [explanation.stretch(index) for index in range(len(transitions) + 1)]
    return Survey(
        transitions=transitions,
        stretches=tuple(_cover(records) for records in stretches if records),
        unknown=tuple(_unknown(evidence)),
        disagreements=tuple(
            Disagreement(at=at, held=held, counts=evidence.counts(at, held=held))
            for at, held in evidence.split
        ),
        assumptions=(
            *(a for records in stretches for a in _unseen(plan, records)),
            *(a for transition in transitions for a in _one_change(transition)),
            *_contradicted(explanation),
        ),
        answers=dict(evidence.answers),
        asked=asked,
        exhausted=exhausted,
    )


def _describe(bracket: Bracket) -> Transition:
    is_doubtful = bracket.is_split or (bracket.needs_hold and not bracket.change.trusts_hold)
    is_exact = bracket.is_narrow and not is_doubtful and not confirmations(bracket)
    return Transition(
        last_before=bracket.low,
        first_after=bracket.high,
        before=bracket.change.before,
        after=bracket.change.after,
        is_exact=is_exact,
        confirmed=count_confirmed(bracket),
        hint=_explaining_hint(bracket) if is_exact else None,
    )


def _explaining_hint(bracket: Bracket) -> int | None:
    if bracket.high - bracket.low != 1:
        return None
    for hint in (bracket.high, bracket.high - 1):
        if hint in bracket.plan.hints:
            return hint
    rhythms = bracket.plan.rhythms
    is_rhythmic = any(bracket.high in rhythm(bracket.low, bracket.high + 1) for rhythm in rhythms)
    return bracket.high if is_rhythmic else None


def _cover(records: tuple[Record, ...]) -> Stretch:
    return Stretch(
        state=records[0][1].state,
        first=min(answer.first for _, answer in records),
        last=max(answer.last for _, answer in records),
    )


def _unknown(evidence: Evidence) -> Iterator[Stretch]:
    """Join positions that could not be judged as long as no judged one lies between them."""
    judged: dict[int, bool] = {}
    for (at, _held), counts in evidence.places.items():
        judged[at] = judged.get(at, False) or set(counts) != {State.UNKNOWN}
    run: list[int] = []
    for at, is_judged in [*judged.items(), (0, True)]:
        if not is_judged:
            run.append(at)
        elif run:
            yield Stretch(state=State.UNKNOWN, first=run[0], last=run[-1])
            run = []


def _unseen(plan: Plan, records: tuple[Record, ...]) -> Iterator[Assumption]:
    starts = [answer.first for _, answer in records]
    step = max((later - earlier for earlier, later in pairwise(starts)), default=0)
    if step > plan.resolution:
        cover = _cover(records)
        yield Assumption(
            kind=AssumptionKind.NO_SHORT_WINDOW, first=cover.first, last=cover.last, step=step
        )


def _one_change(transition: Transition) -> Iterator[Assumption]:
    if not transition.is_exact:
        yield Assumption(
            kind=AssumptionKind.ONE_CHANGE,
            first=transition.last_before,
            last=transition.first_after,
            step=transition.first_after - transition.last_before,
        )


def _contradicted(explanation: Explanation) -> Iterator[Assumption]:
    if explanation.rejected:
        positions = [probe.at for probe, _ in explanation.rejected]
        yield Assumption(
            kind=AssumptionKind.HELD_CONTRADICTED,
            first=min(positions),
            last=max(positions),
            step=0,
        )
