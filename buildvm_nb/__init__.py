"""When, on which CPU and on which kernel software stops building, and where it still builds.

The public names are imported when they are first used, so that ``import buildvm_nb`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from buildvm_nb.api import at_commit, build, diagnose, forecast, run, sweep
    from buildvm_nb.batch import run_batch
    from buildvm_nb.catalog import Catalog, load_case
    from buildvm_nb.host.cache import Cache
    from buildvm_nb.model.case import Case
    from buildvm_nb.model.machine import MachineSpec
    from buildvm_nb.model.outcome import Outcome, Verdict
    from buildvm_nb.nb.lab import lab
    from buildvm_nb.study import open_machine, run_case
    from buildvm_nb.study.choice import Choice
    from buildvm_nb.study.choosing import environment
    from buildvm_nb.vm import BuildMachine

__all__ = [
    "BuildMachine",
    "Cache",
    "Case",
    "Catalog",
    "Choice",
    "MachineSpec",
    "Outcome",
    "Verdict",
    "at_commit",
    "build",
    "diagnose",
    "environment",
    "forecast",
    "lab",
    "load_case",
    "open_machine",
    "run",
    "run_batch",
    "run_case",
    "sweep",
]

_HOMES = {
    "BuildMachine": "buildvm_nb.vm",
    "Cache": "buildvm_nb.host.cache",
    "Case": "buildvm_nb.model.case",
    "Catalog": "buildvm_nb.catalog",
    "Choice": "buildvm_nb.study.choice",
    "MachineSpec": "buildvm_nb.model.machine",
    "Outcome": "buildvm_nb.model.outcome",
    "Verdict": "buildvm_nb.model.outcome",
    "at_commit": "buildvm_nb.api",
    "build": "buildvm_nb.api",
    "diagnose": "buildvm_nb.api",
    "environment": "buildvm_nb.study.choosing",
    "forecast": "buildvm_nb.api",
    "lab": "buildvm_nb.nb.lab",
    "load_case": "buildvm_nb.catalog",
    "open_machine": "buildvm_nb.study",
    "run": "buildvm_nb.api",
    "run_batch": "buildvm_nb.batch",
    "run_case": "buildvm_nb.study",
    "sweep": "buildvm_nb.api",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
