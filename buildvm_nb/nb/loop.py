"""The kernel's event loop, on which widgets are changed.

Messages from the browser are handled on the loop of the kernel's main thread. A widget that
another thread changes meanwhile may lose one of both changes, so threads hand their changes over
to that loop. Outside of a kernel, as in tests, there is no browser and no loop.

References
----------
tornado, ``IOLoop.add_callback``: safe to call from any thread. ipywidgets, ``Widget.hold_sync`` and
``Widget._lock_property``: state of the widget, not of the thread.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop

__all__ = ["Throttled", "is_loop_thread", "kernel_loop"]


def kernel_loop() -> "IOLoop | None":
    """Return the event loop of the kernel.

    Returns
    -------
    IOLoop or None
        None outside of a kernel.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return getattr(kernel, "io_loop", None)


def is_loop_thread() -> bool:
    """Tell whether this is the thread that the kernel's loop runs in.

    Returns
    -------
    bool
        Kernels run it in the main thread.
    """
    return threading.current_thread() is threading.main_thread()


class Throttled:
    """A call that is made at most every so often, the last request always being honoured.

    Parameters
    ----------
    call : callable
        What to do; called in the thread that asks, or on the kernel's loop.
    every_s : float
        Seconds between two calls.
    at_once : bool
        Whether the first request is honoured at once. False: wait until requests pause, as for
        a field that somebody types in.
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
