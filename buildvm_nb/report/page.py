"""A report as one HTML page that needs nothing else: it opens from disk, without a network."""

import hashlib
from base64 import b64encode
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from buildvm_nb.errors import HostError
from buildvm_nb.model.instants import format_instant
from buildvm_nb.report.content import Report

__all__ = ["render_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'"
"""Nothing is loaded, and no script runs but ours."""


def render_page(report: Report) -> str:
    """Write a report as HTML.

    Parameters
    ----------
    report : Report
        Any.

    Returns
    -------
    str
        A whole document. Text of cases and logs in it is escaped, and the page's own policy
        forbids scripts other than the one that sorts its tables.

    Raises
    ------
    HostError
        If matplotlib is not installed, which draws the timeline.
    """
    try:
        from buildvm_nb.report.drawing import draw_springs  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise HostError(
            f"a report as HTML needs matplotlib: {error}",
            hint="pip install 'buildvm-nb[notebook]'; without --html no drawing is needed",
        ) from error
    script = _part("page.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"instant": format_instant, "minute": _minute}
    # our own parts and matplotlib's drawing are markup; everything else is escaped
    return environment.from_string(_part("page.html.j2")).render(
        report=report,
        timeline=Markup(draw_springs(report.springs, report.made_at)),  # noqa: S704
        style=Markup(_part("page.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        policy=_POLICY.format(digest),
    )


def _part(name: str) -> str:
    return files("buildvm_nb.report").joinpath(name).read_text(encoding="utf-8")


def _minute(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M}"
