"""Catalogs that an older version made. The SQL below is frozen: it is never brought up to date."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildvm_nb.catalog.frames import check_frame
from buildvm_nb.catalog.store import Catalog
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

ROOT = Path(__file__).parents[2]

VERSION_1 = """
CREATE TABLE catalog_meta (
    name VARCHAR(64) NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name)
);
CREATE TABLE cases (
    id TEXT NOT NULL, digest VARCHAR(64) NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (id, digest)
);
CREATE TABLE logs (
    digest VARCHAR(64) NOT NULL, size_bytes BIGINT NOT NULL, PRIMARY KEY (digest)
);
CREATE TABLE outcomes (
    id TEXT NOT NULL, recorded_at DATETIME NOT NULL, study TEXT, tool_version TEXT,
    case_id TEXT NOT NULL, case_digest TEXT NOT NULL, source_kind TEXT, source_name TEXT,
    source_version TEXT, source_digest TEXT, source_dated_at DATETIME, inputs TEXT,
    image TEXT NOT NULL, date DATETIME NOT NULL, cpu TEXT NOT NULL, cpu_count BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL, kernel TEXT NOT NULL, accelerator TEXT NOT NULL,
    clock_started_at DATETIME, clock_ended_at DATETIME, cpu_features TEXT, kernel_release TEXT,
    accelerator_used TEXT, engine TEXT, image_digest TEXT, kernel_digest TEXT,
    verdict TEXT NOT NULL, reason TEXT, evidence TEXT, failing_step TEXT, exit_status BIGINT,
    signal BIGINT, tests_run BIGINT, duration_s DOUBLE NOT NULL, prepare_s DOUBLE, build_s DOUBLE,
    test_s DOUBLE, log_digest TEXT, artifacts TEXT, host TEXT NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(case_id, case_digest) REFERENCES cases (id, digest),
    FOREIGN KEY(log_digest) REFERENCES logs (digest)
);
CREATE INDEX ix_outcomes_recorded_at ON outcomes (recorded_at);
CREATE INDEX ix_outcomes_case_id ON outcomes (case_id);
CREATE INDEX ix_outcomes_study ON outcomes (study);
CREATE INDEX ix_outcomes_verdict ON outcomes (verdict);
INSERT INTO catalog_meta VALUES ('schema_version', '1');
PRAGMA journal_mode=WAL;
"""

CASE = Case(id="demo", step=[Step(name="test", run="true")])
PROBING = {"prepared_at": "2020-01-01T00:00:01.5Z", "held": True, "drift_s": 0.008, "attempt": 3}


def add_outcome(connection, key, **changes):
    """Insert a row as version 1 did; its document may tell less or more than today's."""
    outcome = Outcome(
        id=key,
        case=CASE,
        machine=MachineSpec(date="2020-01-01"),
        verdict="failed",
        evidence='it says "probing":{"attempt":9}',
        recorded_at="2026-01-01T00:00:00Z",
    )
    document = json.loads(outcome.model_dump_json(exclude={"probing"})) | changes
    digest = CASE.build_digest()
    connection.execute("INSERT OR IGNORE INTO cases VALUES ('demo', ?, '{}')", [digest])
    connection.execute(
        "INSERT INTO outcomes (id, recorded_at, case_id, case_digest, image, date, cpu, cpu_count,"
        " memory_mib, kernel, accelerator, verdict, duration_s, host, document) VALUES (?,"
        " '2026-01-01 00:00:00.000000', 'demo', ?, 'debian:bookworm', '2020-01-01 00:00:00.000000',"
        " 'Haswell', 1, 1024, 'debian:bookworm', 'auto', 'failed', 0.5, '{}', ?)",
        [key, digest, json.dumps(document)],
    )


@pytest.fixture
def old(tmp_path):
    """Make a catalog of version 1 with three outcomes and return its path."""
    path = tmp_path / "catalog.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(VERSION_1)
        add_outcome(connection, "01A")
        add_outcome(connection, "01B", probing=PROBING)
        add_outcome(connection, "01C", host={"probing": [1]})
    return path


