"""Which environment is chosen, by findings as diagnoses make them."""

from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.catalog.curated import curated_findings
from buildvm_nb.model.case import (
    Case,
    DebianSource,
    GitSource,
    LocalSource,
    PyPISource,
    Step,
    WheelsSource,
    Window,
)
from buildvm_nb.model.finding import Boundary, Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import CPU_MODELS, MachineSpec, cpu_at, instruction_sets
from buildvm_nb.study.choice import Basis, Choice, Package, package_of
from buildvm_nb.study.choosing import Host, choose_environment, passes_with, this_host
from buildvm_nb.vm import linux_flag

TODAY = datetime(2026, 11, 23, tzinfo=UTC)
DIAGNOSED = TODAY - timedelta(days=30)
OWN_DATE = datetime(2019, 5, 1, 12, tzinfo=UTC)


def flags_of(cpu):
    """Return what ``/proc/cpuinfo`` shows of a model."""
    every = {"fpu", "mmx", "sse", "sse2", "syscall", "nx", "lm", "constant_tsc"}
    sets = instruction_sets(cpu)
    saving = {"xsave", "xsaveopt"} if "avx" in sets else set()
    return frozenset(every | saving | {linux_flag(name) for name in sets})


HOST = Host(
    date=TODAY,
    cpu_flags=flags_of("SandyBridge"),
    kernels=frozenset({"debian:bookworm"}),
)
STEPS = [Step(name="test", run="make check")]
CASE = Case(id="demo-1.0", source=PyPISource(name="Demo.Pkg", version="1.0"), step=STEPS)
CURRENT = cpu_at(TODAY).name


def at(text):
    return parse_instant(text)


def a_machine(date=OWN_DATE, cpu="Skylake-Server", **more):
    return MachineSpec.parse({"date": date, "cpu": cpu, "accelerator": "tcg", **more})


def a_finding(**changes):
    fields = {
        "case": CASE,
        "kind": "sound",
        "summary": "as it was found",
        "confidence": 0.98,
        "environment": a_machine(),
        "studied_from": "2009-05-01",
        "studied_until": "2041-11-23",
        "evidence": ("01A", "01B"),
        "recorded_at": DIAGNOSED,
    }
    return Finding(**{**fields, **changes})


def a_trap(*windows, **changes):
    spans = [Window(passes_from=first, passes_until=last) for first, last in windows]
    return a_finding(**{"kind": "time-trap", "axis": "date", "windows": tuple(spans), **changes})


def a_cpu_finding(**changes):
    fields = {
        "kind": "cpu-dependent",
        "axis": "cpu",
        "passing_cpus": ("Nehalem", "Westmere", "max"),
        "failing_cpus": ("core2duo", "Penryn"),
        "features": ("sse4.2",),
        "features_base": "Nehalem",
        "environment": a_machine(DIAGNOSED, "Nehalem"),
    }
    return a_finding(**{**fields, **changes})


def a_kernel_finding(**changes):
    fields = {
        "kind": "kernel-dependent",
        "axis": "kernel",
        "passing_kernels": ("debian:bullseye",),
        "failing_kernels": ("debian:bookworm", "debian:sid"),
        "environment": a_machine(DIAGNOSED, kernel="debian:bullseye"),
    }
    return a_finding(**{**fields, **changes})


def choose(*own, curated=(), subject=CASE, host=HOST, own_date=OWN_DATE):
    choice = choose_environment(subject, own, curated, host=host, own_date=own_date)
    assert Choice.model_validate_json(choice.model_dump_json()) == choice
    return choice


# what one finding asks for


def test_a_sound_case_needs_no_machine_and_is_built_today():
    finding = a_finding()
    choice = choose(finding)

    assert (choice.basis, choice.level, choice.axes) == (Basis.OWN_FINDING, "nothing", ())
    assert (choice.environment.date, choice.environment.cpu) == (TODAY, CURRENT)
    assert (choice.because, choice.evidence) == (finding, ("01A", "01B"))
    assert choice.explanation.startswith("demo-1.0 needs no machine: it passes today")
    assert f"Finding {finding.id} of your catalog says so (sound: as it was" in choice.explanation
    assert choice.see() == f"buildvm catalog show {finding.id}"


def test_a_sound_case_that_was_not_studied_to_this_day_is_built_when_it_was():
    for changes in ({"studied_until": "2026-01-01"}, {"studied_from": None, "studied_until": None}):
        choice = choose(a_finding(**changes))
        assert (choice.level, choice.environment) == ("date", a_machine())


