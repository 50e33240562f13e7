"""Forecasts of simulated projects: an executor answers in place of guests, all else is real."""

import random
import re
from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Finding, Forecast, ForecastStatus
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, StepRecord, Verdict
from buildvm_nb.search import Answer, Probe, State
from buildvm_nb.study.dates import DateStudy, position, state_of
from buildvm_nb.study.evidence import count_tests
from buildvm_nb.study.executors import Means
from buildvm_nb.study.forecast import Timeline, forecast
from buildvm_nb.study.run import Trial

START = datetime(2026, 11, 23, tzinfo=UTC)
UNTIL = datetime(2034, 1, 1, tzinfo=UTC)
FIRST = datetime(2028, 9, 7, 14, 25, 1, tzinfo=UTC)
SECOND = datetime(2031, 7, 7, 3, 0, 12, tzinfo=UTC)
THIRD = datetime(2031, 7, 8, 9, 0, tzinfo=UTC)
STEP = timedelta(seconds=3)
CASE = Case.parse({"id": "demo", "steps": [{"name": "test", "run": "run-tests"}]})


class Simulated(Executor):
    """Runs three-second test suites of which `failing` says what fails at an instant."""

    def __init__(self, failing, made, *, report=None, verdict=None):
        self.made = made
        self.failing = failing
        self.report = report or report_names
        self.verdict = verdict
        self.dates = []

    def submit(self, _fn, /, order, *_):
        future = Future()
        future.set_result(self.run(order))
        return future

    def run(self, order):
        start = order.machine.date
        self.dates.append(start)
        end = start if order.probing.held else start + STEP
        names = self.failing(start, len(self.dates))
        verdict = self.verdict or (Verdict.FAILED if names else Verdict.PASSED)
        log = "==> test: run-tests\n" + self.report(names)
        record = StepRecord(
            name="test",
            verdict=verdict,
            clock_started_at=start,
            clock_ended_at=end,
            duration_s=3,
            tests_run=count_tests(log),
        )
        outcome = Outcome(
            case=order.case,
            machine=order.machine,
            verdict=verdict,
            reason="test: exited with 1" if names else "",
            evidence=log.splitlines()[-1] if names else "",
            failing_step="test" if names else None,
            steps=(record,),
            **self.made(order),
            probing=order.probing.model_copy(
                update={"drift_s": 0.01 if order.probing.held else None}
            ),
        )
        return Trial(outcome=outcome, log=log.encode())


def report_names(names):
    return "".join(f"FAILED {name}\nError: {name} has ended\n" for name in names)


def report_reason(names):
    return f"Error: {names[0]} has ended\n" if names else "fine\n"


def report_until_first(names):
    """Print like pytest -x: a run that stops at the first failure says how many tests ran."""
    if not names:
        return "==== 9 passed in 0.1s ====\n"
    return f"FAILED t/test_x.py::{names[0]} - E\n==== 1 failed, 2 passed in 0.1s ====\n"


def traps(**ends):
    """Tests that fail from an instant on, in the order in which they are given."""
    return lambda at, _number: [name for name, end in ends.items() if at >= end]


@pytest.fixture
def tell(tmp_path, made):
    with Catalog(tmp_path / "catalog.sqlite") as catalog:

        def call(failing, *, start=START, until=UNTIL, case=CASE, budget=None, **how):
            executor = Simulated(failing, made, **how)
            told = forecast(
                case,
                Means(
                    cache=Cache(tmp_path / "cache"),
                    catalog=catalog,
                    executor=executor,
                    jobs=1,
                    fresh=True,
                ),
                until=until,
                start=start,
                budget=budget,
            )
            assert len(executor.dates) == told.runs
            return told

        call.catalog = catalog
        yield call


def shown(told):
    return [(c.kind.value, c.last_before, c.first_after, c.is_exact, c.tests) for c in told.changes]


SECOND_BEFORE = timedelta(seconds=1)


def test_a_break_is_told_to_the_second_and_recorded_as_a_finding(tell):
    told = tell(traps(test_a=FIRST))
    assert told.status is ForecastStatus.BREAKS
    assert shown(told) == [("breaks", FIRST - SECOND_BEFORE, FIRST, True, ("test_a",))]
    (change,) = told.changes
    assert change.of_whole
    assert change.confirmed >= 2
    assert change.verdict is Verdict.FAILED
    assert change.failing_line == "Error: test_a has ended"
    assert told.sound_until == FIRST - SECOND_BEFORE
    finding = tell.catalog.finding(told.finding)
    assert finding.kind == "time-trap"
    assert finding.boundaries[0].first_after == "2028-09-07T14:25:01Z"
    assert (finding.studied_from, finding.studied_until) == (START, UNTIL)
    assert set(told.evidence) == {outcome.id for outcome in tell.catalog.documents()}
    assert Forecast.model_validate_json(told.model_dump_json()) == told


