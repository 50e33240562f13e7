"""None"""

import gzip
import hashlib
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pandas as pd
import psycopg
import pytest
from sqlalchemy import insert, inspect, text, update

from buildvm_nb.catalog import FAILURES, Catalog, read_failures
from buildvm_nb.catalog import database as upgrades
from buildvm_nb.catalog import tablefiles as jsonlines
from buildvm_nb.catalog.database import default_place
from buildvm_nb.catalog.database import meta as meta_table
from buildvm_nb.catalog.database import outcomes as outcomes_table
from buildvm_nb.catalog.frames import check_frame, empty_frame, make_frame
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.query import Query
from buildvm_nb.catalog.rows import finding_row
from buildvm_nb.catalog.schema import FINDINGS, HINTS, OUTCOMES, SCHEMA_VERSION
from buildvm_nb.catalog.tablefiles import read_csv, read_jsonl, write_csv, write_jsonl
from buildvm_nb.errors import CatalogError, CatalogUnreachable, SchemaVersionError, UsageError
from buildvm_nb.model.case import Case, GitSource, LocalSource, PyPISource, Step, Window
from buildvm_nb.model.finding import Boundary, Finding, FindingKind, Hint, Reruns
from buildvm_nb.model.instants import LATEST, parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Probing, SourceRecord, Verdict

START = datetime(2026, 1, 1, tzinfo=UTC)


def an_outcome(**changes):
    fields = {
        "case": Case(id="demo", step=[Step(name="test", run="make check")]),
        "machine": MachineSpec(date="2038-01-19T03:14:08Z"),
        "verdict": Verdict.PASSED,
    }
    return Outcome(**{**fields, **changes})


@pytest.fixture
def catalog(place, tmp_path):
    with Catalog(place, logs=tmp_path / "logs") as catalog:
        yield catalog


def test_an_outcome_comes_back_without_loss(catalog):
    outcome = an_outcome(
        evidence="a\0b\x1b[31m\r\n\ud7ff",
        host={"cores": 2, "load": [0.5, None]},
        machine=MachineSpec(date="2232-04-18T23:47:15Z"),
        recorded_at=datetime(2400, 12, 31, 23, 59, 58, 999999, tzinfo=UTC),
    )
    recorded = catalog.record(outcome)

    assert recorded == outcome
    assert catalog.outcome(outcome.id) == outcome


def test_a_log_comes_back_and_its_digest_is_recorded(catalog):
    log = b"\0\xff\r\n" * 1000
    outcome = catalog.record(an_outcome(), log)

    assert outcome.log_digest == hashlib.sha256(log).hexdigest()
    assert catalog.log(outcome.id) == log
    assert catalog.log(outcome.log_digest) == log
    assert catalog.outcome(outcome.id) == outcome


def test_a_log_may_be_a_file(catalog, tmp_path):
    log = os.urandom(5) * 1_000_000
    (tmp_path / "log").write_bytes(log)
    outcome = catalog.record(an_outcome(), tmp_path / "log")

    assert b"".join(catalog.log_pieces(outcome.id)) == log


def test_a_log_that_is_not_there_is_a_catalog_error_and_nothing_is_recorded(catalog, tmp_path):
    with pytest.raises(CatalogError, match="cannot keep a log"):
        catalog.record(an_outcome(), tmp_path / "none")
    assert catalog.outcomes().empty


def test_a_log_must_have_the_digest_that_the_outcome_says(catalog):
    with pytest.raises(CatalogError, match="the log is not that of outcome"):
        catalog.record(an_outcome(log_digest="0" * 64), b"text")
    with pytest.raises(CatalogError, match="log is missing: 0000"):
        catalog.record(an_outcome(log_digest="0" * 64))
    assert catalog.outcomes().empty


def test_a_log_that_the_catalog_has_need_not_be_given_again(catalog):
    first = catalog.record(an_outcome(), b"text")
    second = catalog.record(an_outcome(log_digest=first.log_digest))
    empty = catalog.record(an_outcome(log_digest=hashlib.sha256().hexdigest()))

    assert catalog.log(second.id) == b"text"
    assert catalog.log(empty.id) == b""


def test_an_outcome_without_a_log_says_so(catalog):
    outcome = catalog.record(an_outcome())

    with pytest.raises(CatalogError, match=f"outcome has no log: {outcome.id}"):
        catalog.log(outcome.id)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "log is missing"),
        (lambda path: path.write_bytes(b"no gzip"), "log is corrupt"),
        (lambda path: path.write_bytes(path.read_bytes()[:-12]), "log is corrupt"),
        (lambda path: path.write_bytes(path.read_bytes()[:12] + b"\xff" * 9), "log is corrupt"),
        (lambda path: path.write_bytes(gzip.compress(b"other")), "has a text with SHA-256"),
    ],
)
def test_a_missing_or_corrupt_log_is_named(catalog, tmp_path, damage, told):
    outcome = catalog.record(an_outcome(), b"text" * 1000)
    digest = outcome.log_digest
    path = tmp_path / "logs" / digest[:2] / f"{digest}.gz"
    damage(path)

    with pytest.raises(CatalogError, match=told) as caught:
        catalog.log(outcome.id)
    assert str(path) in caught.value.message

    catalog.record(an_outcome(), b"text" * 1000)
    assert catalog.log(outcome.id) == b"text" * 1000


HARD_TEXTS = [
    "0012345",
    "12e4567",
    "1e999",
    "NA",
    "null",
    "2016-12-31T23:59:60Z",
    "a\0b",
    "\x1b[31mred\x1b[0m\x07\r",
    "=1+1",
    "\ufeff \u2028 \U0010ffff",
]


@pytest.mark.parametrize("hard", HARD_TEXTS)
def test_hard_text_comes_back_from_documents_tables_and_logs(catalog, hard):
    digest = hashlib.sha256(hard.encode()).hexdigest()
    source = SourceRecord(kind="git", name=hard, version=hard, digest=digest)
    log = hard.encode() * 3
    outcome = catalog.record(
        an_outcome(
            case=an_outcome().case.model_copy(update={"source": LocalSource(path="x")}),
            sources=(source,),
            reason=hard,
            evidence=hard,
            study=hard,
            host={hard: hard},
        ),
        log,
    )

    assert catalog.outcome(outcome.id) == outcome
    assert catalog.log(outcome.id) == log
    frame = catalog.outcomes(study=hard)
    shown = hard.replace("\0", "\N{SYMBOL FOR NULL}")
    for column in ("source_name", "source_version", "reason", "evidence", "study"):
        assert frame[column].tolist() == [shown]
    assert list(catalog.documents(study=hard)) == [outcome]
    assert list(catalog.check()) == []