def test_a_sound_case_without_a_date_of_its_own_was_seen_to_pass_when_it_was_diagnosed():
    changes = {"studied_from": None, "studied_until": None, "environment": a_machine(DIAGNOSED)}
    assert choose(a_finding(**changes)).level == "nothing"


def test_a_diagnosis_that_ran_past_midnight_saw_it_pass_today_all_the_same():
    began = DIAGNOSED - timedelta(days=1)
    assert choose(a_cpu_finding(environment=a_machine(began, "Nehalem"))).level == "nothing"


def test_a_case_whose_output_varies_passes_everywhere():
    choice = choose(a_finding(kind="output-varies", axis="date", varying_files=("a.o",)))
    assert choice.level == "nothing"


def test_an_expired_case_is_built_at_its_own_date_and_only_the_date_is_chosen():
    choice = choose(a_trap((None, "2020-10-05T23:01:56Z")))

    assert (choice.level, choice.environment) == ("date", a_machine())
    assert choice.overrides() == {
        "date": OWN_DATE,
        "cpu": "Skylake-Server",
        "kernel": "debian:bookworm",
        "accelerator": "tcg",
    }
    assert (
        "For demo-1.0 the date has to be chosen; it passes at 2019-05-01T12" in choice.explanation
    )


def test_a_trap_that_has_not_sprung_needs_no_machine():
    choice = choose(a_trap(("2018-01-01", "2030-01-01")))
    assert (choice.level, choice.environment.date) == ("nothing", TODAY)


@pytest.mark.parametrize(
    ("windows", "own_date", "chosen"),
    [
        ([("2020-01-01", "2021-01-01")], OWN_DATE, "2020-01-02"),
        ([("2012-01-01", "2013-01-01")], OWN_DATE, "2012-12-31"),
        ([("2012-01-01", "2019-05-01T12:00:03Z")], OWN_DATE, "2019-04-30T12:00:03Z"),
        ([("2019-05-01T12:00:00Z", "2020-01-01")], OWN_DATE, "2019-05-01T12:00:00Z"),
        ([("2020-01-01T00:00:00Z", "2020-01-01T00:00:40Z")], OWN_DATE, "2020-01-01T00:00:10Z"),
        ([("2012-01-01", "2013-01-01"), ("2020-01-01", "2021-01-01")], OWN_DATE, "2020-01-02"),
        ([("2012-01-01", "2015-01-01"), ("2020-01-01", None)], at("2014-01-01"), "2014-01-01"),
        ([("2012-01-01", "2021-01-01")], None, "2019-05-01T12:00:00Z"),
        ([(None, "2005-01-01")], OWN_DATE, "2004-12-31"),
    ],
)
def test_a_date_well_inside_a_window_is_chosen_the_own_one_if_it_can_be(windows, own_date, chosen):
    finding = a_trap(*windows, studied_until="2025-01-01", studied_from="1990-01-01")
    assert choose(finding, own_date=own_date).environment.date == at(chosen)


def test_beyond_the_studied_dates_nothing_is_shown():
    finding = a_trap(("2012-01-01", None), studied_until="2026-01-01")
    choice = choose(finding, own_date=None)
    assert (choice.level, choice.environment.date) == ("date", OWN_DATE)


def test_a_trap_without_a_window_gives_no_environment():
    choice = choose(a_trap(environment=None))
    assert (choice.basis, choice.environment, choice.level) == (Basis.NONE, None, "unknown")
    assert "No environment is known in which demo-1.0 builds" in choice.explanation


def test_a_host_with_the_features_needs_no_machine():
    assert choose(a_cpu_finding()).level == "nothing"
    assert choose(a_cpu_finding(features_needed=("sse4.2", "cx16"))).level == "nothing"


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, flags_of("Penryn")),
        ({}, {"sse4_2"}),
        ({}, set()),
        ({"features": (), "features_needed": ()}, flags_of("SandyBridge")),
        ({"features": (), "features_harmful": ("cx16",)}, flags_of("SandyBridge")),
        ({"features": (), "features_harmful": ("cx16",)}, set()),
        # what is named does not tell why all of these fail
        ({"features": ("cx16",), "features_base": "Haswell"}, flags_of("Penryn")),
        ({"failing_cpus": ("core2duo", "EPYC")}, flags_of("EPYC")),
        ({"failing_cpus": ("core2duo", "Unheard-Of")}, flags_of("EPYC")),
    ],
)
def test_a_host_that_lacks_or_may_lack_a_passing_cpu_needs_one(changes, flags):
    host = Host(date=TODAY, cpu_flags=frozenset(flags))
    choice = choose(a_cpu_finding(**changes), host=host)
    assert (choice.level, choice.environment.cpu) == ("cpu", "Nehalem")
    assert (choice.environment.date, choice.overrides()["cpu"]) == (TODAY, "Nehalem")


