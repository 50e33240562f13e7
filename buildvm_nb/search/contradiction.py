"""When held and running clocks contradict each other: which of them is to be believed.

Either the software dislikes a held clock, or there are windows that no running clock has seen yet.
"""

from buildvm_nb.search.answers import Probe, State
from buildvm_nb.search.bracket import SLACK, Question
from buildvm_nb.search.evidence import Evidence
from buildvm_nb.search.explanation import Explanation, lone_dissenters
from buildvm_nb.search.plan import Plan

__all__ = ["settle_contradictions"]


def settle_contradictions(
    plan: Plan, evidence: Evidence, explanation: Explanation
) -> list[Question]:
    """Return the questions that settle whether answers under a held clock are to be left out.

    An answer that stands alone against all others is asked again first. Then a running clock is
    asked at a place where a held one contradicts it, and right before that. If it answers there as
    the held one did, there is a window. If it does not, the contradiction is proven, and there is
    nothing more to ask.

    Parameters
    ----------
    plan : Plan
        What is searched.
    evidence : Evidence
        What is known.
    explanation : Explanation
        How it is explained.

    Returns
    -------
    list of Question
        Empty when there is no contradiction or it is settled.
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
