"""A live log in a notebook: its last lines with their colours, however long it gets."""

import re
import threading
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from io import StringIO

import ipywidgets as widgets
from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import MONOKAI

from buildvm_nb.nb.jobs import Throttled

__all__ = [
    "LogView",
]

# A line of a log with its colours, for a page; nothing in it can become a tag.

BACKGROUND = MONOKAI.background_color.hex
FOREGROUND = MONOKAI.foreground_color.hex
_CONSOLE = Console(file=StringIO(), color_system="truecolor", width=10_000)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain_text(line: str) -> str:
    """Return a line without its colours.

    `line`: as a program printed it. What it wrote over by a carriage return is not in it.
    """
    if "\x1b" in line:
        line = AnsiDecoder().decode_line(line).plain
    return _CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2])


@lru_cache(maxsize=4096)
def line_html(line: str, find: str = "") -> str:
    """Write a line as HTML.

    `find`: mark this text, whatever its case; colours are left out then.
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


# A live log: its last lines with their colours, however long it gets.

_LONGEST_LINE = 4000
_REFRESH_S = 0.25
_FRAME = (
    "display:flex;flex-direction:column-reverse;overflow:auto;max-height:24em;"
    f"background:{BACKGROUND};color:{FOREGROUND};padding:6px"
)  # reversed, so that a browser keeps to the end
_PRE = (
    "margin:0;font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.3;"
    "color:inherit"
)


class LogView(widgets.VBox):
    """Shows the end of a log while it grows, and finds lines in what is kept of it.

    Parameters
    ----------
    shown : int
        Lines shown at most.
    kept : int
        Lines kept at most, for the find box.
    """

    def __init__(self, *, shown: int = 500, kept: int = 20_000) -> None:
        self._shown = shown
        self._kept_lines = kept
        self._lines: deque[bytes] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self._partial = b""
        self._dropped = 0
        self.line_count = 0
        """Whole lines fed so far."""
        self.refresh_count = 0
        """How often the browser got a new view."""
        self._page = widgets.HTML()
        self._find = widgets.Text(
            description="Find",
            placeholder="text in the log",
            tooltip="Show only the lines that have this text, whatever its case",
            layout=widgets.Layout(width="22em"),
        )
        self._follow = widgets.Checkbox(
            value=True,
            description="Follow",
            indent=False,
            tooltip="Show what comes at once; off: stay here to read",
            layout=widgets.Layout(width="auto"),
        )
        self._status = widgets.HTML()
        super().__init__([widgets.HBox([self._find, self._follow, self._status]), self._page])
        self._refresh = Throttled(self._draw, _REFRESH_S)
        self._search = Throttled(self._draw, _REFRESH_S, at_once=False)
        self._find.observe(lambda _: self._search(), "value")
        self._follow.observe(lambda _: self._draw(), "value")
        self._draw()

    @property
    def html(self) -> str:
        """What is shown, as HTML."""
        return str(self._page.value)

    @property
    def text(self) -> str:
        """What is kept, as plain text."""
        return "\n".join(plain_text(line.decode(errors="replace")) for line in self._kept())

    def feed(self, data: bytes) -> None:
        """Take in what was printed; the view follows a few times a second.

        Parameters
        ----------
        data : bytes
            As it came, lines cut anywhere.
        """
        self.take(data)
        self.refresh()

    def take(self, data: bytes) -> None:
        """Take in what was printed, without showing it; safe to call from any thread.

        Parameters
        ----------
        data : bytes
            As it came.
        """
        with self._lock:
            *whole, partial = (self._partial + data).split(b"\n")
            self.line_count += len(whole)
            self._dropped += max(len(self._lines) + len(whole) - self._kept_lines, 0)
            self._lines.extend(line[:_LONGEST_LINE] for line in whole[-self._kept_lines :])
            self._partial = partial[:_LONGEST_LINE]

    def refresh(self) -> None:
        """Show soon what was taken in."""
        if self._follow.value:
            self._refresh()

    def flush(self) -> None:
        """Show what has come so far now."""
        self._refresh.flush()

    def clear(self) -> None:
        """Start an empty log."""
        with self._lock:
            self._lines.clear()
            self._partial, self._dropped, self.line_count = b"", 0, 0
        self._draw()

    def find(self, text: str) -> int:
        """Show only the lines that have a text.

        Parameters
        ----------
        text : str
            Whatever its case; empty: show all lines again.

        Returns
        -------
        int
            How many of the kept lines have it.
        """
        self._find.value = text
        self._search.flush()
        return sum(1 for _ in self._matching())

    def _kept(self) -> list[bytes]:
        with self._lock:
            return [*self._lines, *([self._partial] if self._partial else [])]

    def _matching(self) -> Iterator[tuple[int, bytes]]:
        needle = self._find.value.casefold()
        for number, line in enumerate(self._kept(), self._dropped + 1):
            if not needle or needle in plain_text(line.decode(errors="replace")).casefold():
                yield number, line

    def _draw(self) -> None:
        find = self._find.value
        last: deque[tuple[int, bytes]] = deque(maxlen=self._shown)
        count = 0
        for entry in self._matching():
            last.append(entry)
            count += 1
        rows = [
            (f"{number:>7}  " if find else "") + line_html(line.decode(errors="replace"), find)
            for number, line in last
        ]
        hidden = count - len(rows) + (0 if find else self._dropped)
        above = f"<i>{hidden} lines above not shown</i>\n" if hidden else ""
        self._page.value = (
            f'<div role="log" aria-label="log" tabindex="0" style="{_FRAME}">'
            f'<pre style="{_PRE}">{above}' + "\n".join(rows) + "</pre></div>"
        )
        told = f"{count} of {len(self._lines)} lines kept match" if find else ""
        self._status.value = told or f"{self.line_count} lines"
        self.refresh_count += 1