def test_findings_on_the_cpus_of_one_build_hold_together_and_the_newest_does_not_hide_another():
    old = a_cpu_finding(features=("popcnt",), recorded_at=DIAGNOSED - timedelta(days=1))
    new = a_cpu_finding(
        features=("cx16",), features_base="Haswell", failing_cpus=("core2duo", "Haswell,-cx16")
    )
    for model in ("Penryn", "Haswell,-cx16"):
        choice = choose(old, new, host=Host(date=TODAY, cpu_flags=flags_of(model)))
        assert (choice.level, choice.environment.cpu) == ("cpu", "Nehalem")
        assert {choice.because.id, *(one.id for one in choice.also)} == {old.id, new.id}
        assert choice.against == ()


def test_of_findings_on_cpus_that_contradict_each_other_the_newest_is_followed():
    old = a_cpu_finding(recorded_at=DIAGNOSED - timedelta(days=1))
    new = a_cpu_finding(passing_cpus=("Nehalem", "Penryn"), failing_cpus=("core2duo",))
    choice = choose(old, new)
    assert (choice.because, [one.id for one in choice.against]) == (new, [old.id])


def test_todays_default_cpu_is_preferred_where_it_was_seen_to_pass():
    finding = a_cpu_finding(passing_cpus=("Nehalem", CURRENT, "max"))
    assert choose(finding).environment.cpu == CURRENT


def test_a_harmful_feature_is_switched_off_as_the_finding_showed():
    harmful = {"features": (), "features_harmful": ("avx2",), "failing_cpus": (CURRENT, "max")}
    without = f"{CURRENT},-avx2"
    shown = a_cpu_finding(**harmful, passing_cpus=("Nehalem", without))
    assert choose(shown).environment.cpu == without
    unseen = a_cpu_finding(**harmful, passing_cpus=("Nehalem",))
    assert choose(unseen).environment.cpu == "Nehalem"
    assert choose(unseen, host=HOST).level == "nothing"


def test_a_cpu_that_was_studied_at_the_own_date_alone_asks_for_both():
    host = Host(date=TODAY)
    choice = choose(a_cpu_finding(environment=a_machine(OWN_DATE, "Nehalem")), host=host)
    assert (choice.level, choice.environment) == ("date+cpu", a_machine(OWN_DATE, "Nehalem"))
    assert "the date and the CPU have to be chosen" in choice.explanation


def test_a_kernel_is_chosen_where_the_hosts_kind_was_not_seen_to_pass():
    choice = choose(a_kernel_finding())
    assert (choice.level, choice.environment.kernel) == ("kernel", "debian:bullseye")

    both = ("debian:bullseye", "debian:bookworm")
    later = choose(a_kernel_finding(passing_kernels=both, failing_kernels=("debian:sid",)))
    assert (later.level, later.environment.kernel) == ("nothing", "debian:bookworm")


def test_a_host_whose_kernel_may_be_one_that_fails_needs_another():
    host = Host(date=TODAY, kernels=frozenset({"debian:bullseye", "debian:bookworm"}))
    assert choose(a_kernel_finding(), host=host).level == "kernel"


def test_a_number_of_cores_is_chosen():
    finding = a_finding(kind="cores-dependent", axis="cores", environment=a_machine(cpu_count=2))
    choice = choose(finding)
    assert choice.level == "date+cores"
    assert choice.overrides()["cpu_count"] == 2


def a_zone_finding(passing="CET-1CEST,M3.5.0,M10.5.0/3", failing=("UTC",), **changes):
    edges = tuple(
        Boundary(
            axis="timezone",
            last_before=passing,
            first_after=zone,
            before="passed",
            after="failed",
            is_exact=True,
        )
        for zone in failing
    )
    fields = {"kind": "timezone-dependent", "axis": "timezone", "boundaries": edges}
    return a_finding(**{**fields, "environment": a_machine(DIAGNOSED), **changes})


def test_a_time_zone_is_chosen_and_named():
    finding = a_zone_finding()
    choice = choose(finding)
    assert (choice.level, choice.timezone) == ("timezone", "CET-1CEST,M3.5.0,M10.5.0/3")
    assert choice.because == finding
    told = "For demo-1.0 the time zone has to be chosen; it passes at 2026-11-23T00:00:00Z"
    assert choice.explanation.startswith(told)
    assert "with TZ=CET-1CEST,M3.5.0,M10.5.0/3." in choice.explanation
    assert "time zone" in choice._repr_html_()
    assert choice.document()["timezone"] == choice.timezone


