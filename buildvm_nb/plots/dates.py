"""The dates of one case: what was tried, where it passes and where it changes."""

from collections.abc import Iterable
from datetime import datetime

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.plots.style import (
    COLOURS,
    INK,
    MARKERS,
    Drawing,
    day_number,
    day_range,
    drawable,
    scale_dates,
    short,
)

__all__ = ["date_line"]

_WINDOW, _PROBES = 0.5, 0.0


def date_line(
    finding: Finding | None = None,
    outcomes: Iterable[Outcome] = (),
    *,
    span: tuple[datetime | None, datetime | None] = (None, None),
    title: str = "",
) -> Drawing:
    """Draw the dates of one case: windows in which it passes, boundaries and probes.

    Parameters
    ----------
    finding : Finding, optional
        What was concluded; left out while a diagnosis is under way.
    outcomes : iterable of Outcome
        The probes, each of which becomes a tick at its date.
    span : tuple of datetime
        Ends of the dates that are studied, as far as they are known.
    title : str
        Above it; by default the finding's summary.

    Returns
    -------
    Drawing
        A bar for each window, a dashed line at each boundary, and below them one mark for each
        probe, whose shape and colour is its verdict.

    Raises
    ------
    UsageError
        If there is no date at all.
    """
    probes = list(outcomes)
    ends = [one for one in (*span, *_studied(finding)) if one is not None]
    edges = [edge for edge in finding.boundaries if edge.axis is Axis.DATE] if finding else []
    turns = [parse_instant(edge.first_after) for edge in edges]
    instants = [*ends, *turns, *(one.machine.date for one in probes)]
    if not instants:
        raise UsageError("no date was studied or tried: there is nothing to draw")
    figure = Drawing(figsize=(9, 2.2), layout="constrained")
    axes = figure.add_subplot()
    left, right = day_range(instants)
    handles: list[Line2D | Patch] = []
    if finding and finding.windows:
        inside = [day_number(one) for one in _studied(finding) if one] or [left, right]
        _draw_windows(axes, finding, inside[0], inside[-1])
        handles.append(Patch(color=COLOURS["passed"], alpha=0.35, label="passes"))
    for turn in turns:
        axes.axvline(day_number(turn), color=INK, linewidth=1, linestyle="--")
    if turns:
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle="--", label="changes"))
    handles += _draw_probes(axes, probes)
    axes.set_xlim(left, right)
    axes.set_ylim(_PROBES - 0.5, _WINDOW + 0.4)
    axes.set_yticks([])
    scale_dates(axes)
    figure.set_label(title or (finding.summary if finding else "dates that were tried"))
    axes.set_title(short(title or (finding.summary if finding else ""), 90), fontsize="medium")
    axes.spines[["top", "right", "left"]].set_visible(False)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=7, frameon=False)
    return figure


def _studied(finding: Finding | None) -> tuple[datetime | None, datetime | None]:
    return (finding.studied_from, finding.studied_until) if finding else (None, None)


def _draw_windows(axes: Axes, finding: Finding, left: float, right: float) -> None:
    for window in finding.windows:
        first, last = window.passes_from, window.passes_until
        start = left if first is None else day_number(first)
        end = right if last is None else day_number(last)
        axes.hlines(_WINDOW, start, end, color=COLOURS["passed"], linewidth=14, alpha=0.35)
        middle = (start + end) / 2
        axes.text(middle, _WINDOW, "passes", ha="center", va="center", clip_on=True)


def _draw_probes(axes: Axes, probes: list[Outcome]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for verdict, marker in MARKERS.items():
        days = [day_number(one.machine.date) for one in probes if one.verdict == verdict]
        if days:
            (line,) = axes.plot(
                days,
                [_PROBES] * len(days),
                marker,
                color=COLOURS[verdict],
                markeredgecolor=INK,
                markeredgewidth=0.5,
                linestyle="none",
                label=drawable(f"{verdict} ({len(days)})"),
            )
            handles.append(line)
    return handles
