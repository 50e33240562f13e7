"""What goes to standard output and standard error: text, tables, JSON, progress.

Text from sources, guests and logs is not ours: control characters in it are shown, never sent to
the terminal, and nothing in it is taken for markup.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.progress import SILENT, Task

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = [
    "LineProgress",
    "TerminalProgress",
    "can_show",
    "discard_output",
    "printable",
    "printable_lines",
    "settle_output",
    "write_error",
    "write_fields",
    "write_json",
    "write_line",
    "write_new_file",
    "write_pieces",
    "write_table",
]

_GAP = "  "


def printable(text: object) -> str:
    r"""Make text safe for a terminal, in one line.

    Returns: letters as they are; control and format characters as escapes such as ``\x1b``.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


def printable_lines(text: str) -> list[str]:
    """Make text of several lines safe for a terminal."""
    return [printable(line.rstrip("\r").expandtabs()) for line in text.rstrip().split("\n")]


def can_show(text: str) -> bool:
    """Tell whether standard output has all characters of a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def write_line(text: str = "") -> None:
    """Write a line to standard output.

    `text`: without its end; the caller has made it printable.
    """
    sys.stdout.write(f"{text}\n")


def write_error(text: str) -> None:
    """Write a line to standard error.

    `text`: without its end; the caller has made it printable.
    """
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write_json(value: object) -> None:
    """Write a value to standard output as JSON, in ASCII."""
    write_line(json.dumps(value, indent=2))


def write_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Write names and values to standard output, one below the other; empty values are left out."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *rest = printable_lines(value)
        write_line(f"{name:<{width}}{_GAP}{first}")
        for line in rest:
            write_line(f"{'':<{width}}{_GAP}{line}")


def write_new_file(path: Path, text: str, *, with_parents: bool = False) -> None:
    """Write a file where nothing is yet.

    `with_parents`: for places that need not be there in a fresh home.
    """
    try:
        if with_parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UsageError(f"there is a file already: {path}", hint="choose another") from error
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def write_pieces(pieces: Iterable[tuple[str, str]]) -> None:
    """Write a line to standard output, with colours on a terminal.

    `pieces`: text that the caller has made printable, and its style in rich's words; empty: none.
    """
    if not sys.stdout.isatty():
        write_line("".join(text for text, _ in pieces))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    console.print(Text.assemble(*pieces), soft_wrap=True)


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table to standard output: drawn on a terminal, aligned columns elsewhere.

    `columns`: headings; those of numbers end in a space and are aligned to the right.
    `rows`: as many cells each; None is an empty one.
    """
    cells = [["" if cell is None else printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw_table(columns, cells)
        return
    lines = [[column.strip() for column in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        aligned = [
            cell.rjust(width) if column.endswith(" ") else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        write_line(_GAP.join(aligned).rstrip())


def discard_output() -> None:
    """Point standard output to nowhere, once nobody reads it, so that the last flush succeeds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def settle_output() -> None:
    """Flush standard output, or give it up, so that the end of the process does not try again."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()


def _draw_table(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column.endswith(" ")
        heading = Text(column.strip())
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console(file=sys.stdout, markup=False, highlight=False, emoji=False).print(table)


# Progress on standard error: bars on a terminal, a line at start and end elsewhere.

_WORTH_A_LINE_S = 2.0


class LineProgress:
    """Two lines for each piece of work, for logs and pipes."""

    @contextmanager
    def task(self, label: str) -> Iterator[Task]:
        """Announce a piece of work and say how long it took."""
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
        """Show a piece of work for as long as it takes."""
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