def test_a_message_of_10_mb_comes_back(catalog):
    long = "é\x1b[0m\n" * 1_700_000
    outcome = catalog.record(an_outcome(reason=long, evidence=long), long.encode())

    assert catalog.outcome(outcome.id) == outcome
    assert catalog.outcomes().evidence.tolist() == [long]
    assert catalog.log(outcome.id) == long.encode()


def test_many_are_recorded_at_once_or_none(catalog, tmp_path):
    (tmp_path / "log").write_bytes(b"from a file")
    given = [(an_outcome(id=f"ID{i}"), b"log %d" % (i % 3)) for i in range(50)]
    given.append((an_outcome(id="ID99"), tmp_path / "log"))
    recorded = catalog.record_many(given)

    assert [outcome.id for outcome in recorded] == [outcome.id for outcome, _ in given]
    assert catalog.log("ID4") == b"log 1"
    assert catalog.log("ID99") == b"from a file"
    assert catalog.record_many([]) == []
    wrong = [
        ([(an_outcome(id="NEW"), b""), (an_outcome(id="ID7"), b"")], "recorded already: ID7 in"),
        ([(an_outcome(id="NEW"), b"")] * 2, "given twice: NEW"),
        ([(an_outcome(id="NEW"), b""), (an_outcome(log_digest="0" * 64), b"x")], "not that of"),
    ]
    for entries, told in wrong:
        with pytest.raises(CatalogError, match=told):
            catalog.record_many(entries)
    assert len(catalog.outcomes()) == 51
    assert list(catalog.check()) == []


def test_nothing_is_recorded_twice_or_overwritten(catalog):
    outcome = catalog.record(an_outcome())

    with pytest.raises(CatalogError, match=f"recorded already: {outcome.id}"):
        catalog.record(outcome.model_copy(update={"verdict": Verdict.FAILED}))
    assert catalog.outcome(outcome.id).verdict is Verdict.PASSED


def test_an_outcome_is_found_by_the_beginning_of_its_id(catalog):
    for name in ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAW"):
        catalog.record(an_outcome(id=name))

    assert catalog.outcome("01arz3ndektsv4rrffq69g5faw").id.endswith("W")
    with pytest.raises(UsageError, match="more than one outcome begins with '01AR': 01ARZ3"):
        catalog.outcome("01AR")
    for key in ("02", "%", "_", ""):
        with pytest.raises(UsageError, match="no such outcome"):
            catalog.outcome(key)


def test_outcomes_are_filtered(catalog):
    other = Case(id="other", step=[Step(name="test", run="true")])
    for number, verdict in enumerate(Verdict):
        catalog.record(
            an_outcome(
                id=f"ID{number}",
                verdict=verdict,
                case=other if number % 2 else an_outcome().case,
                study="sweep" if number > 2 else None,
                recorded_at=START + timedelta(days=number),
            )
        )

    def ids(frame):
        check_frame(frame)
        return frame.id.tolist()

    assert ids(catalog.outcomes()) == [f"ID{number}" for number in range(6)]
    assert ids(catalog.outcomes(case="other")) == ["ID1", "ID3", "ID5"]
    assert ids(catalog.outcomes(verdict="failed")) == ["ID1"]
    assert ids(catalog.outcomes(verdict=[Verdict.PASSED, "error"])) == ["ID0", "ID5"]
    assert ids(catalog.outcomes(study="sweep")) == ["ID3", "ID4", "ID5"]
    assert ids(catalog.outcomes(since=START + timedelta(days=4))) == ["ID4", "ID5"]
    assert ids(catalog.outcomes(limit=2)) == ["ID4", "ID5"]
    failing = ["failed", "crashed", "timeout"]
    assert ids(catalog.outcomes(verdict=failing)) == ["ID1", "ID2", "ID3"]
    assert ids(catalog.outcomes(verdict=failing, case="demo", limit=5)) == ["ID2"]
    assert ids(catalog.outcomes(package="p")) == []
    assert [outcome.id for outcome in catalog.documents(study="sweep")] == ["ID3", "ID4", "ID5"]


def test_the_answers_on_a_case_are_those_of_its_digest_whatever_it_is_called(catalog):
    case = an_outcome().case
    renamed = case.model_copy(update={"id": "renamed", "title": "Now with a title"})
    other = Case(id="demo", step=[Step(name="test", run="make other")])
    recorded = [
        catalog.record(an_outcome(case=case, study=study, recorded_at=START + timedelta(days=day)))
        for day, case, study in ((3, case, "s"), (1, renamed, None), (2, other, "s"))
    ]

    digest = case.build_digest()
    assert list(catalog.answers(digest)) == [recorded[1], recorded[0]]
    assert list(catalog.answers(digest, study="s")) == [recorded[0]]
    assert list(catalog.answers("0" * 64)) == []


def test_how_a_test_was_run_is_in_the_table(catalog):
    probing = Probing(prepared_at=START, held=True, drift_s=0.008, attempt=2)
    catalog.record(an_outcome(probing=probing))
    catalog.record(an_outcome())

    columns = ["prepared_at", "clock_held", "drift_s", "attempt"]
    held, plain = catalog.outcomes()[columns].itertuples(index=False)
    assert tuple(held) == (START, True, 0.008, 2)
    assert (plain.clock_held, plain.attempt) == (False, 0)
    assert pd.isna(plain.prepared_at)
    assert pd.isna(plain.drift_s)


def test_which_findings_chose_the_machine_is_in_the_table(catalog):
    catalog.record(an_outcome(chosen_by=("01K1", "01K0")))
    catalog.record(an_outcome())

    frame = catalog.outcomes()
    assert frame.chosen_by[0] == "01K1 01K0"
    assert frame.chosen_by.isna().tolist() == [False, True]
    assert catalog.outcome(frame.id[0]).chosen_by == ("01K1", "01K0")


def test_no_verdict_asked_for_is_no_outcome(catalog):
    catalog.record(an_outcome())

    assert catalog.outcomes(verdict=[]).empty


