"""``buildvm forecast`` and ``scan``: what a project's future holds, with and without runs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.command import ExitStatus, Session, command, complete_case, complete_hint_kind
from buildvm_nb.cli.describe import escaped, table_row
from buildvm_nb.cli.options import SourceOptions, StudiedMachineOptions, choose_case
from buildvm_nb.cli.output import (
    printable,
    write_error,
    write_fields,
    write_json,
    write_line,
    write_table,
)
from buildvm_nb.errors import SourceError, UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.finding import Forecast, Hint
    from buildvm_nb.model.outcome import Outcome

__all__ = [
    "forecast",
    "markdown_lines",
    "scan",
]

# ``buildvm scan``: what in a source tree carries dates, or asks for a CPU or a kernel.

_AHEAD = timedelta(days=365 * 20)


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
        """Return the first and the last date, where they were given."""
        from buildvm_nb.model.instants import parse_instant

        first = None if self.first is None else parse_instant(self.first)
        last = None if self.last is None else parse_instant(self.last)
        if first and last and first > last:
            raise UsageError(f"--from {self.first} is later than --to {self.last}")
        return first, last

    def kinds(self) -> frozenset[str]:
        """Return the kinds that are shown."""
        from buildvm_nb.model.finding import HintKind

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
        _show_hints(shown)
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
    from buildvm_nb.catalog import find_case
    from buildvm_nb.source import fetch

    if "/" in target and not path.exists():
        raise UsageError(f"nothing to scan: no such file or directory: {target}")
    case, base = find_case(target, session.catalog_place)
    sources = [("", case.source)] if case.source is not None else []
    sources += [(f"{entry.path}/", entry.source) for entry in case.inputs]
    if not sources:
        raise UsageError(f"nothing to scan: the case {case.id} has no source and no inputs")
    progress = session.progress()
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


def _show_hints(hints: list["Hint"]) -> None:
    from buildvm_nb.model.display import distance
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


def _summarise(
    session: Session, shown: int, left_out: list[tuple[str, str]], verbose: bool
) -> None:
    if verbose:
        for path, reason in left_out:
            write_error(f"buildvm: {printable(path)}: {printable(reason)}")
    rest = f"; not read, or not in full: {len(left_out)}" if left_out else ""
    more = " (--verbose lists them)" if left_out and not verbose else ""
    session.note(f"{shown} hint{'s' * (shown != 1)}{rest}{more}")


# A forecast, told to people: fields and a table, or Markdown.


def markdown_lines(told: "Forecast", present: datetime) -> Iterator[str]:
    """Tell a forecast as Markdown."""
    from buildvm_nb.model.display import change_table, forecast_fields, forecast_heading

    yield f"## {forecast_heading(told)}: {escaped(told.case.id)}"
    yield ""
    for name, value in forecast_fields(told):
        if value:
            yield f"- **{name}**: {_flat(value)}"
    if told.changes:
        columns, rows = change_table(told, present)
        yield ""
        yield table_row(columns)
        yield table_row(["---"] * len(columns))
        yield from (table_row([*map(_flat, row)]) for row in rows)


def _flat(text: str) -> str:
    return escaped(text.replace("\n", " "))


@dataclass(frozen=True, kw_only=True)
class ForecastOptions:
    """How far a forecast looks, how hard it tries, and how it is told."""

    until: Annotated[
        str,
        typer.Option(metavar="DATE", help="Last day: 2040, 2040-06-01, or a distance such as 10y."),
    ] = "2040"
    fail_within: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="Exit with 3 only for what breaks within 2y, 18m, 6w, 90d, or before a date. "
            "Left out: up to --until.",
        ),
    ] = None
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a CI job's summary.")
    ] = False
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Guests side by side. Left out: one per core that fits."
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT", help="Run on the workers of this Dask scheduler instead."
        ),
    ] = None
    budget: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Make this many guest runs at most.")
    ] = None
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run also what the catalog has an answer for.")
    ] = False


@command(
    "forecast",
    examples=(
        "buildvm forecast . --until 2040",
        "buildvm forecast . --package python3-pytest -- python3 -m pytest -q",
        "buildvm forecast ~/project --until 10y --fail-within 2y --markdown",
        "buildvm forecast cpython-3.11-test-httplib --until 2040 --json",
        "buildvm forecast case.toml --until 2100 --budget 60 --jobs 2",
    ),
)
def forecast(
    session: Session,
    fixed: StudiedMachineOptions,
    how: ForecastOptions,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH|CASE [COMMAND]",
            autocompletion=complete_case,
            help="A directory with a buildvm.toml, or without one and with the command that runs "
            "its tests (after --); a case file; or the id of a curated case. Left out: here.",
        ),
    ] = None,
) -> None:
    """Tell which day breaks what in a project.

    Runs the project's own tests just after each end of a certificate, key or token in its tree,
    in half a year, 1, 2, 3, 5, 10 … years, and where counters of time overflow, and locates each
    change to the second: what breaks, what heals, and, where the runner names tests, what breaks
    later behind what is broken already. The exit code is 0 if nothing breaks, 3 if something
    does, 4 if a source cannot be had, 5 if the tests do not pass today, 1 if it cannot be told.
    """
    if how.markdown and session.as_json:
        raise UsageError("--markdown and --json exclude each other")
    from buildvm_nb.model.instants import now
    from buildvm_nb.study.axes import parse_distance
    from buildvm_nb.study.forecast import forecast as run_forecast

    present = now().replace(microsecond=0)
    until = parse_distance(how.until, present)
    limit = until if how.fail_within is None else parse_distance(how.fail_within, present)
    if limit > until:
        raise UsageError(f"--fail-within {how.fail_within} is later than --until {how.until}")
    image = fixed.machine().overrides().get("image")
    case, base = choose_case(SourceOptions(), words or ["."], image, session.catalog_place)
    with session.studying(how, base, partial(_tell, session)) as means:
        try:
            told = run_forecast(
                case,
                means,
                until=until,
                budget=how.budget,
                overrides=fixed.machine().overrides(case.image),
            )
        except SourceError:
            session.trouble = ExitStatus.UNAVAILABLE
            raise
    _show(session, told, present, as_markdown=how.markdown)
    raise typer.Exit(_status(session, told, limit))


def _tell(session: Session, outcome: "Outcome", known: bool) -> None:
    from buildvm_nb.model.instants import format_instant

    held = ", clock held" if outcome.probing.held else ""
    source = "; in the catalog" if known else ""
    session.note(f"{format_instant(outcome.machine.date)}{held}: {outcome.told}{source}")


def _show(session: Session, told: "Forecast", present: datetime, *, as_markdown: bool) -> None:
    if session.as_json:
        write_json(told.model_dump(mode="json"))
    elif as_markdown:
        _write_lines(markdown_lines(told, present))
    else:
        from buildvm_nb.model.display import change_table, forecast_fields

        write_fields(forecast_fields(told))
        if told.changes:
            write_line()
            write_table(*change_table(told, present))


def _write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        write_line(line)


def _status(session: Session, told: "Forecast", limit: datetime) -> int:
    from buildvm_nb.model.finding import ForecastStatus

    if told.status is ForecastStatus.FAILS_TODAY:
        session.note("no forecast: the tests do not pass today; see `buildvm diagnose`")
        return ExitStatus.FAILS_TODAY
    if told.breaks_by(limit):
        return ExitStatus.NOT_PASSED
    if told.status is ForecastStatus.UNDETERMINED or told.is_exhausted:
        session.note("it cannot be told: " + "; ".join(told.assumptions))
        return ExitStatus.TROUBLE
    return ExitStatus.DONE
