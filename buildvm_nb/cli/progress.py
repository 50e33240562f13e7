"""Progress on standard error: bars on a terminal, a line at start and end elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from buildvm_nb.cli.output import printable, write_error
from buildvm_nb.host.progress import SILENT, Task

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["LineProgress", "TerminalProgress"]

_WORTH_A_LINE_S = 2.0


class LineProgress:
    """Two lines for each piece of work, for logs and pipes."""

    @contextmanager
    def task(self, label: str) -> Iterator[Task]:
        """Announce a piece of work and say how long it took.

        Parameters
        ----------
        label : str
            What is being done.

        Yields
        ------
        Task
            Takes updates, shows none.
        """
        shown, start = printable(label), time.monotonic()
        write_error(f"buildvm: {shown} …")
        try:
            yield SILENT
        except BaseException:
            write_error(f"buildvm: {shown}: stopped after {time.monotonic() - start:.1f} s")
            raise
        write_error(f"buildvm: {shown}: done in {time.monotonic() - start:.1f} s")


class TerminalProgress:
    """Bars that are gone when all work has ended; a line stays of what took long.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: RichProgress | None = None
        self._open = 0

    @contextmanager
    def task(self, label: str) -> Iterator[Task]:
        """Show a piece of work for as long as it takes.

        Parameters
        ----------
        label : str
            What is being done.

        Yields
        ------
        Task
            Moves the bar.
        """
        shown, start = printable(label), time.monotonic()
        live = self._enter()
        key = live.add_task(shown, total=None, note="")
        try:
            yield _Bar(live, key)
        finally:
            live.remove_task(key)
            took = time.monotonic() - start
            if took >= _WORTH_A_LINE_S:
                live.console.print(f"{shown}: {took:.1f} s", markup=False, highlight=False)
            self._leave()

    def _enter(self) -> "RichProgress":
        with self._lock:
            if self._live is None:
                self._live = _make_display()
                self._live.start()
            self._open += 1
            return self._live

    def _leave(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._live is not None:
                self._live.stop()
                self._live = None


class _Bar:
    def __init__(self, live: "RichProgress", key: "TaskID") -> None:
        self._live = live
        self._key = key

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        changes: dict[str, Any] = {"completed": done, "note": printable(note)}
        if total is not None:
            changes["total"] = total
        self._live.update(self._key, **changes)


def _make_display() -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
