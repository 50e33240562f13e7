"""What goes to standard output and standard error.

Text from sources, guests and logs is not ours: control characters in it are shown, never sent to
the terminal, and nothing in it is taken for markup.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from buildvm_nb.errors import HostError, UsageError

__all__ = [
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

    Parameters
    ----------
    text : object
        Anything; its `str` is taken.

    Returns
    -------
    str
        Letters as they are; control and format characters as escapes such as ``\x1b``.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


def printable_lines(text: str) -> list[str]:
    """Make text of several lines safe for a terminal.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    list of str
        Its lines, without their ends; a tab becomes spaces.
    """
    return [printable(line.rstrip("\r").expandtabs()) for line in text.rstrip().split("\n")]


def can_show(text: str) -> bool:
    """Tell whether standard output has all characters of a text.

    Parameters
    ----------
    text : str
        What is to be written.

    Returns
    -------
    bool
        False where its encoding lacks some.
    """
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def write_line(text: str = "") -> None:
    """Write a line to standard output.

    Parameters
    ----------
    text : str
        Without its end; the caller has made it printable.
    """
    sys.stdout.write(f"{text}\n")


def write_error(text: str) -> None:
    """Write a line to standard error.

    Parameters
    ----------
    text : str
        Without its end; the caller has made it printable.
    """
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write_json(value: object) -> None:
    """Write a value to standard output as JSON, in ASCII.

    Parameters
    ----------
    value : object
        Plain JSON.
    """
    write_line(json.dumps(value, indent=2))


def write_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Write names and values to standard output, one below the other; empty values are left out.

    Parameters
    ----------
    fields : iterable of (str, str)
        Values may have several lines.
    """
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *rest = printable_lines(value)
        write_line(f"{name:<{width}}{_GAP}{first}")
        for line in rest:
            write_line(f"{'':<{width}}{_GAP}{line}")


def write_new_file(path: Path, text: str) -> None:
    """Write a file where nothing is yet.

    Parameters
    ----------
    path : Path
        The file.
    text : str
        Its content.

    Raises
    ------
    UsageError
        If there is something.
    HostError
        If it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UsageError(f"there is a file already: {path}", hint="choose another") from error
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def write_pieces(pieces: Iterable[tuple[str, str]]) -> None:
    """Write a line to standard output, with colours on a terminal.

    Parameters
    ----------
    pieces : iterable of (str, str)
        Text that the caller has made printable, and its style in rich's words; empty: none.
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

    Parameters
    ----------
    columns : sequence of str
        Headings; those of numbers end in a space and are aligned to the right.
    rows : iterable of sequences
        As many cells each; None is an empty one.
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
