"""Catalogs that an older version made. The SQL below is frozen: it is never brought up to date."""

import json
import shutil
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, inspect, text

from buildvm_nb.catalog.frames import check_frame
from buildvm_nb.catalog.schema import SCHEMA_VERSION
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
"""
VERSION_2 = """
ALTER TABLE outcomes ADD COLUMN prepared_at DATETIME;
ALTER TABLE outcomes ADD COLUMN clock_held BOOLEAN DEFAULT 0 NOT NULL;
ALTER TABLE outcomes ADD COLUMN drift_s DOUBLE;
ALTER TABLE outcomes ADD COLUMN attempt BIGINT DEFAULT 0 NOT NULL;
CREATE INDEX ix_outcomes_case_digest ON outcomes (case_digest, recorded_at, id);
CREATE TABLE findings (
    id TEXT NOT NULL, recorded_at DATETIME NOT NULL, study TEXT, tool_version TEXT,
    case_id TEXT NOT NULL, case_digest TEXT NOT NULL, source_kind TEXT, source_name TEXT,
    source_version TEXT, kind TEXT NOT NULL, axis TEXT, summary TEXT NOT NULL,
    last_before TEXT, first_after TEXT, verdict_before TEXT, verdict_after TEXT,
    is_exact BOOLEAN, confirmed BIGINT, cause_kind TEXT, cause_path TEXT, cause_why TEXT,
    boundaries TEXT NOT NULL, passes_from DATETIME, passes_until DATETIME, windows TEXT NOT NULL,
    studied_from DATETIME, studied_until DATETIME, passing_cpus TEXT, failing_cpus TEXT,
    features TEXT, features_base TEXT, features_needed TEXT, passing_kernels TEXT NOT NULL,
    failing_kernels TEXT NOT NULL, varying_files TEXT NOT NULL, difference TEXT,
    reruns TEXT NOT NULL, env_date DATETIME, env_cpu TEXT, env_cpu_count BIGINT,
    env_memory_mib BIGINT, env_kernel TEXT, env_accelerator TEXT, env_image TEXT,
    failing_line TEXT, confidence DOUBLE NOT NULL, assumptions TEXT NOT NULL,
    evidence TEXT NOT NULL, runs BIGINT NOT NULL, supersedes TEXT, document TEXT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(case_id, case_digest) REFERENCES cases (id, digest),
    FOREIGN KEY(supersedes) REFERENCES findings (id)
);
CREATE INDEX ix_findings_supersedes ON findings (supersedes);
CREATE INDEX ix_findings_recorded_at ON findings (recorded_at);
CREATE INDEX ix_findings_case_id ON findings (case_id);
CREATE INDEX ix_findings_study ON findings (study);
CREATE TABLE finding_evidence (
    finding_id TEXT NOT NULL, outcome_id TEXT NOT NULL, PRIMARY KEY (finding_id, outcome_id),
    FOREIGN KEY(finding_id) REFERENCES findings (id),
    FOREIGN KEY(outcome_id) REFERENCES outcomes (id)
);
UPDATE catalog_meta SET value = '2' WHERE name = 'schema_version';
"""
"""What makes a catalog of version 2 of one of version 1."""
# how PostgreSQL calls these types
SERVER_TYPES = {
    " DATETIME": " TIMESTAMP WITH TIME ZONE",
    " DOUBLE": " DOUBLE PRECISION",
    " BOOLEAN DEFAULT 0": " BOOLEAN DEFAULT FALSE",
}

VERSION_3 = """
ALTER TABLE outcomes ADD COLUMN chosen_by TEXT;
UPDATE catalog_meta SET value = '3' WHERE name = 'schema_version';
"""
"""What makes a catalog of version 3 of one of version 2."""

CASE = Case(id="demo", step=[Step(name="test", run="true")])
START = datetime(2026, 1, 1, tzinfo=UTC)
PROBING = {"prepared_at": "2020-01-01T00:00:01.5Z", "held": True, "drift_s": 0.008, "attempt": 3}


def add_outcome(work, key, **changes):
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
    values = {"key": key, "digest": CASE.build_digest(), "document": json.dumps(document)}
    values |= {"instant": START if work.dialect.name == "postgresql" else "2026-01-01 00:00:00"}
    work.execute(
        text(
            "INSERT INTO cases (id, digest, document) VALUES ('demo', :digest, '{}') "
            "ON CONFLICT DO NOTHING"
        ),
        values,
    )
    work.execute(
        text(
            "INSERT INTO outcomes (id, recorded_at, case_id, case_digest, image, date, cpu,"
            " cpu_count, memory_mib, kernel, accelerator, verdict, duration_s, host, document)"
            " VALUES (:key, :instant, 'demo', :digest, 'debian:bookworm', :instant, 'Haswell', 1,"
            " 1024, 'debian:bookworm', 'auto', 'failed', 0.5, '{}', :document)"
        ),
        values,
    )


@contextmanager
def working(place):
    """Work on a database as an older program would, past the catalog."""
    engine = create_engine(place if "://" in place else f"sqlite:///{place}", poolclass=NullPool)
    with engine.begin() as work:
        yield work


def run_script(work, script):
    if work.dialect.name != "sqlite":
        for ours, theirs in SERVER_TYPES.items():
            script = script.replace(ours, theirs)
    for statement in script.split(";\n"):
        if statement.strip():
            work.exec_driver_sql(statement)


@pytest.fixture
def old(place):
    """Make a catalog of version 1 with three outcomes and return its place."""
    with working(place) as work:
        if work.dialect.name == "sqlite":
            work.exec_driver_sql("PRAGMA foreign_keys=ON")
        run_script(work, VERSION_1)
        add_outcome(work, "01A")
        add_outcome(work, "01B", probing=PROBING)
        add_outcome(work, "01C", host={"probing": [1]})
    return place


@pytest.fixture
def second(old):
    """Make a catalog of version 2 and return its place."""
    with working(old) as work:
        run_script(work, VERSION_2)
    return old


@pytest.fixture
def third(second):
    """Make a catalog of version 3 and return its place."""
    with working(second) as work:
        run_script(work, VERSION_3)
    return second


@pytest.fixture
def opened(tmp_path):
    return partial(Catalog, logs=tmp_path / "logs")


def shape(place):
    """Return columns, references and indexes of each table, whatever their order and names."""
    with working(place) as work:
        there, shapes = inspect(work), {}
        for name in there.get_table_names():
            shapes[name] = [
                {
                    (column["name"], str(column["type"]), column["nullable"], column["default"])
                    for column in there.get_columns(name)
                },
                {
                    (*key["constrained_columns"], key["referred_table"], *key["referred_columns"])
                    for key in there.get_foreign_keys(name)
                },
                {(key["name"], *key["column_names"]) for key in there.get_indexes(name)},
                tuple(there.get_pk_constraint(name)["constrained_columns"]),
            ]
    return shapes


@pytest.mark.parametrize("version", ["old", "second", "third"])
def test_an_upgraded_catalog_has_the_tables_of_a_new_one(
    request, old, version, opened, postgres, tmp_path
):
    request.getfixturevalue(version)

    def compare(new):
        opened(old).close()
        opened(new).close()
        assert shape(old) == shape(new)
        opened(old).close()  # and is of the present version

    if "://" in old:
        with postgres.database() as url:
            compare(url)
    else:
        compare(str(tmp_path / "new.sqlite"))


def test_old_outcomes_have_the_new_columns_from_their_documents(old, opened):
    with opened(old) as catalog:
        frame = catalog.outcomes()
        outcome = catalog.outcome("01B")

    check_frame(frame)
    assert frame.clock_held.tolist() == [False, True, False]
    assert frame.attempt.tolist() == [0, 3, 0]
    assert frame.drift_s[1] == 0.008
    assert frame.drift_s.isna().tolist() == [True, False, True]
    assert frame.prepared_at[1] == datetime(2020, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)
    assert frame.recorded_at.tolist() == [START] * 3
    assert frame.verdict.tolist() == ["failed"] * 3
    assert outcome.probing.model_dump(mode="json", exclude_none=True) == PROBING


def test_outcomes_of_version_2_do_not_tell_what_chose_their_machine(second, opened):
    with opened(second) as catalog:
        frame = catalog.outcomes()
        chosen = Outcome(
            case=CASE, machine=MachineSpec(date="2020-01-01"), verdict="passed", chosen_by=["F1"]
        )
        catalog.record(chosen)
        later = catalog.outcomes()

    check_frame(frame)
    assert frame.chosen_by.isna().all()
    assert later.chosen_by.dropna().tolist() == ["F1"]


def test_outcomes_of_version_3_do_not_tell_what_the_cpu_said(third, opened):
    with opened(third) as catalog:
        frame = catalog.outcomes()
    check_frame(frame)
    assert (
        frame[["cpu_vendor", "cpu_family", "cpu_model", "cpu_stepping", "cpu_name"]]
        .isna()
        .all(axis=None)
    )


def test_old_outcomes_can_prove_new_findings_and_answer_new_questions(old, opened):
    with opened(old) as catalog:
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
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_answers_are_found_by_an_index_in_their_order(old, tmp_path, upgraded, study):
    path = old if upgraded else str(tmp_path / "new.sqlite")
    Catalog(path).close()
    condition = "case_digest = 'x' AND study = 'y'" if study else "case_digest = 'x'"
    query = f"SELECT id, document FROM outcomes WHERE {condition} ORDER BY recorded_at, id"
    with working(path) as work:
        plan = [row[3] for row in work.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]

    assert plan == ["SEARCH outcomes USING INDEX ix_outcomes_case_digest (case_digest=?)"]


def test_a_document_that_cannot_be_read_does_not_stop_the_upgrade(old, opened):
    with working(old) as work:
        add_outcome(work, "01D", probing={"attempt": -1})
        damage = """UPDATE outcomes SET document = '"probing":' WHERE id = '01A'"""
        work.exec_driver_sql(damage)

    with opened(old) as catalog:
        assert catalog.outcomes().attempt.tolist() == [0, 3, 0, 0]
        for key in ("01A", "01D"):
            with pytest.raises(CatalogError, match=f"outcome {key} in .* cannot be read"):
                catalog.outcome(key)


def test_a_writer_of_the_old_version_may_go_on(old, opened):
    opened(old).close()
    with working(old) as work:
        add_outcome(work, "01D")

    with opened(old) as catalog:
        assert catalog.outcomes().attempt.tolist() == [0, 3, 0, 0]


@pytest.mark.parametrize("is_old", [True, False])
def test_processes_that_open_a_catalog_at_once_make_or_upgrade_it_once(
    request, place, opened, is_old, tmp_path
):
    if is_old:
        request.getfixturevalue("old")
    outcome = Outcome(case=CASE, machine=MachineSpec(date="2020-01-01"), verdict="failed")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from buildvm_nb.catalog.store import Catalog\n"
        "from buildvm_nb.model.outcome import Outcome\n"
        "outcome = Outcome.model_validate_json(sys.argv[4])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "with Catalog(sys.argv[2], logs=Path(sys.argv[3])) as catalog:\n"
        "    print(catalog.record(outcome).id)\n"
    )
    argv = [sys.executable, "-W", "error", "-c", script, str(ROOT), place, str(tmp_path / "logs")]
    keys = [f"02{number}" for number in range(3)]
    processes = [
        subprocess.Popen(
            [*argv, outcome.model_copy(update={"id": key}).model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for key in keys
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.close()
        process.stdin = None  # or communicate() would flush it
    told = [process.communicate(timeout=600)[0] for process in processes]

    assert told == [f"{key}\n" for key in keys]
    with opened(place) as catalog:
        assert catalog.outcomes().id.tolist() == ["01A", "01B", "01C"] * is_old + keys


# Catalogs in real trouble: several processes, SIGKILL, full and read-only file systems.

PREAMBLE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from buildvm_nb.catalog.store import Catalog
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

def outcome(**more):
    case = Case(id="demo", step=[Step(name="test", run="true")])
    return Outcome(case=case, machine=MachineSpec(date="2020-01-01"), verdict="passed", **more)

def finding(**more):
    case = Case(id="demo", step=[Step(name="test", run="true")])
    return Finding(case=case, kind="sound", summary="it passes", confidence=1, **more)

place, logs = sys.argv[2], Path(sys.argv[2]).parent / "logs"
if "://" in place:
    logs = Path(sys.argv[3])
"""


