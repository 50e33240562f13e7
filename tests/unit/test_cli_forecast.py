"""``buildvm forecast`` without guests: what it refuses, what it tells, how it exits."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from buildvm_nb.cli import main
from buildvm_nb.cli.command import ExitStatus, Session
from buildvm_nb.cli.forecast import _status, markdown_lines
from buildvm_nb.cli.options import SourceOptions, choose_case
from buildvm_nb.model.case import Case
from buildvm_nb.model.display import change_table, distance, forecast_fields
from buildvm_nb.model.finding import Change, Forecast, Hint
from buildvm_nb.model.instants import now
from buildvm_nb.model.machine import ImageSpec, MachineSpec

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
    case, base = choose_case(SourceOptions(), ["project"], None)
    assert (case.id, base) == ("mine", tmp_path / "project")
    image = ImageSpec(packages=("make",))
    case, _ = choose_case(SourceOptions(), ["empty", "make", "check all"], image)
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
    assert row.endswith(r"| \<b\>E: a\*b\`c\`\|d\_e \& \\x1b\[31m\</b\> |")


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


# ``buildvm scan``.

KEY = (Path(__file__).parent / "hints" / "data" / "ed25519.asc").read_text()


@pytest.fixture
def buildvm(capsys, tmp_path, monkeypatch):
    """Call the program in this process: status, standard output, standard error."""
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return (main([str(word) for word in words]), *capsys.readouterr())

    return call


@pytest.fixture
def tree(tmp_path):
    """A tree with a key, a date to come and a flag."""
    tree = tmp_path / "tree"
    (tree / "tests").mkdir(parents=True)
    (tree / "tests" / "key.asc").write_text(KEY)
    ahead = now().year + 2
    (tree / "app.py").write_text(f'\nEXPIRY = "{ahead}-01-01"  # \x1b[2J\n')
    (tree / "Makefile").write_text("CFLAGS = -march=native\n")
    return tree


def test_hints_are_listed_by_date_with_place_and_distance(buildvm, tree):
    status, out, err = buildvm("scan", "tree")
    header, *rows, ahead, flag = out.splitlines()
    assert status == 0
    assert header.split() == ["date", "from", "today", "kind", "where", "why"]
    assert [row.split()[0] for row in rows] == [
        "2021-03-30T13:10:24Z",
        "2021-03-30T13:10:25Z",
        "2022-03-30T13:10:25Z",
        "2023-03-30T13:10:24Z",
    ]
    assert " ago  openpgp-key-ends    tests/key.asc:1  OpenPGP key f7f0d93b0dbfc011" in rows[3]
    assert "  in 1 year " in ahead
    assert "  app.py:2         written there: " in ahead
    assert flag.split()[:2] == ["cpu-tuning", "Makefile:1"]
    assert err.splitlines()[-1] == "buildvm: 6 hints"
    assert "\x1b" not in out + err


def test_hints_are_an_array_in_json(buildvm, tree):
    status, out, _ = buildvm("scan", tree, "--json", "--quiet")
    hints = json.loads(out)
    assert status == 0
    assert len(hints) == 6
    assert hints[0] == {
        "kind": "openpgp-key-begins",
        "path": "tests/key.asc",
        "line": 1,
        "instant": "2021-03-30T13:10:24Z",
        "condition": "",
        "why": "OpenPGP key f7f0d93b0dbfc011 begins",
    }
    assert hints[-1]["condition"] == "native"
    assert hints[-1]["instant"] is None


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--kind", "openpgp"), 4),
        (("--kind", "openpgp-key-ends", "--kind", "cpu"), 3),
        (("--from", "2022-01-01", "--to", "2023-03-30T13:10:24Z"), 2),
        (("--from", "today"), 1),
        (("--to", "1980-01-01"), 0),
        (("--kind", "token"), 0),
    ],
    ids=str,
)
def test_the_list_can_be_filtered(buildvm, tree, options, count):
    status, out, _ = buildvm("scan", "tree", "--json", *options)
    assert (status, len(json.loads(out))) == (0, count)


def test_the_calendar_is_added_when_asked_for(buildvm, tree):
    _, out, _ = buildvm("scan", "tree", "--calendar", "--from", "2038-01-19", "--to", "2038-01-20")
    assert "2038-01-19T03:14:08Z" in out
    assert "rollover" in out
    _, out, _ = buildvm("scan", "tree", "--calendar", "--json")
    instants = [h["instant"] for h in json.loads(out) if h["kind"] == "calendar"]
    assert f"{now().year + 1}-01-01T00:00:00Z" in instants
    assert max(instants) < f"{now() + timedelta(days=365 * 21):%Y}"


def test_nothing_found_prints_no_table(buildvm, tmp_path):
    (tmp_path / "empty").mkdir()
    assert buildvm("scan", "empty", "-q") == (0, "", "")
    assert json.loads(buildvm("scan", "empty", "--json")[1]) == []


def test_what_is_left_out_is_counted_and_listed(buildvm, tree):
    (tree / "link\x1b").symlink_to("nowhere")
    _, _, err = buildvm("scan", "tree")
    assert err.splitlines()[-1] == (
        "buildvm: 6 hints; not read, or not in full: 1 (--verbose lists them)"
    )
    _, _, err = buildvm("scan", "tree", "--verbose")
    assert "buildvm: link\\x1b: it is a symbolic link\n" in err


def test_all_sources_of_a_case_are_scanned(buildvm, tree, tmp_path):
    case = tmp_path / "case.toml"
    case.write_text(
        'schema = 1\nid = "demo"\n[source]\nkind = "local"\npath = "tree"\n'
        '[[input]]\npath = "more"\n[input.source]\nkind = "local"\npath = "tree/tests"\n'
        '[[step]]\nname = "test"\nrun = "true"\n'
    )
    status, out, _ = buildvm("scan", case, "--kind", "openpgp-key-ends", "--json")
    assert status == 0
    assert {hint["path"] for hint in json.loads(out)} == {"tests/key.asc", "more/key.asc"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gone",), "no such case: 'gone' is no file and no curated case's id"),
        (("./gone",), "nothing to scan: no such file or directory: ./gone"),
        (("tree", "--kind", "x"), "--kind: no such kind: 'x'; allowed: certificate-begins, "),
        (("tree", "--from", "2030-01-01", "--to", "2020-01-01"), "--from 2030-01-01 is later than"),
        (("tree", "--from", "soon"), "not a date: 'soon'"),
    ],
    ids=str,
)
def test_a_wrong_request_is_refused(buildvm, tree, words, message):
    status, out, err = buildvm("scan", *words)
    assert (status, out) == (2, "")
    assert message in err


def test_a_case_without_sources_is_refused(buildvm, tmp_path):
    text = 'schema = 1\nid = "bare"\n[[step]]\nname = "test"\nrun = "true"\n'
    (tmp_path / "bare.toml").write_text(text)
    status, _, err = buildvm("scan", "bare.toml")
    assert status == 2
    assert "nothing to scan: the case bare has no source and no inputs" in err


@pytest.mark.parametrize(
    ("instant", "told"),
    [
        (datetime(2026, 7, 1, tzinfo=UTC), "now"),
        (datetime(2026, 7, 1, 0, 30, tzinfo=UTC), "now"),
        (datetime(2026, 7, 1, 5, tzinfo=UTC), "in 5 hours"),
        (datetime(2026, 6, 30, tzinfo=UTC), "1 day ago"),
        (datetime(2026, 8, 1, tzinfo=UTC), "in 1 month"),
        (datetime(2028, 2, 1, tzinfo=UTC), "in 1 year 7 months"),
        (datetime(2028, 1, 31, tzinfo=UTC), "in 1 year 6 months"),
        (datetime(2021, 7, 1, tzinfo=UTC), "5 years ago"),
        (datetime(9999, 12, 31, tzinfo=UTC), "in 7973 years 5 months"),
    ],
    ids=str,
)
def test_a_distance_is_told_in_at_most_two_units(instant, told):
    assert distance(instant, datetime(2026, 7, 1, tzinfo=UTC)) == told
