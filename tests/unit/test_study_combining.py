"""Several findings on one package: one environment for all of them, or the ones that clash."""

from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.model.case import Case, PyPISource, Step
from buildvm_nb.model.cpu import instruction_sets
from buildvm_nb.model.finding import Boundary, Finding, Window
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.study.allowing import passes_with
from buildvm_nb.study.choice import Basis
from buildvm_nb.study.choosing import choose_environment
from buildvm_nb.study.packages import Package
from buildvm_nb.study.showing import Host
from buildvm_nb.vm import linux_flag

TODAY = datetime(2026, 11, 23, tzinfo=UTC)
OWN_DATE = datetime(2019, 5, 1, 12, tzinfo=UTC)
PACKAGE = Package(name="demo", version="1.0")
FLAGS = frozenset(map(linux_flag, instruction_sets("Skylake-Server")))
HOST = Host(date=TODAY, cpu_flags=FLAGS, kernels=frozenset({"debian:bookworm"}))
OLD_HOST = Host(date=TODAY)
CPUS = ("Nehalem", "Haswell", "Skylake-Server", "max")
AXES = {
    "time-trap": "date",
    "cpu-dependent": "cpu",
    "kernel-dependent": "kernel",
    "cores-dependent": "cores",
}
KERNELS = ("debian:bullseye", "debian:bookworm", "debian:sid")


def a_finding(test, kind, date=OWN_DATE, cpu="Skylake-Server", machine=None, **fields):
    source = PyPISource(name="demo", version="1.0")
    changes = {"date": date, "cpu": cpu, "accelerator": "tcg", **(machine or {})}
    return Finding.parse(
        {
            "case": Case(id=test, source=source, step=[Step(name="test", run=f"run {test}")]),
            "kind": kind,
            "axis": AXES.get(kind),
            "summary": f"as {test} was found",
            "confidence": 0.98,
            "environment": MachineSpec.parse(changes),
            "studied_from": "2009-05-01",
            "studied_until": "2041-11-23",
            "recorded_at": TODAY - timedelta(days=30),
            **fields,
        }
    )


def a_trap(test, *windows, **fields):
    spans = [Window(passes_from=first, passes_until=last) for first, last in windows]
    return a_finding(test, "time-trap", windows=tuple(spans), **fields)


def needs_avx2(test="avx2", **fields):
    cpus = {"passing_cpus": ("Haswell", "max"), "failing_cpus": ("Nehalem",)}
    return a_finding(test, "cpu-dependent", cpu="Haswell", features=("avx2",), **cpus, **fields)


def needs_kernel(test="kernel", passing=("debian:bullseye",), **fields):
    failing = tuple(name for name in KERNELS if name not in passing)
    kernels = {"passing_kernels": passing, "failing_kernels": failing}
    machine = {"kernel": passing[0]}
    return a_finding(test, "kernel-dependent", machine=machine, **kernels, **fields)


def choose(*findings, host=HOST, own_date=OWN_DATE):
    return choose_environment(PACKAGE, findings, host=host, own_date=own_date)


def names(mentions):
    return {one.case for one in mentions}


def test_findings_on_three_axes_are_met_by_one_environment():
    findings = [a_trap("expired", (None, "2020-01-01")), needs_avx2(), needs_kernel()]
    choice = choose(*findings, host=OLD_HOST)
    machine = choice.environment
    assert choice.level == "date+cpu+kernel"
    assert (machine.date, machine.cpu, machine.kernel) == (OWN_DATE, "Haswell", "debian:bullseye")
    assert {choice.because.case.id, *names(choice.also)} == {"expired", "avx2", "kernel"}
    assert choice.is_combined
    assert "each of these findings passes at 2019-05-01" in choice.explanation
    assert "no run had all of it at once" in choice.explanation
    assert all(one.id in choice.explanation for one in findings)


def test_only_what_this_host_itself_would_not_do_has_to_be_chosen():
    choice = choose(a_trap("expired", (None, "2020-01-01")), needs_avx2())
    assert (choice.level, choice.overrides()["cpu"]) == ("date", "Haswell")
    today = {"date": TODAY - timedelta(days=31)}
    both = needs_avx2(**today), needs_kernel(passing=KERNELS[:2], **today)
    choice = choose(*both)
    assert (choice.level, choice.environment.date) == ("nothing", TODAY)
    assert choose(*both, host=OLD_HOST).level == "cpu+kernel"