def shape(path):
    """Return columns, references and indexes of each table, whatever their order."""
    shapes = {}
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            shapes[name] = [
                {row[1:] for row in connection.execute(f"PRAGMA table_info({name})")},
                {row[2:] for row in connection.execute(f"PRAGMA foreign_key_list({name})")},
                {row[1] for row in connection.execute(f"PRAGMA index_list({name})")},
            ]
    return shapes


def test_an_upgraded_catalog_has_the_tables_of_a_new_one(old, tmp_path):
    Catalog(old).close()
    Catalog(tmp_path / "new.sqlite").close()

    assert shape(old) == shape(tmp_path / "new.sqlite")
    Catalog(old).close()  # and is of the present version


def test_old_outcomes_have_the_new_columns_from_their_documents(old):
    with Catalog(old) as catalog:
        frame = catalog.outcomes()
        outcome = catalog.outcome("01B")

    check_frame(frame)
    assert frame.clock_held.tolist() == [False, True, False]
    assert frame.attempt.tolist() == [0, 3, 0]
    assert frame.drift_s[1] == 0.008
    assert frame.drift_s.isna().tolist() == [True, False, True]
    assert frame.prepared_at[1] == datetime(2020, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)
    assert frame.verdict.tolist() == ["failed"] * 3
    assert outcome.probing.model_dump(mode="json", exclude_none=True) == PROBING


def test_old_outcomes_can_prove_new_findings_and_answer_new_questions(old):
    with Catalog(old) as catalog:
        answers = list(catalog.answers(CASE.build_digest()))
        finding = catalog.record_finding(
            Finding(
                case=CASE,
                kind="always-failing",
                summary="it never passes",
                confidence=0.5,
                evidence=tuple(outcome.id for outcome in answers),
            )
        )
        assert catalog.findings().id.tolist() == [finding.id]
    assert finding.evidence == ("01A", "01B", "01C")


@pytest.mark.parametrize("study", [False, True])
@pytest.mark.parametrize("upgraded", [False, True])
def test_answers_are_found_by_an_index_in_their_order(old, tmp_path, upgraded, study):
    path = old if upgraded else tmp_path / "new.sqlite"
    Catalog(path).close()
    condition = "case_digest = 'x' AND study = 'y'" if study else "case_digest = 'x'"
    query = f"SELECT id, document FROM outcomes WHERE {condition} ORDER BY recorded_at, id"
    with closing(sqlite3.connect(path)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]

    assert plan == ["SEARCH outcomes USING INDEX ix_outcomes_case_digest (case_digest=?)"]


def test_a_document_that_cannot_be_read_does_not_stop_the_upgrade(old):
    with closing(sqlite3.connect(old)) as connection, connection:
        add_outcome(connection, "01D", probing={"attempt": -1})
        connection.execute("""UPDATE outcomes SET document = '"probing":' WHERE id = '01A'""")

    with Catalog(old) as catalog:
        assert catalog.outcomes().attempt.tolist() == [0, 3, 0, 0]
        for key in ("01A", "01D"):
            with pytest.raises(CatalogError, match=f"outcome {key} in .* cannot be read"):
                catalog.outcome(key)


def test_a_writer_of_the_old_version_may_go_on(old):
    with closing(sqlite3.connect(old)) as connection:
        Catalog(old).close()
        with connection:
            add_outcome(connection, "01D")

    with Catalog(old) as catalog:
        assert catalog.outcomes().attempt.tolist() == [0, 3, 0, 0]


def test_processes_that_open_an_old_catalog_at_once_upgrade_it_once(old):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from buildvm_nb.catalog.store import Catalog\n"
        "with Catalog(sys.argv[2]) as catalog:\n"
        "    first = catalog.outcome('01A')\n"
        "    again = first.model_copy(update={'id': sys.argv[3]})\n"
        "    print(len(catalog.outcomes()) >= 3, catalog.record(again).id)\n"
    )
    argv = [sys.executable, "-W", "error", "-c", script, str(ROOT), str(old)]
    processes = [
        subprocess.Popen([*argv, f"02{number}"], stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    told = [process.communicate(timeout=60)[0] for process in processes]

    assert told == [f"True 02{number}\n" for number in range(4)]
    with Catalog(old) as catalog:
        assert len(catalog.outcomes()) == 7