def test_an_empty_catalog_gives_empty_frames_of_the_schema(catalog):
    pd.testing.assert_frame_equal(catalog.outcomes(), empty_frame(OUTCOMES))
    pd.testing.assert_frame_equal(catalog.outcomes(limit=0), empty_frame(OUTCOMES))
    pd.testing.assert_frame_equal(catalog.findings(), empty_frame(FINDINGS))
    pd.testing.assert_frame_equal(catalog.failures(), empty_frame(FAILURES))
    pd.testing.assert_frame_equal(catalog.hints(), empty_frame(HINTS))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"verdict": "ok"}, "unknown verdict: 'ok'; allowed: passed, failed"),
        ({"since": START.replace(tzinfo=None)}, "an instant needs a zone"),
        ({"limit": -1}, "limit is negative: -1"),
    ],
)
def test_a_filter_that_is_none_is_a_usage_error(catalog, asked, told):
    with pytest.raises(UsageError, match=told):
        catalog.outcomes(**asked)


def test_threads_may_share_a_catalog(catalog):
    with ThreadPoolExecutor(4) as pool:
        recorded = list(pool.map(lambda _: catalog.record(an_outcome(), b"same"), range(20)))

    assert set(catalog.outcomes().id) == {outcome.id for outcome in recorded}


def test_references_are_kept_whole(catalog):
    row = {
        column.name: "{}" if column.type.python_type is str else 0
        for column in outcomes_table.columns
        if not column.nullable and column.name not in {"date", "recorded_at"}
    }
    orphan = insert(outcomes_table).values(**row, date=START, recorded_at=START)

    with pytest.raises(CatalogError, match=r"(?i)foreign key"), catalog._database.writing() as work:
        work.execute(orphan)


def test_a_catalog_is_opened_again_and_closed_twice(tmp_path):
    with Catalog(str(tmp_path / "deep" / "c.sqlite")) as catalog:
        outcome = catalog.record(an_outcome())
    catalog.close()
    with pytest.raises(CatalogError, match="the catalog is closed"):
        catalog.outcomes()

    with Catalog(f"sqlite:///{tmp_path}/deep/c.sqlite") as again:
        assert again.outcome(outcome.id) == outcome


def test_the_default_place_is_the_environments_or_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("BUILDVM_CATALOG", raising=False)
    assert default_place() == str(tmp_path / "buildvm-nb" / "catalog.sqlite")

    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "mine.sqlite"))
    with Catalog() as catalog:
        assert catalog.name == str(tmp_path / "mine.sqlite")


@pytest.mark.parametrize(
    "wrong", ["sqlite://", "sqlite:///:memory:", "nosuch://x", "://", "mysql://u:secret@h/d"]
)
def test_a_place_that_keeps_nothing_is_a_usage_error(wrong):
    with pytest.raises(UsageError, match=r"in memory|not a catalog's URL") as caught:
        Catalog(wrong)
    assert "secret" not in str(caught.value)


def test_a_database_server_that_is_not_there_is_a_catalog_error(tmp_path):
    with pytest.raises(CatalogUnreachable, match=r"the catalog fails.*refused") as caught:
        Catalog("postgresql://nobody:secret@127.0.0.1:1/none", logs=tmp_path)
    assert "is the server running" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_server_database_of_other_tables_is_left_alone(postgres, tmp_path):
    with postgres.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE people (name TEXT)")
        with pytest.raises(CatalogError, match="no catalog: it has the tables people"):
            Catalog(url, logs=tmp_path)


def test_the_zone_of_a_server_does_not_matter(catalog):
    last = LATEST
    outcome = catalog.record(an_outcome(recorded_at=last))

    assert catalog.outcomes().recorded_at.tolist() == [last]
    assert catalog.outcomes(since=last).id.tolist() == [outcome.id]


@pytest.mark.parametrize("key", ["a\0b", "\udcff", "x" * 100_000])
def test_text_that_a_database_cannot_hold_is_merely_not_there(catalog, key):
    catalog.record(an_outcome())

    assert catalog.outcomes(case=key).empty
    with pytest.raises(UsageError, match="no such outcome"):
        catalog.outcome(key)


def test_a_file_that_is_no_catalog_is_left_alone(tmp_path):
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(CatalogError, match="file is not a database"):
        Catalog(tmp_path / "text")
    with pytest.raises(CatalogError, match="unable to open"):
        Catalog(tmp_path)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE people (name)")
    other.close()
    with pytest.raises(CatalogError, match="no catalog: it has the tables people"):
        Catalog(tmp_path / "other.sqlite")

    assert (tmp_path / "text").read_text() == "no database " * 100


def test_an_empty_file_becomes_a_catalog(tmp_path):
    (tmp_path / "c.sqlite").touch()

    with Catalog(tmp_path / "c.sqlite") as catalog:
        assert catalog.outcomes().empty


def test_a_corrupt_catalog_is_a_catalog_error(tmp_path):
    path = tmp_path / "c.sqlite"
    with Catalog(path) as catalog:
        for _ in range(20):
            catalog.record(an_outcome(evidence="x" * 4000))
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half:] = b"\xaa" * (len(content) - half)
    path.write_bytes(content)

    with Catalog(path) as catalog, pytest.raises(CatalogError, match="malformed") as caught:
        catalog.outcomes()
    assert "move it away" in caught.value.hint


def set_version(catalog, version):
    with catalog._database.writing() as work:
        work.execute(update(meta_table).values(value=str(version)))


def test_a_newer_schema_is_refused_with_what_to_do(place, tmp_path):
    with Catalog(place, logs=tmp_path) as catalog:
        set_version(catalog, SCHEMA_VERSION + 1)

    newer, known = SCHEMA_VERSION + 1, SCHEMA_VERSION
    told = rf"(?s)schema version {newer}.*up to {known}.*upgrade"
    with pytest.raises(SchemaVersionError, match=told) as caught:
        Catalog(place, logs=tmp_path)
    assert "BUILDVM_CATALOG" in caught.value.hint


