"""Where the runs of a study are executed: processes of this host, or a Dask cluster.

A run is a guest of a gigabyte and seconds to hours, so each has a process of its own: whatever
breaks there breaks that run alone, and it is done again. Threads would do to start guests, but
nobody can stop a thread; a process ends at once, and its guest with it.
"""

import importlib.util
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.facts import available_mib, usable_cores
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.outcome import Outcome

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = [
    "LocalExecutor",
    "Means",
    "OnOutcome",
    "fit_jobs",
    "is_local",
    "open_executor",
]

# How many guests run side by side on this host.


def fit_jobs(jobs: int | None, memory_mib: int) -> int:
    """Choose how many guests run side by side, so that they fit into memory.

    `jobs`: what was asked for; None: as many as there are cores and fit.
    """
    available = available_mib()
    if available is None:
        return jobs or usable_cores()
    most = available // memory_mib
    if most < 1:
        raise HostError(
            f"too little memory for a guest of {memory_mib} MiB: {available} MiB are available",
            hint="give guests less: --memory 512",
        )
    if jobs is not None and jobs > most:
        raise UsageError(
            f"{jobs} guests of {memory_mib} MiB need {jobs * memory_mib} MiB; {available} MiB are "
            f"available, for {most} at most",
            hint=f"--jobs {most}, or give guests less with --memory",
        )
    return jobs or min(usable_cores(), most)


OnOutcome = Callable[[Outcome, bool], None]
"""Gets each outcome as it comes, and whether the catalog had it already."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a study works with, whatever it asks."""

    cache: Cache
    """Keeps sources, images, kernels and checkpoints; a remote worker has its own."""
    catalog: "Catalog"
    """Gets outcomes and findings, and is asked for what it has."""
    executor: Executor | None = None
    """Where runs are executed, of any kind; it is not shut down. None: one is opened."""
    jobs: int | None = None
    """Guests side by side; None: as many as there are cores and fit into memory."""
    scheduler: str | None = None
    """Address of a Dask scheduler, whose workers run them instead."""
    base: Path = Path()
    """Directory that relative paths of the case are below."""
    progress: Progress = SILENT
    on_outcome: OnOutcome | None = None
    fresh: bool = False
    """Ignore recorded outcomes."""

    @property
    def is_remote(self) -> bool:
        """Whether runs are executed by other hosts."""
        return self.scheduler is not None if self.executor is None else not is_local(self.executor)

    @contextmanager
    def executing(self, memory_mib: int) -> Iterator[tuple[Executor, int]]:
        """Lend the executor, and say how many guests of a size it runs side by side."""
        jobs = self.jobs if self.is_remote else fit_jobs(self.jobs, memory_mib)
        own = self.executor
        with nullcontext(own) if own else open_executor(jobs, self.scheduler) as chosen:
            yield chosen, jobs or usable_cores()


_P = ParamSpec("_P")
_T = TypeVar("_T")

_ATTEMPTS = 3
_CONNECT_S = 10
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):\d{1,5}")


class LocalExecutor(Executor):
    """Runs calls in processes of this host, each call apart from all others.

    A call whose process died is done again. The processes end when this one does, however it
    ends, and Ctrl-C does not reach them: leaving the context by an exception ends them.

    `jobs`: calls at the same time, at least 1.
    """

    def __init__(self, jobs: int) -> None:
        self._context = get_context("spawn")  # this process has threads, which a fork would break
        self._lifeline, self._hold = self._context.Pipe(duplex=False)
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._ended = False
        self._closing = threading.Lock()
        resource_tracker.ensure_running()  # its start would let SIGINT through again
        self._threads = ThreadPoolExecutor(
            jobs, thread_name_prefix="job", initializer=_hold_off_interrupts
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.kill()
        self.shutdown(wait=True)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Run a call in one of the processes."""
        return self._threads.submit(self._call, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the interface
        """Take no more calls."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            for pool in self._pools.values():
                pool.shutdown()
            self._let_go()
            self._lifeline.close()

    def kill(self) -> None:
        """End all processes at once; calls that were under way get `HostError`.

        Any thread may do so, and several at once.
        """
        self._ended = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._let_go()

    def _let_go(self) -> None:
        with self._closing:  # two at once would close a descriptor that is somebody else's by then
            self._hold.close()

    def _call(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._pool().submit(fn, *args, **kwargs).result()
            except BrokenProcessPool as error:
                self._pools.pop(threading.get_ident()).shutdown()
                if self._ended or attempt == _ATTEMPTS:
                    raise HostError(
                        f"the process that ran it died, {attempt} times",
                        hint="the kernel kills processes where memory is short; try fewer --jobs",
                    ) from error
        raise AssertionError("unreachable")

    def _pool(self) -> ProcessPoolExecutor:
        """Return the process of the calling thread: a pool of one, so that it breaks alone."""
        own = threading.get_ident()
        if own not in self._pools:
            self._pools[own] = ProcessPoolExecutor(
                1,
                mp_context=self._context,
                initializer=_end_with_parent,
                initargs=(self._lifeline,),
            )
        return self._pools[own]


def open_executor(
    jobs: int | None = None, scheduler: str | None = None
) -> AbstractContextManager[Executor]:
    """Open what runs are executed on.

    `jobs`: processes on this host; by default as many as it has cores.
    `scheduler`: address of a Dask scheduler, ``tcp://HOST:PORT``; runs go to its workers instead,
    each of which runs as many at a time as it has threads.
    Returns: yields an `Executor`. Leaving it by an exception drops what has not begun and, on this
    host, ends what runs; a Dask worker finishes the run that it is at.
    Raises `UsageError` if the number of jobs or the address is none, or both are given.
    Raises `HostError` (On entering: if Dask is not installed, or the scheduler or its workers
    cannot be reached).
    """
    if scheduler is not None:
        if jobs is not None:
            raise UsageError("jobs say nothing about a Dask cluster: its workers' threads count")
        if not _ADDRESS.fullmatch(scheduler):
            raise UsageError(
                f"not a scheduler's address: {scheduler!r}; allowed: tcp://HOST:PORT or tls://…",
                hint="dask scheduler prints it when it starts",
            )
        return _cluster(scheduler)
    if jobs is not None and jobs < 1:
        raise UsageError(f"not a number of jobs: {jobs}; allowed: 1 and more")
    return LocalExecutor(jobs or usable_cores())


def is_local(executor: Executor) -> bool:
    """Tell whether an executor's calls run on this host."""
    return isinstance(executor, (LocalExecutor, ProcessPoolExecutor, ThreadPoolExecutor))


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    if importlib.util.find_spec("distributed") is None:
        raise HostError(
            f"Dask is not installed, so {address} cannot be used",
            hint="pip install 'buildvm-nb[dask]'",
        )
    from distributed import Client  # noqa: PLC0415 - a second to import

    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise HostError(
            f"no Dask scheduler answers at {address} within {_CONNECT_S} s: {error}",
            hint="start one: dask scheduler; then dask worker ADDRESS",
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_S)
        except TimeoutError as error:
            raise HostError(
                f"the Dask scheduler {address} has no workers",
                hint=f"start some where QEMU and buildvm-nb are: dask worker {address}",
            ) from error
        # one and the same call may be made twice: another attempt
        executor: Executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)


def _hold_off_interrupts() -> None:
    """Block SIGINT in this thread and in the processes that it starts, from their first moment."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _end_with_parent(lifeline: Connection) -> None:
    """End this process, and with it its guest, as soon as the other end of a pipe is closed."""

    def wait() -> None:
        lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
