"""Frames as HTML tables that a screen reader can walk through; all text is escaped."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from buildvm_nb.model.display import verdict_sign
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.plaintext import clean

if TYPE_CHECKING:
    from buildvm_nb.catalog.frames import Frame

__all__ = ["cell_text", "table_html"]

_LONGEST = 160


def table_html(frame: "Frame", columns: Mapping[str, str], caption: str) -> str:
    """Write rows as a table.

    Parameters
    ----------
    frame : DataFrame
        Of a catalog; each row gets its number, from 1.
    columns : mapping
        Which of its columns are shown, and what each is called.
    caption : str
        What the table is.

    Returns
    -------
    str
        HTML; a long cell is cut.
    """
    head = "".join(
        f'<th scope="col" style="text-align:left">{escape(n)}</th>' for n in columns.values()
    )
    rows = frame[list(columns)].astype(object).where(frame[list(columns)].notna(), None)
    body = "".join(
        f'<tr><th scope="row">{number}</th>{"".join(_cell(n, row[n]) for n in columns)}</tr>'
        for number, row in enumerate(rows.to_dict("records"), 1)
    )
    return (
        f'<div style="overflow-x:auto"><table><caption style="text-align:left">{escape(caption)}'
        f'</caption><thead><tr><th scope="col">#</th>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def cell_text(value: Any) -> str:  # noqa: ANN401 - whatever a frame has
    """Write a value of a frame.

    Parameters
    ----------
    value : Any
        Of a cell; None where it is missing.

    Returns
    -------
    str
        Cleaned and cut, not escaped.
    """
    if value is None:
        return ""
    text = format_instant(value.to_pydatetime()) if hasattr(value, "to_pydatetime") else str(value)
    shown = clean(text.partition("\n")[0])
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _cell(name: str, value: Any) -> str:  # noqa: ANN401 - whatever a frame has
    text = cell_text(value)
    shown = verdict_sign(text) if name == "verdict" else text
    return f'<td style="text-align:left">{escape(shown)}</td>'
