from datetime import UTC, datetime

from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, Finding, FindingKind, Hint, HintKind
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.search import Answer, Plan, State, find_transitions
from buildvm_nb.study.conclusion import date_finding, flaky_finding, windows_of
from buildvm_nb.study.dates import DateStudy, position, when

CASE = Case.parse({"id": "a", "steps": [{"name": "test", "run": "x"}]})
BASE = Finding(case=CASE, kind=FindingKind.UNDETERMINED, summary="", confidence=0)
BEGINS, ENDS = datetime(2018, 11, 28, tzinfo=UTC), datetime(2021, 11, 27, 15, 28, 58, tzinfo=UTC)


def outcome(at, verdict):
    machine = MachineSpec.parse({"date": when(at)})
    evidence = "" if verdict is Verdict.PASSED else f"expired at {at}"
    return Outcome(case=CASE, machine=machine, verdict=verdict, evidence=evidence)


def studied(is_good, *, resolution=1):
    outcomes = {}

    def ask(probes):
        answers = []
        for probe in probes:
            good = is_good(probe.at)
            verdict = Verdict.PASSED if good else Verdict.FAILED
            outcomes[probe] = outcome(probe.at, verdict)
            state = State.GOOD if good else State.BAD
            answers.append(Answer(state=state, first=probe.at, last=probe.at))
        return answers

    first, last = (position(datetime(year, 1, 1, tzinfo=UTC)) for year in (2010, 2030))
    scan = [position(datetime(2020, 1, 1, tzinfo=UTC))]
    survey = find_transitions(ask, Plan(first=first, last=last, scan=scan, resolution=resolution))
    return DateStudy(survey=survey, outcomes=outcomes, is_forked=True)


def in_window(at):
    return position(BEGINS) <= at < position(ENDS)


def test_a_window_has_both_ends_and_the_cause_of_its_end():
    cause = Hint(kind=HintKind.CERTIFICATE_ENDS, path="a.pem", line=3, instant=ENDS, why="it ends")
    finding = date_finding(studied(in_window), [cause], BASE)
    assert (finding.kind, finding.axis) == (FindingKind.TIME_TRAP, Axis.DATE)
    begin, end = finding.boundaries
    assert (begin.first_after, begin.before, begin.after) == (
        "2018-11-28T00:00:00Z",
        Verdict.FAILED,
        Verdict.PASSED,
    )
    assert (end.last_before, end.first_after) == ("2021-11-27T15:28:57Z", "2021-11-27T15:28:58Z")
    assert (begin.cause, end.cause) == (None, cause)
    [window] = finding.windows
    assert (window.passes_from, window.passes_until) == (BEGINS, when(position(ENDS) - 1))
    assert "fails from 2021-11-27T15:28:58Z on (a.pem:3: it ends)" in finding.summary
    assert finding.failing_line == f"expired at {position(ENDS)}"


def test_a_bracket_wider_than_a_second_is_never_called_exact_nor_explained():
    cause = Hint(kind=HintKind.CERTIFICATE_ENDS, path="a.pem", instant=ENDS, why="it ends")
    study = studied(lambda at: at < position(ENDS), resolution=86_400)
    finding = date_finding(study, [cause], BASE)
    [boundary] = finding.boundaries
    assert not boundary.is_exact
    assert boundary.cause is None
    assert f"between {boundary.last_before} and {boundary.first_after}" in finding.summary
    assert finding.summary.endswith("(in between, but not proven to be why: a.pem: it ends)")
    assert boundary.last_before < "2021-11-27T15:28:58Z" <= boundary.first_after


def test_two_windows_are_told_in_order():
    good = [(2011, 2013), (2019, 2021)]
    survey = studied(lambda at: any(a <= when(at).year < b for a, b in good)).survey
    windows = windows_of(survey)
    assert windows[-1].passes_from == datetime(2019, 1, 1, tzinfo=UTC)
    assert windows[-1].passes_until == datetime(2020, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_runs_that_do_not_agree_are_counted():
    runs = [outcome(5 * 86_400, verdict) for verdict in (Verdict.PASSED, Verdict.FAILED)] * 2
    finding = flaky_finding(runs, Axis.DATE, BASE)
    assert finding.kind is FindingKind.FLAKY
    assert finding.reruns[0].verdicts == {Verdict.PASSED: 2, Verdict.FAILED: 2}
    assert "2 of 4" in finding.summary
