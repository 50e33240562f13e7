"""``buildvm catalog`` and ``buildvm report``: what was built, and what came of it."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.command import (
    Command,
    ExitStatus,
    Session,
    command,
    complete_case,
    complete_verdict,
)
from buildvm_nb.cli.describe import (
    diagnosing_command,
    failing_command,
    outcome_fields,
    passing_command,
    show_finding,
)
from buildvm_nb.cli.output import printable, write_fields, write_json, write_line, write_table
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog
    from buildvm_nb.catalog.schema import TableSchema
    from buildvm_nb.model.finding import Finding, FindingKind
    from buildvm_nb.model.outcome import Outcome, Verdict
    from buildvm_nb.report import Report

__all__ = [
    "CARE_COMMANDS",
    "CATALOG_COMMANDS",
    "report",
]

# ``buildvm catalog check``, ``merge``, ``gc`` and ``retract``: keeping a catalog whole.


@command(
    "check",
    examples=("buildvm catalog check", "buildvm catalog check --catalog team.sqlite --json"),
)
def check(session: Session) -> None:
    """Check that everything is there and agrees.

    Reads the whole database and every log. Exits with 0 when all is well, with 1 else.
    """
    with session.catalog(existing=True) as catalog:
        name, troubles = catalog.name, list(catalog.check(session.progress()))
    if session.as_json:
        write_json([asdict(trouble) for trouble in troubles])
    elif troubles:
        rows = [(trouble.where, trouble.key, trouble.what) for trouble in troubles]
        write_table(("where", "which", "trouble"), rows)
    else:
        write_line(f"all is well: {printable(name)}")
    if troubles:
        raise typer.Exit(ExitStatus.TROUBLE)


@command(
    "merge",
    examples=(
        "buildvm catalog merge ../other/catalog.sqlite",
        "buildvm catalog merge laptop.sqlite --logs laptop-logs",
        "buildvm catalog merge catalog.sqlite --catalog postgresql://me@server/builds",
    ),
)
def merge(
    session: Session,
    other: Annotated[
        str, typer.Argument(metavar="FILE|URL", help="The catalog to take from; it stays as it is.")
    ],
    logs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Its logs. Left out: the directory logs beside it."),
    ] = None,
) -> None:
    """Take over what another catalog has.

    Nothing is taken twice, and nothing at all if an id stands for different things in both.
    """
    with session.catalog() as catalog:
        merged = catalog.merge(other, logs=logs, progress=session.progress())
    if session.as_json:
        write_json(asdict(merged))
        return
    retracted = f" and {merged.retractions} retractions" if merged.retractions else ""
    write_line(
        f"added {merged.outcomes} outcomes and {merged.findings} findings{retracted}; "
        f"{merged.known} were here already"
    )
    if merged.missing_logs:
        session.warn(
            f"{merged.missing_logs} logs are missing or corrupt there, so they are missing here; "
            "`buildvm catalog check` names them"
        )


@command("gc", examples=("buildvm catalog gc --dry-run", "buildvm catalog gc"))
def gc(
    session: Session,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
) -> None:
    """Remove logs that no outcome has.

    Killed processes leave them, and half-written ones. Outcomes and findings are never removed.
    """
    with session.catalog(existing=True) as catalog:
        collected = catalog.collect(dry_run=dry_run)
    paths = [str(path) for path in (*collected.logs, *collected.unfinished)]
    if session.as_json:
        gone = [str(path) for path in collected.gone]
        write_json({"removed": paths, "size_bytes": collected.size_bytes, "gone": gone})
        return
    for place in collected.gone:
        session.note(f"a catalog that kept its logs here is gone, so they go as well: {place}")
    for path in paths if dry_run else ():
        write_line(printable(path))
    verb = "would remove" if dry_run else "removed"
    write_line(
        f"{verb} {len(collected.logs)} logs that no outcome has and {len(collected.unfinished)} "
        f"half-written ones: {collected.size_bytes / 2**20:.1f} MiB"
    )


@command(
    "retract",
    examples=('buildvm catalog retract 01K --because "the mirror was broken that day"',),
)
def retract(
    session: Session,
    key: Annotated[
        str,
        typer.Argument(metavar="ID", help="Of a finding, or the beginning of one."),
    ],
    because: Annotated[
        str, typer.Option(metavar="TEXT", help="Why it is not believed, for whoever reads it.")
    ],
) -> None:
    """Say that a finding is no longer believed.

    It stays in the catalog and is never current again; what it replaced is, unless another finding
    replaces that as well. `buildvm catalog show` tells why.
    """
    with session.catalog(existing=True) as catalog:
        told = catalog.retract(key, because)
    if session.as_json:
        write_json({"finding": told.finding_id, "because": told.because})
        return
    write_line(f"retracted finding {told.finding_id}: {printable(told.because)}")


CARE_COMMANDS: tuple[Command, ...] = (check, merge, gc, retract)


# What the commands on a catalog's tables share: filters, and rows as plain JSON.

CaseFilter = Annotated[
    str | None,
    typer.Option(metavar="ID", autocompletion=complete_case, help="Only those of this case."),
]
SinceFilter = Annotated[
    str | None, typer.Option(metavar="DATE", help="Only those recorded at or after that date.")
]


def instant(text: str | None) -> Any:  # noqa: ANN401 - a datetime; typing it would import more
    """Read a date that a filter may have.

    `text`: as the user wrote it; None: he wrote none.
    """
    from buildvm_nb.model.instants import parse_instant

    return None if text is None else parse_instant(text)


def minute(record: dict[str, Any]) -> str:
    """Tell when a row was recorded."""
    return str(record["recorded_at"])[:16].replace("T", " ")


def records(frame: Any, table: "TableSchema") -> list[dict[str, Any]]:  # noqa: ANN401 - of pandas
    """Turn a frame into plain JSON: instants as text, missing values as null, JSON as JSON."""
    lines = frame.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15)
    rows: list[dict[str, Any]] = json.loads(lines)
    for column in table.columns:
        if column.kind.value == "json":
            for row in rows:
                text = row.get(column.name)
                row[column.name] = json.loads(text) if text else None
    return rows


# ``buildvm catalog export``, ``expiring`` and ``schema``: the tables, and what they hold.


@command(
    "expiring",
    examples=(
        "buildvm catalog expiring --before 2030-01-01",
        "buildvm catalog expiring --before 2040-01-01 --after 2030-01-01 --json",
    ),
)
def expiring(
    session: Session,
    before: Annotated[str, typer.Option(metavar="DATE", help="What springs before that date.")],
    after: Annotated[
        str, typer.Option(metavar="DATE", help="And after that one; left out: today's.")
    ] = "now",
    case: CaseFilter = None,
) -> None:
    """List the time traps that spring before a date.

    The first one comes first. A trap whose second is not known exactly counts if it may be in time.
    """
    from buildvm_nb.catalog import FAILURES
    from buildvm_nb.model.instants import format_instant

    with session.telling_catalog() as (catalog, _):
        failures = catalog.failures(case=case, springs_before=instant(before))
    frame = failures.traps.expiring(before, after=after)
    if session.as_json:
        write_json(records(frame, FAILURES))
        return
    timeline = frame.traps.timeline(at=after)
    first = timeline[~timeline["is_past"]].drop_duplicates("id").set_index("id")
    rows = [
        (
            format_instant(spring["springs_at"]),
            "" if spring["is_exact"] else "or before",
            failure["case_id"],
            _shown(spring["cause_why"]) or failure["summary"],
            failure["id"],
        )
        for failure in frame.to_dict("records")
        for spring in (first.loc[failure["id"]],)
    ]
    write_table(("springs", "", "case", "why", "finding"), rows)


@command(
    "export",
    examples=(
        "buildvm catalog export failures.csv --failures",
        "buildvm catalog export outcomes.csv --verdict failed --verdict crashed",
        "buildvm catalog export - --format jsonl --case dulwich-0.20.23",
        "buildvm catalog export outcomes.parquet",
        "buildvm catalog export findings --findings --format parquet --partition kind",
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
            metavar="csv|jsonl|parquet",
            help="Left out: by the file's name, else csv.",
        ),
    ] = None,
    failures: Annotated[
        bool,
        typer.Option("--failures", help="The public table: current findings that tell of one."),
    ] = False,
    case: CaseFilter = None,
    since: SinceFilter = None,
    *,
    concluded: Annotated[
        bool, typer.Option("--findings", help="All findings, superseded ones too.")
    ] = False,
    verdict: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VERDICT",
            autocompletion=complete_verdict,
            help="Only outcomes with this verdict; repeatable.",
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Only findings or failures of this kind; repeatable."),
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            metavar="year|kind|axis|verdict",
            help="Parquet in a directory, with a part for each of them.",
        ),
    ] = None,
) -> None:
    """Write outcomes, findings or failures to a file.

    Spreadsheets, pandas and others read it, and it reads back without loss; `buildvm catalog
    schema` tells how. Memory does not grow with the table.
    """
    if failures and concluded:
        raise UsageError("give either --failures or --findings")
    if verdict and (failures or concluded):
        raise UsageError("--verdict is for outcomes; findings and failures have --kind")
    if kind and not (failures or concluded):
        raise UsageError("--kind is for --findings and --failures; outcomes have --verdict")
    table = "failures" if failures else "findings" if concluded else "outcomes"
    wanted = {
        "form": form,
        "partition": partition,
        "case": case,
        "since": instant(since),
        "only": verdict or kind or None,
    }
    with session.catalog(existing=True) as catalog:
        if target != "-":
            catalog.export(Path(target), table, **wanted)
        elif form == "parquet":
            _write_bytes(catalog, table, wanted)
        else:
            catalog.export(sys.stdout, table, **wanted)


@command(
    "schema",
    examples=("buildvm catalog schema > data-dictionary.md", "buildvm catalog schema --json"),
)
def schema(session: Session) -> None:
    """Print the data dictionary: what each column means.

    Tables, columns, dtypes, units and how files are written, as Markdown or JSON.
    """
    from buildvm_nb.catalog import SCHEMA_VERSION, data_dictionary
    from buildvm_nb.catalog.schema import TABLES

    if not session.as_json:
        write_line(data_dictionary().rstrip("\n"))
        return
    tables = [
        {
            "name": table.name,
            "meaning": table.meaning,
            "columns": [{**asdict(column), "dtype": column.kind.dtype} for column in table.columns],
        }
        for table in TABLES
    ]
    write_json({"schema_version": SCHEMA_VERSION, "tables": tables})


def _write_bytes(catalog: "Catalog", table: str, wanted: dict[str, Any]) -> None:
    """Write Parquet to standard output, which may be a pipe: its writer wants a file."""
    if wanted["partition"]:
        raise UsageError("a parted table is a directory, which standard output cannot be")
    with TemporaryDirectory(prefix="buildvm-") as directory:
        path = Path(directory, "table.parquet")
        catalog.export(path, table, **wanted)
        with path.open("rb") as stream:
            shutil.copyfileobj(stream, sys.stdout.buffer)


def _shown(cell: object) -> str:
    return cell if isinstance(cell, str) else ""


# ``buildvm catalog``: what was built, what came of it, and what that showed.

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


# ``buildvm report``: what the catalog knows, as a page, in the terminal or as JSON.


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
    from buildvm_nb.catalog.logs import replacing
    from buildvm_nb.report import render_page

    if path.is_dir():
        raise UsageError(f"--html: a directory: {path}; allowed: a file")
    page = render_page(told)
    with replacing(path) as stream:
        stream.write(page)


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