def test_the_chosen_time_zone_is_that_of_every_step():
    steps = [Step(name="build", run="make"), Step(name="test", run="t", env={"TZ": "Asia/Tokyo"})]
    case = Case(id="zoned", step=steps)
    applied = choose(a_zone_finding()).applied_to(case)
    assert [step.env["TZ"] for step in applied.steps] == ["CET-1CEST,M3.5.0,M10.5.0/3"] * 2
    assert choose(a_trap((None, "2020-01-01"))).applied_to(case) is case


def test_a_time_zone_goes_with_the_date_that_another_finding_asks_for():
    choice = choose(a_zone_finding(), a_trap((None, "2020-01-01")))
    assert (choice.level, choice.timezone) == ("timezone+date", "CET-1CEST,M3.5.0,M10.5.0/3")
    assert choice.environment.date == OWN_DATE


def test_a_trap_seen_in_the_zone_that_passes_keeps_it():
    trap = a_trap((None, "2020-01-01"))
    choice = choose(a_zone_finding(passing="UTC", failing=("<-11>11",)), trap)
    assert (choice.level, choice.timezone) == ("timezone+date", "UTC")


def test_findings_on_time_zones_that_contradict_each_other_are_settled_by_the_newest():
    old = a_zone_finding(passing="UTC", failing=("<+14>-14",), recorded_at=DIAGNOSED)
    new = a_zone_finding(passing="<+14>-14", failing=("UTC",), recorded_at=TODAY)
    choice = choose(old, new)
    assert choice.timezone == "<+14>-14"
    assert [one.id for one in choice.against] == [old.id]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "flaky"}, "it is flaky"),
        ({"kind": "flaky", "axis": "date"}, "it is flaky"),
        ({"kind": "always-failing", "environment": None}, "it failed in every environment"),
        ({"kind": "undetermined"}, "the diagnosis could not tell"),
        ({"kind": "commit-dependent", "axis": "commit"}, "another commit builds"),
        ({"environment": None}, "never seen to pass"),
    ],
)
def test_a_finding_that_shows_no_environment_gives_none_and_says_so(changes, told):
    finding = a_finding(**changes)
    choice = choose(finding)
    assert (choice.basis, choice.environment, choice.overrides()) == (Basis.NONE, None, {})
    assert choice.because == finding
    assert told in choice.explanation
    assert finding.id in choice.explanation


def test_a_trap_that_springs_on_other_cpus_only_needs_no_machine_on_a_host_that_is_spared():
    cpus = {"passing_cpus": ("Nehalem", "max"), "failing_cpus": ("core2duo",)}
    trap = a_trap((None, "2020-01-01"), **cpus, features=("sse4.2",))
    choice = choose(trap, own_date=None)
    assert (choice.level, choice.environment.date) == ("nothing", TODAY)
    choice = choose(trap, host=Host(date=TODAY))
    assert (choice.level, choice.environment.date) == ("date", OWN_DATE)
    late = a_trap((None, "2020-01-01"), **cpus, features=("sse4.2",), studied_until="2026-01-01")
    assert choose(late).level == "date"


# several findings


def test_what_is_undetermined_does_not_count_beside_another_finding():
    later = a_finding(kind="undetermined", recorded_at=TODAY)
    assert choose(a_trap((None, "2020-01-01")), later).level == "date"


def test_a_case_that_is_flaky_on_one_axis_has_no_environment_at_all():
    flaky = a_finding(kind="flaky", axis="cpu")
    assert choose(a_trap((None, "2020-01-01")), flaky).basis is Basis.NONE


def test_a_newer_diagnosis_of_dates_replaces_one_that_called_them_flaky():
    flaky = a_finding(kind="flaky", axis="date")
    trap = a_trap((None, "2020-01-01"), recorded_at=TODAY)
    choice = choose(flaky, trap)
    assert (choice.because, [one.id for one in choice.against]) == (trap, [flaky.id])


def test_date_and_cpu_are_chosen_where_the_host_fails_on_both_axes():
    trap = a_trap((None, "2020-01-01"), environment=a_machine(cpu="Nehalem"))
    cpu = a_cpu_finding(environment=a_machine(cpu="Nehalem"))
    choice = choose(trap, cpu, host=Host(date=TODAY))
    assert (choice.level, choice.environment) == ("date+cpu", a_machine(cpu="Nehalem"))
    assert choice.because in {trap.id: trap, cpu.id: cpu}.values()


