"""``buildvm scan``."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from buildvm_nb.cli import main
from buildvm_nb.cli.scan import distance
from buildvm_nb.model.instants import now

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
