"""``buildvm environment``, and the same from Python: findings of catalogs looked up and told."""

import json
from pathlib import Path

import pytest

import buildvm_nb
from buildvm_nb.catalog import Catalog, curated_cases, load_case
from buildvm_nb.catalog.curated import curated_findings
from buildvm_nb.catalog.reported import reported_rows
from buildvm_nb.cli import main
from buildvm_nb.cli.build import _again, chosen_overrides
from buildvm_nb.cli.command import Session
from buildvm_nb.cli.options import MachineOptions
from buildvm_nb.errors import UsageError
from buildvm_nb.model.case import Case, GitSource, PyPISource, Step, Window
from buildvm_nb.model.finding import Boundary, Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.study.choice import Basis, Choice
from buildvm_nb.study.choosing import environment

OUTCOME = "01K0000000000000000000000A"
CASE_FILE = """
schema = 1
id = "tiny"
[[step]]
name = "test"
run = "true"
"""
GONE = CASE_FILE.replace("[[step]]", '[source]\nkind = "local"\npath = "nothing-here"\n[[step]]')
TINY = Case(id="tiny", step=[Step(name="test", run="true")])


@pytest.fixture
def buildvm(capsysbinary, tmp_path, monkeypatch):
    """Call the program in this process: status, standard output, standard error."""
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(CASE_FILE)

    def call(*words):
        status = main([str(word) for word in words])
        out, err = capsysbinary.readouterr()
        return status, out.decode(), err.decode()

    return call


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Record a time trap in the user's own catalog."""
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))

    def add(case=TINY, **changes):
        machine = MachineSpec(date="2019-05-01", cpu="Nehalem", accelerator="tcg")
        fields = {
            "case": case,
            "kind": "time-trap",
            "axis": "date",
            "summary": "fails from \x1b[2J2020 on",
            "windows": (Window(passes_until="2019-12-31T23:59:59Z"),),
            "environment": machine,
            "confidence": 0.98,
            "evidence": (OUTCOME,),
        }
        with Catalog() as catalog:
            if catalog.outcomes().empty:
                catalog.record(Outcome(id=OUTCOME, case=case, machine=machine, verdict="passed"))
            return catalog.record_finding(Finding(**{**fields, **changes}))

    return add


def test_the_finding_on_a_case_file_is_found_and_explained(buildvm, record):
    finding = record()
    status, out, err = buildvm("environment", "tiny.toml")
    assert (status, err) == (0, "")
    first, _, *lines = out.splitlines()
    assert first == (
        "For tiny the date has to be chosen; it passes at 2019-05-01T00:00:00Z, Nehalem, kernel "
        f"debian:bookworm. Finding {finding.id} of your catalog says so (time-trap: fails from "
        "\\x1b[2J2020 on)."
    )
    told = dict(line.split(maxsplit=1) for line in lines)
    assert (told["choose"], told["basis"]) == ("date", "own-finding")
    assert told["see"] == f"buildvm catalog show {finding.id}"
    assert buildvm(*told["see"].split()[1:])[0] == 0


def test_the_choice_is_told_as_json_and_python_gives_the_same(buildvm, record, tmp_path):
    finding = record()
    told = json.loads(buildvm("environment", "tiny.toml", "--json")[1])
    assert (told["level"], told["evidence"]) == ("date", [OUTCOME])
    assert told["because"]["id"] == finding.id

    for subject in (TINY, tmp_path / "tiny.toml", "tiny.toml"):
        choice = buildvm_nb.environment(subject)
        assert isinstance(choice, Choice)
        assert choice.document() == told


def test_a_case_that_nobody_diagnosed_gets_a_guess(buildvm, record):
    status, out, _ = buildvm("environment", "tiny.toml")
    assert status == 0
    assert "Nothing is known about tiny: " in out
    assert "is a guess (today, as no source tells a date), not a finding." in out


def test_a_package_is_found_by_name_and_version_whatever_its_spelling(buildvm, record):
    case = TINY.model_copy(update={"source": PyPISource(name="Foo_Bar", version="1.0")})
    finding = record(case)
    record(TINY)
    for words in (("foo-bar", "1.0"), ("foo.bar",)):  # all findings on it are on one version
        status, out, _ = buildvm("environment", *words, "--json")
        assert (status, json.loads(out)["because"]["id"]) == (0, finding.id)
    told = json.loads(buildvm("environment", "foo-bar", "2.0", "--json")[1])
    assert (told["basis"], told["level"], told["because"]) == ("none", "unknown", None)
    assert [one["id"] for one in told["other_versions"]] == [finding.id]
    assert "other versions" in buildvm("environment", "foo-bar", "2.0")[1]


