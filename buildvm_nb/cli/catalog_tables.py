"""``buildvm catalog export``, ``expiring`` and ``schema``: the tables, and what they hold."""

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.catalog_options import CaseFilter, SinceFilter, instant, records
from buildvm_nb.cli.completion import complete_verdict
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import write_json, write_line, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = ["expiring", "export", "schema"]


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
