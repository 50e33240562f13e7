"""The panels that study cases and look through what was found, together."""

from pathlib import Path

from buildvm_nb.catalog import Catalog
from buildvm_nb.model.case import Case
from buildvm_nb.nb.browser import CatalogBrowser
from buildvm_nb.nb.diagnosis import DiagnosisPanel
from buildvm_nb.nb.forecast import ForecastPanel
from buildvm_nb.nb.panel import Panel

__all__ = ["CatalogBrowser", "DiagnosisPanel", "ForecastPanel", "panels"]


def panels(
    case: Case | str | Path | None = None,
    catalog: Catalog | str | Path | None = None,
    *,
    name: str = "",
) -> dict[str, Panel]:
    """Make the panels.

    Parameters
    ----------
    case : Case, str or Path, optional
        What is studied: a case, a case file, or the id of a curated case.
    catalog : Catalog, str or Path, optional
        Where outcomes go, and what is looked through; default: that of the user.
    name : str
        Newer panels of the same name end what these run.

    Returns
    -------
    dict of str to Panel
        By title.
    """
    return {
        "Diagnose": DiagnosisPanel(case, catalog=catalog, name=name),
        "Forecast": ForecastPanel(case, catalog=catalog, name=name),
        "Catalog": CatalogBrowser(catalog, name=name),
    }
