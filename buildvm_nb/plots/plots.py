"""The figures: traps and verdicts of many cases, the dates of one, CPU features, two logs."""

import io
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num, num2date
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.model.instants import next_within, now, occurrences, parse_instant
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import clean, steady

if TYPE_CHECKING:
    import pandas as pd

    from buildvm_nb.catalog import Catalog

__all__ = [
    "COLOURS",
    "MARKERS",
    "date_line",
    "feature_lattice",
    "log_diff",
    "matrix",
    "timeline",
]

# What plots have in common: colours, marks, a scale of dates, and text that is drawn as it is.

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
        """Draw it with the theme's ink on the page's ground."""
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

    `instants`: aware; at least one.
    """
    numbers = [day_number(value) for value in instants]
    margin = _MARGIN * (max(numbers) - min(numbers)) or 1.0
    return min(numbers) - margin, min(max(numbers) + margin, _LAST_DAY)


def day_number(instant: Any, missing: float = 0.0) -> float:  # noqa: ANN401 - of pandas or datetime
    """Turn an instant into matplotlib's days."""
    if instant != instant:  # noqa: PLR0124 - NaT
        return missing
    return float(date2num(datetime.fromisoformat(instant.isoformat())))


def scale_dates(axes: Axes) -> None:
    """Make the horizontal axis one of dates in UTC."""
    locator = AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    axes.set_xlabel("date (UTC)")


def short(name: str, length: int = _NAME_LENGTH) -> str:
    """Make a name a label.

    `length`: characters at most.
    """
    shown = name if len(name) <= length else f"{name[: length - 1]}…"
    return drawable(shown).replace("$", r"\$")


def drawable(text: str) -> str:
    """Make a stranger's text one that the font has signs for."""
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


# Plots over many cases or runs: when traps spring, and verdicts over two axes.

_PAST, _TO_COME = "#0072B2", "#D55E00"


def timeline(frame: "pd.DataFrame", *, at: datetime | str | None = None) -> Drawing:
    """Draw when traps spring, and how long each stays sprung.

    Parameters
    ----------
    frame : DataFrame
        Of `Catalog.failures` or `Catalog.findings`, or any rows of it.
    at : datetime or str, optional
        What counts as now; by default the present instant.

    Returns
    -------
    Drawing
        One line for each case with a spring, the earliest one on top: a marker where it springs,
        a circle in the past and a triangle to come; a bar up to where it passes again, or to the
        right edge. A vertical line is now.

    Raises
    ------
    UsageError
        If the frame lacks a column, or no trap in it springs at any known time.
    CatalogError
        If its boundaries cannot be read.
    """
    instant = now() if at is None else parse_instant(at)
    springs = frame.traps.timeline(at=instant)
    if springs.empty:
        raise UsageError("no trap in this frame springs at a known time: there is nothing to draw")
    cases = list(dict.fromkeys(springs["case_id"]))
    figure = Drawing(figsize=(9, 1.6 + 0.3 * len(cases)), layout="constrained")
    axes = figure.add_subplot()
    left, right = day_range([*springs["springs_at"], *springs["passes_again_at"].dropna(), instant])
    for is_past, label, marker, colour in (
        (True, "has sprung", "o", _PAST),
        (False, "will spring", "^", _TO_COME),
    ):
        some = springs[springs["is_past"] == is_past]
        heights = [cases.index(case) for case in some["case_id"]]
        starts = [day_number(value) for value in some["springs_at"]]
        ends = [day_number(value, right) for value in some["passes_again_at"]]
        axes.hlines(heights, starts, ends, color=colour, linewidth=5, alpha=0.35)
        axes.plot(starts, heights, marker, color=colour, label=label, linestyle="none")
    axes.axvline(day_number(instant), color=INK, linewidth=1, linestyle="--", label="now")
    axes.set_xlim(left, right)
    axes.set_yticks(range(len(cases)), [short(case) for case in cases])
    axes.set_ylim(len(cases) - 0.5, -0.5)
    scale_dates(axes)
    figure.set_label("When traps spring; bars: as long as they fail")
    axes.set_title(str(figure.get_label()))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)
    return figure


