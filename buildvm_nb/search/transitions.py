"""The search itself: ask, conclude, ask on."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from buildvm_nb.errors import BudgetSpent, SearchError
from buildvm_nb.search.answers import Answer, Ask, Probe, State
from buildvm_nb.search.bracket import Question
from buildvm_nb.search.evidence import Evidence
from buildvm_nb.search.plan import Plan
from buildvm_nb.search.questions import next_questions
from buildvm_nb.search.summary import summarize
from buildvm_nb.search.survey import Survey

__all__ = ["find_transitions"]


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
