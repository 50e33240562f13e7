"""A forecast, told to people: fields and a table, or Markdown."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from buildvm_nb.cli.output import printable
from buildvm_nb.cli.scan import distance

if TYPE_CHECKING:
    from buildvm_nb.model.forecast import Change, Forecast
    from buildvm_nb.model.hint import Hint

__all__ = ["change_table", "forecast_fields", "markdown_lines"]

_COLUMNS = ("when", "from today", "what", "why", "shown by")
_MOST_NAMES = 3
_LONGEST_LINE = 120
_HEADINGS = {
    "sound": "Nothing breaks",
    "breaks": "Something breaks",
    "fails-today": "No forecast: it fails today already",
    "undetermined": "It cannot be told",
}


def forecast_fields(told: "Forecast") -> list[tuple[str, str]]:
    """Tell what a forecast is about and what was taken for granted.

    Parameters
    ----------
    told : Forecast
        Any forecast.

    Returns
    -------
    list of (str, str)
        Names and values; an empty value says that there is nothing to tell.
    """
    from buildvm_nb.model.instants import format_instant

    case, machine = told.case, told.machine
    sound = told.sound_until
    return [
        ("case", f"{case.id}: {case.title}" if case.title else case.id),
        ("forecast", _HEADINGS[told.status.value]),
        ("today", f"{told.today.value} ({format_instant(told.start)})"),
        ("shown by", told.today_line),
        ("looked until", format_instant(told.until) if told.looks else ""),
        ("sound until", format_instant(sound) if sound else ""),
        ("unstable", ", ".join(told.unstable)),
        (
            "machine",
            f"{machine.cpu}, {machine.accelerator.value}, kernel {machine.kernel}, {machine.image}",
        ),
        ("assumed", "\n".join(told.assumptions)),
        ("runs", f"{told.runs} made, {len(told.evidence)} looked at"),
        ("finding", told.finding or ""),
        ("log", f"buildvm catalog log {told.today_outcome}" if told.today_line else ""),
    ]


def change_table(
    told: "Forecast", present: datetime
) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Make a table of what breaks and heals.

    Parameters
    ----------
    told : Forecast
        Any forecast.
    present : datetime
        What distances are counted from.

    Returns
    -------
    (sequence of str, list of tuple of str)
        Headings and rows, ordered by time.
    """
    return _COLUMNS, [_row(change, present) for change in told.changes]


def markdown_lines(told: "Forecast", present: datetime) -> Iterator[str]:
    """Tell a forecast as Markdown.

    Parameters
    ----------
    told : Forecast
        Any forecast.
    present : datetime
        What distances are counted from.

    Yields
    ------
    str
        A line without its end.
    """
    yield f"## {_HEADINGS[told.status.value]}: {_cell(told.case.id)}"
    yield ""
    for name, value in forecast_fields(told):
        if value:
            yield f"- **{name}**: {_cell(value)}"
    if told.changes:
        columns, rows = change_table(told, present)
        yield ""
        yield f"| {' | '.join(columns)} |"
        yield f"|{' --- |' * len(columns)}"
        for row in rows:
            yield f"| {' | '.join(map(_cell, row))} |"


def _row(change: "Change", present: datetime) -> tuple[str, ...]:
    from buildvm_nb.model.instants import format_instant

    first = change.first_after
    when = format_instant(first)
    if not change.is_exact:
        when = f"{format_instant(change.last_before)} to {when}"
    line = change.failing_line.partition("\n")[0]
    shown = line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"
    return when, distance(first, present), _what(change), _why(change), shown


def _what(change: "Change") -> str:
    """Tell what changes: the whole, and tests by name."""
    verb = {"breaks": "fails", "heals": "passes again", "fails-otherwise": "fails otherwise"}[
        change.kind.value
    ]
    names = ", ".join(change.tests[:_MOST_NAMES])
    more = len(change.tests) - _MOST_NAMES
    if more > 0:
        names += f" and {more} more"
    if not names:
        return f"the whole {verb}" if change.of_whole else verb
    return f"{verb}: {names}" if change.of_whole else f"{verb}: {names} (others fail already)"


def _why(change: "Change") -> str:
    if change.cause is not None:
        others = len(change.suspects)
        return _told(change.cause) + (f" (and {others} more end then)" if others else "")
    if change.suspects:
        return "perhaps " + "; or ".join(map(_told, change.suspects[:_MOST_NAMES]))
    # one who sees the failing line can go on from there
    return "nothing in the source says so" if change.is_exact else ""


def _told(hint: "Hint") -> str:
    line = "" if hint.line is None else f":{hint.line}"
    return f"{hint.path}{line}: {hint.why}" if hint.path else hint.why


def _cell(text: str) -> str:
    """Make text safe inside a Markdown table."""
    lines = " ".join(text.split("\n"))
    safe = printable(lines).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return safe.replace("`", "'").replace("*", "\\*").replace("_", "\\_")
