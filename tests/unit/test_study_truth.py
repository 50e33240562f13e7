"""What a diagnosis says of simulated worlds is true: rules, edges, windows, and what was missed."""

from base64 import b64encode
from calendar import monthrange
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
import worlds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import World, diagnosed, without_host

from buildvm_nb.catalog.rows import finding_row
from buildvm_nb.catalog.traps import failures_of
from buildvm_nb.errors import UsageError
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, Count, FindingKind
from buildvm_nb.model.instants import is_within
from buildvm_nb.model.machine import Accelerator, Vendor
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.search import LEVEL, fisher_exact
from buildvm_nb.study import laboratory
from buildvm_nb.study.choice import passes_at
from buildvm_nb.study.choosing import Host, allows, choose_environment
from buildvm_nb.study.questions import DEFAULT_AXES, Questions
from buildvm_nb.study.run import Trial

OWN = datetime(2017, 6, 12, 14, 31, 7, tzinfo=UTC)
EDGE = datetime(2030, 11, 27, 15, 28, 58, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
DATE = (Axis.DATE,)
RULES = {
    "FREQ=WEEKLY;BYDAY=MO": lambda at: at.weekday() == 0,
    "FREQ=WEEKLY;BYDAY=SA,SU": lambda at: at.weekday() > 4,
    "FREQ=DAILY;BYMONTH=1": lambda at: at.month == 1,
    "FREQ=DAILY;BYHOUR=23": lambda at: at.hour == 23,
    "FREQ=MONTHLY;BYMONTHDAY=31": lambda at: at.day == 31,
    "FREQ=MONTHLY;BYMONTHDAY=-1": lambda at: at.day == monthrange(at.year, at.month)[1],
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29": lambda at: (at.month, at.day) == (2, 29),
    "FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=31": lambda at: (at.month, at.day) == (12, 31),
    "FREQ=YEARLY;BYYEARDAY=366": lambda at: at.timetuple().tm_yday == 366,
    "FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO,TU,WE,TH,FR,SA,SU": lambda at: at.isocalendar().week == 53,
}


@pytest.fixture(scope="module", autouse=True)
def _no_host():
    with without_host():
        yield


@pytest.fixture
def found(tmp_path):
    def run(world, **asked):
        world = world if isinstance(world, World) else World(passes=world)
        return diagnosed(world, tmp_path, **{"own": OWN, "axes": DATE} | asked)

    return run


@pytest.mark.parametrize("rule", RULES)
def test_what_fails_again_and_again_is_told_by_its_rule(found, rule):
    finding = found(lambda look: not RULES[rule](look.at))
    assert (finding.kind, finding.recurs) == (FindingKind.RECURRING, rule)
    assert finding.boundaries == ()
    assert finding.environment is not None
    assert not is_within(rule, finding.environment.date)
    assert finding.failing_line == "AssertionError: no"


def test_summer_time_is_told_by_its_days(found):
    finding = found(lambda look: not look.at.astimezone(BERLIN).dst())
    assert finding.kind is FindingKind.RECURRING
    assert "in summer time by the rules of the EU" in finding.summary
    for at, fails in ((OWN, True), (datetime(2018, 1, 5, tzinfo=UTC), False)):
        assert is_within(finding.recurs, at) is fails


@pytest.mark.parametrize("months", [(6,), (5, 6), (3, 4, 5, 6, 7, 8, 9)])
def test_one_date_is_no_rule_where_those_like_it_fail_as_well(found, months):
    def fails(at):
        return at.month in months and (at + timedelta(days=1)).day == 1

    finding = found(lambda look: not fails(look.at), own=datetime(2020, 3, 9, 22, 35, tzinfo=UTC))
    if finding.kind is FindingKind.RECURRING:
        assert _differs(finding, fails, range(2008, 2041)) == []
    else:
        assert finding.kind in {FindingKind.UNDETERMINED, FindingKind.SOUND}


@pytest.mark.parametrize("winter", [False, True])
@pytest.mark.parametrize(("zone", "region"), [("America/New_York", "US"), ("Europe/Berlin", "EU")])
def test_where_the_day_decides_summer_time_holds_from_midnight_on(found, zone, region, winter):
    def fails(at):  # as Babel 2.12.1 does, which takes today's offset
        noon = datetime(at.year, at.month, at.day, 12, tzinfo=ZoneInfo(zone))
        return bool(noon.dst()) is not winter

    finding = found(lambda look: not fails(look.at))
    season = "winter" if winter else "summer"
    assert finding.kind is FindingKind.RECURRING
    assert f"on days of {season} time by the rules of the {region}" in finding.summary
    for at in (datetime(2023, 3, 1, tzinfo=UTC) + timedelta(hours=3 * n) for n in range(2200)):
        assert is_within(finding.recurs, at) is fails(at)


@pytest.mark.parametrize("hours", [9, -8, 5.5])
def test_days_are_counted_where_the_test_counts_them(found, hours):
    finding = found(lambda look: (look.at + timedelta(hours=hours)).weekday() != 0)
    if finding.kind is FindingKind.RECURRING:
        sunday = datetime(2026, 11, 30, tzinfo=UTC) - timedelta(hours=hours, seconds=1)
        assert not is_within(finding.recurs, sunday)
        assert is_within(finding.recurs, sunday + timedelta(seconds=1))
    else:
        assert finding.kind is FindingKind.UNDETERMINED
        assert "it failed at " in finding.summary


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("hours", [9, -8, 5.5])
def test_a_held_clock_tells_the_zone_of_what_runs_for_long(found, hours, part):
    def fails(at):
        return (at + timedelta(hours=hours)).weekday() == 2

    world = World(passes=lambda look: not fails(look.at), lasts_s=900, looks=(part,))
    finding = found(world)
    assert finding.kind is FindingKind.RECURRING
    assert _differs(finding, fails) == []
    world.bears_hold = False
    finding = found(world)
    assert finding.kind is FindingKind.UNDETERMINED or _differs(finding, fails) == []


@pytest.mark.parametrize("rule", ["FREQ=WEEKLY;BYDAY=MO", "FREQ=MONTHLY;BYMONTHDAY=31"])
def test_a_rule_and_an_edge_are_both_told(found, rule):
    finding = found(lambda look: look.at < EDGE and not RULES[rule](look.at))
    assert (finding.kind, finding.recurs) == (FindingKind.RECURRING, rule)
    [edge] = finding.boundaries
    assert (edge.first_after, edge.is_exact) == ("2030-11-27T15:28:58Z", True)


def test_dates_that_fit_no_rule_are_named_and_nothing_is_concluded(found):
    def passes(look):  # Mondays of odd days, in hours that differ
        return look.at.toordinal() * 7919 % 13 > 2

    finding = found(passes)
    assert finding.kind is FindingKind.UNDETERMINED
    assert "it failed at " in finding.summary
    assert finding.recurs == ""


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    day=st.integers(0, 9000),
    second=st.integers(0, 86_399),
    lasts_s=st.sampled_from([1, 30, 600, 5000]),
    part=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_an_edge_is_an_edge_and_no_rule(found, day, second, lasts_s, part):
    edge = datetime(2012, 1, 1, tzinfo=UTC) + timedelta(days=day, seconds=second)
    world = World(passes=lambda look: look.at < edge, lasts_s=lasts_s, looks=(part,))
    finding = found(world)
    assert finding.kind is FindingKind.TIME_TRAP
    [boundary] = finding.boundaries
    assert boundary.last_before < edge.isoformat().replace("+00:00", "Z") <= boundary.first_after


@pytest.mark.parametrize("delays_s", [(0, 1), (0, 0, 0, 1), (0, 3)])
def test_a_busy_host_that_delays_runs_across_an_edge_makes_nothing_flaky(found, delays_s):
    for seed in range(20):
        world = World(
            passes=lambda look: look.at < EDGE,
            lasts_s=0,
            looks=(1.0,),
            delays_s=delays_s,
            seed=seed,
        )
        finding = found(world)
        assert finding.kind is FindingKind.TIME_TRAP, finding.summary
        (edge,) = finding.boundaries
        assert (edge.is_exact, edge.first_after) == (True, EDGE.strftime("%Y-%m-%dT%H:%M:%SZ"))


@pytest.mark.parametrize("kind", ["forks", "full"])
def test_what_comes_and_goes_by_chance_is_no_rule(found, kind):
    for seed in range(12):
        finding = found(World(passes=lambda _look: True, flaky=0.1, seed=seed))
        assert finding.kind is not FindingKind.RECURRING
        assert finding.kind in {FindingKind.FLAKY, FindingKind.SOUND, FindingKind.UNDETERMINED}


def test_a_recurring_trap_excludes_its_days_from_every_choice(found):
    finding = found(lambda look: look.at.weekday() != 0)
    monday = datetime(2026, 11, 30, 12, tzinfo=UTC)
    for date in (monday, monday - timedelta(days=1)):
        host = Host(date=date)
        choice = choose_environment(finding.case, [finding], host=host, own_date=None)
        assert choice.environment.date.weekday() != 0
        assert (Axis.DATE in choice.axes) is (date == monday)
        machine = finding.environment.model_copy(update={"date": date})
        assert allows(finding, machine, finding) is (date != monday)


def test_the_catalog_tells_when_a_recurring_trap_springs_next(found):
    finding = found(lambda look: look.at.weekday() != 0)
    assert finding_row(finding)["recurs"] == "FREQ=WEEKLY;BYDAY=MO"
    assert finding_row(finding)["springs_at"].weekday() == 0
    sunday = datetime(2026, 11, 29, 12, tzinfo=UTC)
    [row] = failures_of([finding], sunday).to_dict("records")
    assert row["next_springs_at"] == datetime(2026, 11, 30, tzinfo=UTC)
    [row] = failures_of([finding], sunday + timedelta(days=1)).to_dict("records")
    assert row["next_passes_at"] == datetime(2026, 12, 1, tzinfo=UTC)
    assert row["next_springs_at"] == datetime(2026, 12, 7, tzinfo=UTC)


def test_a_step_longer_than_an_hour_leaves_hours_unsaid(found):
    world = World(passes=lambda look: look.at.hour != 23, lasts_s=5400, looks=(0.0, 0.5, 1.0))
    finding = found(world)
    assert finding.kind is not FindingKind.TIME_TRAP
    assert finding.recurs == ""


def test_a_build_step_before_the_test_changes_nothing(found):
    steps = [{"name": "build", "run": "make"}, {"name": "test", "run": "make check"}]
    finding = found(
        lambda look: look.at.weekday() != 0, case=Case.parse({"id": "b", "steps": steps})
    )
    assert finding.recurs == "FREQ=WEEKLY;BYDAY=MO"


def test_a_finding_rests_on_counts_and_says_what_was_covered(found):
    finding = found(lambda look: look.at < EDGE)
    support = finding.support
    assert support.passing.agreed == support.passing.of > 30
    assert support.failing.agreed == support.failing.of > 6
    assert "every weekday" in support.calendar
    assert "29 February" in support.calendar
    assert support.engines == ("qemu 7.2.22",)
    assert "%" not in support.counts + support.covered
    assert f"passed {support.passing} (failures by chance: at most 1 in " in support.counts


@pytest.mark.parametrize(("runs", "bound"), [(1, None), (3, None), (6, 0.5), (300, 0.01)])
def test_agreeing_runs_bound_chance_by_the_rule_of_three(runs, bound):
    assert Count(agreed=runs, of=runs).bound == bound
    assert Count(agreed=runs - 1, of=runs).bound is None


def test_a_span_too_short_for_the_calendar_says_what_it_did_not_meet(found):
    span = {"first": datetime(2017, 6, 1, tzinfo=UTC), "last": datetime(2017, 9, 1, tzinfo=UTC)}
    support = found(lambda _look: True, **span).support
    assert "every month" in support.calendar_left
    assert "29 February" in support.calendar_left
    assert "every weekday" in support.calendar


@pytest.mark.parametrize("seed", range(6))
def test_a_boundary_among_chance_failures_is_told_with_the_counts_of_both_sides(found, seed):
    finding = found(World(passes=lambda look: look.at < EDGE, flaky=0.03, seed=seed))
    if finding.kind is FindingKind.FLAKY:
        assert finding.reruns
        return
    assert finding.kind is FindingKind.TIME_TRAP
    [edge] = finding.boundaries
    assert edge.last_before < "2030-11-27T15:28:58Z" <= edge.first_after
    if finding.reruns:
        assert "not always alike: before, " in finding.summary
        assert "Fisher's exact test at 0.001" in finding.summary


def test_chance_failures_alone_are_no_boundary(found):
    kinds = {found(World(passes=lambda _: True, flaky=0.1, seed=seed)).kind for seed in range(15)}
    assert kinds <= {FindingKind.FLAKY, FindingKind.SOUND}


def test_few_runs_behind_an_edge_are_proven_by_new_ones(found):
    located = []
    for seed in range(9):
        late = datetime(2038, 10, 14, 1, 50, 43, tzinfo=UTC)
        finding = found(World(passes=lambda look, at=late: look.at < at, flaky=0.1, seed=seed))
        for edge in finding.boundaries:
            located.append(seed)
            assert edge.last_before < "2038-10-14T01:50:43Z" <= edge.first_after
    assert len(located) > 5


def test_failures_by_chance_that_look_like_odd_days_are_asked_again(found):
    kinds = {
        found(World(passes=lambda look: look.at < EDGE, flaky=0.15, seed=seed)).kind
        for seed in range(24)
    }
    assert kinds <= {FindingKind.FLAKY, FindingKind.TIME_TRAP}


def test_what_fails_on_no_axis_is_asked_again(found):
    for seed in range(30):
        world = World(passes=lambda _look: True, flaky=0.05, seed=seed)
        finding = found(world, axes=(Axis.CORES,))
        failed = any(one.verdict is Verdict.FAILED for one in world.ran)
        assert finding.kind is (FindingKind.FLAKY if failed else FindingKind.SOUND)


@pytest.mark.parametrize("axis", [Axis.CORES, Axis.KERNEL, Axis.TIMEZONE, Axis.CPU])
def test_chance_alone_is_no_dependence_on_a_machine(found, axis):
    asked = {"axes": (axis,)} | ({"own": None} if axis is Axis.TIMEZONE else {})
    for seed in range(40):
        finding = found(World(passes=lambda _: True, flaky=0.5, seed=seed), **asked)
        assert finding.kind in {FindingKind.FLAKY, FindingKind.SOUND, FindingKind.ALWAYS_FAILING}


def test_a_dependence_on_cores_is_repeated_until_chance_does_not_explain_it(found):
    world = World(passes=lambda look: look.cores > 1)
    finding = found(world, axes=(Axis.CORES,))
    assert finding.kind is FindingKind.CORES_DEPENDENT
    counts = Counter((one.machine.cpu_count, one.verdict) for one in world.ran)
    sides = (0, counts[1, Verdict.FAILED]), (counts[2, Verdict.PASSED], 0)
    assert fisher_exact(*sides) < LEVEL
    short = found(lambda look: look.cores > 1, axes=(Axis.CORES,), budget=7)
    assert short.kind is FindingKind.UNDETERMINED
    assert "so far it passed with 2 cores and failed with 1 core; chance was" in short.summary


@pytest.mark.parametrize("budget", [3, 8, 12, 30])
def test_a_budget_that_ends_makes_no_trap_of_a_coin(found, budget):
    for seed in range(25):
        world = World(passes=lambda _: True, flaky=0.5, seed=seed)
        finding = found(world, first=OWN, last=datetime(2021, 6, 12, tzinfo=UTC), budget=budget)
        assert finding.kind in {FindingKind.FLAKY, FindingKind.UNDETERMINED}
        if finding.kind is FindingKind.UNDETERMINED:
            assert f"the budget of {budget} runs ended" in finding.summary


@pytest.mark.parametrize("budget", [9, 15, 22, 36, 60])
@pytest.mark.parametrize("rule", RULES)
def test_a_budget_that_ends_makes_no_windows_of_a_rule(found, rule, budget):
    finding = found(lambda look: not RULES[rule](look.at), budget=budget)
    if finding.kind is FindingKind.RECURRING:
        assert finding.recurs == rule
    else:
        assert finding.kind is FindingKind.UNDETERMINED
        assert f"the budget of {budget} runs ended" in finding.summary


def test_an_edge_is_told_once_it_is_confirmed_and_what_is_behind_it_was_looked_at(found):
    def told(budget):
        return found(World(passes=lambda look: look.at < EDGE), budget=budget)

    whole = told(None)
    kinds = [told(budget).kind for budget in range(8, whole.runs + 1, 4)]
    first = kinds.index(FindingKind.TIME_TRAP)
    assert {*kinds[:first]} == {FindingKind.UNDETERMINED}
    assert {*kinds[first:]} == {FindingKind.TIME_TRAP}
    assert first < len(kinds) * 3 // 4
    short = told(8)
    assert "so far it passed at 20" in short.summary
    assert not short.boundaries


def test_what_fails_in_a_few_runs_is_asked_again_before_it_always_fails(found):
    for seed in range(60):
        world = World(passes=lambda _: True, flaky=0.6, seed=seed)
        finding = found(world, first=OWN, last=datetime(2017, 6, 14, tzinfo=UTC))
        if finding.kind is FindingKind.ALWAYS_FAILING:
            assert finding.support.failing.of > 8


def test_a_hinted_trap_takes_few_runs(found):
    hints = (f"EXPIRES = '{EDGE:%Y-%m-%dT%H:%M:%SZ}'\n",)
    for effort, most in (("quick", 10), ("normal", 60)):
        finding = found(World(passes=lambda look: look.at < EDGE), hints=hints, effort=effort)
        [edge] = finding.boundaries
        assert (edge.first_after, edge.is_exact) == ("2030-11-27T15:28:58Z", True)
        assert finding.runs <= most


@pytest.mark.parametrize("steps", [["test"], ["build", "test"]])
def test_a_constant_of_long_ago_is_a_hint_by_the_cases_own_date(found, steps):
    edge = datetime(2016, 2, 24, 1, 15, 17, tzinfo=UTC)
    finding = found(
        World(passes=lambda look: look.at < edge),
        own=datetime(2008, 8, 21, 2, 25, 16, tzinfo=UTC),
        hints=(f"EXPIRES = '{edge:%Y-%m-%dT%H:%M:%SZ}'\n",),
        case=Case.parse({"id": "old", "steps": [{"name": n, "run": n} for n in steps]}),
        effort="quick",
        axes=DEFAULT_AXES,
    )
    [told] = finding.boundaries
    assert (told.first_after, told.is_exact) == ("2016-02-24T01:15:17Z", True)
    assert finding.runs <= 10


def test_a_quick_look_says_that_it_looked_for_no_rule(found):
    finding = found(lambda _look: True, effort="quick")
    assert any("no rule of the calendar" in one for one in finding.assumptions)
    assert "no rule of the calendar" in finding.summary


@pytest.mark.parametrize("year", [2022, 2024, 2028, 2030])
def test_each_year_around_today_is_looked_at(found, year):
    begins = datetime(year, 1, 15, tzinfo=UTC)
    ends = begins + timedelta(days=430)
    own = datetime(2008, 6, 12, tzinfo=UTC)
    finding = found(lambda look: not begins <= look.at < ends, own=own)
    assert [edge.first_after for edge in finding.boundaries] == [
        f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (begins, ends)
    ]


@pytest.mark.parametrize("claimed", [(), (2019, 2020, 2041, 2042)])
def test_what_passes_in_one_year_is_tried_in_all_years_whose_days_may_fall_alike(found, claimed):
    alike = {2019, 2030, 2041}  # Easter is on 21 April, and the year begins on a Tuesday
    own = datetime(2019, 7, 28, 17, 13, 7, tzinfo=UTC)
    finding = found(
        lambda look: look.at.year in alike,
        own=own,
        last=datetime(2042, 12, 31, tzinfo=UTC),
        around=tuple(datetime(year, 1, 1, tzinfo=UTC) for year in claimed),
    )
    assert finding.kind is FindingKind.TIME_TRAP
    assert [window.passes_from.year for window in finding.windows] == sorted(alike)
    assert all(edge.is_exact for edge in finding.boundaries)


@pytest.mark.parametrize("own", [OWN, OWN - timedelta(days=999.9), OWN + timedelta(days=777.7)])
def test_where_nothing_differs_no_gap_of_seven_months_is_left_around_the_own_date(found, own):
    world = World(passes=lambda _look: True)
    finding = found(world, own=own)
    dates = sorted(one.machine.date for one in world.ran)
    near = [at for at in dates if abs(at - own) < timedelta(days=5 * 365)]
    assert max(b - a for a, b in pairwise(near)) < timedelta(days=7 * 30.5)
    assert finding.runs <= 72


def test_thorough_finds_a_window_of_a_month(found):
    begins = datetime(2019, 3, 5, 7, tzinfo=UTC)
    ends = begins + timedelta(days=31)
    finding = found(lambda look: not begins <= look.at < ends, effort="thorough")
    assert [edge.first_after for edge in finding.boundaries] == [
        f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (begins, ends)
    ]


def test_an_effort_that_is_none_is_a_usage_error():
    with pytest.raises(UsageError, match="unknown effort: 'hard'; allowed: quick, normal, thor"):
        Questions(effort="hard")
    assert Questions(effort="quick").expected_runs().startswith("about 13 guest runs where nothing")
    assert Questions(budget=12).expected_runs().endswith("; at most 12")
    assert "(65 where the sources or a failing log name its date)" in Questions().expected_runs()
    assert "name its date" not in Questions(axes=(Axis.CPU,)).expected_runs()


@pytest.mark.parametrize("least", [2, 4])
def test_what_needs_more_cores_is_no_build_that_always_fails(found, least):
    finding = found(lambda look: look.cores >= least, axes=DEFAULT_AXES)
    assert (finding.kind, finding.axis) == (FindingKind.CORES_DEPENDENT, Axis.CORES)
    assert finding.environment.cpu_count >= least


@pytest.mark.parametrize(
    "passes",
    [
        lambda look: look.vendor != "AMD",
        lambda look: look.vendor != "Intel",
        lambda look: "avx2" in look.features or "avx" not in look.features,
    ],
    ids=["not on AMD", "not on Intel", "not with AVX alone"],
)
def test_a_cpu_of_each_maker_and_generation_is_tried(found, passes):
    finding = found(passes, axes=(Axis.CPU,))
    assert finding.kind is FindingKind.CPU_DEPENDENT


@pytest.mark.parametrize(
    ("maker", "told"),
    [
        (Vendor.INTEL, "EPYC, which has that, passes as GenuineIntel only"),
        (None, "EPYC: fails although it has avx2; what else it lacks was not found"),
    ],
)
def test_what_a_model_lacks_that_has_the_feature_is_asked_too(found, maker, told):
    def passes(look):
        fits = look.vendor is maker if maker else not look.cpu.startswith("EPYC")
        return "avx2" in look.features and fits

    finding = found(World(passes=passes), axes=(Axis.CPU,))
    assert (finding.kind, finding.features) == (FindingKind.CPU_DEPENDENT, ("avx2",))
    assert "EPYC" in finding.failing_cpus
    assert any(told in one for one in (finding.summary, *finding.assumptions))


def test_a_trap_is_tried_on_another_cpu_and_kernel_and_with_two_cores(found):
    alike = found(lambda look: look.at < OWN + timedelta(days=900), axes=DEFAULT_AXES)
    assert alike.support.crossed.startswith("alike on CPU ")
    unlike = found(
        lambda look: look.at < OWN + timedelta(days=900) or look.cores > 1, axes=DEFAULT_AXES
    )
    assert unlike.summary.endswith("; not so with 2 cores")


@dataclass(frozen=True)
class Commit:
    id: str
    committed_at: datetime
    subject: str


class History(World):
    """Twenty commits; `verdict` tells the failing step of a number and an engine."""

    def __init__(self, verdict):
        super().__init__(passes=lambda _look: True)
        self.verdict = verdict

    def answer(self, order):
        trial = super().answer(order)
        is_fast = order.machine.accelerator is Accelerator.UML
        failed = self.verdict(int(order.case.source.commit, 16), is_fast)
        changes = {"verdict": Verdict.FAILED, "failing_step": failed} if failed else {}
        return Trial(outcome=trial.outcome.model_copy(update=changes), log=b"")


@pytest.fixture
def found_between(tmp_path, monkeypatch):
    commits = tuple(
        Commit(f"{number:040x}", OWN + timedelta(days=number), f"change {number}")
        for number in range(20)
    )
    source = {"kind": "git", "url": "https://example.org/x.git", "commit": "0" * 40}
    steps = [{"name": "build", "run": "make"}, {"name": "test", "run": "make check"}]
    case = Case.parse({"id": "history", "source": source, "steps": steps})
    monkeypatch.setattr("buildvm_nb.study.ordered.between_commits", lambda *_: commits)
    monkeypatch.setattr(
        laboratory, "gather", lambda *_, **__: SimpleNamespace(main=None, fetched=())
    )

    def run(world, *, is_fast):
        monkeypatch.setattr("buildvm_nb.study.scouting.uml_status", lambda _: (is_fast, ""))
        asked = {"axes": (Axis.COMMIT,), "good": "a", "bad": "b"}
        finding = diagnosed(world, tmp_path, case=case, **asked)
        return finding, [int(edge.first_after, 16) for edge in finding.boundaries]

    return run


@pytest.mark.parametrize(
    ("verdict", "edges"),
    [
        (lambda at: "build" if at >= 12 else None, [12]),
        (lambda at: "test" if at >= 12 else "build" if at in {7, 8} else None, [12]),
        (lambda at: "test" if 5 <= at <= 9 else None, [5, 10]),
        (lambda _at: None, []),
    ],
    ids=["the build breaks", "some do not build", "undone in between", "sound"],
)
@pytest.mark.parametrize("is_fast", [False, True])
def test_the_ends_decide_what_failing_means_and_what_is_undone_is_found(
    found_between, verdict, edges, is_fast
):
    world = History(lambda at, _is_fast: verdict(at))
    finding, found = found_between(world, is_fast=is_fast)
    assert found == edges
    assert finding.kind is (FindingKind.COMMIT_DEPENDENT if edges else FindingKind.SOUND)
    if is_fast:  # searched on one engine, and seen on both
        assert "seen on two engines" in finding.support.covered
        strict = [one for one in world.ran if one.machine.accelerator is Accelerator.TCG]
        assert len(strict) <= 2 + 3 * 2 * len(edges)
        assert not edges or finding.environment.accelerator is Accelerator.TCG
    else:
        assert {one.machine.accelerator for one in world.ran} == {Accelerator.TCG}


@pytest.mark.parametrize("fast", [9, 0, 40])
def test_of_commits_too_the_strict_engines_answers_count(found_between, fast):
    world = History(lambda at, is_fast: "test" if at >= (fast if is_fast else 12) else None)
    finding, found = found_between(world, is_fast=True)
    assert found == [12]
    assert any(
        "at commit 0000" in one and "QEMU's answers count" in one for one in finding.assumptions
    )


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10_000), errors=st.sampled_from([0.05, 0.3]))
def test_lost_guests_make_gaps_and_never_findings(found, seed, errors):
    finding = found(World(passes=lambda _look: True, errors=errors, seed=seed))
    assert finding.kind in {FindingKind.SOUND, FindingKind.UNDETERMINED}


