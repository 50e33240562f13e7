"""Work in threads of a notebook, and the kernel's event loop, which stays free meanwhile."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from IPython.core.getipython import get_ipython

from buildvm_nb.errors import StateError
from buildvm_nb.host.process import Interrupted, Interruption
from buildvm_nb.host.progress import Task
from buildvm_nb.nb.ownership import release, take_over

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop

__all__ = [
    "Job",
    "JobState",
    "TaskEvent",
    "Throttled",
    "kernel_loop",
]

# The kernel's event loop, on which widgets are changed.
#
# Messages from the browser are handled on the loop of the kernel's main thread. A widget that
# another thread changes meanwhile may lose one of both changes, so threads hand their changes over
# to that loop. Outside of a kernel, as in tests, there is no browser and no loop.
#
# References: tornado, ``IOLoop.add_callback``: safe to call from any thread. ipywidgets,
# ``Widget.hold_sync`` and ``Widget._lock_property``: state of the widget, not of the thread.


def kernel_loop() -> "IOLoop | None":
    """Return the event loop of the kernel."""
    kernel = getattr(get_ipython(), "kernel", None)
    return getattr(kernel, "io_loop", None)


def is_loop_thread() -> bool:
    """Tell whether this is the thread that the kernel's loop runs in."""
    return threading.current_thread() is threading.main_thread()


class Throttled:
    """A call that is made at most every so often, the last request always being honoured.

    `call`: what to do; called in the thread that asks, or on the kernel's loop.
    `at_once`: whether the first request is honoured at once. False: wait until requests pause, as
    for a field that somebody types in.
    """

    def __init__(self, call: Callable[[], None], every_s: float, *, at_once: bool = True) -> None:
        self._call = call
        self._every_s = every_s
        self._at_once = at_once
        self._last_s = -every_s
        self._timer: object | None = None
        self._is_due = False

    def __call__(self) -> None:
        """Ask for the call."""
        now_s = time.monotonic()
        self._is_due = True
        if self._at_once and now_s - self._last_s >= self._every_s:
            self.flush()
            return
        loop = kernel_loop()
        if loop is None:
            if not self._at_once:
                self.flush()  # nobody types
            return
        if self._timer is not None:
            if self._at_once:
                return
            loop.remove_timeout(self._timer)
        self._timer = loop.call_later(self._every_s, self._ring)

    def flush(self) -> None:
        """Make the call now if it is due."""
        if self._is_due:
            self._is_due = False
            self._last_s = time.monotonic()
            self._call()

    def _ring(self) -> None:
        self._timer = None
        self.flush()


_T = TypeVar("_T")
_END_S = 20.0
"""How long a newer job waits for the end of the one whose name it takes."""
_PUMP_S = 0.05
_numbers = itertools.count(1)


class JobState(StrEnum):
    """How far a job is."""

    IDLE = "idle"
    RUNNING = "running"
    CANCELLING = "cancelling"
    """It was asked to stop and has not yet."""
    DONE = "done"
    FAILED = "failed"
    """It raised an error."""
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing runs any more."""
        return self in {JobState.DONE, JobState.FAILED, JobState.CANCELLED}


class TaskEvent:
    """A piece of work of a job has begun, come further or ended."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.done = 0.0
        self.total: float | None = None
        self.note = ""
        self.started_s = time.monotonic()
        self.is_over = False

    @property
    def left_s(self) -> float | None:
        """Seconds left, if it goes on as fast as it did; None: it cannot be told."""
        if not self.total or self.done <= 0:
            return None
        return (time.monotonic() - self.started_s) * max(self.total / self.done - 1, 0.0)


