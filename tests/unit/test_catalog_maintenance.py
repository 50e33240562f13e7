"""Check, merge and gc, on both databases."""

import gzip
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.store import Catalog
from buildvm_nb.cli import main
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

ROOT = Path(__file__).parents[2]
CASE = Case(id="demo", step=[Step(name="test", run="true")])


def an_outcome(**more):
    return Outcome(case=CASE, machine=MachineSpec(date="2020-01-01"), verdict="passed", **more)


def a_finding(**more):
    return Finding(case=CASE, kind="sound", summary="it passes", confidence=1, **more)


def fill(catalog):
    """Record three outcomes and a line of two findings."""
    outcomes = [catalog.record(an_outcome(evidence="a\0b"), b"log %d" % i) for i in range(2)]
    outcomes.append(catalog.record(an_outcome()))
    findings = [
        catalog.record_finding(
            a_finding(evidence=(outcomes[number].id,), recorded_at=f"202{number}-01-01")
        )
        for number in range(2)
    ]
    return outcomes, findings


def log_file(logs, digest):
    return logs / digest[:2] / f"{digest}.gz"


def troubles(catalog):
    return [(trouble.where, trouble.key, trouble.what) for trouble in catalog.check()]


def change(catalog, statement, **values):
    """Do harm past the catalog, also against foreign keys."""
    if catalog._database.file is None:
        with catalog._database.writing() as work:
            work.execute(text("SET session_replication_role = replica"))
            work.execute(text(statement), values)
        return
    with closing(sqlite3.connect(catalog.name)) as work, work:
        work.execute(statement, values)


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "logs"


@pytest.fixture
def catalog(place, logs):
    with Catalog(place, logs=logs) as catalog:
        yield catalog


@pytest.fixture
def other(tmp_path):
    with Catalog(tmp_path / "other" / "catalog.sqlite") as other:
        yield other


# --- check ---


def test_a_whole_catalog_has_no_trouble(catalog):
    assert troubles(catalog) == []
    fill(catalog)
    assert troubles(catalog) == []


def test_each_kind_of_damage_is_told_and_nothing_else(catalog, logs):
    (first, second, third), (finding, _) = fill(catalog)
    log_file(logs, first.log_digest).unlink()
    change(catalog, "UPDATE logs SET size_bytes = 1 WHERE digest = :key", key=second.log_digest)
    change(catalog, "UPDATE outcomes SET verdict = 'failed' WHERE id = :key", key=second.id)
    change(catalog, "UPDATE outcomes SET document = '{}' WHERE id = :key", key=third.id)
    change(catalog, "DELETE FROM finding_evidence WHERE finding_id = :key", key=finding.id)

    missing = log_file(logs, first.log_digest)
    links = "its evidence and the outcomes that it is tied to do not agree"
    assert set(troubles(catalog)) == {
        ("log", first.log_digest, f"log is missing: {first.log_digest}; it should be at {missing}"),
        ("log", second.log_digest, "has 5 bytes; 1 are recorded"),
        ("outcome", second.id, "its document and its columns do not agree: verdict"),
        ("outcome", third.id, "its document cannot be read: 3 fields are not as they should be"),
        ("finding", finding.id, links),
    }


def test_evidence_that_is_gone_and_a_corrupt_log_are_told(catalog, logs):
    (first, second, _), (finding, _) = fill(catalog)
    change(catalog, "DELETE FROM outcomes WHERE id = :key", key=first.id)
    log_file(logs, second.log_digest).write_bytes(gzip.compress(b"other"))

    told = {(where, key): what for where, key, what in troubles(catalog)}
    assert "do not agree" in told["finding", finding.id]
    assert told["log", second.log_digest].startswith("log is corrupt")
    if catalog._database.file:
        assert "not in table outcomes" in told["database", "finding_evidence"]


def test_a_damaged_file_is_told_and_what_can_be_read_is_checked(tmp_path):
    with Catalog(tmp_path / "c.sqlite") as catalog:
        for _ in range(20):
            catalog.record(an_outcome(evidence="x" * 4000), b"log")
        digest = next(catalog.documents()).log_digest
    content = bytearray((tmp_path / "c.sqlite").read_bytes())
    half = len(content) // 2
    content[half:] = b"\xaa" * (len(content) - half)
    (tmp_path / "c.sqlite").write_bytes(content)
    log_file(tmp_path / "logs", digest).unlink()

    with Catalog(tmp_path / "c.sqlite") as catalog:
        told = troubles(catalog)
    assert {where for where, _, _ in told} >= {"database", "log"}


