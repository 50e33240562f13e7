"""``buildvm forecast`` without guests: what it refuses, what it tells, how it exits."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from buildvm_nb.cli import main
from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.forecast import _choose, _status
from buildvm_nb.cli.forecast_summary import change_table, forecast_fields, markdown_lines
from buildvm_nb.cli.grid_options import FixedOptions
from buildvm_nb.cli.session import Session
from buildvm_nb.model.case import Case
from buildvm_nb.model.forecast import Change, Forecast
from buildvm_nb.model.hint import Hint
from buildvm_nb.model.machine import MachineSpec

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 23, tzinfo=UTC)
FIRST = datetime(2028, 8, 26, 14, 23, 15, tzinfo=UTC)
UNTIL = datetime(2040, 1, 1, tzinfo=UTC)
CASE = Case.parse({"id": "demo", "steps": [{"name": "test", "run": "true"}]})
CAUSE = Hint(
    kind="certificate-ends", path="t/key|cert.pem", line=41, instant=FIRST, why="CN=x ends"
)


def change(at=FIRST, **fields):
    known = {
        "kind": "breaks",
        "last_before": at - timedelta(seconds=1),
        "first_after": at,
        "is_exact": True,
        "of_whole": True,
        "verdict": "failed",
    }
    return Change.model_validate(known | fields)


def told(*changes, **fields):
    known = {
        "case": CASE,
        "machine": MachineSpec(date=NOW),
        "start": NOW,
        "until": UNTIL,
        "status": "breaks" if changes else "sound",
        "today": "passed",
        "today_outcome": "01",
        "changes": changes,
        "sound_until": UNTIL,
    }
    return Forecast.model_validate(known | fields)


@pytest.fixture
def forecast(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "buildvm.toml").write_text(
        'schema = 1\nid = "mine"\n[source]\nkind = "local"\npath = "."\n'
        '[[step]]\nname = "test"\nrun = "true"\n'
    )

    def call(*words):
        status = main(["forecast", *words])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("empty",), "no buildvm.toml in empty, and no command: what runs the tests?"),
        ((), "no buildvm.toml in ., and no command"),
        (("project", "--", "make", "check"), "a case says itself what to run; got a command"),
        (("project", "--until", "soon"), "neither a distance nor a date: 'soon'"),
        (("project", "--until", "2020"), "not after "),
        (("project", "--until", "1y", "--fail-within", "2y"), "--fail-within 2y is later than"),
        (("project", "--json", "--markdown"), "--markdown and --json exclude each other"),
        (("no-such-case",), "no such case: 'no-such-case'"),
        (("project", "--scheduler", "here"), "not a scheduler's address"),
    ],
)
def test_a_wrong_request_says_what_is_allowed(forecast, words, message):
    status, out, err = forecast(*words)
    assert (status, out) == (2, "")
    assert message in err


def test_a_project_brings_its_case_file_or_gets_a_command(forecast, tmp_path):
    case, base = _choose(["project"], FixedOptions())
    assert (case.id, base) == ("mine", tmp_path / "project")
    case, _ = _choose(["empty", "make", "check all"], FixedOptions(package=["make"]))
    assert (case.id, case.steps[0].run) == ("empty", "make 'check all'")
    assert case.source.path == str(tmp_path / "empty")
    assert case.image.packages == ("make",)


def test_the_table_tells_when_what_and_why():
    hidden = change(
        FIRST + timedelta(days=365),
        of_whole=False,
        tests=("a", "b", "c", "d"),
        is_exact=False,
        last_before=FIRST,
        suspects=(CAUSE,),
    )
    healed = change(UNTIL, kind="heals", verdict="passed")
    other = change(UNTIL, kind="fails-otherwise", of_whole=False, is_exact=False)
    first = change(cause=CAUSE, tests=("a",), failing_line="Error: expired\nmore")
    columns, rows = change_table(told(first, hidden, healed, other), NOW)
    assert columns == ("when", "from today", "what", "why", "shown by")
    assert rows[0] == (
        "2028-08-26T14:23:15Z",
        "in 1 year 9 months",
        "fails: a",
        "t/key|cert.pem:41: CN=x ends",
        "Error: expired",
    )
    assert rows[1][0] == "2028-08-26T14:23:15Z to 2029-08-26T14:23:15Z"
    assert rows[1][2] == "fails: a, b, c and 1 more (others fail already)"
    assert rows[1][3] == "perhaps t/key|cert.pem:41: CN=x ends"
    assert rows[2][2:4] == ("the whole passes again", "nothing in the source says so")
    assert rows[3][2:4] == ("fails otherwise", "")


def test_markdown_is_safe_and_has_a_row_for_each_change():
    line = "<b>E: a*b`c`|d_e & \x1b[31m</b>"
    lines = list(markdown_lines(told(change(cause=CAUSE, failing_line=line)), NOW))
    assert lines[0] == "## Something breaks: demo"
    assert lines[-2] == "| --- | --- | --- | --- | --- |"
    row = lines[-1]
    assert "t/key\\|cert.pem:41: CN=x ends" in row
    assert row.endswith("| &lt;b>E: a\\*b'c'\\|d\\_e &amp; \\x1b[31m&lt;/b> |")


def test_what_fails_today_shows_why_and_names_the_log():
    fields = dict(
        forecast_fields(
            told(status="fails-today", today="failed", today_line="Error: x", sound_until=None)
        )
    )
    assert fields["forecast"] == "No forecast: it fails today already"
    assert fields["shown by"] == "Error: x"
    assert fields["log"] == "buildvm catalog log 01"
    assert fields["sound until"] == ""


@pytest.mark.parametrize(
    ("forecast", "limit", "status"),
    [
        (told(), UNTIL, 0),
        (told(change()), UNTIL, 3),
        (told(change()), FIRST, 3),
        (told(change()), FIRST - timedelta(seconds=1), 0),
        (told(change(last_before=NOW, is_exact=False)), NOW + timedelta(days=1), 3),
        (told(change(kind="heals")), UNTIL, 0),
        (told(status="fails-today", today="failed"), UNTIL, ExitStatus.FAILS_TODAY),
        (told(status="undetermined"), UNTIL, 1),
        (told(is_exhausted=True), UNTIL, 1),
        (told(change(), is_exhausted=True), UNTIL, 3),
    ],
)
def test_the_status_is_about_the_span_that_was_asked_for(forecast, limit, status):
    assert _status(Session(quiet=True), forecast, limit) == status


def test_a_forecast_becomes_json_and_back_without_loss():
    value = told(change(cause=CAUSE, suspects=(CAUSE,)))
    assert Forecast.model_validate(json.loads(json.dumps(value.model_dump(mode="json")))) == value


@pytest.mark.parametrize("name", ["github-forecast.yml", "gitlab-forecast.yml"])
def test_the_jobs_in_the_guide_are_the_files_beside_it(name):
    job = (ROOT / "docs" / "ci" / name).read_text()
    assert f"```yaml\n{job}```" in (ROOT / "docs" / "forecast.md").read_text()
    wanted = (ROOT / "binder" / "apt.txt").read_text().split()
    assert set(wanted) <= set(re.findall(r"[\w.+-]+", job))
    assert "buildvm forecast" in job
