"""Figures in panels: a picture with a text that says the same."""

import io
import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture_html"]

_NOT_OF_IT = re.compile(r"<style\b.*?</style>|<metadata>.*?</metadata>", re.DOTALL)
"""A style would be about the whole page."""


def picture_html(figure: "Figure", text: str) -> str:
    """Draw a figure in the colours of the page: its ink is the theme's, its ground is the page's.

    Parameters
    ----------
    figure : Figure
        Any; black and white in it are ink and ground.
    text : str
        What it shows, for who does not see it.

    Returns
    -------
    str
        HTML that needs nothing from elsewhere.
    """
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    svg = drawn.getvalue()
    svg = _NOT_OF_IT.sub("", svg[svg.index("<svg") :])
    svg = svg.replace("#000000", "currentColor").replace("fill: #ffffff", "fill: none")
    look = (
        "max-width:100%;height:auto;fill:currentColor;stroke-linejoin:round;"
        "color:var(--jp-content-font-color1,currentColor)"
    )
    label = escape(text)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{look}" ', 1)