def test_the_least_invasive_of_two_shown_environments_is_chosen():
    trap = a_trap((None, "2020-01-01"))  # on the CPU of its date
    harmful = {"features": (), "features_harmful": ("avx512f",)}
    cpu = a_cpu_finding(**harmful, failing_cpus=("Skylake-Server",))  # passes today on another one
    choice = choose(trap, cpu)
    assert (choice.level, choice.because) == ("nothing", cpu)
    assert choose(trap, cpu, host=Host(date=TODAY)).level == "cpu"


def test_an_environment_that_another_finding_refutes_is_not_chosen():
    trap = a_trap((None, "2020-01-01"))
    today = a_kernel_finding(environment=a_machine(DIAGNOSED, kernel="debian:bullseye"))
    older = a_kernel_finding(environment=a_machine(kernel="debian:bullseye"))
    choice = choose(trap, older)
    assert (choice.level, choice.environment) == ("date+kernel", older.environment)
    choice = choose(trap, today)  # which passed after the trap's date, so it springs elsewhere
    assert (choice.level, choice.because, choice.environment.date) == ("kernel", today, TODAY)
    assert (choice.against, choice.is_combined) == ((), False)


def test_the_newer_own_finding_wins_over_a_curated_one_and_both_are_named():
    curated = a_trap((None, "2020-01-01"))
    own = a_trap((None, "2021-01-01"), recorded_at=TODAY)
    choice = choose(own, curated=[curated], own_date=at("2020-06-01"))
    assert (choice.basis, choice.because) == (Basis.OWN_FINDING, own)
    assert choice.environment.date == at("2020-06-01")
    assert own.id in choice.explanation
    assert f"Not followed: finding {curated.id} (curated, on Demo.Pkg 1.0" in choice.explanation


def test_a_newer_curated_finding_wins_over_an_older_own_one():
    curated = a_trap((None, "2020-01-01"), recorded_at=TODAY)
    own = a_trap((None, "2021-01-01"))
    choice = choose(own, curated=[curated])
    assert (choice.basis, choice.because, choice.is_curated) == (
        Basis.CURATED_FINDING,
        curated,
        True,
    )
    assert choice.see() == "buildvm diagnose demo-1.0"
    assert [one.id for one in choice.against] == [own.id]


def test_the_own_one_of_two_findings_that_agree_is_named_alone():
    curated = a_trap((None, "2020-01-01"), recorded_at=TODAY)
    own = a_trap((None, "2020-01-01"))
    choice = choose(own, curated=[curated])
    assert (choice.because, choice.against) == (own, ())


def test_a_newer_sound_finding_over_dates_wins_over_a_trap():
    trap, sound = a_trap((None, "2020-01-01")), a_finding(recorded_at=TODAY)
    choice = choose(sound, curated=[trap])
    assert (choice.level, [one.id for one in choice.against]) == ("nothing", [trap.id])


@pytest.mark.parametrize(
    "changes",
    [{}, {"recorded_at": TODAY, "studied_from": None, "studied_until": None}],
    ids=["older", "without dates"],
)
def test_a_sound_finding_that_is_older_or_looked_at_no_dates_does_not_win_over_a_trap(changes):
    trap = a_trap((None, "2020-01-01"), recorded_at=DIAGNOSED + timedelta(days=1))
    choice = choose(a_finding(**changes), trap)
    assert (choice.level, choice.because) == ("date", trap)


def test_a_curated_finding_alone_is_enough():
    choice = choose(curated=[a_trap((None, "2020-01-01"))])
    assert (choice.basis, choice.level) == (Basis.CURATED_FINDING, "date")
    assert "of the curated catalog" in choice.explanation


# which findings count


def test_a_case_is_the_same_whatever_its_id_title_and_claim():
    renamed = CASE.model_copy(update={"id": "other", "title": "Other"})
    assert choose(a_trap((None, "2020-01-01"), case=renamed)).is_same_case


def test_findings_on_the_very_case_count_before_those_on_its_package():
    other = Case(id="other", source=CASE.source, step=[Step(name="test", run="true")])
    mine, theirs = a_trap((None, "2020-01-01")), a_finding(case=other, recorded_at=TODAY)
    assert choose(mine, theirs).because == mine
    choice = choose(theirs)
    assert (choice.because, choice.is_same_case) == (theirs, False)
    assert "on another case of it, other" in choice.explanation


def test_findings_on_another_version_are_a_hint_and_never_applied():
    source = PyPISource(name="demo-pkg", version="0.9")
    finding = a_trap((None, "2012-01-01"), case=CASE.model_copy(update={"source": source}))
    choice = choose(finding)
    assert (choice.basis, choice.because) == (Basis.GUESS, None)
    assert choice.environment.date == OWN_DATE
    assert [one.id for one in choice.other_versions] == [finding.id]
    assert f"other versions are not applied: {finding.id} (your own, on demo-pkg 0.9" in (
        choice.explanation
    )


