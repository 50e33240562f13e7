"""Studies in one call: whose case is meant, and what is refused before anything runs."""

import os
import re
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

import buildvm_nb
from buildvm_nb.batch.run import check_parameters
from buildvm_nb.catalog import Catalog
from buildvm_nb.cli import main
from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, GitSource, LocalSource, PyPISource, at_commit
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.nb.build import BuildPanel
from buildvm_nb.nb.study import DiagnosisPanel, ForecastPanel
from buildvm_nb.study.options import read_questions

CASE = Case.parse({"id": "mine", "steps": [{"name": "test", "run": "true"}]})


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    return tmp_path


GONE = """schema = 1
id = "ID"
source = { kind = "local", path = "no-such-tree" }
[[step]]
name = "test"
run = "true"
"""


@pytest.fixture
def named(nowhere, monkeypatch):
    """One case in each of the ways in which a case can be named."""
    root = nowhere / "curated"
    for place in ("project/buildvm.toml", "mine.toml", "curated/cases/known-1.0.toml"):
        file = nowhere / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(GONE.replace("ID", file.stem))
    source = LocalSource(path=str(nowhere / "no-such-tree"))
    case = CASE.model_copy(update={"id": "recorded", "source": source})
    with Catalog() as catalog:
        catalog.record(Outcome(case=case, machine=MachineSpec(), verdict="passed", duration_s=1))
    monkeypatch.setattr("buildvm_nb.catalog.curated.curated_root", lambda: root)
    monkeypatch.chdir(nowhere)


def refused(study, **what):
    """Call a study for something that it refuses only once it has the case."""

    def call(name):
        with pytest.raises(UsageError) as told:
            study(name, **what)
        return str(told.value)

    return call


def panel(kind):
    def call(name):
        with closing(kind(name)) as made:
            return str(made.case if kind is BuildPanel else made.subject.case)

    return call


FACES = {
    "build": (lambda name: buildvm_nb.build(name).reason, "no-such-tree"),
    "sweep": (refused(buildvm_nb.sweep, dates="soon"), "not a date: 'soon'"),
    "diagnose": (refused(buildvm_nb.diagnose, axes=["soon"]), "axes: unknown axis: 'soon'"),
    "forecast": (refused(buildvm_nb.forecast, until="2001"), "not after "),
    "a batch": (lambda name: str(check_parameters(case=name).cases()), "no-such-tree"),
    "a build's panel": (panel(BuildPanel), "no-such-tree"),
    "a diagnosis' panel": (panel(DiagnosisPanel), "no-such-tree"),
    "a forecast's panel": (panel(ForecastPanel), "no-such-tree"),
}
COMMANDS = {
    "build": ([], "no-such-tree"),
    "sweep": (["--dates", "soon"], "not a date: 'soon'"),
    "diagnose": (["--axis", "soon"], "unknown axis: 'soon'"),
    "forecast": (["--until", "2001"], "not after "),
    "scan": ([], "no-such-tree"),
}
NAMES = ("mine.toml", "known-1.0", "recorded", "project", "./project")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("face", FACES)
def test_a_case_is_named_alike_everywhere(named, name, face):
    call, told = FACES[face]
    assert told in call(name)


@pytest.mark.parametrize(
    ("face", "name"),
    [
        (face, name)
        for face in COMMANDS
        for name in NAMES
        if face != "scan" or "project" not in name  # a directory is scanned as it is
    ],
)
def test_a_case_is_named_alike_in_every_command(named, name, face, capsys):
    words, told = COMMANDS[face]
    assert main([face, name, *words]) != 0
    assert told in "".join(capsys.readouterr())


def test_a_directory_is_what_it_holds_where_a_command_is_given(nowhere, monkeypatch, capsys):
    (nowhere / "tree").mkdir()
    monkeypatch.chdir(nowhere)
    words = ("tree", "--scheduler", "tcp://localhost:8786", "--dry-run", "--json")
    assert main(["diagnose", *words, "--", "make"]) == 0
    assert main(["diagnose", *words]) == 2
    assert "no buildvm.toml in tree, and no command" in capsys.readouterr().err