def test_weekdays_lost_to_errors_are_a_gap(found):
    world = World(passes=lambda _look: True, breaks=lambda look: look.at.weekday() == 2)
    finding = found(world)
    assert finding.kind is FindingKind.UNDETERMINED
    assert finding.summary.startswith("no verdict at ")
    assert "every weekday" in finding.support.calendar_left


def test_an_edge_at_the_end_of_32_bit_seconds_is_exact(found):
    edge = datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)
    for ends in (None, edge + timedelta(hours=1)):
        finding = found(lambda look, ends=ends: look.at < edge or bool(ends and look.at >= ends))
        if finding.kind is FindingKind.TIME_TRAP:
            assert finding.boundaries[0].first_after == "2038-01-19T03:14:08Z"
        else:  # an hour in 34 years: nobody looked there, or it was seen and not explained
            assert finding.kind in {FindingKind.SOUND, FindingKind.UNDETERMINED}
            assert finding.assumptions


def _differs(finding, fails, years=range(2008, 2040)):
    """Return at which of some instants a finding says otherwise than its world."""
    first = datetime(years[0], 1, 1, 0, 30, tzinfo=UTC)
    asked = [first + timedelta(hours=53 * number) for number in range(len(years) * 165)]
    return [at for at in asked if passes_at(finding, at) is fails(at)]


