"""``buildvm report``: what the catalog knows, as a page, in the terminal or as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.again import diagnosing_command, failing_command, passing_command
from buildvm_nb.cli.completion import complete_case
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import write_fields, write_json, write_line, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import HostError, UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.finding import Finding, FindingKind
    from buildvm_nb.model.outcome import Verdict
    from buildvm_nb.report import Report

__all__ = ["report"]


@command(
    "report",
    examples=(
        "buildvm report",
        "buildvm report --html report.html",
        "buildvm report --html report.html --case dulwich-0.20.23 --since 2026-01-01",
        "buildvm report --catalog team.sqlite --json",
    ),
)
def report(
    session: Session,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that opens in any browser."),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(metavar="ID", autocompletion=complete_case, help="Only this case."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="Only what was recorded since that date.")
    ] = None,
    most: Annotated[
        int,
        typer.Option(
            "--limit", metavar="N", min=0, help="Show at most so many findings, the newest."
        ),
    ] = 200,
) -> None:
    """Report what the catalog knows: what breaks when and where.

    In the terminal it is a summary, with --html a page: when what springs, verdicts by date and
    CPU, and for each finding its evidence and the command that makes it again. The page needs
    nothing else, neither a network nor other files. Findings that later ones supersede are left
    out.
    """
    from buildvm_nb.model.instants import parse_instant
    from buildvm_nb.report import gather_report

    start = None if since is None else parse_instant(since)
    with session.telling_catalog() as (catalog, name):
        told = gather_report(catalog, case=case, since=start, commands=_commands, most=most)
        told = told.model_copy(update={"catalog": name})
    if html is not None:
        _write_page(html, told)
        session.note(f"wrote {html}")
    if session.as_json:
        write_json(told.model_dump(mode="json"))
    elif html is None:
        _show(told)


def _commands(finding: "Finding") -> dict[str, str]:
    return {
        "Make this finding again": diagnosing_command(finding),
        "Build it where it passes": passing_command(finding),
        "Build it where it fails": failing_command(finding),
    }


def _write_page(path: Path, told: "Report") -> None:
    from buildvm_nb.report import render_page

    if path.is_dir():
        raise UsageError(f"--html: a directory: {path}; allowed: a file")
    page = render_page(told)
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


def _show(told: "Report") -> None:
    from buildvm_nb.model.instants import format_instant

    write_fields(
        [
            ("catalog", told.catalog),
            ("cases", str(told.cases)),
            ("findings", _counted(told.kinds) or "none"),
            ("outcomes", _counted(told.verdicts) or "none"),
        ]
    )
    if told.springs:
        write_line()
        rows = [
            (
                format_instant(one.at),
                one.case,
                f"{one.before.value} to {one.after.value}",
                "to come" if one.is_to_come else "past",
                one.cause,
            )
            for one in told.springs
        ]
        write_table(("from", "case", "verdict", "when", "cause"), rows)
    if told.entries:
        write_line()
        findings = [(one.id, one.case, one.kind.value, one.summary) for one in told.entries]
        write_table(("finding", "case", "kind", "summary"), findings)
    if told.findings_left_out:
        write_line(f"{told.findings_left_out} older findings are not shown; see --limit")


def _counted(counts: "dict[FindingKind, int] | dict[Verdict, int]") -> str:
    return ", ".join(f"{count} {name.value}" for name, count in counts.items())
