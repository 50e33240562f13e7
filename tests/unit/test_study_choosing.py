"""Which environment is chosen, by findings as diagnoses make them."""

from datetime import UTC, datetime, timedelta

import pytest

from buildvm_nb.catalog.proofs import curated_findings
from buildvm_nb.model.case import (
    Case,
    DebianSource,
    GitSource,
    LocalSource,
    PyPISource,
    Step,
    WheelsSource,
)
from buildvm_nb.model.cpu import CPU_MODELS, cpu_at, instruction_sets
from buildvm_nb.model.finding import Boundary, Finding, Window
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.study.choice import Basis, Choice
from buildvm_nb.study.choosing import choose_environment
from buildvm_nb.study.packages import Package, package_of
from buildvm_nb.study.showing import Host, this_host
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