def test_two_tests_that_pass_in_some_years_are_built_in_a_year_in_which_both_do():
    first = a_trap("a", ("2012-01-01", "2014-01-01"), ("2017-01-01", "2018-06-01"))
    second = a_trap("b", ("2013-12-01", "2013-12-31"), ("2018-01-01", None))
    choice = choose(first, second)
    assert (choice.level, choice.environment.date) == ("date", parse_instant("2018-05-31"))
    near = choose(first, second, own_date=parse_instant("2013-01-01"))
    assert near.environment.date == parse_instant("2013-12-02")


def test_findings_that_clash_are_named_and_no_others():
    early = a_trap("early", (None, "2015-01-01"))
    late = a_trap("late", ("2016-01-01", "2018-01-01"))
    choice = choose(needs_avx2(), early, late, needs_kernel())
    assert (choice.basis, choice.environment, choice.overrides()) == (Basis.NONE, None, {})
    assert names(choice.conflict) == {"early", "late"}
    assert "No environment is known in which demo 1.0 builds: findings clash." in choice.explanation
    assert early.id in choice.explanation
    assert late.id in choice.explanation


def test_three_findings_of_which_each_two_agree_may_clash():
    ways = [
        ("2011-01-01", "2012-01-01"),
        ("2013-01-01", "2014-01-01"),
        ("2015-01-01", "2016-01-01"),
    ]
    traps = [a_trap(f"t{n}", *(way for way in ways if way != ways[n])) for n in range(3)]
    assert choose(*traps[:2]).level == "date"
    assert names(choose(*traps).conflict) == {"t0", "t1", "t2"}


def test_what_passes_on_another_case_is_no_evidence_against_a_trap():
    choice = choose(a_trap("expired", (None, "2020-01-01")), a_finding("sound", "sound"))
    assert (choice.level, choice.because.case.id) == ("date", "expired")
    seen_today = needs_avx2(date=TODAY - timedelta(days=31))
    choice = choose(a_trap("expired", (None, "2020-01-01")), seen_today)
    assert (choice.level, choice.environment.date) == ("date", OWN_DATE)


def test_a_trap_that_spares_a_cpu_lets_the_date_be():
    spares = {"passing_cpus": ("Haswell", "max"), "failing_cpus": ("Nehalem",)}
    trap = a_trap("trap", (None, "2020-01-01"), **spares, features=("avx2",))
    late = a_trap("late", ("2022-01-01", None))
    choice = choose(trap, late)
    assert (choice.level, choice.environment.date) == ("nothing", TODAY)
    assert choice.environment.cpu in spares["passing_cpus"]
    assert names(
        choose(
            trap,
            late,
            a_finding(
                "old",
                "cpu-dependent",
                cpu="Nehalem",
                passing_cpus=("Nehalem",),
                failing_cpus=("max",),
            ),
        ).conflict
    ) == {"trap", "late", "old"}


def test_a_case_that_always_fails_is_told_beside_what_others_ask_for():
    choice = choose(needs_kernel(), a_finding("never", "always-failing", environment=None))
    assert choice.environment.kernel == "debian:bullseye"
    assert names(choice.against) == {"never"}


@pytest.mark.parametrize(
    ("count", "passes"), [(1, False), (2, False), (3, False), (4, True), (5, True), (64, False)]
)
def test_numbers_of_cpus_pass_on_the_passing_side_of_each_change(count, passes):
    edges = [("2", "4", "failed", "passed"), ("16", "64", "passed", "timeout")]
    fields = ("last_before", "first_after", "before", "after")
    boundaries = [
        Boundary(axis="cores", is_exact=False, **dict(zip(fields, edge, strict=True)))
        for edge in edges
    ]
    finding = a_finding(
        "cores", "cores-dependent", machine={"cpu_count": 4}, boundaries=tuple(boundaries)
    )
    assert passes_with(finding, count) is passes