def test_what_breaks_behind_a_break_is_told_to_the_second_too(tell):
    told = tell(traps(test_a=FIRST, test_b=SECOND, test_c=THIRD, test_d=SECOND))
    assert shown(told) == [
        ("breaks", FIRST - SECOND_BEFORE, FIRST, True, ("test_a",)),
        ("breaks", SECOND - SECOND_BEFORE, SECOND, True, ("test_b", "test_d")),
        ("breaks", THIRD - SECOND_BEFORE, THIRD, True, ("test_c",)),
    ]
    assert [change.of_whole for change in told.changes] == [True, False, False]
    assert told.changes[2].failing_line == "Error: test_c has ended"
    assert [change.first_after for change in told.breaks_by(SECOND)] == [FIRST, SECOND]
    assert told.breaks_by(FIRST - SECOND_BEFORE) == ()


def test_what_heals_is_told(tell):
    def failing(at, _number):
        return [
            name
            for name, since, end in (("test_a", FIRST, THIRD), ("test_b", SECOND, UNTIL))
            if since <= at < end
        ]

    told = tell(failing, until=UNTIL - timedelta(days=1))
    assert [(kind, first, names) for kind, _, first, _, names in shown(told)] == [
        ("breaks", FIRST, ("test_a",)),
        ("breaks", SECOND, ("test_b",)),
        ("heals", THIRD, ("test_a",)),
    ]
    assert [change.of_whole for change in told.changes] == [True, False, False]
    assert told.changes[2].failing_line == "Error: test_a has ended"


def test_without_names_another_reason_is_told_as_a_bracket(tell):
    def failing(at, _number):
        return [] if at < FIRST else ["b" if at >= SECOND else "a"]

    told = tell(failing, report=report_reason)
    first, second = told.changes
    assert (first.first_after, first.tests, first.is_exact) == (FIRST, (), True)
    assert second.kind == "fails-otherwise"
    assert second.last_before < SECOND <= second.first_after
    assert second.failing_line == "Error: b has ended"
    assert not second.is_exact


def test_a_test_that_did_not_run_is_not_taken_for_healed(tell):
    # with -x, what fails first hides all else: test_b runs before test_a
    told = tell(traps(test_b=SECOND, test_a=FIRST), report=report_until_first)
    kinds = [(change.kind.value, change.tests) for change in told.changes]
    assert kinds[0] == ("breaks", ("t/test_x.py::test_a",))
    assert "heals" not in {kind for kind, _ in kinds}
    assert told.changes[0].first_after == FIRST
    hidden = next(c for c in told.changes if c.tests == ("t/test_x.py::test_b",))
    assert hidden.last_before < SECOND <= hidden.first_after


def test_a_sound_project_is_looked_at_and_no_finding_is_made(tell):
    told = tell(traps())
    assert (told.status, told.changes, told.finding) == (ForecastStatus.SOUND, (), None)
    assert told.sound_until == UNTIL
    assert {look.verdict for look in told.looks} == {Verdict.PASSED}
    assert any("not seen" in text for text in told.assumptions)
    assert len(tell.catalog.findings()) == 0


def test_what_fails_today_gets_no_forecast(tell):
    told = tell(traps(test_a=START))
    assert (told.status, told.today) == (ForecastStatus.FAILS_TODAY, Verdict.FAILED)
    assert (told.changes, told.sound_until, told.runs) == ((), None, 1)
    assert told.today_line == "Error: test_a has ended"


def test_a_project_younger_than_midnight_is_run_at_the_present(tell):
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if datetime.now(UTC) - midnight < timedelta(minutes=2):
        pytest.skip("the day is too young")
    young = midnight + timedelta(minutes=1)
    told = tell(lambda at, _number: ["test_a"] if at < young else [], start=None)
    assert told.status is ForecastStatus.SOUND
    assert told.start >= young


