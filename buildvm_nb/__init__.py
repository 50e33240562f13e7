"""When, on which CPU and on which kernel software stops building, and where it still builds.

What notebooks need; docs/api.md has it in full. Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from buildvm_nb.lazy import passed_on

if TYPE_CHECKING:
    from buildvm_nb.api import build as build
    from buildvm_nb.api import diagnose as diagnose
    from buildvm_nb.api import forecast as forecast
    from buildvm_nb.api import run as run
    from buildvm_nb.api import sweep as sweep
    from buildvm_nb.catalog import Catalog as Catalog
    from buildvm_nb.errors import BuildVMError as BuildVMError
    from buildvm_nb.errors import CatalogError as CatalogError
    from buildvm_nb.errors import CommandFailed as CommandFailed
    from buildvm_nb.errors import HostError as HostError
    from buildvm_nb.errors import MachineError as MachineError
    from buildvm_nb.errors import SourceError as SourceError
    from buildvm_nb.errors import UsageError as UsageError
    from buildvm_nb.model.case import Case as Case
    from buildvm_nb.model.finding import Finding as Finding
    from buildvm_nb.model.finding import Forecast as Forecast
    from buildvm_nb.model.machine import MachineSpec as MachineSpec
    from buildvm_nb.model.outcome import Outcome as Outcome
    from buildvm_nb.nb.lab import lab as lab
    from buildvm_nb.study.choosing import environment as environment
    from buildvm_nb.study.sweep import SweepResult as SweepResult
    from buildvm_nb.vm import BuildMachine as BuildMachine
else:  # else a type checker would take any name for an attribute
    __getattr__, __dir__ = passed_on(__name__, __file__)
