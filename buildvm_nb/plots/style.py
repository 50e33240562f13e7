"""What plots have in common: colours, marks, a scale of dates, and text that is drawn as it is."""

import io
import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from buildvm_nb.model.plaintext import clean

__all__ = [
    "COLOURS",
    "INK",
    "MARKERS",
    "ON_COLOUR",
    "Drawing",
    "day_number",
    "day_range",
    "drawable",
    "scale_dates",
    "short",
]

COLOURS = {
    "passed": "#009E73",
    "failed": "#D55E00",
    "crashed": "#CC79A7",
    "timeout": "#E69F00",
    "mixed": "#F0E442",
    "unavailable": "#56B4E9",
    "error": "#999999",
}
"""The colour of each verdict, and of cells in which outcomes disagree."""

MARKERS = {
    "passed": "o",
    "failed": "X",
    "crashed": "P",
    "timeout": "D",
    "unavailable": "s",
    "error": "v",
}
"""The marker of each verdict."""

INK = "#000000"
"""The colour of lines and text on the page; a notebook shows its own in place of it."""
ON_COLOUR = "#010101"
"""The ink on a full colour, which is dark on any page."""
_NAME_LENGTH = 40
_MARGIN = 0.05
_LAST_DAY = float(date2num(datetime(9999, 12, 31, tzinfo=UTC)))
"""Matplotlib refuses to draw what comes after the year 9999."""
_NOT_OF_IT = re.compile(r"<style\b.*?</style>|<metadata>.*?</metadata>", re.DOTALL)
"""A style would be about the whole page."""
_ONE_OF_BOTH = "<style>.buildvm-drawing svg + img { display: none; }</style>"


class Drawing(Figure):
    """A figure that notebooks show in the colours of their page; saved, it is black on white."""

    def to_html(self, text: str) -> str:
        """Draw it with the theme's ink on the page's ground.

        Parameters
        ----------
        text : str
            What it shows, for who does not see it.

        Returns
        -------
        str
            An SVG that needs nothing from elsewhere.
        """
        drawn = io.StringIO()
        self.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
        svg = drawn.getvalue()
        svg = _NOT_OF_IT.sub("", svg[svg.index("<svg") :])
        svg = svg.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
        look = (
            "max-width:100%;height:auto;fill:currentColor;stroke-linejoin:round;"
            "color:var(--jp-content-font-color1,currentColor)"
        )
        label = escape(text)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{look}" ', 1)

    def _repr_html_(self) -> str:
        """Show it where it is a cell's value.

        JupyterLab takes SVG and styles out of a notebook that came from somebody else; what is
        left is the picture as it would be saved.
        """
        text = str(self.get_label()) or "plot"
        drawn = io.BytesIO()
        self.savefig(drawn, format="png")
        still = (
            f'<img alt="{escape(text)}" '
            f'src="data:image/png;base64,{b64encode(drawn.getvalue()).decode()}">'
        )
        return f'{_ONE_OF_BOTH}<div class="buildvm-drawing">{self.to_html(text)}{still}</div>'


def day_range(instants: Sequence[datetime]) -> tuple[float, float]:
    """Return the ends of an axis on which instants lie, with margins.

    Parameters
    ----------
    instants : sequence of datetime
        Aware; at least one.

    Returns
    -------
    tuple of float
        Matplotlib's days.
    """
    numbers = [day_number(value) for value in instants]
    margin = _MARGIN * (max(numbers) - min(numbers)) or 1.0
    return min(numbers) - margin, min(max(numbers) + margin, _LAST_DAY)


def day_number(instant: Any, missing: float = 0.0) -> float:  # noqa: ANN401 - of pandas or datetime
    """Turn an instant into matplotlib's days.

    Parameters
    ----------
    instant : datetime or Timestamp
        Aware; what is missing is not equal to itself.
    missing : float
        Stands for what is missing.

    Returns
    -------
    float
        Days.
    """
    if instant != instant:  # noqa: PLR0124 - NaT
        return missing
    return float(date2num(datetime.fromisoformat(instant.isoformat())))


def scale_dates(axes: Axes) -> None:
    """Make the horizontal axis one of dates in UTC.

    Parameters
    ----------
    axes : Axes
        Its values are matplotlib's days.
    """
    locator = AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    axes.set_xlabel("date (UTC)")


def short(name: str, length: int = _NAME_LENGTH) -> str:
    """Make a name a label.

    Parameters
    ----------
    name : str
        Any text.
    length : int
        Characters at most.

    Returns
    -------
    str
        A dollar sign in it does not begin a formula.
    """
    shown = name if len(name) <= length else f"{name[: length - 1]}…"
    return drawable(shown).replace("$", r"\$")


def drawable(text: str) -> str:
    """Make a stranger's text one that the font has signs for.

    Parameters
    ----------
    text : str
        One line.

    Returns
    -------
    str
        Without controls; a character that cannot be drawn is a box.
    """
    known = _known_signs()
    return "".join(sign if ord(sign) in known else "□" for sign in clean(text))


@lru_cache(maxsize=1)
def _known_signs() -> frozenset[int]:
    # plots have names in the one and lines of logs in the other
    fonts = (
        get_font(findfont(FontProperties(family=[name]))) for name in ("sans-serif", "monospace")
    )
    charts = [frozenset(font.get_charmap()) for font in fonts]
    return charts[0] & charts[1]
