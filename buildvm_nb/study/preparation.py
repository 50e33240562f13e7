"""Machines that have a case prepared and built in them, frozen in the cache, and their forks."""

from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from buildvm_nb.errors import LaunchError, MachineError, StateError
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import StepRecord, Verdict
from buildvm_nb.study.environment import open_machine, prepare
from buildvm_nb.study.inputs import Inputs
from buildvm_nb.study.keeping import keep, split_steps
from buildvm_nb.study.recording import broken, judged
from buildvm_nb.study.steps import Log, run_steps
from buildvm_nb.study.trial import Part, Setting, Trial, attempt, run_part
from buildvm_nb.vm import BootFiles, BuildMachine, Checkpoint

__all__ = ["Prepared", "prepare_case", "run_fork"]

_KIND = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A case prepared and built in a machine that is frozen now."""

    spec: MachineSpec
    """That machine; its date is when the case was prepared."""
    boot: BootFiles
    """What it was booted from."""
    place: Path
    steps: tuple[StepRecord, ...]
    """What prepare and build did."""

    def checkpoint(self) -> Checkpoint:
        """Return the frozen machine, verified.

        Returns
        -------
        Checkpoint
            Whole.

        Raises
        ------
        StateError
            If it is damaged, or was evicted meanwhile.
        """
        try:
            status = (self.place / "machine.json").stat()
        except OSError as error:
            raise StateError(f"the checkpoint is gone: {self.place}") from error
        return _verified(self.place, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _verified(place: Path, size: int, changed_ns: int) -> Checkpoint:  # noqa: ARG001 - the key
    return Checkpoint.read(place)


class _UnusableError(Exception):
    """A checkpoint from which no machine comes up."""

    def __init__(self, reason: MachineError) -> None:
        super().__init__()
        self.reason = reason


def prepare_case(setting: Setting, spec: MachineSpec, inputs: Inputs) -> Prepared | Trial:
    """Have a frozen machine in which a case's prepare and build have passed.

    Parameters
    ----------
    setting : Setting
        The case.
    spec : MachineSpec
        The machine; no fork should go to a date before its own.
    inputs : Inputs
        The case's sources.

    Returns
    -------
    Prepared or Trial
        A trial (not finished) where prepare or build did not pass, or a machine broke.

    Raises
    ------
    UsageError, SourceError, HostError
        If the machine's image or kernel cannot be had, or the cache cannot be written.
    """
    boot = prepare(spec, cache=setting.cache, progress=setting.progress)
    kept = keep(
        setting,
        _KIND,
        spec,
        boot,
        inputs,
        lambda work, log: _freeze(setting, spec, inputs, work, log),
    )
    if isinstance(kept, Trial):
        return kept
    place, steps = kept
    return Prepared(spec=spec, boot=boot, place=place, steps=steps)


def run_fork(
    setting: Setting,
    spec: MachineSpec,
    inputs: Inputs,
    prepared: Prepared,
    *,
    held: bool = False,
) -> Trial:
    """Resume a prepared machine at another date and run the case's test in it.

    A checkpoint that turns out to be unusable is made again, once.

    Parameters
    ----------
    setting : Setting
        The case.
    spec : MachineSpec
        As the prepared one but for the date.
    inputs : Inputs
        The case's sources.
    prepared : Prepared
        The frozen machine.
    held : bool
        Hold the clock at the date while the test runs.

    Returns
    -------
    Trial
        Its outcome is not finished yet.

    Raises
    ------
    UsageError, SourceError, HostError
        If the machine's image or kernel cannot be had, or the cache cannot be written.
    """
    for last in (False, True):
        try:
            return attempt(
                setting,
                spec,
                lambda log: _resume(setting, spec, inputs, prepared, log, held=held),
            )
        except _UnusableError as error:
            if last:
                return Trial(outcome=broken(setting.case, spec, error.reason), log=b"")
        setting.cache.remove(_KIND, prepared.place.name)
        again = prepare_case(setting, prepared.spec, inputs)
        if isinstance(again, Trial):
            return again
    raise AssertionError("unreachable")


def _freeze(setting: Setting, spec: MachineSpec, inputs: Inputs, work: Path, log: Log) -> Trial:
    """Boot, prepare, build and freeze."""
    before, _ = split_steps(setting.case)
    machine = open_machine(
        spec, cache=setting.cache, progress=setting.progress, provision=inputs.provision
    )
    with closing(machine):
        machine.boot()
        judgement = run_steps(machine, setting.case, inputs.top, log, steps=before)
        trial = Trial(outcome=judged(setting.case, machine, judgement, ()), log=log.data)
        if judgement.verdict is Verdict.PASSED:
            machine.freeze(work)
    return trial


def _resume(
    setting: Setting,
    spec: MachineSpec,
    inputs: Inputs,
    prepared: Prepared,
    log: Log,
    *,
    held: bool,
) -> Trial:
    """Resume, run the steps after the checkpoint, conclude."""
    _, after = split_steps(setting.case)
    try:
        machine = BuildMachine(
            spec,
            prepared.boot,
            cache=setting.cache,
            provision=inputs.provision,
            checkpoint=prepared.checkpoint(),
        )
        machine.boot()
    except (StateError, LaunchError) as error:
        raise _UnusableError(error) from error
    with closing(machine):
        part = Part(steps=after, earlier=prepared.steps, held=held)
        return run_part(setting, machine, inputs, part, log)
