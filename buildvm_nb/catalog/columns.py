"""What describes a table of the catalog: its columns, what they hold, how people are told of it."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Column", "Kind", "TableSchema"]


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    JSON = "json"
    """JSON in canonical form, kept as text."""
    INTEGER = "integer"
    REAL = "real"
    BOOLEAN = "boolean"
    INSTANT = "instant"
    """Aware UTC instant, to the microsecond, from year 1 to 9999."""

    @property
    def dtype(self) -> str:
        """The pandas dtype, by name; every one of them has a missing value."""
        return _DTYPES[self]


_DTYPES = {
    Kind.TEXT: "string[pyarrow]",
    Kind.JSON: "string[pyarrow]",
    Kind.INTEGER: "Int64",
    Kind.REAL: "Float64",
    Kind.BOOLEAN: "boolean",
    Kind.INSTANT: "datetime64[us, UTC]",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: of a SQL table, a frame and a CSV file alike."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    optional: bool = True
    """Whether a value may be missing."""
    indexed: bool = False
    since: int = 1
    """The schema version that brought it."""
    default: bool | int | None = None
    """What rows have that are older than the column."""


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """A table: its columns in their stable order. The first one of a SQL table is the key."""

    name: str
    columns: tuple[Column, ...]
    meaning: str = ""
    """What a row is, in sentences."""
    gone: tuple[str, ...] = ()
    """Columns that files of an older version have, and that are left out when these are read."""

    @property
    def dtypes(self) -> dict[str, str]:
        """The pandas dtype of each column, in order."""
        return {column.name: column.kind.dtype for column in self.columns}

    @property
    def since(self) -> int:
        """The schema version that brought the table."""
        return min(column.since for column in self.columns)

    @property
    def later(self) -> dict[str, bool | int | None]:
        """What rows have in each column that files of an older version may lack."""
        return {column.name: column.default for column in self.columns if column.since > self.since}

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def data_dictionary(self) -> str:
        """Describe the columns for people.

        Returns
        -------
        str
            A Markdown table with name, dtype, unit, whether it may be missing, meaning and the
            schema version that brought it.
        """
        lines = [
            "| column | dtype | unit | missing | meaning | since |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| `{column.name}` | `{column.kind.dtype}` | {column.unit} | "
            f"{'may be' if column.optional else 'never'} | {column.meaning} | {column.since} |"
            for column in self.columns
        ]
        return "\n".join(lines) + "\n"
