"""What plots have in common: colours, marks, a scale of dates, and text that is drawn as it is."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.font_manager import FontProperties, findfont, get_font

from buildvm_nb.model.plaintext import clean

__all__ = [
    "COLOURS",
    "INK",
    "MARKERS",
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
_NAME_LENGTH = 40
_MARGIN = 0.05
_LAST_DAY = float(date2num(datetime(9999, 12, 31, tzinfo=UTC)))
"""Matplotlib refuses to draw what comes after the year 9999."""


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
