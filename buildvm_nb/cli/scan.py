"""``buildvm scan``: what in a source tree carries dates, or asks for a CPU or a kernel."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.completion import complete_case, complete_hint_kind
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import printable, write_error, write_json, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.hint import Hint

__all__ = ["distance", "scan"]

_AHEAD = timedelta(days=365 * 20)
_MONTHS = 12
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class HintFilter:
    """Which hints are shown."""

    first: Annotated[
        str | None,
        typer.Option("--from", metavar="DATE", help="Only dates at or after this one."),
    ] = None
    last: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="Only dates up to this one.")
    ] = None
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            autocompletion=complete_hint_kind,
            help="Only kinds that begin so, such as certificate or certificate-ends; repeatable.",
        ),
    ] = None

    def span(self) -> tuple[datetime | None, datetime | None]:
        """Return the first and the last date, where they were given.

        Returns
        -------
        (datetime or None, datetime or None)
            Aware.
        """
        from buildvm_nb.model.instants import parse_instant

        first = None if self.first is None else parse_instant(self.first)
        last = None if self.last is None else parse_instant(self.last)
        if first and last and first > last:
            raise UsageError(f"--from {self.first} is later than --to {self.last}")
        return first, last

    def kinds(self) -> frozenset[str]:
        """Return the kinds that are shown.

        Returns
        -------
        frozenset of str
            Values of `HintKind`.
        """
        from buildvm_nb.model.hint import HintKind

        found: set[str] = set()
        for start in self.kind or [""]:
            fitting = {kind.value for kind in HintKind if kind.value.startswith(start)}
            if not fitting:
                known = ", ".join(kind.value for kind in HintKind)
                raise UsageError(f"--kind: no such kind: {start!r}; allowed: {known}")
            found |= fitting
        return frozenset(found)


@command(
    "scan",
    examples=(
        "buildvm scan .",
        "buildvm scan requests-toolbelt-0.9.1.tar.gz",
        "buildvm scan dulwich-0.20.23 --from today --to 2040-01-01",
        "buildvm scan . --kind certificate --kind openpgp --json",
        "buildvm scan . --calendar --from today",
    ),
)
def scan(
    session: Session,
    chosen: HintFilter,
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|CASE",
            autocompletion=complete_case,
            help="A directory, file or archive; or a case file (.toml) or the id of a curated "
            "case, whose sources are fetched.",
        ),
    ],
    calendar: Annotated[
        bool,
        typer.Option("--calendar", help="Add what the calendar brings: leap days, overflows, …"),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="List what was not read, and why.")
    ] = False,
) -> None:
    """List what in a source tree carries dates or asks for a CPU.

    Certificates, revocation lists, keys, tokens, dates in source text, flags and code that ask
    for a CPU or a kernel; also inside archives. Nothing is run. Whether anything depends on what
    is listed only a build can tell. Dates in source text count from 10 years ago to 30 ahead;
    with --from or --to, only what has a date is listed.
    """
    span, kinds = chosen.span(), chosen.kinds()
    left_out: list[tuple[str, str]] = []
    hints = [*_scanned(session, target, left_out)]
    if calendar:
        hints += _calendar(span)
    shown = sorted(
        (hint for hint in hints if hint.kind in kinds and _lies_in(hint.instant, span)), key=_order
    )
    if session.as_json:
        write_json([hint.model_dump(mode="json") for hint in shown])
    else:
        _show(shown)
    _summarise(session, len(shown), left_out, verbose)


def _scanned(session: Session, target: str, left_out: list[tuple[str, str]]) -> Iterator["Hint"]:
    """Scan what is meant; the paths of a case's inputs begin with where they are placed."""
    from buildvm_nb.hints import scan_tree

    progress = session.progress()
    for place, path in _trees(session, target):

        def note(name: str, reason: str, place: str = place) -> None:
            left_out.append((f"{place}{name}", reason))

        for hint in scan_tree(path, progress=progress, skipped=note):
            yield hint.model_copy(update={"path": f"{place}{hint.path}"}) if place else hint


