"""``buildvm catalog``: what was built, what came of it, and what that showed."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.completion import complete_case, complete_verdict
from buildvm_nb.cli.finding_summary import show_finding
from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import write_fields, write_json, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.cli.summary import outcome_fields
from buildvm_nb.errors import HostError, UsageError

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog
    from buildvm_nb.catalog.schema import TableSchema
    from buildvm_nb.model.finding import Finding
    from buildvm_nb.model.outcome import Outcome

__all__ = ["CATALOG_COMMANDS"]

_FORMATS = ("csv", "jsonl", "parquet")
_FAILURES = ("failed", "crashed", "timeout")

OutcomeKey = Annotated[str, typer.Argument(metavar="ID", help="An outcome's id, or its start.")]
EntryKey = Annotated[
    str, typer.Argument(metavar="ID", help="An outcome's or a finding's id, or its start.")
]
CaseFilter = Annotated[
    str | None,
    typer.Option(metavar="ID", autocompletion=complete_case, help="Only those of this case."),
]
SinceFilter = Annotated[
    str | None, typer.Option(metavar="DATE", help="Only those recorded at or after that date.")
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
            case=case, verdict=verdict or None, since=_instant(since), limit=limit
        )
    records = _records(frame, OUTCOMES)
    if session.as_json:
        write_json(records)
        return
    rows = [
        (
            record["id"],
            _minute(record),
            record["case_id"],
            record["verdict"],
            record["date"][:10],
            record["cpu"],
            record["kernel_release"] or record["kernel"],
            f"{record['duration_s']:.1f}",
            record["reason"],
        )
        for record in records
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
        bool, typer.Option("--all", help="Also those that a later finding supersedes.")
    ] = False,
) -> None:
    """List what diagnoses concluded, oldest first."""
    from buildvm_nb.catalog import FINDINGS

    with session.catalog(existing=True) as catalog:
        frame = catalog.findings(case=case, kind=kind or None, current=not everything)
    records = _records(frame, FINDINGS)
    if session.as_json:
        write_json(records)
        return
    rows = [
        (
            record["id"],
            _minute(record),
            record["case_id"],
            record["kind"],
            record["last_before"],
            record["first_after"],
            f"{record['confidence']:.3f}",
            record["summary"],
        )
        for record in records
    ]
    columns = ("id", "recorded", "case", "kind", "last before", "first after", "confidence ", "why")
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
            show_finding(entry, _successors(catalog, entry))
        else:
            write_fields(_recorded_fields(entry, session))


@command("log", examples=("buildvm catalog log 01K", "buildvm catalog log 01K | tail"))
def log(session: Session, key: OutcomeKey) -> None:
    """Write the log of an outcome to standard output, byte for byte."""
    with session.catalog(existing=True) as catalog:
        for piece in catalog.log_pieces(key):
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@command(
    "export",
    examples=(
        "buildvm catalog export outcomes.csv",
        "buildvm catalog export failures.csv --failures",
        "buildvm catalog export - --format jsonl --case dulwich-0.20.23",
        "buildvm catalog export outcomes.parquet",
        "buildvm catalog export findings.csv --findings",
    ),
)
def export(
    session: Session,
    target: Annotated[
        str, typer.Argument(metavar="FILE", help="Where to write; - is standard output.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="|".join(_FORMATS),
            help="Left out: by the file's name, else csv. jsonl holds them whole.",
        ),
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="Only failed, crashed and timeout.")
    ] = False,
    case: CaseFilter = None,
    since: SinceFilter = None,
    *,
    concluded: Annotated[
        bool, typer.Option("--findings", help="Findings, superseded ones too, not outcomes.")
    ] = False,
) -> None:
    """Write outcomes or findings to a file.

    Spreadsheets, pandas and others read it; CSV and JSON Lines read back without loss.
    """
    if failures and concluded:
        raise UsageError("give either --failures or --findings: findings are no outcomes")
    path = None if target == "-" else Path(target)
    chosen = _format(form, path)
    wanted = {"case": case, "since": _instant(since)}
    from buildvm_nb.catalog import FINDINGS, OUTCOMES, write_csv

    with session.catalog(existing=True) as catalog:
        if chosen == "jsonl":
            _export_lines(catalog, path, wanted, failures=failures, concluded=concluded)
            return
        frame = (
            catalog.findings(**wanted, current=False)
            if concluded
            else catalog.outcomes(**wanted, verdict=_FAILURES if failures else None)
        )
    if chosen == "parquet":
        _export_bytes(frame.to_parquet(None, index=False), path)
        return
    write_csv(frame, path or sys.stdout, FINDINGS if concluded else OUTCOMES)


CATALOG_COMMANDS: tuple[Command, ...] = (list_, findings, show, log, export)


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


def _successors(catalog: "Catalog", finding: "Finding") -> list[str]:
    frame = catalog.findings(case=finding.case.id, current=False)
    return [
        later
        for later, earlier in zip(frame["id"], frame["supersedes"], strict=True)
        if isinstance(earlier, str) and earlier == finding.id
    ]


def _export_lines(
    catalog: "Catalog",
    path: Path | None,
    wanted: dict[str, Any],
    *,
    failures: bool,
    concluded: bool,
) -> None:
    from buildvm_nb.catalog import write_jsonl

    start = wanted["since"]
    if concluded:
        write_jsonl(catalog.finding_documents(**wanted, current=False), path or sys.stdout)
        return
    outcomes = (
        outcome
        for outcome in catalog.documents(case=wanted["case"])
        if not (failures and outcome.verdict not in _FAILURES)
        and not (start and outcome.recorded_at < start)
    )
    write_jsonl(outcomes, path or sys.stdout)


def _export_bytes(content: bytes, path: Path | None) -> None:
    if path is None:
        sys.stdout.buffer.write(content)
        return
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


def _format(form: str | None, path: Path | None) -> str:
    suffix = path.suffix.removeprefix(".").lower() if path else ""
    chosen = form or (suffix if suffix in _FORMATS else "csv")
    if chosen not in _FORMATS:
        raise UsageError(f"unknown format: {chosen!r}; allowed: {', '.join(_FORMATS)}")
    return chosen


def _instant(text: str | None) -> Any:  # noqa: ANN401 - a datetime; typing it would import more
    from buildvm_nb.model.instants import parse_instant

    return None if text is None else parse_instant(text)


def _minute(record: dict[str, Any]) -> str:
    return str(record["recorded_at"])[:16].replace("T", " ")


def _records(frame: Any, table: "TableSchema") -> list[dict[str, Any]]:  # noqa: ANN401 - of pandas
    """Turn a frame into plain JSON: instants as text, missing values as null, JSON as JSON."""
    lines = frame.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15)
    records: list[dict[str, Any]] = json.loads(lines)
    for column in table.columns:
        if column.kind.value == "json":
            for record in records:
                text = record.get(column.name)
                record[column.name] = json.loads(text) if text else None
    return records
