"""A catalog with many outcomes: how fast it takes them in, and gives them back.

The peer of appending is sqlite3's own executemany, with the same rows (made beforehand, which for
the catalog is part of the work), the same table, indexes and durability. The peer of a frame is
fetching the same rows as tuples. Batches of both alternate, so that both meet the same host. Logs
are left out: each costs what the file system takes to make a file durable. CPU time tells what a
busy host would hide.
"""

import argparse
import itertools
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from measuring import Row, show

from buildvm_nb.catalog import OUTCOMES, Catalog
from buildvm_nb.catalog.query import insert_cases, insert_finding
from buildvm_nb.catalog.rows import outcome_row
from buildvm_nb.model.case import Case, PyPISource, Step, Window
from buildvm_nb.model.finding import Boundary, Finding
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, SourceRecord, StepRecord, Verdict
from buildvm_nb.study.choosing import environment

_BATCH = 5000
_FRAME_ROWS = 10_000
_START = datetime(2026, 1, 1, tzinfo=UTC)
_EXPORTER = """
import re, sys
from pathlib import Path
from buildvm_nb.cli import main
status = main()
# ru_maxrss would be no less than what the parent had when it started this process
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(status)
"""
_WRITER = """
import sys
from pathlib import Path
from buildvm_nb.catalog import OUTCOMES, Catalog
from buildvm_nb.model.outcome import Outcome, new_id
outcome = Outcome.model_validate_json(sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
with Catalog(sys.argv[1]) as catalog:
    for _ in range(int(sys.argv[3])):
        catalog.record(outcome.model_copy(update={"id": new_id()}))
"""


def make_cases(count: int) -> list[Case]:
    """Return cases as they are in the field: a package each."""
    return [
        Case(
            id=f"package-{number}",
            title="A package whose tests look at the clock",
            source=PyPISource(name=f"package-{number}", version="1.2.3"),
            step=[Step(name="test", run="python3 -m pytest -q")],
        )
        for number in range(count)
    ]


def make_outcomes(cases: list[Case], count: int) -> Iterator[Outcome]:
    """Make outcomes with all that a run tells; each case gets as many."""
    instant = datetime(2020, 1, 1, tzinfo=UTC)
    for number in range(count):
        verdict = Verdict.FAILED if number % 3 == 0 else Verdict.PASSED
        machine = MachineSpec(date=instant + timedelta(days=number % 5000))
        source = SourceRecord(kind="pypi", name="p", version="1.2.3", digest=f"{number:064x}")
        yield Outcome(
            case=cases[number % len(cases)],
            machine=machine,
            verdict=verdict,
            reason="" if verdict is Verdict.PASSED else "test: exited with 1",
            evidence="E  ssl.SSLCertVerificationError: certificate has expired" * 2,
            steps=(
                StepRecord(
                    name="test",
                    verdict=verdict,
                    exit_status=0,
                    duration_s=1.5,
                    clock_started_at=machine.date,
                    clock_ended_at=machine.date + timedelta(seconds=2),
                ),
            ),
            sources=(source,),
            host={"cpu": "some CPU", "cores": 2, "kernel": "6.1"},
            study=f"study-{number % 50}",
            recorded_at=_START + timedelta(seconds=number),
        )


def make_findings(cases: list[Case], count: int) -> Iterator[Finding]:
    """Make findings, each on a build of its own case, so that all of them are current."""
    boundary = Boundary(
        axis="date",
        last_before="2020-10-05T23:01:56Z",
        first_after="2020-10-05T23:01:57Z",
        before="passed",
        after="failed",
        is_exact=True,
        confirmed=4,
    )
    for number in range(count):
        yield Finding(
            case=cases[number % len(cases)],
            kind="time-trap",
            axis="date",
            summary="passes until 2020-10-05T23:01:56Z",
            boundaries=(boundary,),
            windows=(Window(passes_until="2020-10-05T23:01:56Z"),),
            confidence=0.9375,
            recorded_at=_START + timedelta(seconds=number),
        )


def append(place: Path, cases: list[Case], count: int) -> list[Row]:
    """Append batches to a catalog and the same rows to a copy of its table."""
    ours, peer = Row(name="appended", unit="/s", aim="≥ 5000"), Row(name="  executemany", unit="/s")
    ratio = Row(name="  ours / executemany", unit="")
    alone = Row(name="  ours by CPU time", unit="/s")
    with Catalog(place) as catalog, closing(_twin(place)) as twin:
        outcomes = make_outcomes(cases, count)
        while batch := list(itertools.islice(outcomes, _BATCH)):
            rows = [_plain_row(outcome) for outcome in batch]
            began = time.perf_counter()
            with twin:
                names = ", ".join(rows[0])
                marks = ", ".join(f":{name}" for name in rows[0])
                twin.executemany(f"INSERT INTO outcomes ({names}) VALUES ({marks})", rows)
            peer.values.append(len(batch) / (time.perf_counter() - began))
            began, worked = time.perf_counter(), time.process_time()
            catalog.record_many((outcome, b"") for outcome in batch)
            ours.values.append(len(batch) / (time.perf_counter() - began))
            alone.values.append(len(batch) / (time.process_time() - worked))
            ratio.values.append(ours.values[-1] / peer.values[-1])
    return [ours, alone, peer, ratio]