SINCE = {
    "FREQ=WEEKLY;BYDAY=MO": datetime(2015, 5, 6, tzinfo=UTC),
    "FREQ=DAILY;BYMONTH=1": datetime(2019, 8, 1, tzinfo=UTC),
    "FREQ=DAILY;BYHOUR=23": datetime(2016, 2, 2, tzinfo=UTC),
    "FREQ=MONTHLY;BYMONTHDAY=31": datetime(2016, 6, 6, tzinfo=UTC),
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29": datetime(2017, 3, 3, tzinfo=UTC),
    "FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=31": datetime(2018, 6, 6, tzinfo=UTC),
}


@pytest.mark.parametrize("rule", SINCE)
def test_a_rule_that_holds_since_a_year_says_since_when(found, rule):
    def fails(at):
        return at >= SINCE[rule] and RULES[rule](at)

    finding = found(lambda look: not fails(look.at))
    assert finding.kind is FindingKind.RECURRING
    assert finding.recurs.endswith(f"RRULE:{rule}")
    assert ", since 20" in finding.summary
    assert _differs(finding, fails) == []


def test_a_rule_that_holds_since_today_is_found_thoroughly(found):
    def fails(at):
        return at >= datetime(2026, 5, 1, tzinfo=UTC) and at.day == 13

    finding = found(lambda look: not fails(look.at), effort="thorough")
    assert finding.recurs.endswith("RRULE:FREQ=MONTHLY;BYMONTHDAY=13")
    assert _differs(finding, fails) == []


