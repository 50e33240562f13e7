"""The curated case files that come with buildvm-nb."""

from difflib import get_close_matches
from pathlib import Path

from buildvm_nb.errors import CatalogError, UsageError

__all__ = ["curated_cases", "find_case_file"]


def curated_cases() -> dict[str, Path]:
    """Return the curated case files.

    Returns
    -------
    dict of str to Path
        By case id, sorted.

    Raises
    ------
    CatalogError
        If this installation lacks them.
    """
    package = Path(__file__).parents[1]
    for place in (package / "_catalog" / "cases", package.parent / "catalog" / "cases"):
        if place.is_dir():  # the first in a wheel, the second in a checkout
            return {path.stem: path for path in sorted(place.glob("*.toml"))}
    raise CatalogError(
        f"the curated case files are not installed: sought in {package / '_catalog'}",
        hint="install buildvm-nb again",
    )


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
