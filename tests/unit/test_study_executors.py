"""What executes the runs of a study: processes that may die, and what is refused."""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host import facts as memory
from buildvm_nb.study import executors
from buildvm_nb.study import executors as jobs
from buildvm_nb.study.executors import (
    LocalExecutor,
    fit_jobs,
    is_local,
    open_executor,
)
from buildvm_nb.study.host_checks import check_host

DIE_ONCE = """
import os, pathlib
if not pathlib.Path({marker!r}).exists():
    pathlib.Path({marker!r}).touch()
    os.kill(os.getpid(), 9)
"""


def test_calls_run_in_processes_of_their_own_and_errors_come_back():
    with LocalExecutor(2) as executor:
        assert executor.submit(os.getpid).result() != os.getpid()
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result()
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(os.getpid)


def test_a_call_whose_process_died_is_done_again_and_no_other(tmp_path):
    with LocalExecutor(2) as executor:
        bystander = executor.submit(
            eval, "__import__('time').sleep(0.3) or __import__('os').getpid()"
        )
        fragile = executor.submit(exec, DIE_ONCE.format(marker=str(tmp_path / "once")))
        assert fragile.result() is None
        deadly = executor.submit(eval, "__import__('os').kill(__import__('os').getpid(), 9)")
        with pytest.raises(HostError, match="the process that ran it died, 3 times"):
            deadly.result()
        assert bystander.result() != os.getpid()


def test_an_exception_ends_what_runs_and_drops_what_has_not_begun():
    def interrupted():
        with LocalExecutor(1) as executor:
            calls = [executor.submit(eval, "__import__('time').sleep(1000)") for _ in range(3)]
            while not calls[0].running():
                wait(calls, timeout=0.01)
            raise KeyboardInterrupt(calls)

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted()
    first, *others = caught.value.args[0]
    assert isinstance(first.exception(), HostError)
    assert all(call.cancelled() for call in others)


def test_only_executors_of_this_host_are_known_to_be_local():
    with LocalExecutor(1) as own, ThreadPoolExecutor(1) as threads:
        assert is_local(own)
        assert is_local(threads)
    assert not is_local(object())


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_of_jobs_is_at_least_one(number):
    with pytest.raises(UsageError, match=f"not a number of jobs: {number}"):
        open_executor(number)


@pytest.mark.parametrize("address", ["", "localhost", "http://x:1", "tcp://x", "tcp://a b:1"])
def test_what_is_no_schedulers_address_is_refused(address):
    with pytest.raises(UsageError, match="allowed: tcp://HOST:PORT"):
        open_executor(scheduler=address)


def test_jobs_and_a_scheduler_exclude_each_other():
    with pytest.raises(UsageError, match="say nothing about a Dask cluster"):
        open_executor(2, "tcp://localhost:8786")


def test_dask_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(HostError) as caught, open_executor(scheduler="tcp://localhost:8786"):
        pass
    assert caught.value.hint == "pip install 'buildvm-nb[dask]'"


def test_a_scheduler_that_does_not_answer_is_an_error_of_the_host(free_port, monkeypatch):
    monkeypatch.setattr(executors, "_CONNECT_S", 0.5)
    address = f"tcp://127.0.0.1:{free_port}"
    with (
        pytest.raises(HostError, match=f"no Dask scheduler answers at {address}"),
        open_executor(scheduler=address),
    ):
        pass


@pytest.mark.parametrize(
    ("available", "wanted", "memory_mib", "expected"),
    [
        (4096, None, 1024, min(4, memory.usable_cores())),
        (1500, None, 1024, 1),
        (4096, 4, 1024, 4),
        (None, 7, 1024, 7),
        (None, None, 1024, memory.usable_cores()),
        (4096, 5, 1024, "5 guests of 1024 MiB need 5120 MiB; 4096 MiB are available, for 4"),
        (1000, 1, 1024, "too little memory for a guest of 1024 MiB: 1000 MiB"),
    ],
)
def test_guests_that_run_side_by_side_fit_into_memory(
    monkeypatch, available, wanted, memory_mib, expected
):
    monkeypatch.setattr(jobs, "available_mib", lambda: available)
    if isinstance(expected, int):
        assert fit_jobs(wanted, memory_mib) == expected
    else:
        with pytest.raises((UsageError, HostError), match=expected):
            fit_jobs(wanted, memory_mib)


def test_a_containers_limit_counts_as_well_as_the_hosts_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert memory.available_mib() is None
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\nMemAvailable:    4194304 kB\n")
    assert memory.available_mib() == 4096
    (tmp_path / "cgroup").write_text("0::/user/box\n")
    (tmp_path / "user/box").mkdir(parents=True)
    (tmp_path / "user/box/memory.max").write_text("max\n")
    (tmp_path / "user/box/memory.current").write_text(f"{256 * 2**20}\n")
    assert memory.available_mib() == 4096
    (tmp_path / "user/box/memory.max").write_text(f"{1024 * 2**20}\n")
    assert memory.available_mib() == 768
    (seen,) = (check for check in check_host(None) if check.subject == "memory")
    assert seen.state == "limited"
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable:    4194304 kB\n")
    (seen,) = (check for check in check_host(None) if check.subject == "memory")
    assert seen.found == "0.8 of 1.0 GiB available"