@pytest.mark.parametrize("before_s", [3, 86_400])
@pytest.mark.parametrize("after_s", [2, 86_400, 2_000_000])
def test_an_edge_is_located_in_a_range_that_was_chosen_around_it(found, before_s, after_s):
    span = {"first": EDGE - timedelta(seconds=before_s), "last": EDGE + timedelta(seconds=after_s)}
    finding = found(lambda look: look.at < EDGE, **span)
    assert finding.kind is FindingKind.TIME_TRAP
    assert [edge.first_after for edge in finding.boundaries] == [f"{EDGE:%Y-%m-%dT%H:%M:%SZ}"]


PAIRS = {
    "weekends and day 8": lambda at: at.weekday() > 4 or at.day == 8,
    "Saturdays and October": lambda at: at.weekday() == 5 or at.month == 10,
    "weekends and week 53": lambda at: at.weekday() > 4 or at.isocalendar().week == 53,
    "the last days": lambda at: at.day > 28 or at.day == monthrange(at.year, at.month)[1],
    "an hour and a month": lambda at: at.hour == 4 or at.month == 6,
    "weekends and an hour": lambda at: at.weekday() > 4 or at.hour == 9,
    "three": lambda at: at.weekday() == 2 or at.month == 3 or at.day == 17,
}