def test_an_older_schema_is_upgraded_step_by_step_or_refused(place, tmp_path, monkeypatch):
    def opened():
        return Catalog(place, logs=tmp_path)

    with opened() as catalog:
        outcome = catalog.record(an_outcome())
        set_version(catalog, -1)
    with pytest.raises(SchemaVersionError, match="version -1, which cannot be brought to"):
        opened()

    def step(connection):
        connection.execute(text("CREATE TABLE stepped (name TEXT)"))

    def broken(connection):
        connection.execute(text("CREATE TABLE half (name TEXT)"))
        connection.execute(text("no SQL"))

    def nothing(connection):
        pass

    steps = dict.fromkeys(range(SCHEMA_VERSION), nothing) | {-1: step}
    monkeypatch.setattr(upgrades, "UPGRADES", {**steps, 0: broken})
    with pytest.raises(CatalogError, match="syntax error"):
        opened()
    monkeypatch.setattr(upgrades, "UPGRADES", steps)
    with opened() as catalog:
        assert catalog.outcome(outcome.id) == outcome
        with catalog._database.reading() as work:
            names = inspect(work).get_table_names()
    assert "stepped" in names
    assert "half" not in names


def test_an_outcome_of_another_version_is_named(catalog):
    outcome = catalog.record(an_outcome())
    with catalog._database.writing() as work:
        work.execute(update(outcomes_table).values(document=json.dumps({"id": outcome.id})))

    with pytest.raises(CatalogError, match=rf"outcome {outcome.id} in .* cannot be read"):
        catalog.outcome(outcome.id)


def test_what_killed_writers_left_is_cleared_but_not_a_log_at_work(tmp_path):
    store = LogStore(tmp_path / "logs")
    store.add(b"first")
    (store.root / ".killed.partial").write_bytes(b"half")
    with store._unfinished() as (at_work, _):
        store.clear_unfinished()
        assert at_work.exists()

    assert [path.name for path in store.root.glob(".*")] == []


def test_outcomes_come_back_from_json_lines(catalog, tmp_path):
    recorded = [catalog.record(an_outcome(evidence="a\nb\u2028c"), b"x") for _ in range(3)]
    file = tmp_path / "x.jsonl"
    jsonlines.write_jsonl(catalog.documents(), file)

    assert list(jsonlines.read_jsonl(file)) == recorded
    with Catalog(tmp_path / "other" / "c.sqlite", logs=tmp_path / "logs") as other:
        for outcome in jsonlines.read_jsonl(file):
            other.record(outcome)
        pd.testing.assert_frame_equal(other.outcomes(), catalog.outcomes())


def test_a_line_that_is_no_outcome_is_named(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(f'{an_outcome().model_dump_json()}\n\n{{"id": "x"}}\n')

    with pytest.raises(CatalogError, match=r"x\.jsonl:3: no outcome:\nOutcome\.case"):
        list(jsonlines.read_jsonl(file))
    with pytest.raises(UsageError, match="no such file"):
        list(jsonlines.read_jsonl(tmp_path / "none"))


# Looking through a catalog page by page.

BROWSING_START = parse_instant("2026-01-01")


def a_case(name):
    return Case(
        id=name,
        source=PyPISource(name=f"{name}-pkg", version="1"),
        step=[Step(name="test", run="make check")],
    )


@pytest.fixture
def browsing_catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        for number in range(10):
            opened.record(
                Outcome(
                    id=f"O{number}",
                    case=a_case("even" if number % 2 == 0 else "odd"),
                    machine=MachineSpec(date=f"20{20 - number}-01-01", cpu="Haswell"),
                    verdict="failed" if number == 7 else "passed",
                    reason="100% wrong_here" if number == 7 else "",
                    recorded_at=BROWSING_START + timedelta(days=number),
                )
            )
        for number, (kind, axis) in enumerate(
            [
                ("time-trap", "date"),
                ("sound", None),
                ("cpu-dependent", "cpu"),
                ("time-trap", "date"),
            ]
        ):
            opened.record_finding(
                Finding(
                    id=f"F{number}",
                    case=a_case("even" if number in {0, 3} else f"case{number}"),
                    kind=kind,
                    axis=axis,
                    summary=f"summary {number}",
                    confidence=1,
                    features=("avx2",) if axis == "cpu" else (),
                    recorded_at=BROWSING_START + timedelta(days=number),
                )
            )
        yield opened


def ids(catalog, table, **wanted):
    return list(catalog.page(Query(table=table), **wanted)["id"])


def test_pages_follow_one_another_and_together_have_every_row_once(browsing_catalog):
    seen = [ids(browsing_catalog, "outcomes", offset=at, size=4) for at in (0, 4, 8, 12)]
    assert seen == [["O9", "O8", "O7", "O6"], ["O5", "O4", "O3", "O2"], ["O1", "O0"], []]
    assert browsing_catalog.count("outcomes") == 10


def test_rows_are_sorted_by_any_column_and_what_is_missing_comes_last(browsing_catalog):
    assert ids(browsing_catalog, "outcomes", sort="date", descending=False, size=2) == ["O9", "O8"]
    assert ids(browsing_catalog, "findings", sort="axis", descending=False) == ["F2", "F3", "F1"]
    assert ids(browsing_catalog, "findings", sort="axis", descending=True) == ["F3", "F2", "F1"]
    with pytest.raises(UsageError, match="no such column of outcomes: 'document'"):
        browsing_catalog.page("outcomes", sort="document")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"case_part": "VE"}, ["O8", "O6", "O4", "O2", "O0"]),
        ({"only": ("failed",)}, ["O7"]),
        ({"text": "WRONG_here"}, ["O7"]),
        ({"text": "wrongXhere"}, []),
        ({"text": "100%"}, ["O7"]),
        ({"text": "odd-pkg", "since": BROWSING_START + timedelta(days=6)}, ["O9", "O7"]),
        ({"until": BROWSING_START + timedelta(days=1)}, ["O0"]),
        ({"text": "\0"}, []),
    ],
    ids=repr,
)
def test_outcomes_are_selected_by_what_they_say(browsing_catalog, wanted, found):
    wanted = Query(table="outcomes", **wanted)
    assert list(browsing_catalog.page(wanted)["id"]) == found
    assert browsing_catalog.count(wanted) == len(found)


def test_only_current_findings_are_selected_by_kind_and_axis(browsing_catalog):
    assert ids(browsing_catalog, "findings") == ["F3", "F2", "F1"]
    assert ids(browsing_catalog, "findings", axis=("cpu", "kernel")) == ["F2"]
    assert list(browsing_catalog.page(Query(table="findings", text="AVX"))["id"]) == ["F2"]
    assert ids(browsing_catalog, "findings", only=("sound",)) == ["F1"]
    assert browsing_catalog.count("failures") == 2
    assert browsing_catalog.count("failures", only="flaky") == 0


