"""What to ask next: a function of the plan and of the answers so far, and of nothing else.

As the search keeps no other state, it can be resumed from any set of answers, and it can look
ahead: pretend an answer, and see what would be asked then.
"""

from buildvm_nb.search.answers import Probe
from buildvm_nb.search.bracket import Bracket, Question
from buildvm_nb.search.confirming import confirmations
from buildvm_nb.search.contradiction import settle_contradictions
from buildvm_nb.search.evidence import Evidence
from buildvm_nb.search.explanation import Explanation, explain
from buildvm_nb.search.locating import likely_probe, next_probe, suspect_ends
from buildvm_nb.search.plan import Plan

__all__ = ["next_questions"]

_COUNTED_TIMES = 6
"""How often a place that was answered in two ways is asked in all, to tell the odds."""

_COUNTED_PLACES = 2
"""At how many such places."""


def next_questions(plan: Plan, evidence: Evidence) -> list[Question]:
    """Return all questions whose turn it is, the most important first.

    Parameters
    ----------
    plan : Plan
        What is searched.
    evidence : Evidence
        What is known.

    Returns
    -------
    list of Question
        None of them asked before; empty when the search is done.
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
