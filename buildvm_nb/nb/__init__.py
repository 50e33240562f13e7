"""Notebook widgets: pick a commit and a date, boot a machine, build, record.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from buildvm_nb.nb.browser import CatalogBrowser
    from buildvm_nb.nb.build import BuildPanel
    from buildvm_nb.nb.commit import CommitPicker
    from buildvm_nb.nb.jobs import Job, JobState
    from buildvm_nb.nb.lab import Lab
    from buildvm_nb.nb.log import LogView
    from buildvm_nb.nb.machine import MachinePanel
    from buildvm_nb.nb.panel import Panel
    from buildvm_nb.nb.study import DiagnosisPanel, ForecastPanel

__all__ = [
    "BuildPanel",
    "CatalogBrowser",
    "CommitPicker",
    "DiagnosisPanel",
    "ForecastPanel",
    "Job",
    "JobState",
    "Lab",
    "LogView",
    "MachinePanel",
    "Panel",
]

_HOMES = {
    "BuildPanel": "buildvm_nb.nb.build",
    "CatalogBrowser": "buildvm_nb.nb.browser",
    "CommitPicker": "buildvm_nb.nb.commit",
    "DiagnosisPanel": "buildvm_nb.nb.study",
    "ForecastPanel": "buildvm_nb.nb.study",
    "Job": "buildvm_nb.nb.jobs",
    "JobState": "buildvm_nb.nb.jobs",
    "Lab": "buildvm_nb.nb.lab",
    "LogView": "buildvm_nb.nb.log",
    "MachinePanel": "buildvm_nb.nb.machine",
    "Panel": "buildvm_nb.nb.panel",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
