"""The panels that study cases and look through what was found, together."""

from pathlib import Path

from buildvm_nb.catalog import Catalog
from buildvm_nb.model.case import Case
from buildvm_nb.nb.browser import CatalogBrowser
from buildvm_nb.nb.panel import Panel
from buildvm_nb.nb.study import DiagnosisPanel, ForecastPanel

__all__ = ["CatalogBrowser", "DiagnosisPanel", "ForecastPanel", "panels"]


def panels(
    case: Case | str | Path | None = None,
    catalog: Catalog | str | Path | None = None,
    *,
    name: str = "",
) -> dict[str, Panel]:
    """Make the panels.

    `case`: what is studied: a case, a case file, or the id of a curated case.
    `catalog`: where outcomes go, and what is looked through; default: that of the user.
    """
    return {
        "Diagnose": DiagnosisPanel(case, catalog=catalog, name=name),
        "Forecast": ForecastPanel(case, catalog=catalog, name=name),
        "Catalog": CatalogBrowser(catalog, name=name),
    }
