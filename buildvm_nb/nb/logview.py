"""A live log: its last lines with their colours, however long it gets."""

import threading
from collections import deque
from collections.abc import Iterator

import ipywidgets as widgets

from buildvm_nb.nb.ansi import BACKGROUND, FOREGROUND, line_html, plain_text
from buildvm_nb.nb.loop import Throttled

__all__ = ["LogView"]

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