def test_a_package_is_asked_about_by_name_and_version():
    finding = a_trap((None, "2020-01-01"))
    choice = choose(finding, subject=Package(name="demo_pkg", version="1.0"))
    assert (choice.because, choice.is_same_case, choice.level) == (finding, True, "date")
    unknown = choose(finding, subject=Package(name="demo-pkg", version="2.0"), own_date=None)
    assert (unknown.basis, unknown.environment) == (Basis.NONE, None)
    assert [one.package for one in unknown.other_versions] == ["Demo.Pkg 1.0"]


def test_two_cases_without_a_package_are_not_taken_for_each_other():
    local = [
        Case(id="a", source=LocalSource(path="x"), step=[Step(name="test", run=run)])
        for run in ("true", "false")
    ]
    choice = choose(a_trap((None, "2020-01-01"), case=local[0]), subject=local[1])
    assert (choice.basis, choice.other_versions) == (Basis.GUESS, ())


@pytest.mark.parametrize(
    ("source", "package"),
    [
        (PyPISource(name="x", version="1"), "pypi x 1"),
        (WheelsSource(requirements=("Foo[bar]==1.2", "baz")), "pypi Foo 1.2"),
        (WheelsSource(requirements=("foo>1",)), "pypi foo "),
        (DebianSource(name="dash", version="1-2"), "debian-source dash 1-2"),
        (DebianSource(name="dash"), "debian-source dash of bookworm"),
        (GitSource(url="https://e.org/a/p.git", commit="v1"), "git https://e.org/a/p.git v1"),
        (GitSource(url="p", before="2020-01-01"), "git p "),
    ],
)
def test_each_kind_of_source_is_a_package(source, package):
    found = package_of(source)
    assert f"{found.kind} {found.name} {found.version}" == package


def test_a_repository_is_known_by_its_last_part_but_is_not_its_fork():
    one, fork = (Package(kind="git", name=f"https://e.org/{who}/p.git") for who in "ab")
    assert Package(name="p").is_same(one)
    assert not one.is_same(fork)
    assert not Package(kind="pypi", name="p").is_same(Package(kind="debian-source", name="p"))


# nothing known


def test_without_findings_the_date_of_the_source_and_its_cpu_are_a_guess():
    choice = choose()
    machine = choice.environment
    assert (choice.basis, choice.level) == (Basis.GUESS, "unknown")
    assert (machine.date, machine.cpu) == (OWN_DATE, cpu_at(OWN_DATE).name)
    assert choice.overrides() == {}
    assert "is a guess (the date of its source), not a finding" in choice.explanation
    assert choice.see() == ""


def test_without_a_date_of_the_source_today_is_the_guess():
    choice = choose(own_date=None)
    assert (choice.axes, choice.environment.date) == ((), TODAY)
    assert "today, as no source tells a date" in choice.explanation


def test_the_document_of_a_choice_says_what_follows_from_it():
    told = choose(a_trap((None, "2020-01-01"))).document()
    assert (told["level"], told["basis"], told["evidence"]) == (
        "date",
        "own-finding",
        ["01A", "01B"],
    )
    assert told["environment"]["date"] == "2019-05-01T12:00:00Z"
    assert told["explanation"].startswith("For demo-1.0 the date")


def test_this_host_is_described():
    host = this_host()
    assert host.date.microsecond == 0
    assert "sse2" in host.cpu_flags


def test_a_boundary_beside_the_windows_changes_nothing():
    edge = Boundary(
        axis="date",
        last_before="2020-01-01T00:00:00Z",
        first_after="2020-01-01T00:00:01Z",
        before="passed",
        after="failed",
        is_exact=True,
    )
    assert choose(a_trap((None, "2020-01-01"), boundaries=(edge,))).level == "date"


# all shipped findings

CPU_CASES = {
    one.case.build_digest(): one.case for one in curated_findings() if one.kind == "cpu-dependent"
}


@pytest.mark.parametrize("case", CPU_CASES.values(), ids=lambda case: case.id)
def test_a_shipped_finding_says_that_no_machine_is_needed_only_on_cpus_that_pass(case):
    findings = [one for one in curated_findings() if one.case.build_digest() == case.build_digest()]
    passing = frozenset.intersection(*(frozenset(one.passing_cpus) for one in findings))
    failing = frozenset().union(*(one.failing_cpus for one in findings))
    models = {*(model.name for model in CPU_MODELS), *passing, *failing} - {"max"}
    today = max(one.recorded_at for one in findings).replace(microsecond=0)
    levels = {}
    for model in models:
        host = Host(date=today, cpu_flags=flags_of(model), kernels=HOST.kernels)
        choice = choose(curated=findings, subject=case, host=host)
        levels[model] = choice.level
        assert choice.environment.cpu not in failing
    assert {levels[name] for name in failing} == {"cpu"}
    assert {levels[name] for name in passing - {"max"}} == {"nothing"}
    worse = {name for name in models if any(_is_within(name, other) for other in failing)}
    assert {levels[name] for name in worse} == {"cpu"}


