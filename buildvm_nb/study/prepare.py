"""Machines that have a case prepared and built in them, kept in the cache, and their forks."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from buildvm_nb.errors import BuildVMError, LaunchError, MachineError, StateError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.instants import now
from buildvm_nb.model.machine import Accelerator, Environment, MachineSpec
from buildvm_nb.model.outcome import StepRecord, Verdict
from buildvm_nb.study.run import (
    Inputs,
    Log,
    Output,
    Part,
    Setting,
    Trial,
    attempt,
    finish,
    gather,
    judged,
    known_cpu,
    machine_for,
    open_machine,
    prepare,
    run_once,
    run_part,
    run_steps,
    trouble,
)
from buildvm_nb.vm import BootFiles, BuildMachine, Checkpoint, find_emulator

__all__ = [
    "BootedCase",
    "Prepared",
    "boot_case",
    "evict",
    "home_of",
    "prepare_case",
    "run_carried",
    "run_fork",
    "split_steps",
]

# A case's machine that is booted first and runs the case later, when somebody says so.


class BootedCase:
    """A machine with a case's sources, up and not used yet; `boot_case` makes it."""

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

        `output`: gets the name of the step and what it prints, piece by piece.
        """
        began = time.monotonic()
        setting = Setting(case=self.case, cache=self._cache, progress=progress, output=output)
        log = setting.new_log()
        try:
            trial = run_part(setting, self.machine, self._inputs, Part(), log)
        except UsageError:
            raise
        except (BuildVMError, OSError) as error:
            trial = trouble(self.case, self.spec, error, self._cache, log.data)
        finally:
            self.close()
        return finish(trial, began, self._inputs)

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

    Returns: to be closed by the caller.
    """
    overrides = overrides or {}
    known_cpu(machine_for(case, overrides, None), cache)
    inputs = gather(case, cache=cache, base=base, progress=progress)
    spec = machine_for(case, overrides, inputs.main)
    machine = open_machine(spec, cache=cache, progress=progress, provision=inputs.provision)
    with progress.task(f"boot {spec.cpu} at {spec.date:%Y-%m-%d}"):
        machine.boot()
    return BootedCase(case, machine, inputs, cache)


# What is kept of a case that is prepared and built: under which key, and how much of it.

KINDS = ("checkpoints", "built")
"""Kinds of cache entries that are made again when they are missing, so that any may be removed."""

_RECIPE = 1
_LIMIT_VARIABLE = "BUILDVM_CHECKPOINTS_GIB"
_LIMIT_GIB = 10.0
_LONGEST_UNUSED = timedelta(days=30)
_NOT_PART_OF_A_MACHINE = {"name", "systems", "auto_start"}


class _NotPreparedError(Exception):
    """Carries the trial in which prepare or build did not pass out of the cache's making."""

    def __init__(self, trial: "Trial") -> None:
        super().__init__()
        self.trial = trial


