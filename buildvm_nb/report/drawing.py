"""The timeline of a report: an SVG that follows the page's colours, drawn by matplotlib."""

import io
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from buildvm_nb.report.report import Spring

__all__ = ["MOST_ROWS", "draw_springs"]

MOST_ROWS = 40
"""How many cases fit; the table below the drawing has all."""

_BREAKS, _HEALS = "#D55E00", "#009E73"
"""Of Okabe and Ito's palette, which people with any colour vision can tell apart."""
_INK = "#010203"
"""Stands for the colour of the page's text."""
_FARTHEST = timedelta(days=365 * 60)
"""Springs farther from today are in the table only: they would squeeze all others."""
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "buildvm",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.parse_math": False,
}


def draw_springs(springs: Sequence[Spring], made_at: datetime) -> str:
    """Draw when what breaks and heals, case by case.

    `springs`: in any order.
    Returns: an ``<svg>`` element without references to anything outside; empty where there is
    nothing to draw.
    """
    near = [one for one in springs if abs(one.at - made_at) <= _FARTHEST]
    firsts: dict[str, datetime] = {}
    for spring in sorted(near, key=lambda one: one.at):
        firsts.setdefault(spring.case, spring.at)
    rows = {case: number for number, case in enumerate([*firsts][-MOST_ROWS:])}
    near = [one for one in near if one.case in rows]
    if not near:
        return ""
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(9, 1.2 + 0.3 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, near, rows, made_at)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return _embeddable(drawn.getvalue())


def _draw(axes: Axes, springs: Sequence[Spring], rows: dict[str, int], made_at: datetime) -> None:
    for breaks, colour, marker, label in (
        (True, _BREAKS, "X", "breaks"),
        (False, _HEALS, "o", "begins to pass"),
    ):
        chosen = [one for one in springs if one.breaks is breaks]
        if chosen:
            axes.scatter(
                date2num([one.at for one in chosen]),
                [rows[one.case] for one in chosen],
                s=70,
                color=colour,
                marker=marker,
                label=label,
                zorder=3,
            )
    axes.axvline(date2num(made_at), color=_INK, linestyle="--", label="today")
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.grid(visible=True, axis="y", alpha=0.25, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12 - 0.2 / len(rows)), ncols=3)
    if legend := axes.get_legend():
        legend.get_frame().set_visible(False)


def _embeddable(text: str) -> str:
    """Keep the element alone: no XML prologue, no metadata, no font names, the page's own ink."""
    text = text[text.index("<svg") :]
    text = re.sub(r"(?s)<metadata>.*?</metadata>", "", text)
    text = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", text)
    return text.replace(_INK, "currentColor")