def test_two_versions_of_a_package_without_one_asked_for_are_only_named(buildvm, record):
    for version in ("1", "2"):
        source = GitSource(url="https://example.org/p.git", commit=version)
        record(TINY.model_copy(update={"source": source, "id": f"p-{version}"}))
    told = json.loads(buildvm("environment", "p", "--json")[1])
    assert (told["because"], len(told["other_versions"])) == (None, 2)


def test_a_superseded_finding_does_not_count(buildvm, record):
    record()
    later = record(windows=(Window(passes_until="2018-01-01"),))
    told = json.loads(buildvm("environment", "tiny.toml", "--json")[1])
    assert (told["because"]["id"], told["against"]) == (later.id, [])
    assert told["environment"]["date"] == "2017-12-31T00:00:00Z"


def test_a_finding_of_the_curated_catalog_is_found(buildvm, monkeypatch):
    case = load_case(curated_cases()["requests-toolbelt-0.9.1"])
    finding = Finding(
        case=case,
        kind="time-trap",
        axis="date",
        summary="expires",
        windows=(Window(passes_until="2021-11-27T15:28:58Z"),),
        environment=MachineSpec(date="2019-01-29", cpu="Skylake-Server"),
        confidence=1,
    )
    monkeypatch.setattr("buildvm_nb.study.choosing.curated_findings", lambda: (finding,))
    told = json.loads(buildvm("environment", "requests-toolbelt", "0.9.1", "--json")[1])
    assert (told["basis"], told["level"]) == ("curated-finding", "date")
    assert told["because"]["id"] == finding.id


def test_the_findings_of_the_curated_catalog_are_of_curated_cases():
    assert {finding.case.id for finding in curated_findings()} <= set(curated_cases())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "a case, or a package and its version; got 0 words"),
        (("a", "b", "c"), "got 3 words"),
        (("--local", "."), "a source without a name of its own: local"),
        (("--git", "."), "--git needs one of --commit and --before"),
        (("./nothing.toml",), "nothing.toml"),
        (("--image", "bookworm", "x"), "--image: not an image"),
        (("x", "--catalog", "none.sqlite"), "no such catalog: none.sqlite"),
    ],
    ids=str,
)
def test_a_wrong_request_is_refused(buildvm, words, told):
    status, out, err = buildvm("environment", *words)
    assert (status, out) == (2, "")
    assert told in err


def test_a_version_of_a_case_is_refused():
    with pytest.raises(UsageError, match="a version belongs to a package's name; got Case"):
        buildvm_nb.environment(TINY, "1.0")


def test_an_environment_that_is_none_is_refused(buildvm):
    status, _, err = buildvm("build", "tiny.toml", "--environment", "best")
    assert status == 2
    assert "--environment: unknown: 'best'; allowed: auto" in err


def test_a_chosen_time_zone_is_told_and_is_that_of_the_build(buildvm, record):
    edge = Boundary(
        axis="timezone",
        last_before="<+14>-14",
        first_after="UTC",
        before="passed",
        after="failed",
        is_exact=True,
    )
    finding = record(kind="timezone-dependent", axis="timezone", windows=(), boundaries=(edge,))
    _, out, _ = buildvm("environment", "tiny.toml")
    assert "time zone  <+14>-14" in out
    case, _, chosen_by = chosen_overrides(Session(), "auto", TINY, Path(), {})
    assert (case.timezone, chosen_by) == ("<+14>-14", (finding.id,))


def test_what_is_chosen_gives_way_to_what_is_given_and_says_so(record, capsys):
    finding = record()
    given = {"date": parse_instant("2025-01-01"), "cpu": "Nehalem"}
    case, taken, chosen_by = chosen_overrides(Session(), "auto", TINY, Path(), given)
    assert case == TINY
    assert chosen_by == (finding.id,)
    assert taken == {
        "date": given["date"],
        "cpu": "Nehalem",
        "kernel": "debian:bookworm",
        "accelerator": "tcg",
    }
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("buildvm: For tiny the date has to be chosen; ")
    assert lines[1:] == [
        f"buildvm: see `buildvm catalog show {finding.id}`",
        "buildvm: --date 2025-01-01T00:00:00Z takes precedence over 2019-05-01T00:00:00Z",
    ]