@pytest.mark.parametrize(
    ("table", "wanted", "told"),
    [
        ("cases", {}, "no such table: 'cases'"),
        ("outcomes", {"only": ("sound",)}, "unknown verdict: 'sound'"),
        ("outcomes", {"axis": ("date",)}, "outcomes have no axis"),
        ("findings", {"only": ("passed",)}, "unknown kind of finding"),
        ("findings", {"axis": ("time",)}, "unknown axis"),
        ("findings", {"until": BROWSING_START.replace(tzinfo=None)}, "needs a zone"),
    ],
    ids=str,
)
def test_a_selection_that_is_none_is_refused(browsing_catalog, table, wanted, told):
    with pytest.raises(UsageError, match=told):
        browsing_catalog.count(table, **wanted)


def test_every_way_to_ask_has_the_same_filters(browsing_catalog, tmp_path):
    wanted = {"cpu": ["Haswell", "Nehalem"], "case": "odd", "verdict": "failed"}
    asked = Query(table="outcomes", **wanted)
    browsing_catalog.export(tmp_path / "o.jsonl", "outcomes", **wanted)
    for found in (
        browsing_catalog.outcomes(**wanted)["id"],
        browsing_catalog.page(asked)["id"],
        browsing_catalog.page("outcomes", **wanted)["id"],
        next(browsing_catalog.pieces("outcomes", **wanted))["id"],
        [one.id for one in browsing_catalog.documents(**wanted)],
        [one.id for one in read_jsonl(tmp_path / "o.jsonl")],
    ):
        assert list(found) == ["O7"]
    assert browsing_catalog.count("outcomes", **wanted) == browsing_catalog.count(asked) == 1
    assert browsing_catalog.count("outcomes", kernel="debian:sid") == 0
    until = BROWSING_START + timedelta(days=2)
    assert browsing_catalog.count("findings", until=until, axis="date") == 0  # F0 is superseded
    assert browsing_catalog.count("findings", until=until, axis="date", current=False) == 1


def test_only_the_columns_that_are_asked_for_are_read(browsing_catalog, tmp_path):
    assert list(browsing_catalog.outcomes(columns=["cpu", "id"]).columns) == ["id", "cpu"]
    assert list(browsing_catalog.failures(columns="id").columns) == ["id"]
    browsing_catalog.export(tmp_path / "o.csv", "outcomes", columns=("id", "cpu"))
    assert list(read_csv(tmp_path / "o.csv").columns) == ["id", "cpu"]
    with pytest.raises(UsageError, match="no such column of outcomes: 'colour'"):
        browsing_catalog.outcomes(columns="colour")


@pytest.mark.parametrize(
    ("table", "wanted", "told"),
    [
        ("outcomes", {"kind": "sound"}, "outcomes have no kind: sound"),
        ("findings", {"verdict": "passed"}, "findings have no verdict: passed"),
        ("findings", {"cpu": "Haswell"}, "findings have no cpu: Haswell"),
        ("failures", {"kind": "sound"}, "no kind of failure: 'sound'"),
    ],
    ids=str,
)
def test_a_filter_that_a_table_has_no_column_for_is_refused(browsing_catalog, table, wanted, told):
    with pytest.raises(UsageError, match=told):
        browsing_catalog.count(table, **wanted)


def test_a_selection_is_exported_without_loss(browsing_catalog, tmp_path):
    target = tmp_path / "failures.csv"
    browsing_catalog.export(target, only="time-trap")
    frame = read_failures(target)
    assert list(frame["id"]) == ["F3"]
    assert list(frame.columns) == list(FAILURES.dtypes)
    browsing_catalog.export(tmp_path / "o.csv", Query(table="outcomes", case_part="odd"))
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 6


def test_what_is_there_is_counted(browsing_catalog):
    assert browsing_catalog.counts() == {
        "outcomes": {"failed": 1, "passed": 9},
        "findings": {"cpu-dependent": 1, "sound": 1, "time-trap": 1},
    }


def test_a_catalog_that_was_removed_fails_and_is_not_made_anew(browsing_catalog, tmp_path):
    (tmp_path / "catalog.sqlite").unlink()
    with pytest.raises(CatalogError, match="unable to open"):
        browsing_catalog.page("outcomes")
    assert not (tmp_path / "catalog.sqlite").exists()


CASE = Case(
    id="demo",
    source=GitSource(url="https://example.org/p.git", commit="0012345"),
    step=[Step(name="test", run="make check")],
)
CAUSE = Hint(kind="certificate-ends", path="tests/c.pem", line=3, why="certificate of CN=x ends")


def a_boundary(last, first, before="passed", after="failed", **more):
    fields = {"axis": "date", "is_exact": True, "confirmed": 4}
    return Boundary(
        last_before=last, first_after=first, before=before, after=after, **{**fields, **more}
    )


def a_finding(**changes):
    fields = {
        "case": CASE,
        "kind": "time-trap",
        "axis": "date",
        "summary": "passes until 2020-10-05T23:01:56Z",
        "confidence": 0.9375,
    }
    return Finding(**{**fields, **changes})


def a_full_finding(**changes):
    fields = {
        "summary": 'a\0b "c", é\u2028\r\n=1',
        "boundaries": (
            a_boundary("2001-01-01", "2002-01-01", "failed", "passed"),
            a_boundary("2010-01-01", "2011-01-01", cause=CAUSE),
            a_boundary("2020-01-01", "2021-01-01", "failed", "passed", is_exact=False),
            a_boundary("Haswell", "Nehalem", axis="cpu"),
        ),
        "windows": (Window(passes_until="2010-01-01"), Window(passes_from="9999-12-31")),
        "studied_from": "1970-01-02",
        "studied_until": "2232-04-18T23:47:15Z",
        "passing_cpus": ("Haswell,-avx", "max"),
        "features": ("avx", "avx2"),
        "features_base": "Haswell",
        "passing_kernels": ("debian:bookworm", "/a kernel"),
        "varying_files": ("out/a b",),
        "difference": "0012345",
        "environment": MachineSpec(date="2009-01-01", cpu="Nehalem", image="debian:sid,gcc"),
        "failing_line": "NA",
        "reruns": (Reruns(machine=MachineSpec(date=START), verdicts={"passed": 3, "failed": 1}),),
        "assumptions": ("no window is shorter than a month",),
        "runs": 17,
        "study": "s",
        "tool_version": "0.1",
        "recorded_at": datetime(2400, 12, 31, 23, 59, 58, 999999, tzinfo=UTC),
    }
    return a_finding(**{**fields, **changes})


