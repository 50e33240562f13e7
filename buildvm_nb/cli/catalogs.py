"""``buildvm catalog``: what was built, what came of it, and what that showed."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.catalog_options import CaseFilter, SinceFilter, instant, minute, records
from buildvm_nb.cli.catalog_tables import expiring, export, schema
from buildvm_nb.cli.completion import complete_verdict
from buildvm_nb.cli.finding_summary import show_finding
from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import write_fields, write_json, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.cli.summary import outcome_fields

if TYPE_CHECKING:
    from buildvm_nb.model.outcome import Outcome

__all__ = ["CATALOG_COMMANDS"]

OutcomeKey = Annotated[str, typer.Argument(metavar="ID", help="An outcome's id, or its start.")]
EntryKey = Annotated[
    str, typer.Argument(metavar="ID", help="An outcome's or a finding's id, or its start.")
]


@command(
    "list",
    examples=(
        "buildvm catalog list",
        "buildvm catalog list --verdict failed --verdict crashed --limit 20",
        "buildvm catalog list --case dulwich-0.20.23 --since 2026-01-01 --json",
    ),
)
def list_(
    session: Session,
    case: CaseFilter = None,
    verdict: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VERDICT",
            autocompletion=complete_verdict,
            help="Only those with this verdict; repeatable.",
        ),
    ] = None,
    since: SinceFilter = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="At most so many, the newest ones.")
    ] = None,
) -> None:
    """List outcomes, oldest first."""
    from buildvm_nb.catalog import OUTCOMES

    with session.catalog(existing=True) as catalog:
        frame = catalog.outcomes(
            case=case, verdict=verdict or None, since=instant(since), limit=limit
        )
    listed = records(frame, OUTCOMES)
    if session.as_json:
        write_json(listed)
        return
    rows = [
        (
            record["id"],
            minute(record),
            record["case_id"],
            record["verdict"],
            record["date"][:10],
            record["cpu"],
            record["kernel_release"] or record["kernel"],
            f"{record['duration_s']:.1f}",
            record["reason"],
        )
        for record in listed
    ]
    columns = ("id", "recorded", "case", "verdict", "date", "CPU", "kernel", "seconds ", "why")
    write_table(columns, rows)


@command(
    "findings",
    examples=(
        "buildvm catalog findings",
        "buildvm catalog findings --kind time-trap --json",
        "buildvm catalog findings --case dulwich-0.20.23 --all",
    ),
)
def findings(
    session: Session,
    case: CaseFilter = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="Only those of this kind, such as time-trap; repeatable."
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also those that a later finding replaces, or that are retracted."
        ),
    ] = False,
) -> None:
    """List what diagnoses concluded, oldest first."""
    from buildvm_nb.catalog import FINDINGS
    from buildvm_nb.model.finding import tell_repeats

    with session.catalog(existing=True) as catalog:
        frame = catalog.findings(case=case, kind=kind or None, current=not everything)
    listed = records(frame, FINDINGS)
    if session.as_json:
        write_json(listed)
        return
    rows = [
        (
            record["id"],
            minute(record),
            record["case_id"],
            record["kind"],
            record["last_before"],
            record["first_after"],
            tell_repeats(record["kind"], record["confidence"]),
            record["summary"],
        )
        for record in listed
    ]
    columns = (
        "id",
        "recorded",
        "case",
        "kind",
        "last before",
        "first after",
        "confirmed by",
        "why",
    )
    write_table(columns, rows)


@command("show", examples=("buildvm catalog show 01K", "buildvm catalog show 01K --json"))
def show(session: Session, key: EntryKey) -> None:
    """Show one outcome or finding: what came out, where and why."""
    from buildvm_nb.model.finding import Finding

    with session.catalog(existing=True) as catalog:
        entry = catalog.entry(key)
        if session.as_json:
            write_json(entry.model_dump(mode="json"))
        elif isinstance(entry, Finding):
            show_finding(entry, catalog.successors(entry.id))
            if retraction := catalog.retraction(entry.id):
                write_fields([("retracted", retraction.because)])
        else:
            write_fields(_recorded_fields(entry, session))


@command("log", examples=("buildvm catalog log 01K", "buildvm catalog log 01K | tail"))
def log(session: Session, key: OutcomeKey) -> None:
    """Write the log of an outcome to standard output, byte for byte."""
    with session.catalog(existing=True) as catalog:
        for piece in catalog.log_pieces(key):
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


CATALOG_COMMANDS: tuple[Command, ...] = (list_, findings, show, log, expiring, export, schema)


def _recorded_fields(outcome: "Outcome", session: Session) -> list[tuple[str, str]]:
    from buildvm_nb.model.instants import format_instant

    return [
        *outcome_fields(outcome, session.catalog_place),
        ("recorded", format_instant(outcome.recorded_at)),
        ("study", outcome.study or ""),
        ("image digest", outcome.image_digest),
        ("kernel digest", outcome.kernel_digest),
        ("host", json.dumps(outcome.host) if outcome.host else ""),
        ("buildvm", outcome.tool_version),
    ]
