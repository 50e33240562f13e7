"""``buildvm catalog lint`` and ``derive``: the files of the curated catalog, kept sound."""

from pathlib import Path
from typing import Annotated

import typer

from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import printable, write_json, write_line
from buildvm_nb.cli.session import Session
from buildvm_nb.cli.verify import verify
from buildvm_nb.errors import UsageError

__all__ = ["CURATED_COMMANDS"]

RootArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="DIR", help="A curated catalog. Left out: the one that comes with buildvm."
    ),
]


@command(
    "lint",
    examples=(
        "buildvm catalog lint",
        "buildvm catalog lint catalog/cases/dulwich-0.20.23.toml --json",
    ),
)
def lint(
    session: Session,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH…]",
            help="Case files, reported.csv, or whole catalogs. Left out: the curated catalog that "
            "comes with buildvm.",
        ),
    ] = None,
) -> None:
    """Check the curated catalog: entries, proofs, tiers, derived files.

    Each trouble names file, line and key, the value seen and what is allowed. Exits with 1 if
    there is one. No machine is started.
    """
    from buildvm_nb.catalog import lint_catalog, lint_files, lint_notes

    troubles = lint_files(paths) if paths else lint_catalog()
    if session.as_json:
        write_json(
            [
                {"file": one.file, "line": one.line, "key": one.key, "text": one.text}
                for one in troubles
            ]
        )
    else:
        for trouble in troubles:
            write_line(printable(trouble))
    if troubles:
        raise typer.Exit(ExitStatus.TROUBLE)
    for note in lint_notes() if not paths else ():
        session.note(printable(note))
    session.note("all is well")


@command("derive", examples=("buildvm catalog derive", "buildvm catalog derive --check"))
def derive(
    session: Session,
    root: RootArgument = None,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if a file is stale.")
    ] = False,
) -> None:
    """Make failures.csv and the table of README.md from the entries."""
    from buildvm_nb.catalog import derive as make
    from buildvm_nb.catalog import stale_files

    if root is not None and not (root / "cases").is_dir():
        raise UsageError(f"no curated catalog: {root}; allowed: a directory with cases in it")
    paths = [str(path) for path in (stale_files(root) if check else make(root))]
    if session.as_json:
        write_json(paths)
    else:
        for path in paths:
            write_line(printable(path))
    if check and paths:
        raise typer.Exit(ExitStatus.TROUBLE)


CURATED_COMMANDS: tuple[Command, ...] = (lint, verify, derive)