def test_an_exception_from_a_rule_is_not_taken_for_its_beginning(found):
    def fails(at):  # but not on 28 February
        return at.day > 28 and at.day == monthrange(at.year, at.month)[1]

    own = datetime(2012, 2, 3, 5, 36, 43, tzinfo=UTC)
    finding = found(World(passes=lambda look: not fails(look.at), looks=(0.0,)), own=own)
    if finding.kind is FindingKind.RECURRING:
        assert "since" not in finding.summary
        assert len(_differs(finding, fails)) < 32
    else:
        assert finding.kind is FindingKind.UNDETERMINED


@pytest.mark.parametrize("pair", PAIRS)
def test_rules_that_come_together_are_told_together(found, pair):
    finding = found(lambda look: not PAIRS[pair](look.at))
    assert finding.kind is FindingKind.RECURRING
    assert "\n" in finding.recurs
    assert _differs(finding, PAIRS[pair]) == []


@pytest.mark.parametrize("today", [datetime(2026, 11, 30, tzinfo=UTC), worlds.TODAY])
def test_the_last_days_are_told_from_those_of_shorter_months(found, monkeypatch, today):
    monkeypatch.setattr(worlds, "TODAY", today)
    finding = found(lambda look: not PAIRS["the last days"](look.at))
    assert finding.kind is FindingKind.RECURRING
    assert _differs(finding, PAIRS["the last days"]) == []


