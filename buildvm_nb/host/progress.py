"""Progress of long work: whoever works reports it, whoever faces the user shows it."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from html import escape
from typing import Any, Protocol

__all__ = ["SILENT", "CellProgress", "Progress", "Silent", "Task", "cell_progress"]

_EVERY_S = 0.2


class Task(Protocol):
    """A piece of work under way."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far it is."""


class Progress(Protocol):
    """Shows work as it goes on."""

    def task(self, label: str) -> AbstractContextManager[Task]:
        """Announce a piece of work; leaving the context ends it."""
        ...


class Silent:
    """Progress that nobody looks at."""

    @contextmanager
    def task(self, label: str) -> Iterator["Silent"]:  # noqa: ARG002 - nobody looks
        """Do nothing."""
        yield self

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Do nothing."""


SILENT = Silent()
"""The default."""


def cell_progress() -> Progress:
    """Return what shows work in the cell of a notebook that is being executed."""
    ipython = sys.modules.get("IPython")  # where there is a kernel, somebody has imported it
    kernel = getattr(ipython.get_ipython(), "kernel", None) if ipython else None
    if ipython is None or kernel is None:
        return SILENT
    return CellProgress(ipython.display.display)


class CellProgress:
    """A line that says what is under way, and is empty when all work has ended.

    Safe to use from several threads.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._lock = threading.Lock()
        self._shown: Any = None
        self._drawn_s = 0.0
        self._open: list[_CellTask] = []

    @contextmanager
    def task(self, label: str) -> Iterator[Task]:
        """Say what is being done for as long as it takes."""
        task = _CellTask(label, self._draw_soon)
        with self._lock:
            self._open.append(task)
            self._draw()
        try:
            yield task
        finally:
            with self._lock:
                self._open.remove(task)
                self._draw()

    def _draw_soon(self) -> None:
        with self._lock:
            if time.monotonic() - self._drawn_s >= _EVERY_S:
                self._draw()

    def _draw(self) -> None:
        self._drawn_s = time.monotonic()
        text = " · ".join(map(str, self._open))
        page = f'<span role="status">{escape(text)} …</span>' if text else ""
        told = {"text/plain": text, "text/html": page}
        if self._shown is None:
            self._shown = self._display(told, raw=True, display_id=True)
        else:
            self._shown.update(told, raw=True)


class _CellTask:
    def __init__(self, label: str, redraw: Callable[[], None]) -> None:
        self._label = label
        self._told = ""
        self._redraw = redraw

    def __str__(self) -> str:
        return f"{self._label}{self._told}"

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        share = f", {min(done / total, 1):.0%}" if total else ""
        self._told = f"{share}{f', {note}' if note else ''}"
        self._redraw()