def test_the_command_tells_troubles_and_exits_with_1(catalog, place, logs, monkeypatch, capsys):
    monkeypatch.setattr("buildvm_nb.catalog.store.usual_logs", lambda _: logs)
    (first, _, _), _ = fill(catalog)
    assert main(["catalog", "check", "-q", "--catalog", place]) == 0
    assert capsys.readouterr().out.startswith("all is well: ")
    assert main(["catalog", "check", "-q", "--json", "--catalog", place]) == 0
    assert json.loads(capsys.readouterr().out) == []

    log_file(logs, first.log_digest).unlink()
    assert main(["catalog", "check", "-q", "--catalog", place]) == 1
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["where", "which", "trouble"]
    assert line.startswith(f"log    {first.log_digest}  log is missing")
    assert main(["catalog", "check", "-q", "--json", "--catalog", place]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["where"], told["key"]) == ("log", first.log_digest)


# --- merge ---


def test_a_merge_brings_everything_once(catalog, other):
    outcomes, findings = fill(other)
    catalog.record(outcomes[0], b"log 0")

    merged = catalog.merge(other.name)
    assert (merged.outcomes, merged.findings, merged.known, merged.missing_logs) == (2, 2, 1, 0)
    assert sorted(catalog.documents(), key=lambda one: one.id) == outcomes
    assert list(catalog.finding_documents(current=False)) == findings
    assert catalog.log(outcomes[1].id) == b"log 1"
    assert troubles(catalog) == []

    merged = catalog.merge(other.name)
    assert (merged.outcomes, merged.findings, merged.known) == (0, 0, 5)
    assert len(catalog.outcomes()) == 3


def test_what_was_refuted_here_is_refuted_after_a_merge_whichever_way_it_went(catalog, other):
    failing = other.record_finding(failing_everywhere(recorded_at="2026-01-01"))
    sound = [catalog.record_finding(a_finding(recorded_at=f"2026-0{n}-01")) for n in (2, 3, 4)]
    catalog.merge(other.name)
    assert list(catalog.findings()["id"]) == [sound[-1].id]
    assert catalog.failures().empty
    other.merge(catalog.name)
    assert list(other.findings()["id"]) == [sound[-1].id]
    # a failure seen later than all of these is one again
    again = other.record_finding(failing_everywhere(recorded_at="2026-05-01"))
    catalog.merge(other.name)
    assert list(catalog.findings()["id"]) == [again.id]
    assert failing.id in set(catalog.findings(current=False)["id"])


def test_a_retraction_is_merged_with_its_reason(catalog, other):
    first = other.record_finding(failing_everywhere(recorded_at="2026-01-01"))
    wrong = other.record_finding(a_finding(recorded_at="2026-02-01"))
    catalog.merge(other.name)
    assert list(catalog.findings()["id"]) == [wrong.id]
    other.retract(wrong.id, "it was another package")
    catalog.merge(other.name)
    catalog.merge(other.name)
    assert list(catalog.findings()["id"]) == [first.id]
    assert catalog.retraction(wrong.id).because == "it was another package"


def failing_everywhere(**more):
    return Finding(case=CASE, kind="always-failing", summary="it fails", confidence=1, **more)


def test_a_catalog_is_merged_from_a_server_and_with_itself(place, logs, other, catalog):
    outcomes, _ = fill(catalog)

    assert other.merge(place, logs=logs).outcomes == 3
    assert other.log(outcomes[0].id) == b"log 0"
    assert catalog.merge(place, logs=logs).known == 5


def test_many_pages_are_merged_and_findings_after_what_they_supersede(catalog, other, monkeypatch):
    monkeypatch.setattr("buildvm_nb.catalog.maintenance._BATCH", 3)
    for _ in range(10):
        other.record(an_outcome(), b"same")
    # each supersedes one that was concluded later, so that none can be copied in order
    newest = [other.record_finding(a_finding(recorded_at="2090-01-01"))]
    for year in range(2089, 2080, -1):
        late = a_finding(recorded_at=f"{year}-01-01", supersedes=newest[-1].id)
        newest.append(other.record_finding(late))

    merged = catalog.merge(other.name)
    assert (merged.outcomes, merged.findings) == (10, 10)
    assert list(catalog.finding_documents(current=False)) == newest[::-1]