@pytest.mark.parametrize(
    ("much", "salt", "lasts_s", "own"),
    [
        (5, 517_346, 60, datetime(2017, 9, 21, 20, 7, 57, tzinfo=UTC)),  # on dates of two years
        (11, 346_086, 1, datetime(2015, 7, 9, 9, 29, 49, tzinfo=UTC)),  # at both ends of 12 days
    ],
)
def test_days_that_no_rule_tells_are_neither_dates_nor_a_window(found, much, salt, lasts_s, own):
    def fails(at):
        return (at.toordinal() * 7919 + salt) % much == 0

    world = World(passes=lambda look: not fails(look.at), looks=(0.0,), lasts_s=lasts_s)
    finding = found(world, own=own)
    assert finding.kind is FindingKind.UNDETERMINED
    assert "it failed at " in finding.summary


@pytest.mark.parametrize(
    "rule",
    [
        lambda at: at.month in {1, 2},
        lambda at: bool(at.astimezone(ZoneInfo("America/New_York")).dst()),
        lambda at: at.weekday() == 5 or at.month == 10,
    ],
    ids=["months", "summer time", "two rules"],
)
def test_rules_that_fail_often_and_an_expiry_are_both_told(found, rule):
    def fails(at):
        return at >= EDGE or rule(at)

    finding = found(lambda look: not fails(look.at))
    assert finding.kind is FindingKind.RECURRING
    [edge] = finding.boundaries
    assert (edge.first_after, edge.is_exact) == ("2030-11-27T15:28:58Z", True)
    far = [at for at in _differs(finding, fails) if (at.month, at.weekday()) != (11, 6)]
    assert [at for at in far if at.month != 3] == []