def an_outcome_in(catalog):
    machine = MachineSpec(date="2020-01-01")
    return catalog.record(Outcome(case=CASE, machine=machine, verdict="passed"))


def findings_ids(frame, table=FINDINGS):
    check_frame(frame, table)
    return frame.id.tolist()


def test_a_finding_comes_back_without_loss(catalog):
    outcomes = [an_outcome_in(catalog).id for _ in range(2)]
    finding = a_full_finding(evidence=(outcomes[1], outcomes[0], outcomes[1]))

    assert catalog.record_finding(finding) == finding
    assert catalog.finding(finding.id) == finding
    assert catalog.finding(finding.id[:20].lower()) == finding
    assert list(catalog.finding_documents()) == [finding]


def test_the_row_of_a_finding_tells_what_matters():
    row = finding_row(a_full_finding())

    assert list(row) == list(FINDINGS.dtypes)
    assert (row["source_kind"], row["source_version"]) == ("git", "0012345")
    assert row["summary"].startswith("a\N{SYMBOL FOR NULL}b")
    assert (row["verdict_before"], row["verdict_after"]) == ("passed", "failed")
    assert (row["last_before"], row["first_after"], row["is_exact"]) == (
        "2010-01-01",
        "2011-01-01",
        True,
    )
    assert (row["cause_kind"], row["cause_path"]) == ("certificate-ends", "tests/c.pem")
    assert row["passes_from"] is None
    assert row["passes_until"] == datetime(2010, 1, 1, tzinfo=UTC)
    assert row["springs_at"] == datetime(2011, 1, 1, tzinfo=UTC)
    assert (row["passing_cpus"], row["features"]) == ("Haswell,-avx max", "avx avx2")
    assert row["failing_cpus"] is None
    assert row["passing_kernels"] == '["debian:bookworm","/a kernel"]'
    assert (row["env_cpu"], row["env_image"]) == ("Nehalem", "debian:sid,gcc")
    assert [entry["axis"] for entry in json.loads(row["boundaries"])] == [*["date"] * 3, "cpu"]
    assert json.loads(row["reruns"])[0]["verdicts"] == {"failed": 1, "passed": 3}


@pytest.mark.parametrize(
    ("boundaries", "deciding"),
    [
        ((), None),
        ([a_boundary("1", "2", "failed", "passed"), a_boundary("3", "4", "failed", "passed")], "1"),
        ([a_boundary("1", "2"), a_boundary("3", "4", "failed", "crashed")], "1"),
        ([a_boundary("1", "2"), a_boundary("3", "4", after="timeout")], "1"),
        ([a_boundary("1", "2"), a_boundary("3", "4", axis="kernel")], "1"),
        ([a_boundary("1", "2", axis="cpu"), a_boundary("3", "4", axis="kernel")], "3"),
    ],
)
def test_without_an_own_date_the_first_breaking_boundary_decides_else_the_first(
    boundaries, deciding
):
    assert finding_row(a_finding(boundaries=boundaries))["last_before"] == deciding


def test_on_another_axis_than_the_date_the_last_breaking_boundary_decides():
    kernels = [a_boundary("1", "2", axis="kernel"), a_boundary("3", "4", axis="kernel")]
    row = finding_row(a_finding(axis="kernel", kind="kernel-dependent", boundaries=kernels))
    assert (row["last_before"], row["springs_at"], row["may_spring_from"]) == ("3", None, None)


# as holidays-0.9.11 passes: in the year of Iceland's calendar and in others like it
TWO_YEARS = (
    a_boundary("2018-12-31T23:59:59Z", "2019-01-01T00:00:00Z", "failed", "passed"),
    a_boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z"),
    a_boundary("2040-12-31T23:59:59Z", "2041-01-01T00:00:00Z", "failed", "passed"),
    a_boundary("2041-12-31T23:59:59Z", "2042-01-01T00:00:00Z"),
)


@pytest.mark.parametrize(
    ("own", "first", "springs"),
    [
        ("2019-07-28", "2019-01-01", "2020-01-01"),
        ("2019-12-31T23:59:59Z", "2019-01-01", "2020-01-01"),
        ("2041-01-01", "2041-01-01", "2042-01-01"),
    ],
)
def test_a_trap_springs_at_the_end_of_the_window_that_holds_the_own_date(own, first, springs):
    windows = [
        Window(passes_from=f"{year}-01-01", passes_until=f"{year}-12-31T23:59:59Z")
        for year in (2019, 2041)
    ]
    found = a_finding(
        boundaries=TWO_YEARS,
        windows=windows,
        environment=MachineSpec(date=own),
        recurs="FREQ=YEARLY",
    )
    row = finding_row(found)
    assert (row["passes_from"], row["springs_at"]) == (parse_instant(first), parse_instant(springs))
    assert row["first_after"] == f"{springs}T00:00:00Z"
    assert row["may_spring_from"] == datetime(2020, 1, 1, tzinfo=UTC)
    assert row["recurs"] == "FREQ=YEARLY"


def test_what_passes_from_its_own_window_on_springs_nowhere():
    found = a_finding(boundaries=TWO_YEARS[:3], environment=MachineSpec(date="2050-01-01"))
    row = finding_row(found)
    assert (row["first_after"], row["springs_at"]) == ("2041-01-01T00:00:00Z", None)


@pytest.mark.parametrize(
    ("summary", "studied_from", "covers"),
    [
        ("passes everywhere: 16 runs along date, cpu, kernel", "2010-01-01", "date cpu kernel"),
        ("passes everywhere: 16 runs along cpu", None, "cpu"),
        ("as somebody wrote", "2010-01-01", "date"),
        ("as somebody wrote", None, None),
    ],
)
def test_what_is_sound_tells_along_which_axes(summary, studied_from, covers):
    found = a_finding(kind="sound", axis=None, summary=summary, studied_from=studied_from)
    assert finding_row(found)["covers"] == covers
    assert finding_row(a_finding(summary=summary))["covers"] is None


