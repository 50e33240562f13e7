"""What a timeline makes of outcomes that are there already."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.search import Answer, Probe, State
from buildvm_nb.study.dates import DateStudy, position, state_of
from buildvm_nb.study.timeline import Timeline

START = datetime(2026, 11, 23, tzinfo=UTC)
STEPS = [{"name": name, "run": f"make {name}"} for name in ("prepare", "build", "test")]
CASE = Case.parse({"id": "demo", "steps": STEPS})


def make_timeline(*runs):
    """Make a timeline of (failing step, output), a day apart; a step of None passed."""
    outcomes, answers, logs = {}, {}, {}
    for day, (step, output) in enumerate(runs):
        at = START + timedelta(days=day)
        outcome = Outcome(
            case=CASE,
            machine=MachineSpec(date=at),
            verdict=Verdict.FAILED if step else Verdict.PASSED,
            failing_step=step,
        )
        logs[outcome.id] = f"==> {step}: make {step}\n{output}\n"
        probe = Probe(at=position(at))
        outcomes[probe] = outcome
        answers[probe] = Answer(state=state_of(outcome), first=probe.at, last=probe.at)
    study = DateStudy(survey=SimpleNamespace(answers=answers), outcomes=outcomes, is_forked=False)
    lab = SimpleNamespace(case=CASE, log=lambda outcome: logs[outcome.id], workers=1)
    return Timeline(lab, MachineSpec(date=START), study, (START, START + timedelta(days=99)))


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("prepare (step)", "good good good bad"),
        ("build (step)", "good good bad unknown"),
        ("test_a", "good bad unknown unknown"),
    ],
)
def test_a_step_before_the_tests_is_judged_like_a_test(name, states):
    timeline = make_timeline(
        (None, ""), ("test", "FAILED test_a"), ("build", "FAILED test_a"), ("prepare", "E")
    )
    assert timeline.states(timeline.judge_of(name)) == tuple(map(State, states.split()))


def test_what_a_step_was_told_to_do_is_no_output_of_it():
    timeline = make_timeline((None, ""), ("test", "==> FAILED\nFAILED test_a"))
    ((_, _, failure),) = timeline.failures()
    assert failure.text == "==> FAILED\nFAILED test_a\n"
    assert (failure.tests, failure.is_whole) == (("test_a",), True)


def test_the_nearest_outcome_of_a_state_lies_on_the_side_that_is_asked_for():
    timeline = make_timeline((None, ""), (None, ""), ("test", "FAILED test_a"), (None, ""))
    at = position(START + timedelta(days=2))
    before = timeline.nearest(state_of, at, State.GOOD, is_after=False)
    after = timeline.nearest(state_of, at, State.GOOD, is_after=True)
    assert [one.machine.date.day for one in (before, after)] == [24, 26]
    assert timeline.nearest(state_of, at + 1, State.BAD, is_after=True) is None
