"""A batch's plan: a CSV file with a parameter set in each row, read as text and nothing else."""

import csv
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from buildvm_nb.batch.parameters import NAMES, BatchParameters, check_parameters, find_troubles
from buildvm_nb.errors import UsageError

__all__ = ["PlanRow", "read_plan"]

_MOST_TROUBLES = 20


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One row of a plan."""

    number: int
    """As a spreadsheet counts: the header is row 1."""
    parameters: BatchParameters
    digest: str
    """Of what is asked."""


def read_plan(path: Path) -> tuple[PlanRow, ...]:
    """Read a plan.

    Parameters
    ----------
    path : Path
        CSV with commas, UTF-8, with a header of parameter names in any order; ``case`` must be
        among them. An empty cell is a parameter that is left out. The path of a case file is
        relative to the plan.

    Returns
    -------
    tuple of PlanRow
        In the order of the file; at least one.

    Raises
    ------
    UsageError
        If there is no such file, or rows are wrong: each is told by row, column, value and what is
        allowed.
    """
    header, rows = _cells(path)
    _check_header(header, path)
    plan: list[PlanRow] = []
    troubles: list[str] = []
    hints: dict[str, None] = {}
    first_with: dict[str, int] = {}
    for number, cells in rows:
        if len(cells) != len(header):
            troubles.append(f"row {number}: {len(cells)} cells; allowed: {len(header)}")
            continue
        given: dict[str, object] = {
            name: _located(name, cell, path)
            for name, cell in zip(header, cells, strict=True)
            if cell
        }
        found = find_troubles(given)
        troubles += [f"row {number}, column {name}: {error.message}" for name, error in found]
        hints |= dict.fromkeys(error.hint for _, error in found if error.hint)
        if found:
            continue
        parameters = check_parameters(**given).settled()
        digest = parameters.digest()
        if digest in first_with:
            troubles.append(f"row {number}: asks for the same as row {first_with[digest]}")
        first_with.setdefault(digest, number)
        plan.append(PlanRow(number=number, parameters=parameters, digest=digest))
    if troubles:
        more = len(troubles) - _MOST_TROUBLES
        troubles = troubles[:_MOST_TROUBLES] + ([f"and {more} more"] if more > 0 else [])
        raise UsageError("\n".join([f"{path}:", *troubles]), hint="; ".join(hints))
    if not plan:
        raise UsageError(f"{path}: no rows below the header; allowed: one for each notebook")
    return tuple(plan)


def _cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each row that is not empty with its number."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = list(enumerate(csv.reader(stream, strict=True), 1))
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not CSV in UTF-8: {error}") from error
    rows = [(number, [cell.strip() for cell in cells]) for number, cells in table if any(cells)]
    if not rows:
        raise UsageError(f"{path}: empty; allowed: a header with {', '.join(NAMES)}, then rows")
    return rows[0][1], rows[1:]


def _check_header(header: list[str], path: Path) -> None:
    for name in header:
        if name not in NAMES:
            near = get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else ""
            if ";" in name or "\t" in name:
                hint = "separate cells with commas"
            raise UsageError(
                f"{path}: unknown column: {name!r}; allowed: {', '.join(NAMES)}", hint=hint
            )
        if header.count(name) > 1:
            raise UsageError(f"{path}: column there twice: {name!r}")
    if "case" not in header:
        raise UsageError(f"{path}: no column 'case'; there are {', '.join(header)}")


def _located(name: str, cell: str, plan: Path) -> str:
    """Return a cell; the path of a file or directory beside the plan becomes absolute."""
    is_path = name == "repository" or (name == "case" and ("/" in cell or cell.endswith(".toml")))
    if is_path and "://" not in cell and (plan.parent / cell).exists():
        return str((plan.parent / cell).absolute())
    return cell