def test_findings_are_filtered(catalog):
    kinds = [FindingKind.TIME_TRAP, FindingKind.FLAKY, FindingKind.CPU_DEPENDENT]
    for number, kind in enumerate(kinds):
        catalog.record_finding(
            a_finding(
                id=f"ID{number}",
                kind=kind,
                axis=["date", None, "cpu"][number],
                case=CASE.model_copy(update={"id": "other"}) if number == 1 else CASE,
                study="sweep" if number else None,
                recorded_at=START + timedelta(days=number),
            )
        )

    assert findings_ids(catalog.findings()) == ["ID0", "ID1", "ID2"]
    assert findings_ids(catalog.findings(case="demo")) == ["ID0", "ID2"]
    assert findings_ids(catalog.findings(kind="flaky")) == ["ID1"]
    assert findings_ids(catalog.findings(kind=[FindingKind.TIME_TRAP, "flaky"])) == ["ID0", "ID1"]
    assert findings_ids(catalog.findings(kind=[])) == []
    assert findings_ids(catalog.findings(study="sweep", limit=1)) == ["ID2"]
    assert findings_ids(catalog.findings(since=START + timedelta(days=1))) == ["ID1", "ID2"]
    found = catalog.finding_documents(case="demo", kind="cpu-dependent", study="sweep", since=START)
    assert [finding.id for finding in found] == ["ID2"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"kind": "trap"},
            "unknown kind of finding: 'trap'; allowed: time-trap, cpu-dep",
        ),
        ({"since": START.replace(tzinfo=None)}, "an instant needs a zone"),
    ],
)
def test_a_filter_that_is_none_is_a_usage_error_of_findings(catalog, asked, told):
    with pytest.raises(UsageError, match=told):
        catalog.findings(**asked)
    with pytest.raises(UsageError, match=told):
        catalog.finding_documents(**asked)


def test_a_catalog_without_findings_gives_empty_frames_of_the_schema(catalog):
    pd.testing.assert_frame_equal(catalog.findings(), empty_frame(FINDINGS))
    with pytest.raises(UsageError, match="negative"):
        catalog.findings(limit=-1)


def sound(along="date, cpu, kernel", **changes):
    told = {"kind": "sound", "axis": None, "summary": f"passes everywhere: 9 runs along {along}"}
    return a_finding(**{**told, **changes})


def whole(kind, **changes):
    return a_finding(**{"kind": kind, "axis": None, "summary": "as it was", **changes})


def on(axis, kind="cpu-dependent", **changes):
    return a_finding(**{"kind": kind, "axis": axis, **changes})


def test_a_later_finding_replaces_an_earlier_one_which_stays_as_it_was(catalog):
    first = catalog.record_finding(a_finding())
    second = catalog.record_finding(a_finding(summary="better"))
    third = catalog.record_finding(a_finding(summary="best"))

    assert findings_ids(catalog.findings()) == [third.id]
    assert findings_ids(catalog.findings(current=False)) == [first.id, second.id, third.id]
    assert list(catalog.finding_documents()) == [third]
    assert list(catalog.finding_documents(current=False)) == [first, second, third]
    assert catalog.finding(first.id) == first
    assert catalog.successors(first.id) == [second.id, third.id]
    assert catalog.successors(third.id) == []


QUESTIONS = [
    (a_finding, partial(on, "cpu"), "12"),
    (a_finding, partial(a_finding, case=CASE.model_copy(update={"id": "other"})), "12"),
    (
        a_finding,
        partial(a_finding, case=Case(id="demo", step=[Step(name="test", run="true")])),
        "12",
    ),
    (a_finding, partial(a_finding, kind="undetermined"), "12"),
    (partial(a_finding, kind="undetermined"), a_finding, "2"),
    # a whole-case finding and one on an axis
    (partial(whole, "always-failing"), sound, "2"),
    (sound, partial(whole, "always-failing"), "2"),
    (a_finding, sound, "2"),
    (a_finding, partial(sound, "cpu"), "12"),
    (partial(on, "cpu"), partial(sound, "date, cpu"), "2"),
    (partial(on, "cores", "cores-dependent"), sound, "12"),
    (sound, partial(on, "kernel", "kernel-dependent"), "2"),
    (sound, partial(on, "cpu", "flaky"), "2"),
    (partial(whole, "always-failing"), a_finding, "2"),
    (a_finding, partial(whole, "always-failing"), "2"),
    (a_finding, partial(on, "cpu", "flaky"), "12"),
    (partial(whole, "flaky"), a_finding, "12"),
    (partial(whole, "flaky"), sound, "2"),
    # what is undetermined refutes nothing, and is answered by anything
    (sound, partial(whole, "undetermined"), "12"),
    (partial(whole, "undetermined"), partial(whole, "undetermined"), "2"),
    (partial(whole, "undetermined"), a_finding, "2"),
]


@pytest.mark.parametrize(("earlier", "later", "current"), QUESTIONS)
def test_a_finding_is_current_until_a_later_one_answers_its_question(
    catalog, earlier, later, current
):
    made = [catalog.record_finding(make()).id for make in (earlier, later)]

    assert findings_ids(catalog.findings()) == [made[int(number) - 1] for number in current]
    assert catalog.counts()["findings"] != {}
    assert catalog.successors(made[0]) == ([] if "1" in current else [made[1]])


def test_what_was_concluded_later_counts_whichever_was_recorded_first(catalog):
    new = catalog.record_finding(a_finding(recorded_at=START + timedelta(days=1)))
    catalog.record_finding(a_finding(recorded_at=START))
    assert findings_ids(catalog.findings()) == [new.id]


def test_of_findings_of_one_instant_the_one_with_the_later_id_counts(catalog):
    for key in ("F2", "F3", "F1"):
        catalog.record_finding(a_finding(id=key, recorded_at=START))
    assert findings_ids(catalog.findings()) == ["F3"]


def test_a_repaired_case_is_no_failure_any_more(catalog):
    catalog.record_finding(a_finding())
    catalog.record_finding(on("cpu"))
    assert len(catalog.failures()) == 2
    catalog.record_finding(sound())
    assert catalog.failures().empty


# retraction


def test_a_retracted_finding_is_never_current_and_what_it_replaced_is_again(catalog):
    first = catalog.record_finding(a_finding())
    second = catalog.record_finding(sound())
    told = catalog.retract(second.id.lower(), " why ")

    assert (told.finding_id, told.because) == (second.id, "why")
    assert catalog.retraction(second.id) == told
    assert catalog.retraction(first.id) is None
    assert (
        findings_ids(catalog.findings()) == findings_ids(catalog.failures(), FAILURES) == [first.id]
    )
    assert findings_ids(catalog.findings(current=False)) == [first.id, second.id]
    assert catalog.successors(first.id) == []
    assert catalog.finding(second.id) == second