def python(code, *arguments, wrapper=()):
    script = PREAMBLE + textwrap.dedent(code)
    argv = [*wrapper, sys.executable, "-W", "error", "-c", script, str(ROOT), *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def test_eight_processes_that_make_one_catalog_and_append_at_once_lose_nothing(place, tmp_path):
    told = finish(
        python(
            """
            import os
            writers = []
            for _ in range(8):
                writers.append(os.fork())
                if not writers[-1]:
                    for number in range(8):
                        with Catalog(place, logs=logs) as catalog:
                            one = catalog.record(outcome(), b"log %d" % number)
                            os.write(1, one.id.encode() + b"\\n")
                    os._exit(0)
            for writer in writers:
                assert os.waitpid(writer, 0)[1] == 0
            """,
            place,
            tmp_path / "logs",
        )
    )
    ids = told.split()

    with Catalog(place, logs=tmp_path / "logs") as catalog:
        assert sorted(catalog.outcomes().id) == sorted(ids)
        assert {catalog.log(key) for key in ids} == {b"log %d" % number for number in range(8)}
    assert len(ids) == 64


def test_of_what_four_processes_conclude_on_one_case_at_once_the_newest_is_current(place, tmp_path):
    writers = [
        python(
            """
            with Catalog(place, logs=logs) as catalog:
                for _ in range(8):
                    proof = catalog.record(outcome(), b"log").id
                    # concluded before, as the evidence of a long diagnosis is, and recorded now
                    concluded = finding(evidence=(proof,))
                    catalog.record(outcome(), b"log")
                    print(catalog.record_finding(concluded).id)
            """,
            place,
            tmp_path / "logs",
        )
        for _ in range(4)
    ]
    ids = [line for writer in writers for line in finish(writer).split()]

    with Catalog(place, logs=tmp_path / "logs") as catalog:
        found = catalog.findings(current=False)
        assert sorted(found.id) == sorted(ids)
        newest = found.sort_values(["recorded_at", "id"]).id.iloc[-1]
        assert catalog.findings().id.tolist() == [newest]


KILLED = 100


@pytest.mark.long
def test_what_was_recorded_survives_a_hundred_kills_at_any_moment(place, tmp_path):
    """Writers are forked from one process that has imported everything: each is cheap."""
    told = finish(
        python(
            """
            import os, random, select, signal, time
            chance = random.Random(0)
            Catalog(place, logs=logs).close()
            for number in range(int(sys.argv[4])):
                inlet, outlet = os.pipe()
                writer = os.fork()
                if not writer:
                    catalog = Catalog(place, logs=logs)
                    for turn in range(10_000):
                        log = b"log %d of %d " % (turn, number) * 2000
                        one = catalog.record(outcome(evidence="x" * 5000), log)
                        os.write(outlet, one.id.encode() + b"\\n")
                os.close(outlet)
                said = os.read(inlet, 27)
                # until the next one has been recorded, or at any moment before
                select.select([inlet], [], [], chance.random() * 0.02)
                os.kill(writer, signal.SIGKILL)
                os.waitpid(writer, 0)
                while more := os.read(inlet, 4096):
                    said += more
                os.close(inlet)
                print(said.decode(), end="")
            """,
            place,
            tmp_path / "logs",
            KILLED,
        )
    )
    acknowledged = told.split()

    with Catalog(place, logs=tmp_path / "logs") as catalog:
        found = set(catalog.outcomes().id)
        assert set(acknowledged) <= found
        assert len(acknowledged) >= KILLED
        assert len(found) <= len(acknowledged) + KILLED
        assert list(catalog.check()) == []
        assert all(outcome.evidence == "x" * 5000 for outcome in catalog.documents())
        catalog.collect()
        assert len(list((tmp_path / "logs").glob("*/*.gz"))) == len(found)
        assert list((tmp_path / "logs").glob(".*.partial")) == []


def private_mount(size):
    """Return a command that runs another with a file system of its own, or skip."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare")
    wrapper = [unshare, "--user", "--map-root-user", "--mount"]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode != 0:
        wrapper = [unshare, "--mount"]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root or user namespaces")
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return lambda directory: [*wrapper, "sh", "-c", mount, str(directory)]


def test_a_full_disk_is_a_catalog_error_and_loses_nothing(tmp_path):
    wrapper = private_mount("600k")(tmp_path)
    told = finish(
        python(
            """
            import os
            done = []
            with Catalog(place) as catalog:
                try:
                    while True:
                        done.append(catalog.record(outcome(evidence="x" * 9000), b"log").id)
                except CatalogError as error:
                    print(error.message.rpartition(":")[2], error.hint)
                assert done and catalog.outcomes().id.tolist() == done
                try:
                    catalog.record(outcome(), os.urandom(2**20))
                except CatalogError as error:
                    print(error)
                assert catalog.outcomes().id.tolist() == done
                left = [path for path in logs.glob(".*.partial")]
                assert not left
            """,
            tmp_path / "c.sqlite",
            wrapper=wrapper,
        )
    )

    first, second, hint = told.splitlines()
    assert first.startswith((" database or disk is full make room", " No space left"))
    assert second.startswith("cannot keep a log in")
    assert "No space left on device" in second
    assert hint.startswith("Hint: make room")


def test_a_read_only_catalog_can_be_read_and_says_why_not_written(tmp_path):
    wrapper = private_mount("5m")(tmp_path)
    told = finish(
        python(
            """
            import subprocess
            place = Path(place)
            with Catalog(place) as catalog:
                known = catalog.record(outcome(), b"log").id
                proven = catalog.record_finding(finding(evidence=(known,)))
            with Catalog(place.with_name("old.sqlite")) as old:
                with old._database.writing() as work:
                    work.exec_driver_sql("UPDATE catalog_meta SET value = '1'")
            subprocess.run(["mount", "-o", "remount,bind,ro", place.parent], check=True)
            with Catalog(place) as catalog:
                assert catalog.outcome(known).id == known
                assert catalog.log(known) == b"log"
                assert catalog.finding(proven.id) == proven
                assert len(list(catalog.answers(proven.case.build_digest()))) == 1
                for write in (
                    lambda: catalog.record(outcome(), b"other"),
                    lambda: catalog.record_finding(finding()),
                ):
                    try:
                        write()
                    except CatalogError as error:
                        print(error)
            for name in ("new.sqlite", "old.sqlite"):
                try:
                    Catalog(place.with_name(name))
                except CatalogError as error:
                    print(error)
            """,
            tmp_path / "c.sqlite",
            wrapper=wrapper,
        )
    )

    assert f"the catalog is read-only: {tmp_path}/c.sqlite\nHint: name another" in told
    assert f"the catalog is read-only: {tmp_path}/c.sqlite\nHint: copy it to a place" in told
    assert "the catalog fails: " in told
    assert f"the catalog is read-only and not of schema version {SCHEMA_VERSION}" in told
