"""``buildvm catalog lint``, ``derive`` and ``verify``: the curated catalog, kept sound and true."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.command import Command, ExitStatus, Session, command, complete_case
from buildvm_nb.cli.describe import Narrator
from buildvm_nb.cli.options import WorkOptions
from buildvm_nb.cli.output import printable, write_json, write_line
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildvm_nb.model.case import Case
    from buildvm_nb.model.outcome import Outcome
    from buildvm_nb.study.verify import Verification

__all__ = [
    "CURATED_COMMANDS",
    "verified_status",
]

# ``buildvm catalog verify``: the claims of curated cases, asked of machines again.

_STATUSES = ("verified", "proposed")


@command(
    "verify",
    examples=(
        "buildvm catalog verify dulwich-0.20.23 cityhash-0.4.10",
        "buildvm catalog verify chinesecalendar-1.8.0 --quick",
        "buildvm catalog verify --all --status verified --quick --json",
        "buildvm catalog verify catalog/cases/numpy-2.4.0-cx16.toml --write",
    ),
)
def verify(
    session: Session,
    work: WorkOptions,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID…]",
            autocompletion=complete_case,
            help="Ids of curated cases, or case files.",
        ),
    ] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="All curated cases but those that are withdrawn.")
    ] = False,
    status: Annotated[
        str | None,
        typer.Option(metavar="verified|proposed", help="With --all: only those of this status."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Run only the claim's own points: the seconds on both sides of each instant, the "
            "CPUs and kernels that it names.",
        ),
    ] = False,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Where it agrees, write the proof with its evidence beside the cases and mark the "
            "case as verified. Everything is run anew, as with --fresh.",
        ),
    ] = False,
) -> None:
    """Prove the claims of curated cases in machines again.

    The whole search of `buildvm diagnose` is made along the axis of the claim, and what it finds
    is compared with what is claimed, to the second. Outcomes and findings are recorded as usual.

    The exit code is 0 if all agree and 1 if one disagrees. Else it is 4 if a source cannot be had
    and 125 if machines broke, which says nothing about the claim, or 3 if the evidence does not
    suffice for a claim.
    """
    if write and quick:
        raise UsageError("--quick makes no proof", hint="leave one of --quick and --write out")
    if bool(names) is everything or (status and not everything):
        raise UsageError("name cases, or give --all, which --status narrows")
    cases = _chosen(names or [], status)
    _refuse(cases, write=write)
    session.trouble = ExitStatus.MACHINE
    results = []
    for path, case in cases:
        # a proof shows runs of its own, and not what a catalog that nobody else has once saw
        fresh = work.fresh or write
        result = _verify(session, path, case, replace(work, fresh=fresh), quick=quick)
        results.append(result)
        if not session.as_json:
            write_line(printable(_told(result)))
        if write and result.finding and result.check.agreement == "agrees":
            _write(session, path, result)
    if session.as_json:
        write_json([result.model_dump(mode="json") for result in results])
    if ending := verified_status(results):
        raise typer.Exit(ending)


def verified_status(results: "Sequence[Verification]") -> ExitStatus:
    """Choose what to exit with."""
    seen = {result.check.agreement.value for result in results}
    troubles = {result.trouble for result in results}
    choices = (
        ("disagrees" in seen, ExitStatus.TROUBLE),
        ("machine" in troubles, ExitStatus.MACHINE),
        ("unavailable" in troubles, ExitStatus.UNAVAILABLE),
        ("cannot tell" in seen, ExitStatus.NOT_PASSED),
    )
    return next((ending for holds, ending in choices if holds), ExitStatus.DONE)


def _chosen(names: list[str], status: str | None) -> "list[tuple[Path, Case]]":
    from buildvm_nb.catalog import curated_cases, find_case_file, load_case

    if status is not None and status not in _STATUSES:
        raise UsageError(f"--status: {status!r}; allowed: {', '.join(_STATUSES)}")
    if names:
        return [(path, load_case(path)) for path in map(find_case_file, names)]
    wanted = {status} if status else {*_STATUSES}
    every = [(path, load_case(path)) for path in curated_cases().values()]
    return [one for one in every if one[1].entry and one[1].entry.status in wanted]


def _refuse(cases: "list[tuple[Path, Case]]", *, write: bool) -> None:
    """Refuse what cannot be verified or written before the first machine starts."""
    from buildvm_nb.catalog import proof_path

    for path, case in cases:
        if case.claim is None:
            raise UsageError(f"{path}: it claims nothing", hint="`buildvm diagnose` needs no claim")
        if write:
            proof_path(path)
            if case.entry is None or case.entry.status == "withdrawn":
                seen = "no [entry]" if case.entry is None else "status 'withdrawn'"
                raise UsageError(f"{path}: {seen}; allowed with --write: {', '.join(_STATUSES)}")


def _verify(
    session: Session, path: Path, case: "Case", work: WorkOptions, *, quick: bool
) -> "Verification":
    from buildvm_nb.study.verify import verify_case

    narrator = Narrator()

    def tell(outcome: "Outcome", is_known: bool) -> None:
        session.note(f"{case.id}: {narrator.describe(outcome, is_known=is_known)}")

    with session.studying(work, path.absolute().parent, tell) as means:
        return verify_case(case, means, quick=quick)


def _told(result: "Verification") -> str:
    check = result.check
    told = f"{result.case_id}: {check.agreement.value}"
    if check.agreement == "disagrees":
        return f"{told} (claimed {check.claimed}, shown {check.shown}): {'; '.join(check.why)}"
    if check.agreement == "cannot tell":
        return f"{told} ({'; '.join(check.why)})"
    return f"{told} ({check.shown})"


def _write(session: Session, path: Path, result: "Verification") -> None:
    from buildvm_nb.catalog import gather_proof, mark_verified, proof_path, write_proof

    if result.finding is None:
        return
    place = proof_path(path)
    with session.catalog() as catalog:
        write_proof(place, gather_proof(catalog, [result.finding]))
    mark_verified(path)
    session.note(f"wrote {place}; next: buildvm catalog derive {path.parents[1]}")


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