@pytest.mark.parametrize("first", [datetime(2016, 3, 1, tzinfo=UTC), None])
def test_what_comes_again_next_year_is_no_window(found, first):
    def fails(at):
        return at.month in {3, 4} and (first is None or at >= first)

    asked = {"own": datetime(2011, 7, 27, 19, 58, 7, tzinfo=UTC), "effort": "thorough"}
    finding = found(lambda look: not fails(look.at), **asked)
    assert finding.kind in {FindingKind.RECURRING, FindingKind.UNDETERMINED}
    if finding.kind is FindingKind.RECURRING:
        assert _differs(finding, fails) == []


@pytest.mark.parametrize("before", [timedelta(), timedelta(hours=5), timedelta(days=3)])
def test_an_edge_near_the_end_of_a_long_range_is_checked_behind_it(found, before):
    last = datetime(2041, 7, 1, tzinfo=UTC)
    finding = found(lambda look: look.at < last - before, last=last)
    [edge] = finding.boundaries
    assert finding.kind is FindingKind.TIME_TRAP
    assert (edge.first_after, edge.is_exact) == (f"{last - before:%Y-%m-%dT%H:%M:%SZ}", True)


@pytest.mark.parametrize("lasts", [timedelta(days=3), timedelta(days=200)])
def test_what_fails_from_near_the_end_of_the_range_on_and_passes_again_is_no_edge(found, lasts):
    last = datetime(2041, 7, 1, tzinfo=UTC)
    begins = last - timedelta(hours=5)
    finding = found(lambda look: not begins <= look.at < begins + lasts, last=last)
    assert finding.kind is FindingKind.UNDETERMINED
    told = "fails from 2041-06-30T19:00:00Z on, 5 hours before the end of the range"
    assert told in finding.summary
    assert "passes again at 204" in finding.summary
    assert "widen the range (--to 204" in finding.summary


def test_what_fails_up_to_near_the_beginning_of_the_range_says_what_was_seen(found):
    first = datetime(2012, 6, 12, tzinfo=UTC)
    ends = first + timedelta(hours=30)
    finding = found(lambda look: look.at >= ends, first=first)
    assert finding.kind is FindingKind.UNDETERMINED
    told = "fails up to 2012-06-13T05:59:59Z, 30 hours after the beginning of the range"
    assert told in finding.summary
    assert "widen the range (--from 2011)" in finding.summary


@pytest.mark.parametrize("seed", range(16, 48, 8))
def test_features_are_named_only_where_sets_and_their_parts_were_repeated(found, seed):
    world = World(passes=lambda look: "avx2" in look.features, flaky=0.05, seed=seed)
    finding = found(world, axes=(Axis.CPU,))
    if finding.kind is FindingKind.CPU_DEPENDENT:
        assert set(finding.features) <= {"avx2"}
        assert set(finding.features_needed) <= {"avx2"}
    else:
        assert finding.kind is FindingKind.FLAKY


