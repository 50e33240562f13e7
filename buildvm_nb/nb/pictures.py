"""Figures in panels: a picture with a text that says the same."""

import io
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture_html"]

_DPI = 80


def picture_html(figure: "Figure", text: str) -> str:
    """Draw a figure.

    Parameters
    ----------
    figure : Figure
        Any; it keeps its own background, so that it can be read in any theme.
    text : str
        What it shows, for who does not see it.

    Returns
    -------
    str
        HTML that needs nothing from elsewhere.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    data = b64encode(drawn.getvalue()).decode()
    return f'<img style="max-width:100%" alt="{escape(text)}" src="data:image/png;base64,{data}">'