def _twin(place: Path) -> sqlite3.Connection:
    """Open a database with the same table of outcomes and the same indexes, without references."""
    twin = sqlite3.connect(place.with_name("twin.sqlite"))
    twin.execute("PRAGMA journal_mode=WAL")
    twin.execute("PRAGMA synchronous=FULL")
    query = "SELECT sql FROM sqlite_master WHERE tbl_name = 'outcomes' AND sql IS NOT NULL"
    with closing(sqlite3.connect(place)) as original:
        for (statement,) in original.execute(query):
            twin.execute(statement)
    return twin


def _plain_row(outcome: Outcome) -> dict[str, object]:
    values = {**outcome_row(outcome), "document": outcome.model_dump_json()}
    return {
        name: value.replace(tzinfo=None).isoformat(" ") if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def add_findings(place: Path, cases: list[Case], count: int) -> None:
    """Insert findings in one transaction: how fast each is recorded is not what is measured."""
    with Catalog(place) as catalog, catalog._database.writing() as connection:  # noqa: SLF001
        insert_cases(connection, sorted(cases, key=lambda case: case.id))
        for finding in make_findings(cases, count):
            insert_finding(connection, finding)


def read(place: Path, case: Case, runs: int) -> list[Row]:
    """Read a frame of one case, the same as tuples, and the failures."""
    frame = Row(name=f"frame of {_FRAME_ROWS} rows", unit="s", aim="< 0.5")
    alone = Row(name="  by CPU time", unit="s")
    peer = Row(name="  fetchall", unit="s")
    failures = Row(name="failures()", unit="s", aim="< 1")
    busy = Row(name="  by CPU time", unit="s")
    some = Row(name="failures(springs_before=…)", unit="s")
    advice = Row(name="environment", unit="s", aim="< 0.3")
    names = ", ".join(OUTCOMES.dtypes)
    where = "WHERE case_id = ? ORDER BY recorded_at DESC, id DESC LIMIT ?"
    query = f"SELECT {names} FROM outcomes {where}"
    with Catalog(place) as catalog, closing(sqlite3.connect(place)) as plain:
        for _ in range(runs):
            began, worked = time.perf_counter(), time.process_time()
            rows = len(catalog.outcomes(case=case.id, limit=_FRAME_ROWS))
            frame.values.append(time.perf_counter() - began)
            alone.values.append(time.process_time() - worked)
            began = time.perf_counter()
            if len(plain.execute(query, (case.id, _FRAME_ROWS)).fetchall()) != rows:
                raise SystemExit("the frame has other rows than the table")
            peer.values.append(time.perf_counter() - began)
            began, worked = time.perf_counter(), time.process_time()
            catalog.failures()
            failures.values.append(time.perf_counter() - began)
            busy.values.append(time.process_time() - worked)
            began = time.perf_counter()
            catalog.failures(springs_before="2021-01-01", limit=20)
            some.values.append(time.perf_counter() - began)
            began = time.perf_counter()
            environment(case.id, "1.2.3", catalog=catalog)
            advice.values.append(time.perf_counter() - began)
    return [frame, alone, peer, failures, busy, some, advice]


def export(place: Path) -> list[Row]:
    """Export all outcomes to CSV by the command; return the time and its memory."""
    words = ["catalog", "export", "-", "--format", "csv", "--catalog", str(place)]
    argv = [sys.executable, "-c", _EXPORTER, *words]
    began = time.perf_counter()
    done = subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seconds = time.perf_counter() - began
    peak = int(done.stderr.split()[-1]) / 1024
    return [
        Row(name="CSV of all outcomes", unit="s", values=[seconds]),
        Row(name="  peak memory", unit="MiB", values=[peak], aim="< 300"),
    ]


def append_at_once(place: Path, outcome: Outcome, processes: int, each: int) -> Row:
    """Let processes append one by one, all at once; stop if one outcome is lost."""
    argv = [sys.executable, "-c", _WRITER, str(place), outcome.model_dump_json(), str(each)]
    writers = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    for writer in writers:
        if writer.stdout is None or writer.stdout.readline() != b"ready\n":
            raise SystemExit("a writer did not start")
    began = time.perf_counter()
    for writer in writers:
        writer.communicate()
    seconds = time.perf_counter() - began
    with closing(sqlite3.connect(place)) as plain:
        (found,) = plain.execute("SELECT count(*) FROM outcomes").fetchone()
    if found != processes * each:
        raise SystemExit(f"{processes * each - found} outcomes are lost")
    return Row(name=f"{processes} at once, one by one", unit="/s", values=[found / seconds])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--findings", type=int, default=50_000, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=5, help="of each query; default: %(default)s")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "catalog.sqlite"
        cases = make_cases(max(1, asked.outcomes // _FRAME_ROWS))
        Catalog(place).close()
        rows = append(place, cases, asked.outcomes)
        add_findings(place, make_cases(asked.findings), asked.findings)
        rows += read(place, cases[0], asked.runs)
        rows += export(place)
        crowd = Path(directory) / "crowd" / "catalog.sqlite"
        one = next(make_outcomes(cases, 1))
        rows.append(append_at_once(crowd, one, asked.processes, 200))
    show(f"{asked.outcomes} outcomes, {asked.findings} findings", rows)


if __name__ == "__main__":
    main()
