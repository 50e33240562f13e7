"""Frames with a fixed schema: the same columns and dtypes whatever is in them, also when empty.

Text is Arrow-backed, integers, numbers and truth values are nullable, and instants are
``datetime64[us, UTC]``, which holds the years 1 to 9999. What is missing is ``pd.NA`` (``NaT`` for
an instant); an empty text is not missing.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, cast

import pandas as pd
import pyarrow as pa

from buildvm_nb.catalog.rows import outcome_row
from buildvm_nb.catalog.schema import OUTCOMES, Kind, TableSchema
from buildvm_nb.errors import UsageError
from buildvm_nb.model.outcome import Outcome

__all__ = [
    "Frame",
    "check_frame",
    "empty_frame",
    "join_columns",
    "make_array",
    "make_frame",
    "outcome_frame",
]

Frame = pd.DataFrame
"""What those take who get frames and do not import pandas."""


def make_frame(rows: Iterable[Sequence[object]], table: TableSchema = OUTCOMES) -> pd.DataFrame:
    """Return rows as a frame.

    `rows`: values of the standard library or None, in the order of the table's columns.
    """
    rows = list(rows)
    return join_columns(zip(*rows, strict=True) if rows else [()] * len(table.columns), table)


def outcome_frame(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Return outcomes as a frame, as a catalog that holds them would.

    Parameters
    ----------
    outcomes : iterable of Outcome
        Any.

    Returns
    -------
    DataFrame
        One row each, in their order, with the columns and dtypes of ``OUTCOMES.dtypes``.
    """
    rows = map(outcome_row, outcomes)
    return make_frame([row[column.name] for column in OUTCOMES.columns] for row in rows)


def join_columns(columns: Iterable[Sequence[object]], table: TableSchema) -> pd.DataFrame:
    """Return columns as a frame.

    `columns`: one for each of the table, in its order: values of the standard library or None.
    """
    return pd.DataFrame(
        {
            column.name: make_array(list(values), column.kind)
            for column, values in zip(table.columns, columns, strict=True)
        }
    )


def empty_frame(table: TableSchema = OUTCOMES) -> pd.DataFrame:
    """Return a frame without rows.

    Parameters
    ----------
    table : TableSchema
        Which table it is of.

    Returns
    -------
    DataFrame
        No rows, with the columns and dtypes of ``table.dtypes``.
    """
    return make_frame([], table)


def make_array(values: list[Any], kind: Kind) -> pd.api.extensions.ExtensionArray:
    """Return the values of one column."""
    array: pd.api.extensions.ExtensionArray
    if kind in {Kind.TEXT, Kind.JSON}:
        # pandas looks at each text before Arrow does, which takes ten times as long
        array = pd.arrays.ArrowStringArray(pa.array(values, pa.large_string()))
    else:
        array = pd.array(values, dtype=cast("Any", kind.dtype))
    return array


def check_frame(frame: pd.DataFrame, table: TableSchema = OUTCOMES) -> None:
    """Check that a frame has only columns of a table, with their dtypes."""
    names = list(frame.columns)
    for name in names:
        if name not in table.dtypes:
            near = get_close_matches(str(name), table.dtypes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(table.dtypes)}"
            raise UsageError(f"unknown column of table {table.name!r}: {name!r}", hint=hint)
        if names.count(name) > 1:
            raise UsageError(f"column there twice: {name!r}")
        expected = pd.api.types.pandas_dtype(table.dtypes[name])
        if frame[name].dtype != expected:
            raise UsageError(
                f"column {name!r} has dtype {frame[name].dtype}; allowed: {expected}",
                hint=f"frame.astype({{{name!r}: {table.dtypes[name]!r}}})",
            )
