"""The search itself: ask, conclude, ask on."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from buildvm_nb.errors import BudgetSpent, SearchError
from buildvm_nb.search.explanation import Evidence, Explanation, Record, explain
from buildvm_nb.search.plan import (
    Answer,
    Ask,
    Assumption,
    AssumptionKind,
    Disagreement,
    Plan,
    Probe,
    State,
    Stretch,
    Survey,
    Transition,
)
from buildvm_nb.search.questions import (
    Bracket,
    Question,
    confirmations,
    count_confirmed,
    next_questions,
)

__all__ = [
    "find_transitions",
]

# From all answers to what the search concludes.


def summarize(plan: Plan, evidence: Evidence, asked: int, *, exhausted: bool) -> Survey:
    """Write down what the answers say."""
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


def find_transitions(ask: Ask, plan: Plan, known: Mapping[Probe, Answer] | None = None) -> Survey:
    """Find where the state changes along an axis, with as few questions as possible.

    Workers that are free are given the questions that will come next if the present ones are
    answered one way or the other. Their answers wait until it is their turn, so that the search
    takes the same course whatever `Plan.workers` is; at the end those that were not needed are
    looked at as well, and may reveal more.

    Parameters
    ----------
    ask : callable
        Answers up to `Plan.workers` probes at a time, in their order. `BudgetSpent` ends the search
        with what there is; what else it raises is passed on.
    plan : Plan
        What to search.
    known : mapping of Probe to Answer, optional
        Answers from before; those outside the range do not count. Nothing in it is asked again.

    Returns
    -------
    Survey
        What was found, also when the budget ended first.

    Raises
    ------
    SearchError
        If `ask` returns another number of answers than it was asked for.
    """
    evidence = Evidence(plan, known or {})
    waiting: dict[Probe, Answer] = {}
    asked, most = 0, plan.workers
    while True:
        questions = next_questions(plan, evidence)
        room = most if plan.budget is None else min(most, plan.budget - asked)
        turn = questions[0].probe if questions else None
        if turn in waiting:
            evidence = evidence.extended({turn: waiting.pop(turn)})
        elif questions and room > 0:
            probes = _foresee(plan, evidence, waiting, room)
            try:
                waiting |= _ask_all(ask, probes)
            except BudgetSpent:  # several at once may be too many where one is not
                most = 1 if len(probes) > 1 else 0
            else:
                asked += len(probes)
        elif waiting:
            evidence = evidence.extended(waiting)
            waiting = {}
        else:
            return summarize(plan, evidence, asked, exhausted=bool(questions))


def _ask_all(ask: Ask, probes: Sequence[Probe]) -> dict[Probe, Answer]:
    answers = ask(probes)
    if len(answers) != len(probes):
        raise SearchError(
            f"wrong number of answers: {len(answers)}; allowed: one for each of the "
            f"{len(probes)} probes"
        )
    return dict(zip(probes, answers, strict=True))


def _foresee(
    plan: Plan, evidence: Evidence, waiting: Mapping[Probe, Answer], room: int
) -> list[Probe]:
    """Return the present questions, and those to come if these are answered GOOD, or BAD."""
    wanted: dict[Probe, None] = {}
    futures = deque([evidence])
    looks = 1 + 2 * room
    while futures and looks and len(wanted) < room:
        future = futures.popleft()
        questions = next_questions(plan, future)
        wanted |= {q.probe: None for q in questions if q.probe not in waiting}
        futures.extend(future.extended(more) for more in _guess(questions, future, waiting))
        looks -= 1
    return list(wanted)[:room]


def _guess(
    questions: list[Question], evidence: Evidence, waiting: Mapping[Probe, Answer]
) -> Iterator[dict[Probe, Answer]]:
    """Yield answers for two futures, for one where all are expected, for none without questions."""
    seen: list[dict[Probe, Answer]] = []
    for otherwise in (State.GOOD, State.BAD):
        guesses = {
            question.probe: waiting.get(question.probe)
            or Answer(
                state=question.expected or otherwise,
                first=question.probe.at,
                last=question.probe.at + (0 if question.probe.held else evidence.duration),
            )
            for question in questions
        }
        if guesses and guesses not in seen:
            seen.append(guesses)
            yield guesses
