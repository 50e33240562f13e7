import gzip
import hashlib
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pandas as pd
import psycopg
import pytest
from sqlalchemy import insert, inspect, text, update

from buildvm_nb.catalog import jsonlines, upgrades
from buildvm_nb.catalog.database import default_place
from buildvm_nb.catalog.frames import check_frame, empty_frame
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.schema import FAILURES, FINDINGS, HINTS, OUTCOMES, SCHEMA_VERSION
from buildvm_nb.catalog.store import Catalog
from buildvm_nb.catalog.tables import meta as meta_table
from buildvm_nb.catalog.tables import outcomes as outcomes_table
from buildvm_nb.errors import CatalogError, CatalogUnreachable, SchemaVersionError, UsageError
from buildvm_nb.model.case import Case, LocalSource, Step
from buildvm_nb.model.instants import LATEST
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