def _is_within(cpu, other):
    return instruction_sets(cpu) <= instruction_sets(other)


# Several findings on one package: one environment for all of them, or the ones that clash.

PACKAGE = Package(name="demo", version="1.0")
FLAGS = frozenset(map(linux_flag, instruction_sets("Skylake-Server")))
COMBINING_HOST = Host(date=TODAY, cpu_flags=FLAGS, kernels=frozenset({"debian:bookworm"}))
OLD_HOST = Host(date=TODAY)
CPUS = ("Nehalem", "Haswell", "Skylake-Server", "max")
AXES = {
    "time-trap": "date",
    "cpu-dependent": "cpu",
    "kernel-dependent": "kernel",
    "cores-dependent": "cores",
}
KERNELS = ("debian:bullseye", "debian:bookworm", "debian:sid")


def combining_a_finding(test, kind, date=OWN_DATE, cpu="Skylake-Server", machine=None, **fields):
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


def combining_a_trap(test, *windows, **fields):
    spans = [Window(passes_from=first, passes_until=last) for first, last in windows]
    return combining_a_finding(test, "time-trap", windows=tuple(spans), **fields)


def needs_avx2(test="avx2", **fields):
    cpus = {"passing_cpus": ("Haswell", "max"), "failing_cpus": ("Nehalem",)}
    return combining_a_finding(
        test, "cpu-dependent", cpu="Haswell", features=("avx2",), **cpus, **fields
    )


def needs_kernel(test="kernel", passing=("debian:bullseye",), **fields):
    failing = tuple(name for name in KERNELS if name not in passing)
    kernels = {"passing_kernels": passing, "failing_kernels": failing}
    machine = {"kernel": passing[0]}
    return combining_a_finding(test, "kernel-dependent", machine=machine, **kernels, **fields)


def combining_choose(*findings, host=COMBINING_HOST, own_date=OWN_DATE):
    return choose_environment(PACKAGE, findings, host=host, own_date=own_date)


def names(mentions):
    return {one.case for one in mentions}


def test_findings_on_three_axes_are_met_by_one_environment():
    findings = [combining_a_trap("expired", (None, "2020-01-01")), needs_avx2(), needs_kernel()]
    choice = combining_choose(*findings, host=OLD_HOST)
    machine = choice.environment
    assert choice.level == "date+cpu+kernel"
    assert (machine.date, machine.cpu, machine.kernel) == (OWN_DATE, "Haswell", "debian:bullseye")
    assert {choice.because.case.id, *names(choice.also)} == {"expired", "avx2", "kernel"}
    assert choice.is_combined
    assert "each of these findings passes at 2019-05-01" in choice.explanation
    assert "no run had all of it at once" in choice.explanation
    assert all(one.id in choice.explanation for one in findings)


def test_only_what_this_host_itself_would_not_do_has_to_be_chosen():
    choice = combining_choose(combining_a_trap("expired", (None, "2020-01-01")), needs_avx2())
    assert (choice.level, choice.overrides()["cpu"]) == ("date", "Haswell")
    today = {"date": TODAY - timedelta(days=31)}
    both = needs_avx2(**today), needs_kernel(passing=KERNELS[:2], **today)
    choice = combining_choose(*both)
    assert (choice.level, choice.environment.date) == ("nothing", TODAY)
    assert combining_choose(*both, host=OLD_HOST).level == "cpu+kernel"


def test_two_tests_that_pass_in_some_years_are_built_in_a_year_in_which_both_do():
    first = combining_a_trap("a", ("2012-01-01", "2014-01-01"), ("2017-01-01", "2018-06-01"))
    second = combining_a_trap("b", ("2013-12-01", "2013-12-31"), ("2018-01-01", None))
    choice = combining_choose(first, second)
    assert (choice.level, choice.environment.date) == ("date", parse_instant("2018-05-31"))
    near = combining_choose(first, second, own_date=parse_instant("2013-01-01"))
    assert near.environment.date == parse_instant("2013-12-02")


