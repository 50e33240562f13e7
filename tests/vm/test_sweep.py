"""Sweeps with real guests: on this host, on a Dask cluster, with workers that die."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from buildvm_nb.catalog import Catalog, parse_case, read_csv
from buildvm_nb.study.executors import LocalExecutor, Means, open_executor
from buildvm_nb.study.laboratory import Laboratory, run_probe
from buildvm_nb.study.run import Basis
from buildvm_nb.study.sweep import Grid, make_cells, run_cells, sweep

from .conftest import below, is_running

pytestmark = [pytest.mark.vm]

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from buildvm_nb.cli import main; sys.exit(main())"
CASE = """
schema = 1
id = "sample"
[image]
base = "debian:bookworm"
packages = ["python3"]
[limits]
memory_mib = 512
[[step]]
name = "test"
run = '''
year=$(date -u +%Y)
echo "it is $year"
{run}
'''
"""
PATIENCE_S = 600.0


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


@pytest.fixture
def means(cache, catalog):
    return Means(cache=cache, catalog=catalog)


@pytest.fixture
def buildvm(tmp_path):
    """Start the program in a process group of its own."""

    def start(*words):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BUILDVM_CATALOG": str(tmp_path / "catalog.sqlite"),
        }
        argv = [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, words)]
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment,
            text=True,
            start_new_session=True,
        )

    return start


def write_case(directory, run):
    (directory / "case.toml").write_text(CASE.format(run=run))
    return "case.toml"


def descendants(pid):
    """Map the processes below one to what they are."""
    return {number: Path(f"/proc/{number}/cmdline").read_bytes() for number in below(pid)}


def is_guest(command):
    return b"qemu-system" in command or b"linux.uml" in command


def wait_for_end(pids):
    deadline = time.monotonic() + PATIENCE_S
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if is_running(pid)]


def wait_for_guest(pid):
    """Wait until a guest runs below a process, and return the process that started it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            for worker, command in descendants(pid).items():
                # a sandbox is above its guest as well, and names it
                if not is_guest(command) and any(map(is_guest, descendants(worker).values())):
                    return worker
        except OSError:  # one of them has just ended
            continue
    raise AssertionError("no guest has come up")


def test_a_sweep_shows_records_and_is_not_run_twice(buildvm, tmp_path):
    case = write_case(tmp_path, "test $year -lt 2030")
    words = ("sweep", case, "--dates", "2018,2031", "--accelerator", "tcg", "--jobs", "2")
    with buildvm(*words, "--csv", "out.csv") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["2018-01-01", "passed"],
        ["2031-01-01", "failed"],
    ]
    assert "; 2 of 2\n" in err
    assert "1 passed, 1 failed; all with cpu " in err or "1 failed, 1 passed; all with cpu " in err
    assert sorted(read_csv(tmp_path / "out.csv")["verdict"]) == ["failed", "passed"]
    with buildvm(*words, "--json") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    outcomes = json.loads(out)
    assert "2 of them from the catalog" in err
    assert len({outcome["machine"]["cpu"] for outcome in outcomes}) == 1
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        frame = catalog.outcomes()
        assert sorted(frame["id"]) == sorted(outcome["id"] for outcome in outcomes)
        assert frame["study"].nunique() == 1
        assert catalog.log(outcomes[0]["id"]).endswith(b"it is 2018\n")


