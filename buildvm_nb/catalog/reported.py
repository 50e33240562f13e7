"""The reported tier: what the literature tells of builds that break, proven by no machine of ours.

Dates are as exact as the source tells them: ``2024``, ``2024-02``, ``2024-02-29`` or a whole
instant, so that they stay text.
"""

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from buildvm_nb.catalog.curated import curated_root
from buildvm_nb.catalog.frames import empty_frame
from buildvm_nb.catalog.schema import Column, Kind, TableSchema
from buildvm_nb.catalog.tablefiles import read_csv
from buildvm_nb.errors import CatalogError

__all__ = [
    "CHECKED",
    "REPORTED",
    "REPORTED_FILE",
    "ReportedRow",
    "reported_entries",
    "reported_rows",
]

REPORTED_FILE = "reported.csv"
CHECKED = ("source read", "second hand")
"""How a reported entry is known: from the page itself, or from what others say of it."""


def _text(name: str, meaning: str, *, optional: bool = True) -> Column:
    return Column(name=name, kind=Kind.TEXT, meaning=meaning, optional=optional, since=2)


REPORTED = TableSchema(
    name="reported",
    columns=(
        _text("id", "id of the entry; no verified or proposed entry has it", optional=False),
        _text("ecosystem", "type of the package URL: pypi, cpan, github, …", optional=False),
        _text("package", "what does not build, in words", optional=False),
        _text("version", "versions, as the source tells them"),
        _text("purl", "package URL, with a version where the source tells one", optional=False),
        _text("kind", "time-trap, cpu-dependent, kernel-dependent, …", optional=False),
        _text("springs_at", "when it begins to fail: year, month, day or instant (UTC)"),
        _text("ends_at", "when it stops failing: likewise"),
        _text("cpu_condition", "CPUs on which it fails, in words"),
        _text("kernel_condition", "kernels on which it fails, in words"),
        _text("symptom", "what is seen", optional=False),
        _text("workaround", "how it can be built all the same, as the source tells it"),
        _text("source_url", "page that tells it", optional=False),
        _text("checked", "how it is known: source read, or second hand", optional=False),
    ),
    meaning="One row for each problem that a public source reports. Nobody has proved it here.",
)


@dataclass(frozen=True, kw_only=True)
class ReportedRow:
    """As much of a row as a choice of an environment names."""

    id: str
    ecosystem: str
    words: str
    """The package, as people call it."""
    version: str
    purl: str
    kind: str
    symptom: str
    source_url: str

    @property
    def name(self) -> str:
        """The package, as its ecosystem calls it."""
        return unquote(self.purl.partition("/")[2].partition("@")[0])


def reported_rows(root: Path | None = None) -> tuple[ReportedRow, ...]:
    """Return the reported tier without pandas.

    `root`: a curated catalog; default: the one that comes with buildvm-nb.
    Returns: in the order of the file; none where there is no such file.
    """
    path = (root or curated_root()) / REPORTED_FILE
    if not path.exists():
        return ()
    names = [field.name for field in fields(ReportedRow)]
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        return tuple(
            ReportedRow(**{name: row["package" if name == "words" else name] for name in names})
            for row in rows
        )
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise CatalogError(
            f"cannot read {path}: {error}", hint="`buildvm catalog lint` says what is wrong"
        ) from error


def reported_entries(root: Path | None = None) -> pd.DataFrame:
    """Return the reported tier.

    Parameters
    ----------
    root : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.

    Returns
    -------
    DataFrame
        One row each, in the order of the file, with the columns and dtypes of
        ``REPORTED.dtypes``; no rows where there is no such file.

    Raises
    ------
    CatalogError
        If the file is not of that form.
    """
    path = (root or curated_root()) / REPORTED_FILE
    if not path.exists():
        return empty_frame(REPORTED)
    frame = read_csv(path, REPORTED)
    names = list(REPORTED.dtypes)
    if list(frame.columns) != names:
        raise CatalogError(
            f"wrong columns in {path}: {','.join(frame.columns)}; allowed: {','.join(names)}",
            hint="`buildvm catalog lint` says what else is wrong",
        )
    return frame
