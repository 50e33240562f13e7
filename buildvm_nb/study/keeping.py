"""What is kept of a case that is prepared and built: under which key, and how much of it."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.instants import now
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.model.outcome import StepRecord, Verdict
from buildvm_nb.study.inputs import Inputs
from buildvm_nb.study.steps import Log
from buildvm_nb.study.trial import Setting, Trial, attempt
from buildvm_nb.vm import BootFiles, find_emulator

__all__ = ["KINDS", "evict", "home_of", "keep", "split_steps"]

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

    Parameters
    ----------
    case : Case
        With one step at least.

    Returns
    -------
    tuple of two tuples of Step
        Prepare and build, then test; a case without a test runs all its steps in every fork.
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

    Parameters
    ----------
    setting : Setting
        The case.
    kind : str
        One of `KINDS`.
    spec : MachineSpec
        Where prepare and build run.
    boot : BootFiles
        What that machine boots from.
    inputs : Inputs
        The case's sources.
    make : callable
        Gets an empty directory and an empty log, runs the steps, fills the directory where they
        pass, and returns what came of them.

    Returns
    -------
    tuple of Path and tuple of StepRecord, or Trial
        The directory and what the steps did; a trial (not finished) where they did not pass, or a
        machine broke.

    Raises
    ------
    UsageError, SourceError, HostError
        If the machine's image or kernel cannot be had, or the cache cannot be written.
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

    Parameters
    ----------
    case : Case
        Says so with ``prepare_on``.
    spec : MachineSpec
        The machine that the study starts from.

    Returns
    -------
    MachineSpec or None
        None: in each machine anew.
    """
    carried = case.prepare_on == "once" and bool(split_steps(case)[0])
    return spec if carried else None


def evict(cache: Cache, *, keep: str = "") -> tuple[str, ...]:
    """Remove prepared machines and built directories: unused for 30 days, or too much in all.

    Parameters
    ----------
    cache : Cache
        Holds them; ``BUILDVM_CHECKPOINTS_GIB`` says how many GiB of them, by default 10.
    keep : str
        Key of one that stays in any case.

    Returns
    -------
    tuple of str
        Keys of those removed.

    Raises
    ------
    UsageError
        If the variable is no number.
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