def test_findings_that_clash_are_named_and_no_others():
    early = combining_a_trap("early", (None, "2015-01-01"))
    late = combining_a_trap("late", ("2016-01-01", "2018-01-01"))
    choice = combining_choose(needs_avx2(), early, late, needs_kernel())
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
    traps = [combining_a_trap(f"t{n}", *(way for way in ways if way != ways[n])) for n in range(3)]
    assert combining_choose(*traps[:2]).level == "date"
    assert names(combining_choose(*traps).conflict) == {"t0", "t1", "t2"}


def test_what_passes_on_another_case_is_no_evidence_against_a_trap():
    choice = combining_choose(
        combining_a_trap("expired", (None, "2020-01-01")), combining_a_finding("sound", "sound")
    )
    assert (choice.level, choice.because.case.id) == ("date", "expired")
    seen_today = needs_avx2(date=TODAY - timedelta(days=31))
    choice = combining_choose(combining_a_trap("expired", (None, "2020-01-01")), seen_today)
    assert (choice.level, choice.environment.date) == ("date", OWN_DATE)


def test_a_trap_that_spares_a_cpu_lets_the_date_be():
    spares = {"passing_cpus": ("Haswell", "max"), "failing_cpus": ("Nehalem",)}
    trap = combining_a_trap("trap", (None, "2020-01-01"), **spares, features=("avx2",))
    late = combining_a_trap("late", ("2022-01-01", None))
    choice = combining_choose(trap, late)
    assert (choice.level, choice.environment.date) == ("nothing", TODAY)
    assert choice.environment.cpu in spares["passing_cpus"]
    assert names(
        combining_choose(
            trap,
            late,
            combining_a_finding(
                "old",
                "cpu-dependent",
                cpu="Nehalem",
                passing_cpus=("Nehalem",),
                failing_cpus=("max",),
            ),
        ).conflict
    ) == {"trap", "late", "old"}


def test_a_case_that_always_fails_is_told_beside_what_others_ask_for():
    choice = combining_choose(
        needs_kernel(), combining_a_finding("never", "always-failing", environment=None)
    )
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
    finding = combining_a_finding(
        "cores", "cores-dependent", machine={"cpu_count": 4}, boundaries=tuple(boundaries)
    )
    assert passes_with(finding, count) is passes


def test_a_number_of_cpus_with_which_both_tests_pass_is_chosen():
    edge = {"axis": "cores", "is_exact": True, "before": "failed", "after": "passed"}
    two, four = (
        combining_a_finding(
            f"cores{count}",
            "cores-dependent",
            machine={"cpu_count": count},
            boundaries=(Boundary(last_before=str(count - 1), first_after=str(count), **edge),),
        )
        for count in (2, 4)
    )
    choice = combining_choose(two, four)
    assert choice.overrides()["cpu_count"] == 4


def test_time_zones_of_two_tests_clash():
    zones = [
        combining_a_finding(
            f"in{zone[2:4]}", "timezone-dependent", axis="timezone", boundaries=(edge,)
        )
        for zone in ("<+14>-14", "<-11>11")
        for edge in a_zone_finding(passing=zone).boundaries
    ]
    assert len(combining_choose(*zones).conflict) == 2
    assert combining_choose(zones[0]).timezone == "<+14>-14"


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
            return combining_a_trap(test, *windows, date=parse_instant(windows[0][0]))
        case "cpu":
            passing = draw(st.lists(st.sampled_from(CPUS), unique=True, min_size=1, max_size=3))
            failing = tuple(sorted(set(CPUS) - set(passing)))
            fields = {"passing_cpus": tuple(passing), "failing_cpus": failing, "date": seen}
            return combining_a_finding(
                test, "cpu-dependent", cpu=passing[0], features=("avx2",), **fields
            )
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


@given(findings=some_findings(), host=st.sampled_from([COMBINING_HOST, OLD_HOST]))
def test_an_environment_is_chosen_exactly_where_one_meets_all_findings(findings, host):
    choice = combining_choose(*findings, host=host)
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
    choice = combining_choose(*findings)
    if choice.environment is None:
        return
    seen_today = [one.kind == "time-trap" or one.environment.date != OWN_DATE for one in findings]
    traps = [one for one in findings if one.kind == "time-trap"]
    passes_today = all(seen_today) and all(_is_met(one, TODAY, "", "") for one in traps)
    assert (choice.environment.date == TODAY) is passes_today


@given(findings=some_findings(), data=st.data())
def test_the_order_of_findings_changes_nothing_about_what_has_to_be_chosen(findings, data):
    shuffled = data.draw(st.permutations(findings))
    one, other = combining_choose(*findings), combining_choose(*shuffled)
    assert (one.level, bool(one.conflict)) == (other.level, bool(other.conflict))
