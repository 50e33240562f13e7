"""Lint of the curated catalog: every entry, both tiers together, and what is derived from them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from buildvm_nb.catalog.curated import curated_cases, curated_root, proof_path
from buildvm_nb.catalog.derived import stale_files
from buildvm_nb.catalog.lintentry import LintTrouble, lint_entry
from buildvm_nb.catalog.lintreported import lint_reported
from buildvm_nb.catalog.proofs import load_proof
from buildvm_nb.catalog.reported import REPORTED_FILE
from buildvm_nb.errors import CatalogError, UsageError

__all__ = ["LintTrouble", "lint_catalog", "lint_files", "lint_notes"]


def lint_catalog(root: Path | None = None) -> list[LintTrouble]:
    """Check a whole curated catalog.

    Parameters
    ----------
    root : Path, optional
        Its directory; default: the one that comes with buildvm-nb.

    Returns
    -------
    list of LintTrouble
        Empty where all is well.

    Raises
    ------
    CatalogError
        If this installation lacks it.
    """
    root = root or curated_root()
    troubles = list(_troubles(root))
    return troubles or list(_derived_troubles(root))  # from sound files only


def lint_files(paths: Sequence[Path]) -> list[LintTrouble]:
    """Check parts of curated catalogs.

    Parameters
    ----------
    paths : sequence of Path
        Case files in a directory ``cases``, ``reported.csv``, or directories of whole catalogs.

    Returns
    -------
    list of LintTrouble
        Empty where all is well.

    Raises
    ------
    UsageError
        If a path is none of these.
    """
    troubles: list[LintTrouble] = []
    for path in paths:
        if (path / "cases").is_dir():
            troubles += lint_catalog(path)
        elif path.suffix == ".toml" and path.absolute().parent.name == "cases":
            troubles += lint_entry(path)
        elif path.name == REPORTED_FILE and path.is_file():
            troubles += lint_reported(path, curated_cases(path.absolute().parent))
        else:
            raise UsageError(
                f"no part of a curated catalog: {path}; allowed: cases/ID.toml, {REPORTED_FILE}, "
                "or a directory with cases in it"
            )
    return troubles


def lint_notes(root: Path | None = None) -> list[LintTrouble]:
    """Tell what is no trouble, and could be better.

    Parameters
    ----------
    root : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.

    Returns
    -------
    list of LintTrouble
        One for each proof that does not carry its outcomes.

    Raises
    ------
    CatalogError
        If a proof cannot be read.
    """
    root = root or curated_root()
    places = [proof_path(path) for path in curated_cases(root).values()]
    notes = []
    for place in places:
        if place.exists() and (missing := load_proof(place).missing):
            text = f"carries none of its {len(missing)} outcomes; `buildvm catalog verify "
            text += f"{place.stem} --write` makes it anew with them"
            notes.append(LintTrouble(file=str(place), text=text))
    return notes


def _troubles(root: Path) -> Iterator[LintTrouble]:
    cases = curated_cases(root)
    if not cases:
        yield LintTrouble(file=str(root / "cases"), text="no case file in it")
    for path in cases.values():
        yield from lint_entry(path)
    for path in sorted((root / "cases").iterdir()):
        if path.suffix != ".toml":
            yield LintTrouble(file=str(path), text="no case file; allowed: ID.toml")
    proofs = root / "proofs"
    for path in sorted(proofs.iterdir()) if proofs.is_dir() else ():
        if path.suffix != ".json" or path.stem not in cases:
            text = "proves nothing: there is no such case; allowed: ID.json"
            yield LintTrouble(file=str(path), text=text)
    reported = root / REPORTED_FILE
    if reported.exists():
        yield from lint_reported(reported, cases)


def _derived_troubles(root: Path) -> Iterator[LintTrouble]:
    try:
        stale = stale_files(root)
    except (CatalogError, UsageError) as error:
        yield LintTrouble(file=str(root), text=error.message)
        return
    for path in stale:
        yield LintTrouble(
            file=str(path), text="not in step; `buildvm catalog derive` makes it anew"
        )