def split_steps(case: Case) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Divide a case's steps into those before a checkpoint and those that run in every fork.

    `case`: with one step at least.
    Returns: prepare and build, then test; a case without a test runs all its steps in every fork.
    """
    if case.steps[-1].name != "test":
        return (), case.steps
    return case.steps[:-1], case.steps[-1:]


def keep(
    setting: Setting,
    kind: str,
    spec: MachineSpec,
    boot: BootFiles,
    inputs: Inputs,
    make: Callable[[Path, Log], Trial],
) -> tuple[Path, tuple[StepRecord, ...]] | Trial:
    """Have what prepare and build make of a case in the cache, made now if it is not there.

    `make`: gets an empty directory and an empty log, runs the steps, fills the directory where they
    pass, and returns what came of them.
    Returns: the directory and what the steps did; a trial (not finished) where they did not pass,
    or a machine broke.
    Raises `UsageError, SourceError, HostError` if the machine's image or kernel cannot be had, or
    the cache cannot be written.
    """

    def fill(work: Path) -> dict[str, Any]:
        trial = attempt(setting, spec, lambda log: make(work, log))
        if trial.outcome.verdict is not Verdict.PASSED:
            raise _NotPreparedError(trial)
        steps = [record.model_dump(mode="json") for record in trial.outcome.steps]
        return {"steps": steps, "log": trial.log.decode(errors="replace")}

    recipe = _recipe(setting, spec, inputs, boot)
    label = f"prepare {setting.case.id} on {spec.cpu}"
    try:
        place = setting.cache.entry(kind, recipe, fill, label=label, progress=setting.progress)
    except _NotPreparedError as error:
        return error.trial
    with suppress(OSError):  # a cache that may not be written, or that others clear as well
        os.utime(place)  # it is in use: evicted later than others
        evict(setting.cache, keep=place.name)
    records = setting.cache.record(place)["facts"]["steps"]
    return place, tuple(StepRecord.model_validate(record) for record in records)


def home_of(case: Case, spec: MachineSpec) -> MachineSpec | None:
    """Return where prepare and build run when a study varies the machine.

    Returns: None: in each machine anew.
    """
    carried = case.prepare_on == "once" and bool(split_steps(case)[0])
    return spec if carried else None


def evict(cache: Cache, *, keep: str = "") -> tuple[str, ...]:
    """Remove prepared machines and built directories: unused for 30 days, or too much in all.

    `cache`: holds them; ``BUILDVM_CHECKPOINTS_GIB`` says how many GiB of them, by default 10.
    """
    limit = _limit_bytes()
    found = [
        (place.stat().st_mtime_ns, kind, key, _size(place))
        for kind in KINDS
        for key, place in cache.entries(kind)
    ]
    used = sum(size for *_, size in found)
    oldest_ns = int((now() - _LONGEST_UNUSED).timestamp() * 1e9)
    removed = []
    for used_ns, kind, key, size in sorted(found):
        if used <= limit and used_ns >= oldest_ns:
            break
        if key != keep and cache.remove(kind, key):
            removed.append(key)
            used -= size
    return tuple(removed)


def _limit_bytes() -> float:
    text = os.environ.get(_LIMIT_VARIABLE, str(_LIMIT_GIB))
    try:
        limit = float(text)
    except ValueError as error:
        raise UsageError(f"{_LIMIT_VARIABLE} is no number: {text!r}; allowed: GiB") from error
    return limit * 2**30


def _size(place: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in place.iterdir())


def _recipe(setting: Setting, spec: MachineSpec, inputs: Inputs, boot: BootFiles) -> dict[str, Any]:
    """Write down everything that goes into a machine in which a case is prepared and built."""
    steps, _ = split_steps(setting.case)
    if spec.accelerator is Accelerator.UML:
        engine = ["uml", boot.kernel_digest]
    else:
        emulator = find_emulator(setting.cache.root)
        engine = [emulator.path, emulator.version]
    return {
        "recipe": _RECIPE,
        "machine": spec.model_dump(mode="json", exclude=_NOT_PART_OF_A_MACHINE),
        "image": boot.image_digest,
        "kernel": boot.kernel_digest,
        "initramfs": boot.initramfs.parent.name,
        "engine": engine,
        "steps": [step.model_dump(mode="json") for step in steps],
        "limits": setting.case.limits.model_dump(mode="json"),
        "sources": [one.record.digest for one in inputs.fetched],
        "places": [entry.path for entry in setting.case.inputs],
        "top": inputs.top,
    }


# Software built in one machine and run in another: its build directory is carried over.

_KIND = "built"
_FILE = "built.squashfs"


def run_carried(
    setting: Setting, spec: MachineSpec, inputs: Inputs, home: MachineSpec, *, held: bool = False
) -> Trial:
    """Prepare and build a case in one machine, once, and run its test in another.

    Only the build directory is carried over: what steps install elsewhere stays behind.

    Returns: its outcome is not finished yet. Where prepare or build do not pass at home, it is
    about that machine.
    Raises `UsageError, SourceError, HostError` if a machine's image or kernel cannot be had, or the
    cache cannot be written.
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


# Machines that have a case prepared and built in them, frozen in the cache, and their forks.

_PREPARED_KIND = "checkpoints"


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
        """Return the frozen machine, verified."""
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

    `spec`: the machine; no fork should go to a date before its own.
    Returns: a trial (not finished) where prepare or build did not pass, or a machine broke.
    Raises `UsageError, SourceError, HostError` if the machine's image or kernel cannot be had, or
    the cache cannot be written.
    """
    boot = prepare(spec, cache=setting.cache, progress=setting.progress)
    kept = keep(
        setting,
        _PREPARED_KIND,
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

    Raises `UsageError, SourceError, HostError` if the machine's image or kernel cannot be had, or
    the cache cannot be written.
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
                return trouble(setting.case, spec, error.reason, setting.cache)
        setting.cache.remove(_PREPARED_KIND, prepared.place.name)
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