def test_commits_bring_their_own_dates_and_cpus(means, tmp_path):
    repository = tmp_path / "repository"
    for year in (2009, 2019):
        stamp = f"{year}-05-01T00:00:00Z"
        environment = {**os.environ, "GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp}
        author = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        for words in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", str(year))):
            argv = ["git", "-C", str(repository), *author, *words]
            repository.mkdir(exist_ok=True)
            subprocess.run(argv, env=environment, check=True)
        subprocess.run(["git", "-C", str(repository), "tag", f"v{year}"], check=True)
    source = f'[source]\nkind = "git"\nurl = "{repository}"\ncommit = "v2009"\n'
    case = parse_case(CASE.format(run="true") + source)
    cells = make_cells(Laboratory(case, means), Grid(commits=("v2019", "v2009")))
    seen = [(c.case.source.commit, c.machine.date.year, c.machine.cpu) for c in cells]
    assert seen == [("v2019", 2019, "Cascadelake-Server"), ("v2009", 2009, "Nehalem")]
    assert len({cell.case.build_digest() for cell in cells}) == 2


def test_an_interrupted_sweep_leaves_no_guest_and_goes_on(buildvm, fastest, tmp_path):
    case = write_case(tmp_path, "test $year = 2018 || sleep 1000")
    words = ("sweep", case, "--dates", "2018,2031", "--jobs", "1")
    words += ("--accelerator", fastest["accelerator"])
    with buildvm(*words) as process:
        said = ""
        for line in process.stderr:
            said += line
            if "2018-01-01: passed; 1 of 2, about " in line:
                break
        wait_for_guest(process.pid)
        below = descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said + rest
    assert "the same command goes on from there" in rest
    assert "Traceback" not in rest
    wait_for_end(below)
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        (done,) = catalog.outcomes()["id"]
    with buildvm(*words) as process:
        for line in process.stderr:
            if "2018-01-01: passed; in the catalog" in line:
                break
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert catalog.outcomes()["id"].tolist() == [done]


def kill_first_worker(executor_pid, killed):
    worker = wait_for_guest(executor_pid)
    os.kill(worker, signal.SIGKILL)
    killed.append(worker)


def test_a_cell_whose_process_is_killed_is_done_again(cache, catalog, fastest):
    case = parse_case(CASE.format(run="sleep 1"))
    killed = []
    killer = threading.Thread(target=kill_first_worker, args=[os.getpid(), killed])
    killer.start()
    with LocalExecutor(2) as executor:
        result = sweep(
            case,
            Grid(dates=("2018-01-01",)),
            Means(cache=cache, catalog=catalog, executor=executor),
            fastest,
        )
    killer.join()
    assert killed
    assert [outcome.verdict for outcome in result.outcomes] == ["passed"]
    assert catalog.outcomes()["verdict"].tolist() == ["passed"]


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two workers in processes of their own, on the loopback interface."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        yield cluster


@pytest.mark.long
def test_a_cluster_does_the_cell_of_a_killed_worker_again(cluster, cache, catalog, fastest):
    case = parse_case(CASE.format(run="sleep 1; test $year -lt 2030"))
    killed = []
    killer = threading.Thread(target=kill_first_worker, args=[os.getpid(), killed])
    killer.start()
    result = sweep(
        case,
        Grid(dates=("2018-01-01", "2031-01-01")),
        Means(cache=cache, catalog=catalog, scheduler=cluster.scheduler_address),
        fastest,
    )
    killer.join()
    assert killed
    assert [outcome.verdict for outcome in result.outcomes] == ["passed", "failed"]
    assert len(catalog.outcomes()) == 2
    assert catalog.log(result.outcomes[1].id).endswith(b"it is 2031\n")


class Otherwise(Laboratory):
    """A laboratory whose image or kernel is another one than that of its workers."""

    other: dict[str, str]

    def _basis(self, order):
        return super()._basis(order).model_copy(update=self.other)


def test_a_worker_with_another_image_gives_an_error_that_names_both(cluster, means, catalog):
    case = parse_case(CASE.format(run="true"))
    with open_executor(scheduler=cluster.scheduler_address) as executor:
        lab = Otherwise(case, means, executor)
        lab.other = {"image_digest": "0" * 64}
        result = run_cells(lab, make_cells(lab, Grid(), {"accelerator": "tcg"}))
    (error,) = result.errors
    assert error.outcome.verdict == "error"
    assert error.outcome.environment is None
    assert "worker " in error.outcome.reason
    assert "0" * 64 in error.outcome.reason
    assert lab.boot_files(error.cell.machine).image_digest in error.outcome.reason
    assert catalog.outcomes()["verdict"].tolist() == ["error", "error"]  # tried twice


@pytest.mark.parametrize("field", ["image_digest", "kernel_digest"])
def test_nothing_runs_with_another_image_or_kernel(cache, means, field):
    lab = Laboratory(parse_case(CASE.format(run="true")), means)
    (cell,) = make_cells(lab, Grid(), {"accelerator": "tcg"})
    other = cell.model_copy(update={"basis": Basis(**{field: "0" * 64})})
    outcome = run_probe(other, cache.root).outcome
    assert (outcome.verdict, outcome.environment) == ("error", None)
    seen = getattr(lab.boot_files(cell.machine), field)
    assert f"its digest is {seen}; the study's is {'0' * 64}" in outcome.reason
    assert "Hint: make it anew on both hosts" in outcome.reason
