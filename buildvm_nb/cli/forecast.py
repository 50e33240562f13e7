"""``buildvm forecast``: which day breaks what in a project, until a given one."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.case_options import SourceOptions, make_case
from buildvm_nb.cli.completion import complete_case
from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.forecast_summary import change_table, forecast_fields, markdown_lines
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import write_fields, write_json, write_line, write_table
from buildvm_nb.cli.question_options import StudiedMachineOptions
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import SourceError, UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case
    from buildvm_nb.model.forecast import Forecast
    from buildvm_nb.model.outcome import Outcome

__all__ = ["CASE_FILE", "forecast"]

CASE_FILE = "buildvm.toml"
"""A project's own case file, at the top of its tree."""


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
    from buildvm_nb.study.forecast import forecast as run_forecast
    from buildvm_nb.study.schedule import parse_distance

    present = now().replace(microsecond=0)
    until = parse_distance(how.until, present)
    limit = until if how.fail_within is None else parse_distance(how.fail_within, present)
    if limit > until:
        raise UsageError(f"--fail-within {how.fail_within} is later than --until {how.until}")
    case, base = _choose(words or ["."], fixed)
    with session.catalog() as catalog, session.resumable(scheduler=how.scheduler):
        try:
            told = run_forecast(
                case,
                until=until,
                cache=session.cache(),
                catalog=catalog,
                jobs=how.jobs,
                scheduler=how.scheduler,
                base=base,
                progress=session.progress(),
                on_outcome=lambda outcome, known: _tell(session, outcome, known),
                fresh=how.fresh,
                budget=how.budget,
                overrides=fixed.machine().overrides(case.image),
            )
        except SourceError:
            session.trouble = ExitStatus.UNAVAILABLE
            raise
    _show(session, told, present, as_markdown=how.markdown)
    raise typer.Exit(_status(session, told, limit))


def _choose(words: list[str], fixed: StudiedMachineOptions) -> tuple["Case", Path]:
    """Return the case that is meant and the directory that its paths start from."""
    from buildvm_nb.catalog import find_case_file, load_case

    target, *own = words
    path = Path(target)
    file = path / CASE_FILE if path.is_dir() else None
    if file is not None and not file.exists():
        if not own:
            raise UsageError(
                f"no {CASE_FILE} in {target}, and no command: what runs the tests?",
                hint=f"buildvm forecast {shlex.quote(target)} --package python3 -- python3 -m "
                "unittest; or `buildvm case new` writes a case file to start from",
            )
        return _made_case(path, own, fixed), Path.cwd()
    if own:
        raise UsageError(
            f"a case says itself what to run; got a command as well: {shlex.join(own)}",
            hint=f"leave the command out, or remove {file}" if file else "leave the command out",
        )
    file = file or find_case_file(target)
    return load_case(file), file.absolute().parent


def _made_case(path: Path, command: list[str], fixed: StudiedMachineOptions) -> "Case":
    from buildvm_nb.model.machine import ImageSpec

    image = fixed.machine().overrides().get("image") or ImageSpec()
    return make_case(SourceOptions(local=path), command, image)


def _tell(session: Session, outcome: "Outcome", known: bool) -> None:
    from buildvm_nb.model.instants import format_instant

    why = outcome.reason.partition("\n")[0]
    verdict = f"{outcome.verdict.value} ({why})" if why else outcome.verdict.value
    held = ", clock held" if outcome.probing.held else ""
    source = "; in the catalog" if known else ""
    session.note(f"{format_instant(outcome.machine.date)}{held}: {verdict}{source}")


def _show(session: Session, told: "Forecast", present: datetime, *, as_markdown: bool) -> None:
    if session.as_json:
        write_json(told.model_dump(mode="json"))
    elif as_markdown:
        _write_lines(markdown_lines(told, present))
    else:
        write_fields(forecast_fields(told))
        if told.changes:
            write_line()
            write_table(*change_table(told, present))


def _write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        write_line(line)


def _status(session: Session, told: "Forecast", limit: datetime) -> int:
    from buildvm_nb.model.forecast import ForecastStatus

    if told.status is ForecastStatus.FAILS_TODAY:
        session.note("no forecast: the tests do not pass today; see `buildvm diagnose`")
        return ExitStatus.FAILS_TODAY
    if told.breaks_by(limit):
        return ExitStatus.NOT_PASSED
    if told.status is ForecastStatus.UNDETERMINED or told.is_exhausted:
        session.note("it cannot be told: " + "; ".join(told.assumptions))
        return ExitStatus.TROUBLE
    return ExitStatus.DONE