@pytest.mark.parametrize("words", [("--environment", "auto"), ("--environment=auto",)])
def test_the_command_that_asks_again_names_what_was_chosen(words):
    machine = MachineSpec(date="2019-05-01", cpu="Nehalem", accelerator="tcg")
    outcome = Outcome(case=TINY, machine=machine, verdict="passed")
    session = Session(argv=("build", "tiny.toml", *words))
    assert _again(session, MachineOptions(), outcome) == (
        "buildvm build tiny.toml --date 2019-05-01T00:00:00Z --cpu Nehalem --kernel debian:bookworm"
    )


def test_an_outcome_names_the_findings_that_chose_its_machine(buildvm, record, tmp_path):
    (tmp_path / "gone.toml").write_text(GONE)
    finding = record(load_case(tmp_path / "gone.toml"))
    status, out, _ = buildvm("build", "gone.toml", "--environment", "auto", "--json")
    outcome = json.loads(out)
    assert (status, outcome["verdict"], outcome["chosen_by"]) == (4, "unavailable", [finding.id])
    assert outcome["machine"]["date"] == "2019-05-01T00:00:00Z"

    shown = buildvm("catalog", "show", outcome["id"])[1]
    assert f"finding {finding.id}" in shown
    rows = buildvm("catalog", "list", "--json")[1]
    assert f'"chosen_by": "{finding.id}"' in rows
    given = ("--date", "2019-06-01", "--cpu", "Haswell", "--kernel", "debian:bookworm")
    words = ("build", "gone.toml", "--environment", "auto", *given, "--accelerator", "tcg")
    assert json.loads(buildvm(*words, "--json")[1])["chosen_by"] == []


def test_a_directory_of_that_name_is_the_package_and_no_case(buildvm, tmp_path):
    (tmp_path / "requests").mkdir()
    assert "Nothing is known about requests" in buildvm("environment", "requests")[1]


# the curated catalog: each tier is named

VERIFIED = {finding.case.id: finding.case for finding in curated_findings()}


@pytest.fixture
def empty(tmp_path):
    with Catalog(tmp_path / "empty.sqlite") as catalog:
        yield catalog


@pytest.mark.parametrize("case", VERIFIED.values(), ids=lambda case: case.id)
def test_every_verified_case_is_found_by_the_package_that_it_is_about(case, empty):
    choice = environment(case.about.name, case.about.version, catalog=empty)
    assert "Nothing is known" not in choice.explanation
    named = {choice.because and choice.because.case.id, *(one.case for one in choice.also)}
    named |= {one.case for one in choice.against}
    assert case.id in named


def test_a_package_that_is_only_proposed_or_reported_is_not_said_to_be_unknown(empty, buildvm):
    choice = environment("PyOpenSSL", "19.1.0", catalog=empty)
    assert (choice.level, choice.environment) == ("unknown", None)
    assert {(one.id, one.tier) for one in choice.unproved} == {
        ("pyopenssl-19.1.0", "proposed"),
        ("pyopenssl-2020", "reported"),
    }
    assert choice.explanation.startswith("Nothing is proved about PyOpenSSL 19.1.0")
    assert "pyopenssl-2020 (reported, not proved here, on pyOpenSSL" in choice.explanation
    assert "not proved here  pyopenssl-19.1.0 (proposed" in buildvm("environment", "pyopenssl")[1]


def test_every_reported_row_is_named_by_its_package(empty):
    for row in reported_rows()[::10]:
        choice = environment(row.name, "1.2.3", catalog=empty)
        assert row.id in {one.id for one in choice.unproved}


def test_what_is_unknown_in_every_tier_is_said_to_be_unknown(empty):
    choice = environment("nobody-has-heard-of-it", catalog=empty)
    assert (choice.unproved, choice.basis) == ((), Basis.NONE)
    assert choice.explanation.startswith("Nothing is known about nobody-has-heard-of-it")
