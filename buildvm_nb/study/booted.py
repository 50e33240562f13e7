"""A case's machine that is booted first and runs the case later, when somebody says so."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildvm_nb.errors import BuildVMError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import Environment, MachineSpec
from buildvm_nb.study.environment import open_machine
from buildvm_nb.study.inputs import Inputs, gather
from buildvm_nb.study.recording import as_host_error, broken, finish
from buildvm_nb.study.steps import Output
from buildvm_nb.study.trial import Part, Setting, Trial, machine_for, run_part
from buildvm_nb.vm import BuildMachine, check_cpu, find_emulator

__all__ = ["BootedCase", "boot_case"]


class BootedCase:
    """A machine with a case's sources, up and not used yet; `boot_case` makes it.

    Parameters
    ----------
    case : Case
        What it was booted for.
    machine : BuildMachine
        Up.
    inputs : Inputs
        The case's sources.
    cache : Cache
        Where artifacts go through.
    """

    def __init__(self, case: Case, machine: BuildMachine, inputs: Inputs, cache: Cache) -> None:
        self.case = case
        self.machine = machine
        self._inputs = inputs
        self._cache = cache

    @property
    def spec(self) -> MachineSpec:
        """The machine as it was booted."""
        return self.machine.spec

    @property
    def environment(self) -> Environment:
        """What was proven in it."""
        return self.machine.environment

    def run(self, *, progress: Progress = SILENT, output: Output | None = None) -> Trial:
        """Run the case, once: the machine is ended, since a run leaves its marks in it.

        Parameters
        ----------
        progress : Progress
            Shows the steps.
        output : callable, optional
            Gets the name of the step and what it prints, piece by piece.

        Returns
        -------
        Trial
            With verdict ``error`` where machinery broke.

        Raises
        ------
        UsageError
            If the request is wrong.
        """
        began = time.monotonic()
        setting = Setting(case=self.case, cache=self._cache, progress=progress, output=output)
        log = setting.new_log()
        try:
            trial = run_part(setting, self.machine, self._inputs, Part(), log)
        except UsageError:
            raise
        except BuildVMError as error:
            outcome = broken(self.case, self.spec, error)
            trial = Trial(outcome=outcome, log=log.data)
        except OSError as error:
            outcome = broken(self.case, self.spec, as_host_error(error, self._cache))
            trial = Trial(outcome=outcome, log=log.data)
        finally:
            self.close()
        sources = tuple(one.record for one in self._inputs.fetched)
        return replace(trial, outcome=finish(trial.outcome, sources, began))

    def close(self) -> None:
        """End the machine; calling it twice does no harm."""
        self.machine.close()


def boot_case(
    case: Case,
    overrides: Mapping[str, Any] | None = None,
    *,
    cache: Cache,
    base: Path = Path(),
    progress: Progress = SILENT,
) -> BootedCase:
    """Fetch a case's sources and boot its machine.

    Parameters
    ----------
    case : Case
        What will be built.
    overrides : mapping, optional
        Fields of `MachineSpec`: where.
    cache : Cache
        Keeps sources, image and kernel.
    base : Path
        Directory that relative paths of the case are below.
    progress : Progress
        Shows what is being done.

    Returns
    -------
    BootedCase
        To be closed by the caller.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a source cannot be had.
    HostError, MachineError
        If this host or the machine does not do its part.
    """
    overrides = overrides or {}
    check_cpu(machine_for(case, overrides, None).cpu, find_emulator(cache.root))
    inputs = gather(case, cache=cache, base=base, progress=progress)
    spec = machine_for(case, overrides, inputs.main)
    machine = open_machine(spec, cache=cache, progress=progress, provision=inputs.provision)
    with progress.task(f"boot {spec.cpu} at {spec.date:%Y-%m-%d}"):
        machine.boot()
    return BootedCase(case, machine, inputs, cache)