def test_what_fails_in_some_time_zones_names_them(found):
    world = World(passes=lambda look: look.zone != "<-11>11")
    finding = found(world, own=None, axes=(Axis.TIMEZONE,))
    assert (finding.kind, finding.axis) == (FindingKind.TIMEZONE_DEPENDENT, Axis.TIMEZONE)
    assert "fails with TZ=<-11>11 (11 hours west of UTC, beyond the date line)" in finding.summary
    [edge] = finding.boundaries
    assert (edge.last_before, edge.first_after) == ("UTC", "<-11>11")
    assert edge.confirmed > 0
    assert finding.failing_line == "AssertionError: no"
    choice = choose_environment(finding.case, [finding], host=Host(date=OWN))
    assert (choice.timezone, Axis.TIMEZONE in choice.axes) == ("UTC", True)
    [row] = failures_of([finding], OWN).to_dict("records")
    assert (row["kind"], row["axis"]) == ("timezone-dependent", "timezone")
    assert row["next_springs_at"] is pd.NaT
    assert failures_of([finding]).traps.timeline(at=OWN).empty
    assert found(World(passes=lambda _: True), own=None, axes=(Axis.TIMEZONE,)).kind == "sound"


@pytest.mark.parametrize(
    ("log", "kind"),
    [("ValueError: bad zoneinfo key", "timezone-dependent"), ("Assertion", "always-failing")],
)
def test_time_zones_are_tried_unasked_where_a_failing_log_speaks_of_them(found, log, kind):
    world = World(passes=lambda look: look.zone.startswith("CET"), log=log)
    finding = found(world, own=None, axes=(Axis.CORES,))
    assert finding.kind == kind


def test_a_case_that_sets_its_time_zone_is_compared_with_that(found):
    step = {"name": "test", "run": "run-tests", "env": {"TZ": "Asia/Tokyo"}}
    case = Case.parse({"id": "zoned", "steps": [step]})
    world = World(passes=lambda look: look.zone == "Asia/Tokyo")
    finding = found(world, own=None, axes=(Axis.TIMEZONE,), case=case)
    assert {edge.last_before for edge in finding.boundaries} == {"Asia/Tokyo"}
    assert len(finding.boundaries) == 4


@pytest.mark.parametrize("hours", [5.5, -3.5, 14])
def test_a_trap_at_local_midnight_is_exact_in_utc(found, hours):
    edge = datetime(2028, 4, 1, tzinfo=UTC) - timedelta(hours=hours)
    finding = found(
        lambda look: (look.at + timedelta(hours=hours)).date().isoformat() < "2028-04-01"
    )
    [found_edge] = finding.boundaries
    told = edge.isoformat().replace("+00:00", "Z")
    assert (found_edge.first_after, found_edge.is_exact) == (told, True)


def test_local_days_with_summer_time_are_no_false_rule(found):
    zone = ZoneInfo("America/New_York")
    finding = found(lambda look: look.at.astimezone(zone).weekday() != 0)
    if finding.kind is FindingKind.RECURRING:
        wrong = _differs(finding, lambda at: at.astimezone(zone).weekday() == 0)
        assert len(wrong) < 0.02 * 32 * 165
    else:
        assert finding.kind is FindingKind.UNDETERMINED
        assert "it failed at " in finding.summary


def test_a_trap_after_2100_is_exact_where_it_was_asked_for(found):
    edge = datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC)
    finding = found(lambda look: look.at < edge, last=datetime(2110, 1, 1, tzinfo=UTC))
    [told] = finding.boundaries
    assert (told.first_after, told.is_exact) == ("2106-02-07T06:28:16Z", True)
    later = found(
        lambda look: look.at.year < 2100 or (look.at.month, look.at.day) != (2, 28),
        last=datetime(2120, 1, 1, tzinfo=UTC),
        first=datetime(2099, 1, 1, tzinfo=UTC),
    )
    if later.kind is FindingKind.RECURRING:
        assert _differs(later, lambda at: (at.month, at.day) == (2, 28), range(2100, 2120)) == []
    else:
        assert later.kind in {FindingKind.SOUND, FindingKind.UNDETERMINED}


def test_what_ends_after_the_last_date_is_told(found, tmp_path):
    token = "eyJhbGciOiJub25lIn0." + b64encode(b'{"exp":4294967296}').decode().rstrip("=") + ".x"
    finding = found(lambda _look: True, hints=(f'TOKEN = "{token}"\n',))
    assert any("--to 2107 reaches it" in one for one in finding.assumptions)
    reached = found(
        lambda look: look.at.timestamp() < 2**32,
        hints=(f'TOKEN = "{token}"\n',),
        last=datetime(2107, 1, 1, tzinfo=UTC),
        effort="quick",
    )
    [edge] = reached.boundaries
    assert (edge.first_after, edge.is_exact) == ("2106-02-07T06:28:16Z", True)
    assert reached.runs <= 10


def test_what_was_not_tried_stands_in_what_passes(found):
    finding = found(lambda _look: True)
    assert "one virtual CPU, the default" in finding.summary
    assert any("two features of the calendar together" in one for one in finding.assumptions)
    alike = found(lambda _look: True, axes=DEFAULT_AXES)
    assert "one virtual CPU" not in alike.summary
    fails = found(lambda look: look.at < EDGE)
    assert any("one virtual CPU" in one for one in fails.assumptions)
