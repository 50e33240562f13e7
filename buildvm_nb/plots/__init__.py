"""Plots of outcomes and findings, as matplotlib figures: they belong to whoever asked for them.

Nothing of pyplot's global state is touched. Colours are those of Okabe and Ito, which people with
any colour vision tell apart; markers or letters say the same once more.

References
----------
M. Okabe, K. Ito, "Color Universal Design", https://jfly.uni-koeln.de/color/
"""

from buildvm_nb.errors import HostError

try:
    from buildvm_nb.plots.plots import (
        COLOURS,
        date_line,
        feature_lattice,
        log_diff,
        matrix,
        timeline,
    )
except ImportError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise HostError(
        "plots need matplotlib, which is not installed",
        hint="pip install 'buildvm-nb[notebook]'",
    ) from error

__all__ = ["COLOURS", "date_line", "feature_lattice", "log_diff", "matrix", "timeline"]