def matrix(
    frame: "pd.DataFrame", rows: str = "date", columns: str = "cpu", *, by: str = "year"
) -> Drawing:
    """Draw verdicts over two columns of a frame of outcomes.

    Parameters
    ----------
    frame : DataFrame
        Of `Catalog.outcomes`, or any rows of it.
    rows, columns : str
        Names of two of its columns, as for ``frame.traps.matrix``.
    by : str
        How much of a date counts: ``year``, ``month``, ``day`` or ``instant``.

    Returns
    -------
    Drawing
        One cell for each pair of values: a colour and the verdict's first letter; empty where
        there is no outcome.

    Raises
    ------
    UsageError
        If the frame lacks a column, or has no rows.
    """
    table = frame.traps.matrix(rows, columns, by=by)
    if table.empty:
        raise UsageError("this frame has no outcomes: there is nothing to draw")
    verdicts = [[_verdict(cell) for cell in row] for row in table.to_numpy(dtype=object).tolist()]
    figure = Drawing(
        figsize=(3 + 0.7 * len(table.columns), 1.8 + 0.3 * len(table)), layout="constrained"
    )
    axes = figure.add_subplot()
    numbers = {name: float(number) for number, name in enumerate(COLOURS)}
    axes.imshow(
        [[numbers.get(verdict, float("nan")) for verdict in row] for row in verdicts],
        cmap=ListedColormap(list(COLOURS.values())),
        vmin=-0.5,
        vmax=len(COLOURS) - 0.5,
        aspect="auto",
    )
    for height, row in enumerate(verdicts):
        for place, verdict in enumerate(row):
            axes.text(place, height, verdict[:1], ha="center", va="center", color=ON_COLOUR)
    axes.set_xticks(range(len(table.columns)), _labels(table.columns), rotation=45, ha="right")
    axes.set_yticks(range(len(table)), _labels(table.index))
    axes.set_xlabel(columns)
    axes.set_ylabel(rows)
    figure.set_label(f"verdicts by {rows} and {columns}")
    there = {verdict for row in verdicts for verdict in row}
    handles = [
        Patch(color=colour, label=f"{name[0]}: {name}")
        for name, colour in COLOURS.items()
        if name in there
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _verdict(cell: object) -> str:
    return cell.partition(":")[0] if isinstance(cell, str) else ""


def _labels(values: "pd.Index[Any]") -> list[str]:
    return [short(str(value).removesuffix(" 00:00:00+00:00")) for value in values]


# The dates of one case: what was tried, where it passes and where it changes.

_WINDOW, _PROBES = 0.5, 0.0
_FAILS = frozenset({Verdict.FAILED, Verdict.CRASHED, Verdict.TIMEOUT})
_CLOSE_DAYS = 400
"""So long is the stretch that shows days which fail by a rule one by one, or hours: a week."""
_DISTINCT = 600
"""What is closer than such a part of the axis is drawn as one."""


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
        probe, whose shape and colour is its verdict. Days or hours that fail by a recurring rule
        are shaded; a second row shows those of a year, or of a week, one by one.

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
    recurs = finding.recurs if finding else ""
    figure = Drawing(figsize=(9, 3.4 if recurs else 2.2), layout="constrained")
    rows = figure.subplots(
        2 if recurs else 1, squeeze=False, height_ratios=[3, 1][: 1 + bool(recurs)]
    )
    axes = rows[0, 0]
    left, right = day_range(instants)
    handles: list[Line2D | Patch] = []
    if recurs:
        _shade(axes, recurs, left, right)
        _draw_close(rows[1, 0], recurs, _close_to(recurs, probes, instants))
        handles.append(Patch(color=COLOURS["failed"], alpha=0.35, label="fails by the rule"))
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


def _shade(axes: Axes, rule: str, left: float, right: float) -> None:
    """Shade what fails by a rule; what cannot be told apart on paper becomes one."""
    first, last = (num2date(at, tz=UTC) for at in (left, right))
    apart = (right - left) / _DISTINCT
    spans: list[list[float]] = []
    for begins, ends in occurrences(rule, first, last):
        low, high = max(left, day_number(begins)), min(right, day_number(ends))
        if spans and low - spans[-1][1] < apart:
            spans[-1][1] = max(high, spans[-1][1])
        else:
            spans.append([low, high])
    bars = [(low, max(high - low, apart / 2)) for low, high in spans]
    axes.broken_barh(
        bars,
        (0, 1),
        transform=axes.get_xaxis_transform(),
        color=COLOURS["failed"],
        alpha=0.35,
        linewidth=0,
    )


def _close_to(
    rule: str, probes: Sequence[Outcome], instants: Sequence[datetime]
) -> tuple[datetime, datetime]:
    """Choose a stretch that shows a rule: from what first fails by it, a year or a week."""
    failed = [one.machine.date for one in probes if one.verdict in _FAILS]
    around = next_within(rule, min(failed or instants)) or min(instants)
    days = _CLOSE_DAYS if "BYHOUR" not in rule else 8
    before = timedelta(days=days / 16)
    return around - before, around - before + timedelta(days=days)


def _draw_close(axes: Axes, rule: str, ends: tuple[datetime, datetime]) -> None:
    left, right = map(day_number, ends)
    axes.set_xlim(left, right)
    axes.set_yticks([])
    _shade(axes, rule, left, right)
    scale_dates(axes)
    axes.spines[["top", "right", "left"]].set_visible(False)


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


# CPU features: what was tried with and without them, and the smallest set that decides.

_MOST_ROWS = 40
_MOST_FEATURES = 24
_MARKED = "#56B4E9"


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A CPU that was tried; a feature of neither set is not known of it."""

    cpu: str
    verdict: str
    has: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()


def feature_lattice(finding: Finding | None = None, outcomes: Iterable[Outcome] = ()) -> Drawing:
    """Draw which CPUs were tried, which features each has, and what decides.

    Parameters
    ----------
    finding : Finding, optional
        Names the smallest set of features; alone it tells of models, and of the change that
        decides.
    outcomes : iterable of Outcome
        The runs; what each CPU really had is in them.

    Returns
    -------
    Drawing
        One row for each CPU, what passed on top, with its verdict as colour and marker; one column
        for each feature that differs: a full dot, has it; a ring, lacks it; nothing, not known.
        The columns of the smallest set are shaded, and their names bold.

    Raises
    ------
    UsageError
        If no CPU was tried.
    """
    tried = _from_outcomes(outcomes) or (_from_finding(finding) if finding else [])
    if not tried:
        raise UsageError("no CPU was tried: there is nothing to draw")
    tried.sort(key=lambda one: one.verdict != "passed")
    left_out = len(tried) - _MOST_ROWS
    tried = tried[:_MOST_ROWS]
    decisive = _decisive(finding)
    features = _columns(tried, decisive)
    figure = Drawing(
        figsize=(5 + 0.35 * len(features), 2.4 + 0.3 * len(tried)), layout="constrained"
    )
    axes = figure.add_subplot()
    for place, name in enumerate(features):
        if name in decisive:
            axes.axvspan(place - 0.5, place + 0.5, color=_MARKED, alpha=0.3)
        for wanted, face in ((True, INK), (False, "none")):
            rows = [
                row for row, one in enumerate(tried) if name in (one.has if wanted else one.lacks)
            ]
            axes.plot(
                [place] * len(rows), rows, "o", color=INK, markerfacecolor=face, linestyle="none"
            )
    handles = _mark_verdicts(axes, tried)
    if decisive:
        handles.append(Patch(color=_MARKED, alpha=0.3, label="smallest set that decides"))
    axes.set_xticks(
        range(len(features)), [short(name) for name in features], rotation=60, ha="right"
    )
    for label, name in zip(axes.get_xticklabels(), features, strict=True):
        label.set_fontweight("bold" if name in decisive else "normal")
    axes.set_yticks(range(len(tried)), [f"{short(one.cpu)}: {one.verdict}" for one in tried])
    axes.set_xlim(-1.7, max(len(features), 1) - 0.4)
    axes.set_ylim(len(tried) - 0.5, -0.5)
    figure.set_label(finding.summary if finding else "CPUs that were tried")
    axes.set_title("● has the feature   ○ lacks it", fontsize="medium")
    if left_out > 0:
        axes.set_xlabel(f"{left_out} more CPUs are not shown")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _from_outcomes(outcomes: Iterable[Outcome]) -> list[_Tried]:
    tried: dict[str, _Tried] = {}
    everything: set[str] = set()
    for outcome in outcomes:
        known = outcome.environment
        features = frozenset(known.cpu_features if known else ())
        everything |= features
        verdict = outcome.verdict.value
        earlier = tried.get(outcome.machine.cpu)
        if earlier and earlier.verdict != verdict:
            verdict = "mixed"
        tried[outcome.machine.cpu] = _Tried(cpu=outcome.machine.cpu, verdict=verdict, has=features)
    return [
        _Tried(
            cpu=one.cpu,
            verdict=one.verdict,
            has=one.has,
            lacks=frozenset(everything - one.has) if one.has else frozenset(),
        )
        for one in tried.values()
    ]


def _from_finding(finding: Finding) -> list[_Tried]:
    """Tell of the models, and of the changes that flip the verdict."""
    rows = [_Tried(cpu=cpu, verdict="passed") for cpu in finding.passing_cpus]
    rows += [_Tried(cpu=cpu, verdict="failed") for cpu in finding.failing_cpus]
    base = finding.features_base
    removed, harmful = frozenset(finding.features), frozenset(finding.features_harmful)
    if base and (removed or harmful):
        rows = [one for one in rows if one.cpu != base]
        rows.append(_Tried(cpu=base, verdict="passed", has=removed, lacks=harmful))
        changes = [*(f"-{name}" for name in finding.features)]
        changes += [f"+{name}" for name in finding.features_harmful]
        changed = ",".join([base, *changes])
        rows.append(_Tried(cpu=changed, verdict="failed", has=harmful, lacks=removed))
    return rows


def _decisive(finding: Finding | None) -> frozenset[str]:
    if finding is None:
        return frozenset()
    return frozenset((*finding.features, *finding.features_needed, *finding.features_harmful))


def _columns(tried: Sequence[_Tried], decisive: frozenset[str]) -> list[str]:
    """Choose the features that differ, those that follow the verdict first."""
    known = [one for one in tried if one.has]
    good = [one.has for one in known if one.verdict == "passed"]
    bad = [one.has for one in known if one.verdict != "passed"]
    differing = {name for one in known for name in one.has if any(name in x.lacks for x in known)}

    def share(name: str, among: list[frozenset[str]]) -> float:
        return sum(name in has for has in among) / len(among) if among else 0.0

    ordered = sorted(differing, key=lambda name: (-abs(share(name, good) - share(name, bad)), name))
    chosen = [*sorted(decisive), *(name for name in ordered if name not in decisive)]
    return chosen[:_MOST_FEATURES]


def _mark_verdicts(axes: Axes, tried: Sequence[_Tried]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for verdict in dict.fromkeys(one.verdict for one in tried):
        rows = [row for row, one in enumerate(tried) if one.verdict == verdict]
        (line,) = axes.plot(
            [-1.2] * len(rows),
            rows,
            MARKERS.get(verdict, "*"),
            color=COLOURS[verdict],
            markersize=9,
            markeredgecolor=INK,
            markeredgewidth=0.5,
            linestyle="none",
            label=verdict,
        )
        handles.append(line)
    return handles


# Two logs side by side: what differs between a run that passes and one that does not.

_Row = tuple[str, str, str]
"""What becomes of a line (``same``, ``changed``, ``removed``, ``added``, ``gap``), left, right."""
_MOST_LINES = 3000
"""Of each log, its last ones: that is where a run ends, and comparing takes their product."""
_TAIL = 512 * 1024
_WIDTH = 74
_MARKS = {"same": " ", "changed": "~", "removed": "-", "added": "+", "gap": " "}
_COLOURS = {"changed": COLOURS["timeout"], "removed": COLOURS["passed"], "added": COLOURS["failed"]}


def log_diff(  # noqa: PLR0913 - all but both logs have defaults
    left: Outcome | str,
    right: Outcome | str,
    *,
    catalog: "Catalog | None" = None,
    names: tuple[str, str] | None = None,
    context: int = 2,
    rows: int = 60,
    numbers: bool = False,
) -> Drawing:
    """Show two logs side by side where they differ.

    Parameters
    ----------
    left, right : Outcome or str
        Of a run that passes and of one that does not; or the logs' texts. The last 512 KiB of each
        are read.
    catalog : Catalog, optional
        Has the logs of outcomes.
    names : tuple of str, optional
        What stands above both; by default each outcome's verdict and machine.
    context : int
        Lines shown around each difference.
    rows : int
        Lines shown at most, the last ones; how many are left out is said.
    numbers : bool
        Whether lines differ that differ in numbers only. They do between any two runs: times,
        addresses, process numbers.

    Returns
    -------
    Drawing
        Two columns: ``-`` and green, only on the left; ``+`` and vermilion, only on the right;
        ``~`` and orange, changed.

    Raises
    ------
    UsageError
        If an outcome is given without a catalog.
    CatalogError
        If a log cannot be read.
    """
    logs = [_lines(one, catalog) for one in (left, right)]
    found = list(_compare(*logs, key=str if numbers else _without_numbers, context=context))
    left_out = max(len(found) - rows, 0)
    shown = found[left_out:]
    figure = Drawing(figsize=(14, 1.0 + 0.19 * max(len(shown), 1)))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(shown) + 0.5, -3)
    titles = names or (_name(left, "left"), _name(right, "right"))
    figure.set_label(" | ".join(titles))
    for place, title in zip((0.0, 0.5), titles, strict=True):
        axes.text(place, -2, drawable(title), weight="bold", parse_math=False)
    note = "no line differs" if not found else f"{left_out} lines above are left out"
    if left_out or not found:
        axes.text(0.0, -1, note, style="italic")
    for height, (kind, *texts) in enumerate(shown):
        for place, text in zip((0.0, 0.5), texts, strict=True):
            _write(axes.text, place, height, kind, text)
    return figure


def _write(draw: Callable[..., object], place: float, height: int, kind: str, text: str) -> None:
    if not text:
        return
    cut = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
    colour = _COLOURS.get(kind)
    draw(
        place,
        height,
        f"{_MARKS[kind]} {drawable(cut)}",
        family="monospace",
        fontsize=8,
        va="center",
        color=INK,
        alpha=1.0 if colour else 0.6,
        parse_math=False,
        bbox={"facecolor": colour, "alpha": 0.3, "edgecolor": "none", "pad": 1} if colour else None,
    )


def _lines(log: Outcome | str, catalog: "Catalog | None") -> list[str]:
    if isinstance(log, str):
        text = log[-_TAIL:]
    elif not log.log_digest:
        text = log.evidence or log.reason
    elif catalog is None:
        raise UsageError(
            f"the log of outcome {log.id} is in a catalog", hint="log_diff(a, b, catalog=…)"
        )
    else:
        text = _tail(catalog.log_pieces(log.log_digest)).decode(errors="replace")
    return clean(text).rstrip().split("\n")[-_MOST_LINES:]


def _tail(pieces: Iterable[bytes]) -> bytes:
    end = b""
    for piece in pieces:
        end = (end + piece)[-_TAIL:]
    return end


def _compare(
    left: list[str], right: list[str], *, key: Callable[[str], str], context: int
) -> Iterator[_Row]:
    """Iterate over the rows near differences."""
    matcher = SequenceMatcher(None, [*map(key, left)], [*map(key, right)], autojunk=False)
    groups = list(matcher.get_grouped_opcodes(context))
    for number, group in enumerate(groups):
        if number:
            yield "gap", "…", "…"
        for tag, first, last, begin, end in group:
            kind = {"equal": "same", "delete": "removed", "insert": "added"}.get(tag, "changed")
            texts = left[first:last], right[begin:end]
            for at in range(max(map(len, texts))):
                one, other = (side[at] if at < len(side) else "" for side in texts)
                # of a block that was replaced by a shorter one, the rest was removed
                alone = "removed" if not other else "added" if not one else kind
                yield (alone if kind == "changed" else kind), one, other


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+", "0", steady(line))


def _name(log: Outcome | str, default: str) -> str:
    if isinstance(log, str):
        return default
    machine = log.machine
    return f"{log.verdict.value}: {machine.date:%Y-%m-%d %H:%M:%S}, {machine.cpu}, {machine.kernel}"