def test_the_package_has_what_notebooks_need_and_nothing_else():
    assert buildvm_nb.__all__ == dir(buildvm_nb) == [
        *("BuildMachine", "BuildVMError", "Case", "Catalog", "CatalogError", "CommandFailed"),
        *("Finding", "Forecast", "HostError", "MachineError", "MachineSpec", "Outcome"),
        *("SourceError", "SweepResult", "UsageError", "build", "diagnose", "environment"),
        *("forecast", "lab", "run", "sweep"),
    ]  # fmt: skip
    for name in buildvm_nb.__all__:
        assert getattr(buildvm_nb, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'run_case'"):
        _ = buildvm_nb.run_case


def test_the_reference_is_what_the_docstrings_say():
    root = Path(__file__).parents[2]
    made = subprocess.run(
        [sys.executable, root / "scripts" / "api-reference"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = "stale: scripts/api-reference > docs/api.md"
    assert made.stdout == (root / "docs" / "api.md").read_text(encoding="utf-8"), told


def test_a_build_whose_source_is_gone_is_recorded_as_data(nowhere):
    case = CASE.model_copy(update={"source": LocalSource(path=str(nowhere / "gone"))})
    outcome = buildvm_nb.build(case)
    assert outcome.verdict == "unavailable"
    with Catalog() as catalog:
        assert list(catalog.outcomes()["id"]) == [outcome.id]


def test_a_commit_goes_into_the_source_and_nothing_else_changes():
    case = CASE.model_copy(update={"source": GitSource(url="/some/where", before="2020-01-01")})
    changed = at_commit(case, "0012345")
    assert (changed.source.commit, changed.source.before) == ("0012345", None)
    assert changed.source.url == "/some/where"
    assert changed.model_copy(update={"source": case.source}) == case
    elsewhere = at_commit(CASE, "v1", "https://example.org/x.git")
    assert elsewhere.source == GitSource(url="https://example.org/x.git", commit="v1")


def test_a_commit_of_no_repository_is_refused():
    case = CASE.model_copy(update={"source": PyPISource(name="six", version="1.16.0")})
    with pytest.raises(UsageError, match=r"commit 'v1' of what.*is pypi; allowed: git"):
        at_commit(case, "v1")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"axes": ["dates"]}, "axes: unknown axis: 'dates'; allowed: date, cpu"),
        ({"axes": []}, "axes: unknown axis: ''; allowed: date, cpu"),
        ({"axes": "commit"}, "axes commit needs both ends: good and bad"),
        ({"axes": "cpu", "first": "2015"}, "first says nothing without axes date"),
        ({"kernels": "sid"}, "kernels: unknown kernel: 'sid'"),
        ({"resolution": "1y"}, "resolution: not a time: '1y'"),
        ({"budget": 0}, "budget: not a number: '0'; allowed: 1 and more"),
        ({"first": "2030", "last": "2015"}, "the dates end before they begin"),
    ],
    ids=str,
)
def test_a_question_that_cannot_be_asked_says_what_is_allowed(nowhere, asked, told):
    with pytest.raises(UsageError, match=re.escape(told)):
        buildvm_nb.diagnose(CASE, **asked)


def test_a_list_is_given_as_text_or_as_its_parts(nowhere):
    def read(**given):
        return read_questions(given, Cache(nowhere / "cache"))

    assert read(cpus="Westmere").cpus == read(cpus=["Westmere"]).cpus == ("Westmere",)
    assert read(cpus=("Westmere", "Haswell,-avx2")).cpus == ("Westmere", "Haswell,-avx2")
    assert read(axes="cores", cores=[2, 1]).cores == read(axes="cores", cores="1,2").cores == (1, 2)
    assert read(axes=("cpu", "date")).axes == read(axes="cpu,date").axes == ("cpu", "date")
    assert read(first=datetime(2020, 1, 1, tzinfo=UTC)).first == read(first="2020").first
    assert read(resolution_s="1h").resolution_s == read(resolution_s=3600).resolution_s == 3600


def test_a_forecast_has_machines_of_its_own(nowhere):
    with pytest.raises(UsageError, match="memory_mib"):
        buildvm_nb.forecast(CASE, memory_mib="lots")
    with pytest.raises(UsageError, match="a forecast varies the date itself"):
        buildvm_nb.forecast(CASE, date="2020-01-01")


def test_a_text_that_is_no_axis_is_told_by_name(nowhere):
    with pytest.raises(UsageError, match="dates: not a date: 'soon'"):
        buildvm_nb.sweep(CASE, dates="soon")


def test_a_directory_without_a_case_file_says_what_is_missing(nowhere):
    with pytest.raises(UsageError, match=r"no buildvm\.toml in"):
        buildvm_nb.forecast(nowhere)


def test_a_field_that_no_machine_has_is_refused(nowhere):
    with pytest.raises(UsageError, match="colour"):
        buildvm_nb.run("true", colour="blue")


def test_an_environment_is_a_choice_or_auto(nowhere):
    with pytest.raises(UsageError, match="unknown: 'past'; allowed: 'auto', a Choice"):
        buildvm_nb.build(CASE, environment="past")
    case = CASE.model_copy(update={"source": LocalSource(path=str(nowhere / "gone"))})
    outcome = buildvm_nb.build(case, environment="auto")
    assert (outcome.verdict, outcome.chosen_by) == ("unavailable", ())


def test_a_study_of_dates_refuses_a_machine_with_a_date(nowhere):
    with pytest.raises(UsageError, match="a diagnosis of dates varies the date itself"):
        buildvm_nb.diagnose(CASE, date="2010-05-05")
    with pytest.raises(UsageError, match="the sweep varies the date itself"):
        buildvm_nb.sweep(CASE, dates="2010..2012/1Y", date="2010-05-05")
