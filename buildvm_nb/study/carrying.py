"""Software built in one machine and run in another: its build directory is carried over."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.study.environment import open_machine, prepare
from buildvm_nb.study.inputs import Inputs
from buildvm_nb.study.keeping import keep, split_steps
from buildvm_nb.study.steps import Log
from buildvm_nb.study.trial import Part, Setting, Trial, run_once, run_part

__all__ = ["run_carried"]

_KIND = "built"
_FILE = "built.squashfs"


def run_carried(
    setting: Setting, spec: MachineSpec, inputs: Inputs, home: MachineSpec, *, held: bool = False
) -> Trial:
    """Prepare and build a case in one machine, once, and run its test in another.

    Only the build directory is carried over: what steps install elsewhere stays behind.

    Parameters
    ----------
    setting : Setting
        The case.
    spec : MachineSpec
        Where the test runs.
    inputs : Inputs
        The case's sources.
    home : MachineSpec
        Where prepare and build run.
    held : bool
        Hold the clock at the date while the test runs.

    Returns
    -------
    Trial
        Its outcome is not finished yet. Where prepare or build do not pass at home, it is about
        that machine.

    Raises
    ------
    UsageError, SourceError, HostError
        If a machine's image or kernel cannot be had, or the cache cannot be written.
    """
    boot = prepare(home, cache=setting.cache, progress=setting.progress)
    kept = keep(
        setting,
        _KIND,
        home,
        boot,
        inputs,
        lambda work, log: _build(setting, home, inputs, work, log),
    )
    if isinstance(kept, Trial):
        return kept
    place, earlier = kept
    built = replace(inputs.provision, inputs=None, built=place / _FILE)
    _, after = split_steps(setting.case)
    part = Part(steps=after, earlier=earlier, held=held)
    return run_once(setting, spec, replace(inputs, provision=built), part)


def _build(setting: Setting, home: MachineSpec, inputs: Inputs, work: Path, log: Log) -> Trial:
    before, _ = split_steps(setting.case)
    machine = open_machine(
        home, cache=setting.cache, progress=setting.progress, provision=inputs.provision
    )
    with closing(machine):
        machine.boot()
        unexported = replace(setting, case=setting.case.model_copy(update={"artifacts": ()}))
        trial = run_part(unexported, machine, inputs, Part(steps=before), log)
        if trial.outcome.verdict is Verdict.PASSED:
            machine.export_built(work / _FILE)
    return trial
