"""The curated catalog's files: where they are, and which case a user means.

``cases/ID.toml`` is an executable case with its claim, ``proofs/ID.json`` what machines showed,
``reported.csv`` what the literature tells, and the rest follows from these.
"""

from difflib import get_close_matches
from pathlib import Path

from buildvm_nb.errors import CatalogError, UsageError

__all__ = ["curated_cases", "curated_root", "find_case_file", "proof_path"]


def curated_root() -> Path:
    """Return the directory of the curated catalog.

    Returns
    -------
    Path
        That of the checkout, or of the installed package.

    Raises
    ------
    CatalogError
        If this installation lacks it.
    """
    package = Path(__file__).parents[1]
    for place in (package / "_catalog", package.parent / "catalog"):
        if (place / "cases").is_dir():  # the first in a wheel, the second in a checkout
            return place
    raise CatalogError(
        f"the curated case files are not installed: sought in {package / '_catalog'}",
        hint="install buildvm-nb again",
    )


def curated_cases(root: Path | None = None) -> dict[str, Path]:
    """Return the curated case files.

    Parameters
    ----------
    root : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.

    Returns
    -------
    dict of str to Path
        By the file's name, which is the case's id; sorted.

    Raises
    ------
    CatalogError
        If this installation lacks them.
    """
    place = (root or curated_root()) / "cases"
    return {path.stem: path for path in sorted(place.glob("*.toml"))}


def proof_path(case_file: Path) -> Path:
    """Return where the proof of a curated case is.

    Parameters
    ----------
    case_file : Path
        ``…/cases/ID.toml``.

    Returns
    -------
    Path
        ``…/proofs/ID.json``; it need not exist.

    Raises
    ------
    UsageError
        If the file is in no curated catalog.
    """
    place = case_file.absolute()
    if place.parent.name != "cases":
        raise UsageError(
            f"not in a curated catalog: {case_file}; allowed: a file in a directory named cases",
            hint="a proof goes into the directory proofs beside it",
        )
    return place.parents[1] / "proofs" / f"{place.stem}.json"


def find_case_file(text: str) -> Path:
    """Return the case file that a user means: a path, or the id of a curated case.

    Parameters
    ----------
    text : str
        What the user wrote. What looks like a path is one, and so is a file that exists.

    Returns
    -------
    Path
        The file; a path need not exist.

    Raises
    ------
    UsageError
        If it is no path and there is no such curated case; near ids are suggested.
    """
    path = Path(text)
    if "/" in text or path.suffix == ".toml" or path.exists():
        return path
    known = curated_cases()
    if text in known:
        return known[text]
    near = get_close_matches(text, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"curated cases: {', '.join(known)}"
    raise UsageError(f"no such case: {text!r} is no file and no curated case's id", hint=hint)
