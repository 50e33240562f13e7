"""``buildvm case``: case files, written, checked and described."""

from pathlib import Path
from typing import Annotated

import typer

from buildvm_nb.cli.case_options import SourceOptions
from buildvm_nb.cli.completion import complete_case
from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.machine_options import choose_image
from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import (
    printable_lines,
    write_json,
    write_line,
    write_new_file,
    write_table,
)
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

__all__ = ["CASE_COMMANDS"]


@command(
    "new",
    examples=(
        "buildvm case new my-project",
        "buildvm case new my-project --git . --commit HEAD --output my-project.toml",
        "buildvm case new requests-2.31 --pypi requests==2.31.0 --package python3",
    ),
)
def new(
    session: Session,
    source: SourceOptions,
    case_id: Annotated[
        str, typer.Argument(metavar="ID", help="Lower-case letters, digits and . _ + -")
    ],
    *,
    title: Annotated[str, typer.Option(metavar="TEXT", help="What it is about.")] = "",
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="debian:SUITE[,PACKAGE…]")
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Add a package; repeatable.")
    ] = None,
    run: Annotated[
        str, typer.Option(metavar="COMMAND", help="Shell text of the test step.")
    ] = "make check",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, where nothing is yet."),
    ] = None,
) -> None:
    """Write a commented case file to start from.

    Without --output it goes to standard output.
    """
    from buildvm_nb.catalog import new_case
    from buildvm_nb.model.machine import ImageSpec

    spec = choose_image(image, package, None)
    built = source.source(spec or ImageSpec()) if source.given() else None
    text = new_case(case_id, title=title, source=built, image=spec, run=run)
    if output is None:
        write_line(text.rstrip("\n"))
        return
    write_new_file(output, text)
    session.note(f"wrote {output}; next: buildvm case check {output}")


@command("check", examples=("buildvm case check dulwich-0.20.23", "buildvm case check *.toml"))
def check(
    session: Session,
    cases: Annotated[
        list[str],
        typer.Argument(
            metavar="CASE…", autocompletion=complete_case, help="Case files or ids of curated ones."
        ),
    ],
) -> None:
    """Check case files.

    Exits with 1 if one has errors. Each error names file, line and key.
    """
    from buildvm_nb.catalog import find_case_file, load_case

    results = []
    for name in cases:
        try:
            case = load_case(find_case_file(name))
            results.append({"file": name, "valid": True, "id": case.id, "message": ""})
        except UsageError as error:
            results.append({"file": name, "valid": False, "id": None, "message": str(error)})
    if session.as_json:
        write_json(results)
    else:
        for result in results:
            text = f"{result['file']}: valid" if result["valid"] else str(result["message"])
            for line in printable_lines(text):
                write_line(line)
    if not all(result["valid"] for result in results):
        raise typer.Exit(ExitStatus.TROUBLE)


@command("schema", examples=("buildvm case schema",))
def schema(session: Session) -> None:  # noqa: ARG001 - JSON in any case
    """Print the JSON schema of case files, with the meaning of each key."""
    from buildvm_nb.catalog import case_schema

    write_json(case_schema())


@command("list", examples=("buildvm case list", "buildvm case list --json"))
def list_(session: Session) -> None:
    """List the curated cases that come with buildvm."""
    from buildvm_nb.catalog import curated_cases, load_case

    cases = [(name, path, load_case(path)) for name, path in curated_cases().items()]
    if session.as_json:
        rows = [
            {
                "id": name,
                "title": case.title,
                "claim": case.claim.kind if case.claim else None,
                "status": case.entry.status if case.entry else None,
                "file": str(path),
            }
            for name, path, case in cases
        ]
        write_json(rows)
        return
    table = [
        (
            name,
            case.claim.kind if case.claim else "",
            case.entry.status if case.entry else "",
            case.title,
        )
        for name, _, case in cases
    ]
    write_table(("case", "claim", "status", "title"), table)


CASE_COMMANDS: tuple[Command, ...] = (new, check, schema, list_)
