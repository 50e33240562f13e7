"""Catalogs in real trouble: several processes, SIGKILL, full and read-only file systems."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from buildvm_nb.catalog.schema import SCHEMA_VERSION
from buildvm_nb.catalog.store import Catalog

ROOT = Path(__file__).parents[2]

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