@pytest.mark.parametrize("changed", ["outcome", "finding"])
def test_an_id_with_another_content_is_refused_and_nothing_is_merged(catalog, other, changed):
    outcomes, findings = fill(other)
    outcome, finding = outcomes[1], findings[0]
    if changed == "outcome":
        outcome = outcome.model_copy(update={"reason": "another"})
    catalog.record(outcome, b"log 1")
    if changed == "finding":
        catalog.record(outcomes[0], b"log 0")
        catalog.record_finding(finding.model_copy(update={"summary": "another"}))
    before = troubles(catalog), len(catalog.outcomes()), len(catalog.findings())

    key = outcome.id if changed == "outcome" else finding.id
    with pytest.raises(CatalogError, match=f"nothing was: {changed} {key} is another one here"):
        catalog.merge(other.name)
    assert (troubles(catalog), len(catalog.outcomes()), len(catalog.findings())) == before


def test_what_cannot_be_read_there_is_named_and_nothing_is_merged(catalog, other):
    outcomes, _ = fill(other)
    for outcome in outcomes:
        change(other, "UPDATE outcomes SET document = '{}' WHERE id = :key", key=outcome.id)

    with pytest.raises(CatalogError, match=f"outcome {outcomes[0].id} there cannot be read"):
        catalog.merge(other.name)
    assert catalog.outcomes().empty


def test_logs_that_are_missing_there_are_counted(catalog, other, tmp_path):
    outcomes, _ = fill(other)
    logs = tmp_path / "other" / "logs"
    log_file(logs, outcomes[0].log_digest).unlink()
    log_file(logs, outcomes[1].log_digest).write_bytes(b"no gzip")
    catalog.record(an_outcome(), b"log 0")

    assert catalog.merge(other.name).missing_logs == 1
    assert catalog.log(outcomes[0].id) == b"log 0"
    assert [key for _, key, _ in troubles(catalog)] == [outcomes[1].log_digest]


def test_an_older_catalog_is_merged_and_left_as_it_is(catalog, tmp_path):
    path = tmp_path / "old.sqlite"
    document = json.loads(an_outcome(id="01A").model_dump_json(exclude={"probing"}))
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript(
            "CREATE TABLE catalog_meta (name TEXT PRIMARY KEY, value TEXT);"
            "CREATE TABLE logs (digest TEXT PRIMARY KEY, size_bytes BIGINT);"
            "CREATE TABLE outcomes (id TEXT PRIMARY KEY, recorded_at DATETIME, document TEXT);"
            "INSERT INTO catalog_meta VALUES ('schema_version', '1');"
        )
        old.execute(
            "INSERT INTO outcomes VALUES ('01A', '2026-01-01 00:00:00.000000', ?)",
            [json.dumps(document)],
        )
    before = path.read_bytes()

    assert catalog.merge(path).outcomes == 1
    assert catalog.merge(path).known == 1
    assert catalog.outcome("01A").probing.attempt == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda _: None, UsageError, "no such catalog"),
        (lambda path: path.touch(), CatalogError, "no catalog, but an empty database"),
        (lambda path: path.write_text("text " * 999), CatalogError, "not a database"),
    ],
)
def test_what_is_no_catalog_is_not_merged_nor_made(catalog, tmp_path, make, error, told):
    path = tmp_path / "other.sqlite"
    make(path)
    before = path.exists() and path.read_bytes()

    with pytest.raises(error, match=told):
        catalog.merge(path)
    assert (path.exists() and path.read_bytes()) == before


