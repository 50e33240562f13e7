"""Stopping from another thread what a thread does: between two pieces of work, or while it waits.

Python cannot stop a thread. But a thread of ours either works, and asks now and then whether it is
still wanted, or waits for a process: a fetch, an installer, QEMU. Ending that process wakes it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

__all__ = [
    "Interrupted",
    "Interruption",
    "check_interruption",
    "interruptible",
    "is_covered",
    "is_interrupted",
]


class Interrupted(BaseException):
    """The work of this thread is no longer wanted.

    It is no `Exception`, as `KeyboardInterrupt` is none: nobody may take it for a failure.
    """


class Interruption:
    """A request to stop; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[object, Callable[[], None]] = {}
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """Whether it was requested."""
        return self._is_set

    def request(self) -> None:
        """Ask for the work to stop, and end what it waits for right now."""
        with self._lock:
            self._is_set = True
            ends = [*self._ends.values()]
        for end in ends:
            with suppress(OSError):  # it ended by itself
                end()

    @contextmanager
    def covering(self) -> Iterator[None]:
        """Make this thread's work the one that is stopped.

        Yields
        ------
        None
            While it is.
        """
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def check(self) -> None:
        """Stop here if it was requested.

        Raises
        ------
        Interrupted
            If so.
        """
        if self._is_set:
            raise Interrupted

    @contextmanager
    def waiting(self, end: Callable[[], None]) -> Iterator[None]:
        """Have something ended on request.

        Parameters
        ----------
        end : callable
            Ends it; called from another thread.

        Yields
        ------
        None
            While it is waited for.

        Raises
        ------
        Interrupted
            Instead of whatever error the end leads to.
        """
        key = object()
        with self._lock:
            self.check()
            self._ends[key] = end
        try:
            yield
        except Exception as error:
            if self._is_set:
                raise Interrupted from error
            raise
        finally:
            with self._lock:
                del self._ends[key]
        self.check()


_current: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


def is_covered() -> bool:
    """Tell whether this thread's work can be stopped from another one.

    Returns
    -------
    bool
        False outside of `Interruption.covering`.
    """
    return _current.get() is not None


def is_interrupted() -> bool:
    """Tell whether this thread's work is no longer wanted.

    Returns
    -------
    bool
        False outside of `Interruption.covering`.
    """
    interruption = _current.get()
    return interruption is not None and interruption.is_set


def check_interruption() -> None:
    """Stop here if this thread's work is no longer wanted.

    Raises
    ------
    Interrupted
        If so.
    """
    if interruption := _current.get():
        interruption.check()


@contextmanager
def interruptible(end: Callable[[], None]) -> Iterator[None]:
    """Wait for something that can be ended from another thread.

    Parameters
    ----------
    end : callable
        Ends it, so that the wait is over; called from another thread, also when it has ended.

    Yields
    ------
    None
        While it is waited for.

    Raises
    ------
    Interrupted
        If this thread's work is no longer wanted.
    """
    interruption = _current.get()
    if interruption is None:
        yield
        return
    with interruption.waiting(end):
        yield
