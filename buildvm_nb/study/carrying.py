"""Software built in one machine and run in another: its build directory is carried over."""

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import StepRecord, Verdict
from buildvm_nb.study.environment import open_machine, prepare
from buildvm_nb.study.inputs import Inputs
from buildvm_nb.study.keeping import NotPreparedError, evict, recipe_of, split_steps
from buildvm_nb.study.steps import Log
from buildvm_nb.study.trial import Part, Setting, Trial, attempt, run_once, run_part

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
    recipe = recipe_of(setting, home, inputs, boot)

    def make(work: Path) -> dict[str, Any]:
        trial = attempt(setting, home, lambda log: _build(setting, home, inputs, work, log))
        if trial.outcome.verdict is not Verdict.PASSED:
            raise NotPreparedError(trial)
        steps = [record.model_dump(mode="json") for record in trial.outcome.steps]
        return {"steps": steps, "log": trial.log.decode(errors="replace")}

    label = f"build {setting.case.id} on {home.cpu}"
    try:
        place = setting.cache.entry(_KIND, recipe, make, label=label, progress=setting.progress)
    except NotPreparedError as error:
        return error.trial
    os.utime(place)  # it is in use: evicted later than others
    evict(setting.cache, keep=place.name)
    records = setting.cache.record(place)["facts"]["steps"]
    earlier = tuple(StepRecord.model_validate(record) for record in records)
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