def test_a_project_that_is_flaky_is_told_as_such(tell):
    told = tell(lambda _at, number: ["test_a"] if number % 3 == 2 else [])
    assert told.status is ForecastStatus.UNDETERMINED
    assert any("does not always end alike" in text for text in told.assumptions)
    assert (told.sound_until, told.changes, told.unstable) == (None, (), ("test_a",))
    assert tell.catalog.finding(told.finding).kind == "flaky"


def test_a_break_among_failures_by_chance_is_in_the_finding_with_its_counts(tell):
    by_counts = []
    for seed in range(5):
        chance = random.Random(seed)
        told = tell(lambda at, _, c=chance: ["t"] if at >= FIRST or c.random() < 0.1 else [])
        finding = tell.catalog.finding(told.finding)
        if finding.kind == "time-trap" and finding.reruns:
            assert "not always alike: before, " in finding.summary
            [edge] = finding.boundaries
            by_counts.append((parse_instant(edge.last_before), parse_instant(edge.first_after)))
    assert by_counts
    assert all(before < FIRST <= after for before, after in by_counts)


def test_dates_that_no_rule_explains_are_told_by_the_words_of_the_finding(tell):
    told = tell(lambda at, _: ["t"] if at.toordinal() * 7919 % 5 == 1 else [])
    assert told.status is ForecastStatus.UNDETERMINED
    assert tell.catalog.finding(told.finding).summary in told.assumptions


def test_a_budget_is_kept_and_its_end_is_told(tell):
    told = tell(traps(test_a=FIRST, test_b=SECOND), budget=12)
    assert told.runs <= 12
    assert told.is_exhausted
    assert (told.status, told.changes) == (ForecastStatus.UNDETERMINED, ())
    assert "the budget of runs ended before the questions did" in told.assumptions
    [seen] = [one for one in told.assumptions if one.startswith("so far it passed at ")]
    passed, failed = (parse_instant(at) for at in re.findall(r"20[^ ]+?Z", seen))
    assert passed < FIRST <= failed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [5, 12, 30, 60])
def test_a_budget_that_ends_makes_no_break_of_chance(tell, budget, seed):
    toss = random.Random(seed)
    told = tell(lambda _at, number: ["t"] * (number > 1 and toss.random() < 0.5), budget=budget)
    assert told.status is not ForecastStatus.BREAKS


def test_a_finding_that_looked_further_back_is_not_superseded(tell):
    before = START - timedelta(days=4000)
    earlier = tell(traps(test_a=FIRST), start=before)
    assert tell(traps(test_a=FIRST)).finding == earlier.finding
    assert [type(each) for each in tell.catalog.finding_documents()] == [Finding]
    assert tell(traps(test_a=FIRST - timedelta(days=1))).finding != earlier.finding


@pytest.mark.parametrize(
    ("verdict", "error"), [(Verdict.ERROR, HostError), (Verdict.UNAVAILABLE, SourceError)]
)
def test_no_verdict_on_today_is_trouble(tell, verdict, error):
    with pytest.raises(error):
        tell(traps(), verdict=verdict)


def test_a_forecast_that_ends_before_it_begins_is_refused(tell):
    with pytest.raises(UsageError, match="ends before it begins: until 2026-11-22T00:00:00Z"):
        tell(traps(), until=START - timedelta(days=1))


# What a timeline makes of outcomes that are there already.

STEPS = [{"name": name, "run": f"make {name}"} for name in ("prepare", "build", "test")]
TIMELINE_CASE = Case.parse({"id": "demo", "steps": STEPS})


def make_timeline(*runs):
    """Make a timeline of (failing step, output), a day apart; a step of None passed."""
    outcomes, answers, logs = {}, {}, {}
    for day, (step, output) in enumerate(runs):
        at = START + timedelta(days=day)
        outcome = Outcome(
            case=TIMELINE_CASE,
            machine=MachineSpec(date=at),
            verdict=Verdict.FAILED if step else Verdict.PASSED,
            failing_step=step,
        )
        logs[outcome.id] = f"==> {step}: make {step}\n{output}\n"
        probe = Probe(at=position(at))
        outcomes[probe] = outcome
        answers[probe] = Answer(state=state_of(outcome), first=probe.at, last=probe.at)
    study = DateStudy(survey=SimpleNamespace(answers=answers), outcomes=outcomes, is_forked=False)
    lab = SimpleNamespace(case=TIMELINE_CASE, log=lambda outcome: logs[outcome.id], workers=1)
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