def test_the_command_says_what_was_merged(catalog, place, other, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    outcomes, _ = fill(other)
    log_file(tmp_path / "other" / "logs", outcomes[0].log_digest).unlink()

    assert main(["catalog", "merge", other.name, "-q", "--catalog", place]) == 0
    out, err = capsys.readouterr()
    assert out == "added 3 outcomes and 2 findings; 0 were here already\n"
    assert "warning: 1 logs are missing" in err
    assert main(["catalog", "merge", other.name, "-q", "--json", "--catalog", place]) == 0
    assert json.loads(capsys.readouterr().out)["known"] == 5


# --- gc ---


def orphan(logs, content=b"nobody's"):
    """Add a log as a process does that is killed before it records the outcome."""
    digest, _ = LogStore(logs).add(content)
    return log_file(logs, digest)


def test_gc_removes_logs_without_outcome_and_what_killed_writers_left(catalog, logs):
    outcomes, _ = fill(catalog)
    lost = orphan(logs)
    half = logs / ".killed.partial"
    half.write_bytes(b"half")

    told = catalog.collect(dry_run=True)
    assert (told.logs, told.unfinished) == ((lost,), (half,))
    assert told.size_bytes == lost.stat().st_size + 4
    assert half.exists()
    assert catalog.collect() == told
    assert not lost.exists()
    assert not half.exists()
    assert catalog.collect().logs == ()
    assert catalog.log(outcomes[0].id) == b"log 0"
    assert troubles(catalog) == []


def test_gc_of_a_catalog_without_logs_does_nothing(catalog, logs):
    assert catalog.collect().logs == ()
    assert not logs.exists()


def test_gc_keeps_what_other_catalogs_and_waiting_outcomes_have(catalog, logs, tmp_path):
    with Catalog(tmp_path / "second.sqlite", logs=logs) as second:
        recorded = second.record(an_outcome(), b"second's")
    kept = orphan(logs, b"waiting")
    catalog._unsent.keep(an_outcome(log_digest=kept.name.removesuffix(".gz")))
    lost = orphan(logs)

    assert catalog.collect().logs == (lost,)
    with Catalog(tmp_path / "second.sqlite", logs=logs) as second:
        assert second.log(recorded.id) == b"second's"
    assert kept.exists()


def test_gc_removes_nothing_where_another_catalog_cannot_be_read(catalog, logs, tmp_path):
    with Catalog(tmp_path / "second.sqlite", logs=logs) as second:
        second.record(an_outcome(), b"second's")
    (tmp_path / "second.sqlite").write_text("no database" * 99)
    lost = orphan(logs)

    with pytest.raises(CatalogError, match=r"second\.sqlite.*not a database") as caught:
        catalog.collect()
    assert f"take its line out of {logs}/.catalogs" in caught.value.hint
    assert lost.exists()


def test_gc_says_that_a_catalog_is_gone_whose_logs_it_removes(catalog, logs, tmp_path):
    path = tmp_path / "second.sqlite"
    with Catalog(path, logs=logs) as second:
        digest = second.record(an_outcome(), b"second's").log_digest
    path.unlink()

    collected = catalog.collect()
    assert collected.gone == (path,)
    assert collected.logs == (log_file(logs, digest),)


def test_a_directory_that_was_moved_still_knows_its_catalogs(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("one", "two"):
        with Catalog(tmp_path / "a" / f"{name}.sqlite") as catalog:
            outcome = catalog.record(an_outcome(), name.encode())
    (tmp_path / "a").rename(tmp_path / "b")

    with Catalog(tmp_path / "b" / "one.sqlite") as catalog:
        collected = catalog.collect()
    assert (collected.logs, collected.gone) == ((), ())
    with Catalog(tmp_path / "b" / "two.sqlite") as catalog:
        assert catalog.log(outcome.id) == b"two"


def test_gc_never_takes_a_log_from_a_process_that_is_recording(place, tmp_path):
    logs = tmp_path / "logs"
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from buildvm_nb.catalog.store import Catalog\n"
        "from buildvm_nb.model.outcome import Outcome\n"
        "outcome = Outcome.model_validate_json(sys.argv[4])\n"
        "with Catalog(sys.argv[2], logs=Path(sys.argv[3])) as catalog:\n"
        "    for number in range(60):\n"
        "        one = outcome.model_copy(update={'id': f'ID{number:02}'})\n"
        "        print(catalog.record(one, b'log %d' % number).id, flush=True)\n"
    )
    with Catalog(place, logs=logs) as catalog:
        argv = [str(ROOT), place, str(logs), an_outcome().model_dump_json()]
        recorder = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, *argv], stdout=subprocess.PIPE, text=True
        )
        recorder.stdout.readline()
        removed = []
        while recorder.poll() is None:
            removed += catalog.collect().logs
        recorder.communicate(timeout=600)
        assert recorder.returncode == 0
        assert removed == []
        assert len(catalog.outcomes()) == 60
        assert troubles(catalog) == []


def test_the_gc_command_says_what_it_would_do_and_what_it_did(
    catalog, place, logs, monkeypatch, capsys
):
    monkeypatch.setattr("buildvm_nb.catalog.store.usual_logs", lambda _: logs)
    fill(catalog)
    lost = orphan(logs)

    assert main(["catalog", "gc", "--dry-run", "--catalog", place]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == str(lost)
    assert last.startswith("would remove 1 logs that no outcome has and 0 half-written ones")
    assert lost.exists()
    assert main(["catalog", "gc", "--json", "--catalog", place]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == [str(lost)]
    assert not lost.exists()
