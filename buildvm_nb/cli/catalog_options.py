"""What the commands on a catalog's tables share: filters, and rows as plain JSON."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.completion import complete_case

if TYPE_CHECKING:
    from buildvm_nb.catalog.columns import TableSchema

__all__ = ["CaseFilter", "SinceFilter", "instant", "minute", "records"]

CaseFilter = Annotated[
    str | None,
    typer.Option(metavar="ID", autocompletion=complete_case, help="Only those of this case."),
]
SinceFilter = Annotated[
    str | None, typer.Option(metavar="DATE", help="Only those recorded at or after that date.")
]


def instant(text: str | None) -> Any:  # noqa: ANN401 - a datetime; typing it would import more
    """Read a date that a filter may have.

    Parameters
    ----------
    text : str or None
        As the user wrote it; None: he wrote none.

    Returns
    -------
    datetime or None
        Aware.
    """
    from buildvm_nb.model.instants import parse_instant

    return None if text is None else parse_instant(text)


def minute(record: dict[str, Any]) -> str:
    """Tell when a row was recorded.

    Parameters
    ----------
    record : dict
        One of `records`.

    Returns
    -------
    str
        To the minute.
    """
    return str(record["recorded_at"])[:16].replace("T", " ")


def records(frame: Any, table: "TableSchema") -> list[dict[str, Any]]:  # noqa: ANN401 - of pandas
    """Turn a frame into plain JSON: instants as text, missing values as null, JSON as JSON.

    Parameters
    ----------
    frame : DataFrame
        Of the table.
    table : TableSchema
        Which table it is.

    Returns
    -------
    list of dict
        One for each row.
    """
    lines = frame.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15)
    rows: list[dict[str, Any]] = json.loads(lines)
    for column in table.columns:
        if column.kind.value == "json":
            for row in rows:
                text = row.get(column.name)
                row[column.name] = json.loads(text) if text else None
    return rows
