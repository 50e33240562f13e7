"""``buildvm catalog check``, ``merge``, ``gc`` and ``retract``: keeping a catalog whole."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import printable, write_json, write_line, write_table
from buildvm_nb.cli.session import Session

__all__ = ["CARE_COMMANDS"]


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
