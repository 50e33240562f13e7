"""Notebook widgets: pick a commit and a date, boot a machine, build, record."""

from typing import TYPE_CHECKING

from buildvm_nb.lazy import passed_on

if TYPE_CHECKING:
    from buildvm_nb.nb.browser import CatalogBrowser as CatalogBrowser
    from buildvm_nb.nb.build import BuildPanel as BuildPanel
    from buildvm_nb.nb.commit import CommitPicker as CommitPicker
    from buildvm_nb.nb.jobs import Job as Job
    from buildvm_nb.nb.jobs import JobState as JobState
    from buildvm_nb.nb.lab import Lab as Lab
    from buildvm_nb.nb.log import LogView as LogView
    from buildvm_nb.nb.machine import MachinePanel as MachinePanel
    from buildvm_nb.nb.panel import Panel as Panel
    from buildvm_nb.nb.study import DiagnosisPanel as DiagnosisPanel
    from buildvm_nb.nb.study import ForecastPanel as ForecastPanel
else:  # else a type checker would take any name for an attribute
    __getattr__, __dir__ = passed_on(__name__, __file__)