def test_what_supersedes_a_finding_by_name_does_so_only_until_it_is_retracted(catalog):
    first = catalog.record_finding(a_finding())
    second = catalog.record_finding(on("cpu", supersedes=first.id))
    assert findings_ids(catalog.findings()) == [second.id]
    catalog.retract(second.id, "it was another machine")
    assert findings_ids(catalog.findings()) == [first.id]


def test_a_finding_is_retracted_once_and_for_a_reason(catalog):
    finding = catalog.record_finding(a_finding())
    with pytest.raises(UsageError, match="for a reason"):
        catalog.retract(finding.id, " ")
    with pytest.raises(UsageError, match="no such finding"):
        catalog.retract("01NONE", "why")
    catalog.retract(finding.id, "why")
    with pytest.raises(UsageError, match="retracted already: why"):
        catalog.retract(finding.id, "another reason")


def test_what_a_caller_says_is_superseded_wins(catalog):
    first = catalog.record_finding(a_finding())
    catalog.record_finding(a_finding(axis="cpu"))
    case = Case(id="demo", step=[Step(name="test", run="changed")])
    third = catalog.record_finding(a_finding(case=case, axis="cpu", supersedes=first.id))

    assert third.supersedes == first.id
    assert first.id not in findings_ids(catalog.findings())


@pytest.mark.parametrize("key", ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "", "%"])
def test_what_is_superseded_must_be_there_and_on_the_same_case(catalog, key):
    other = catalog.record_finding(a_finding(case=CASE.model_copy(update={"id": "other"})))
    for wrong in (key, other.id, "ME"):
        with pytest.raises(CatalogError, match=f"ME supersedes {wrong}, which is no finding on"):
            catalog.record_finding(a_finding(id="ME", supersedes=wrong))

    assert findings_ids(catalog.findings(current=False)) == [other.id]


def test_evidence_that_is_not_there_is_named_and_nothing_is_recorded(catalog):
    known = an_outcome_in(catalog).id
    finding = a_finding(evidence=(known, "01NONE", *(f"02N{number}" for number in range(6))))

    with pytest.raises(CatalogError, match=r"no outcome 01NONE, 02N0, .*02N3 and 2 more") as told:
        catalog.record_finding(finding)
    assert finding.id in told.value.message
    assert catalog.findings(current=False).empty
    with pytest.raises(CatalogError, match=f"no outcome {known[:-1]}"):
        catalog.record_finding(a_finding(evidence=(known[:-1],)))


def test_a_finding_may_rest_on_thousands_of_outcomes(catalog):
    known = an_outcome_in(catalog).id
    unknown = [f"N{number}" for number in range(70_000)]

    with pytest.raises(CatalogError, match="no outcome N0, N1, N2, N3, N4 and 69995 more"):
        catalog.record_finding(a_finding(evidence=(known, *unknown)))


def test_the_database_itself_keeps_evidence_whole(catalog):
    finding = catalog.record_finding(a_finding(evidence=(an_outcome_in(catalog).id,)))
    link = f"INSERT INTO finding_evidence VALUES ('{finding.id}', 'unknown')"
    gone = "DELETE FROM outcomes"

    for statement in (link, gone):
        with (
            pytest.raises(CatalogError, match=r"(?i)foreign key"),
            catalog._database.writing() as work,
        ):
            work.exec_driver_sql(statement)


def test_no_finding_is_recorded_twice(catalog):
    finding = catalog.record_finding(a_finding())

    with pytest.raises(CatalogError, match=f"recorded already: {finding.id}"):
        catalog.record_finding(finding.model_copy(update={"summary": "other"}))
    assert catalog.finding(finding.id) == finding


def test_outcomes_and_findings_are_found_in_one_space_of_ids(catalog):
    outcome = an_outcome_in(catalog)
    finding = catalog.record_finding(a_finding(id=f"{outcome.id}X"))

    assert catalog.entry(outcome.id) == outcome  # though the finding's id begins so
    assert catalog.entry(finding.id.lower()) == finding
    with pytest.raises(UsageError, match=f"more than one outcome or finding .*{finding.id}"):
        catalog.entry(outcome.id[:-1])
    assert catalog.outcome(outcome.id[:-1]) == outcome
    for call in (catalog.entry, catalog.finding):
        with pytest.raises(UsageError, match=r"no such .*finding: 'none'") as told:
            call("none")
        assert "`buildvm catalog findings`" in told.value.hint


def test_findings_come_back_from_csv_and_json_lines(catalog, tmp_path):
    evidence = (an_outcome_in(catalog).id,)
    recorded = [
        catalog.record_finding(a_full_finding(evidence=evidence)),
        catalog.record_finding(a_full_finding(evidence=evidence)),
        catalog.record_finding(a_finding(axis=None, kind="sound", recorded_at="9999-12-31")),
    ]
    frame = catalog.findings(current=False)
    write_csv(frame, tmp_path / "x.csv", FINDINGS)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "x.csv", FINDINGS), frame)

    write_jsonl(catalog.finding_documents(current=False), tmp_path / "x.jsonl")
    assert list(read_jsonl(tmp_path / "x.jsonl", Finding)) == recorded
    with Catalog(tmp_path / "other" / "c.sqlite") as other:
        for outcome in catalog.documents():
            other.record(outcome)
        for finding in read_jsonl(tmp_path / "x.jsonl", Finding):
            other.record_finding(finding)
        pd.testing.assert_frame_equal(other.findings(current=False), frame)


def test_a_line_that_is_no_finding_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text(f"{a_finding().model_dump_json()}\n{{}}\n")

    with pytest.raises(CatalogError, match=r"x\.jsonl:2: no finding:\nFinding\.case"):
        list(read_jsonl(tmp_path / "x.jsonl", Finding))


def test_the_dtypes_of_findings_hold_whatever_is_in_them():
    rows = [list(finding_row(finding).values()) for finding in (a_finding(), a_full_finding())]

    for frame in (make_frame(rows, FINDINGS), make_frame(rows[:1], FINDINGS)):
        check_frame(frame, FINDINGS)