class Job(Generic[_T]):
    """Work in a background thread that can be cancelled at every stage.

    What the work tells is handed to the kernel's event loop, where widgets may be changed; outside
    of a kernel it is handed over in the job's own thread. `Job` is a `Progress`: give it to
    whatever reports one.

    Parameters
    ----------
    target : callable
        The work; it gets the job.
    on_event : callable, optional
        Gets what the work tells by `tell`, and a `TaskEvent` for its progress, in order.
    on_end : callable, optional
        Gets the job after its last event, when it is over.
    name : str
        A newer job of the same name ends this one. Empty: a name of its own.
    """

    def __init__(
        self,
        target: "Callable[[Job[_T]], _T]",
        on_event: Callable[[object], None] | None = None,
        on_end: "Callable[[Job[_T]], None] | None" = None,
        name: str = "",
    ) -> None:
        self.name = name or f"job {next(_numbers)}"
        self.error: BaseException | None = None
        self._target = target
        self._on_event = on_event
        self._on_end = on_end
        self._result: _T | None = None
        self._state = JobState.IDLE
        self._lock = threading.RLock()
        self._events: deque[object] = deque()
        self._delivering = threading.RLock()
        self._is_posted = False
        self._interruption = Interruption()
        self._over = threading.Event()
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"<Job {self.name!r}: {self.state}>"

    @property
    def state(self) -> JobState:
        """How far it is."""
        return self._state

    @property
    def result(self) -> _T:
        """What the work returned.

        Raises
        ------
        StateError
            If it has not, or not yet.
        """
        if self._state is not JobState.DONE:
            raise StateError(f"the job has no result: it is {self._state}")
        return self._result  # type: ignore[return-value]  # it is the work's own then

    def start(self) -> Self:
        """Begin.

        Returns
        -------
        Self
            This job.

        Raises
        ------
        StateError
            If it was started before.
        """
        with self._lock:
            if self._state is not JobState.IDLE:
                raise StateError(f"the job was started before: it is {self._state}")
            self._state = JobState.RUNNING
        take_over(self.name, self.end)
        # a daemon: the interpreter would wait for others before it runs what ends them
        threading.Thread(target=self._run, name=f"buildvm {self.name}", daemon=True).start()
        return self

    def cancel(self) -> None:
        """Ask for its end: what it waits for is ended, a guest with it. Twice does no harm."""
        with self._lock:
            if self._state is JobState.IDLE:
                self._state = JobState.CANCELLED
                self._over.set()
                self._ended.set()
            if self._state is not JobState.RUNNING:
                return
            self._state = JobState.CANCELLING
        self._interruption.request()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is over and its events have been handed over.

        Parameters
        ----------
        timeout_s : float, optional
            Seconds; None: without a limit.

        Returns
        -------
        bool
            Whether it is over.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pumps = kernel_loop() is not None and is_loop_thread()  # the loop waits for us
        while not self._ended.is_set():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if pumps:
                self._over.wait(_PUMP_S if left is None else min(left, _PUMP_S))
                self._deliver()
            else:
                self._ended.wait(left)
        return True

    def end(self) -> None:
        """Cancel it and wait until it has ended, for a limited time."""
        self.cancel()
        self._over.wait(_END_S)

    def tell(self, event: object) -> None:
        """Hand over an event; for the work.

        Parameters
        ----------
        event : object
            For `on_event`.

        Raises
        ------
        Interrupted
            If the job was cancelled.
        """
        self._interruption.check()
        self._post(event)

    def check(self) -> None:
        """Stop here if the job was cancelled; for the work.

        Raises
        ------
        Interrupted
            If so.
        """
        self._interruption.check()

    @contextmanager
    def task(self, label: str) -> Iterator[Task]:
        """Announce a piece of work, as a `Progress` does.

        Parameters
        ----------
        label : str
            What is being done.

        Yields
        ------
        Task
            Tells how far it is.

        Raises
        ------
        Interrupted
            If the job was cancelled.
        """
        event = TaskEvent(label)
        self.tell(event)
        try:
            yield _Telling(self.tell, event)
        finally:
            event.is_over = True
            self._post(event)

    def _run(self) -> None:
        try:
            with self._interruption.covering():
                self._result = self._target(self)
            state = JobState.DONE
        except Interrupted:
            state = JobState.CANCELLED
        except BaseException as error:  # noqa: BLE001 - whoever asks for it gets it
            self.error = error
            state = JobState.FAILED
        with self._lock:
            self._state = state
            self._over.set()
        release(self.name, self.end)
        self._post(_END)

    def _post(self, event: object) -> None:
        if self._events and self._events[-1] is event:
            return  # nobody has looked yet
        self._events.append(event)
        loop = kernel_loop()
        if loop is None:
            self._deliver()
        elif not self._is_posted:
            self._is_posted = True
            loop.add_callback(self._deliver)

    def _deliver(self) -> None:
        """Hand over what has been told so far, one event at a time."""
        with self._delivering:
            self._is_posted = False
            while self._events:
                event = self._events.popleft()
                if event is not _END:
                    if self._on_event:
                        self._on_event(event)
                    continue
                try:
                    if self._on_end:
                        self._on_end(self)
                finally:
                    self._ended.set()


_END = object()


class _Telling:
    """A task that tells a job's listener how far it is."""

    def __init__(self, tell: Callable[[object], None], event: TaskEvent) -> None:
        self._tell = tell
        self._event = event

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._event.done, self._event.note = done, note
        if total is not None:
            self._event.total = total
        self._tell(self._event)