def _trees(session: Session, target: str) -> Iterator[tuple[str, Path]]:
    """Iterate over the trees that are meant, with what their paths begin with."""
    path = Path(target)
    if path.exists() and not (path.suffix == ".toml" and path.is_file()):
        yield "", path
        return
    from buildvm_nb.catalog import find_case_file, load_case
    from buildvm_nb.source import fetch

    file = find_case_file(target)
    if not file.exists():
        raise UsageError(f"nothing to scan: no such file or directory: {target}")
    case = load_case(file)
    sources = [("", case.source)] if case.source is not None else []
    sources += [(f"{entry.path}/", entry.source) for entry in case.inputs]
    if not sources:
        raise UsageError(f"nothing to scan: the case {case.id} has no source and no inputs")
    base, progress = file.absolute().parent, session.progress()
    for place, source in sources:
        yield place, fetch(source, session.cache(), base=base, progress=progress).tree


def _calendar(span: tuple[datetime | None, datetime | None]) -> tuple["Hint", ...]:
    from buildvm_nb.hints import calendar_hints
    from buildvm_nb.model.instants import EARLIEST, LATEST, now

    first, last = span
    if first is None:
        first = min(now(), last or LATEST)
    end = last or min(first, LATEST - _AHEAD) + _AHEAD
    return calendar_hints(max(first - timedelta(seconds=1), EARLIEST), end)


def _lies_in(instant: datetime | None, span: tuple[datetime | None, datetime | None]) -> bool:
    first, last = span
    if instant is None:
        return first is None and last is None
    return (first is None or first <= instant) and (last is None or instant <= last)


def _order(hint: "Hint") -> tuple[bool, float, str, int, str]:
    when = 0.0 if hint.instant is None else hint.instant.timestamp()
    return hint.instant is None, when, hint.path, hint.line or 0, hint.kind.value


def _show(hints: list["Hint"]) -> None:
    from buildvm_nb.model.instants import format_instant, now

    today = now()
    rows = [
        (
            "" if hint.instant is None else format_instant(hint.instant),
            "" if hint.instant is None else distance(hint.instant, today),
            hint.kind.value,
            hint.path if hint.line is None else f"{hint.path}:{hint.line}",
            hint.why,
        )
        for hint in hints
    ]
    if rows:
        write_table(("date", "from today", "kind", "where", "why"), rows)


def distance(instant: datetime, today: datetime) -> str:
    """Tell how far an instant is, in at most two units.

    Parameters
    ----------
    instant, today : datetime
        Aware.

    Returns
    -------
    str
        For example ``in 1 year 7 months``, ``5 years ago``, ``now``.
    """
    early, late = sorted((instant, today))
    months = (late.year - early.year) * _MONTHS + late.month - early.month
    if (late.day, late.time()) < (early.day, early.time()):
        months -= 1
    if months:
        parts = [_count(months // _MONTHS, "year"), _count(months % _MONTHS, "month")]
    elif (late - early).days:
        parts = [_count((late - early).days, "day")]
    else:
        parts = [_count((late - early) // _HOUR, "hour")]
    text = " ".join(part for part in parts if part)
    if not text:
        return "now"
    return f"in {text}" if instant > today else f"{text} ago"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' * (number > 1)}" if number else ""


def _summarise(
    session: Session, shown: int, left_out: list[tuple[str, str]], verbose: bool
) -> None:
    if verbose:
        for path, reason in left_out:
            write_error(f"buildvm: {printable(path)}: {printable(reason)}")
    rest = f"; not read, or not in full: {len(left_out)}" if left_out else ""
    more = " (--verbose lists them)" if left_out and not verbose else ""
    session.note(f"{shown} hint{'s' * (shown != 1)}{rest}{more}")
