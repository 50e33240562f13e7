"""A line of a log with its colours, for a page; nothing in it can become a tag."""

import re
from functools import lru_cache
from html import escape
from io import StringIO

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import MONOKAI

__all__ = ["BACKGROUND", "FOREGROUND", "line_html", "plain_text"]

BACKGROUND = MONOKAI.background_color.hex
FOREGROUND = MONOKAI.foreground_color.hex
_CONSOLE = Console(file=StringIO(), color_system="truecolor", width=10_000)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain_text(line: str) -> str:
    """Return a line without its colours.

    Parameters
    ----------
    line : str
        As a program printed it. What it wrote over by a carriage return is not in it.

    Returns
    -------
    str
        Printable text.
    """
    if "\x1b" in line:
        line = AnsiDecoder().decode_line(line).plain
    return _CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2])


@lru_cache(maxsize=4096)
def line_html(line: str, find: str = "") -> str:
    """Write a line as HTML.

    Parameters
    ----------
    line : str
        As a program printed it.
    find : str
        Mark this text, whatever its case; colours are left out then.

    Returns
    -------
    str
        Escaped; colours are ``style`` attributes.
    """
    if find:
        parts = re.split(f"({re.escape(find)})", plain_text(line), flags=re.IGNORECASE)
        return "".join(
            f"<mark>{escape(part)}</mark>" if number % 2 else escape(part)
            for number, part in enumerate(parts)
        )
    if "\x1b" not in line:
        return escape(plain_text(line))
    pieces = []
    for segment in AnsiDecoder().decode_line(line.rstrip("\r")).render(_CONSOLE):
        style = segment.style.get_html_style(MONOKAI) if segment.style else ""
        text = escape(_CONTROLS.sub("", segment.text))
        pieces.append(f'<span style="{escape(style)}">{text}</span>' if style else text)
    return "".join(pieces)