def test_a_number_of_cpus_with_which_both_tests_pass_is_chosen():
    edge = {"axis": "cores", "is_exact": True, "before": "failed", "after": "passed"}
    two, four = (
        a_finding(
            f"cores{count}",
            "cores-dependent",
            machine={"cpu_count": count},
            boundaries=(Boundary(last_before=str(count - 1), first_after=str(count), **edge),),
        )
        for count in (2, 4)
    )
    choice = choose(two, four)
    assert choice.overrides()["cpu_count"] == 4


# any findings


@st.composite
def some_findings(draw):
    """Draw findings, each on a test of its own, which may or may not have an environment."""
    return [_one(draw, f"t{number}") for number in range(draw(st.integers(2, 4)))]


def _one(draw, test):
    seen = draw(st.sampled_from([OWN_DATE, TODAY - timedelta(days=31)]))
    match draw(st.sampled_from(["date", "date", "cpu", "kernel"])):
        case "date":
            years = sorted(draw(st.sets(st.integers(2010, 2030), min_size=2, max_size=4)))
            windows = [
                (f"{first}-01-01", f"{last}-01-01")
                for first, last in zip(years[::2], years[1::2], strict=False)
            ]
            return a_trap(test, *windows, date=parse_instant(windows[0][0]))
        case "cpu":
            passing = draw(st.lists(st.sampled_from(CPUS), unique=True, min_size=1, max_size=3))
            failing = tuple(sorted(set(CPUS) - set(passing)))
            fields = {"passing_cpus": tuple(passing), "failing_cpus": failing, "date": seen}
            return a_finding(test, "cpu-dependent", cpu=passing[0], features=("avx2",), **fields)
    passing = draw(st.lists(st.sampled_from(KERNELS), unique=True, min_size=1, max_size=2))
    return needs_kernel(test, tuple(passing), date=seen)


def _is_met(finding, date, cpu, kernel):
    match finding.kind:
        case "time-trap":
            return any(one.passes_from <= date <= one.passes_until for one in finding.windows)
        case "cpu-dependent":
            return cpu in finding.passing_cpus
    return kernel in finding.passing_kernels


def _can_be_met(findings):
    """Try all that can matter: the ends of windows are whole years."""
    dates = [datetime(year, month, 1, tzinfo=UTC) for year in range(2009, 2032) for month in (1, 7)]
    return any(
        all(_is_met(one, date, cpu, kernel) for one in findings)
        for date in dates
        for cpu in CPUS
        for kernel in KERNELS
    )


@given(findings=some_findings(), host=st.sampled_from([HOST, OLD_HOST]))
def test_an_environment_is_chosen_exactly_where_one_meets_all_findings(findings, host):
    choice = choose(*findings, host=host)
    assert (choice.environment is not None) is _can_be_met(findings)
    if choice.environment is not None:
        machine = choice.environment
        assert all(_is_met(one, machine.date, machine.cpu, machine.kernel) for one in findings)
        assert {choice.because.id, *(one.id for one in choice.also)} == {one.id for one in findings}
        return
    clash = [one for one in findings if one.id in {known.id for known in choice.conflict}]
    assert not _can_be_met(clash)
    assert all(_can_be_met(fewer) for fewer in combinations(clash, len(clash) - 1))


@given(findings=some_findings())
def test_the_date_is_left_alone_where_all_pass_today(findings):
    choice = choose(*findings)
    if choice.environment is None:
        return
    seen_today = [one.kind == "time-trap" or one.environment.date != OWN_DATE for one in findings]
    traps = [one for one in findings if one.kind == "time-trap"]
    passes_today = all(seen_today) and all(_is_met(one, TODAY, "", "") for one in traps)
    assert (choice.environment.date == TODAY) is passes_today


@given(findings=some_findings(), data=st.data())
def test_the_order_of_findings_changes_nothing_about_what_has_to_be_chosen(findings, data):
    shuffled = data.draw(st.permutations(findings))
    one, other = choose(*findings), choose(*shuffled)
    assert (one.level, bool(one.conflict)) == (other.level, bool(other.conflict))
