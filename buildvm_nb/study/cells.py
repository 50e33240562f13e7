"""Runs on workers: one with another image, kernel, source or QEMU says nothing about a case."""

import os
import socket
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from buildvm_nb.errors import BuildVMError, HostError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.facts import host_facts
from buildvm_nb.image import build_image
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.environment import engine_for, kernel_for
from buildvm_nb.study.grid import Cell
from buildvm_nb.study.recording import Basis
from buildvm_nb.study.trial import Trial, run_case

__all__ = ["broken_run", "check_basis", "compared", "run_cell", "trial_of", "worker"]


def run_cell(cell: Cell, cache_root: Path | None, base: Path) -> Trial:
    """Run a cell on this host.

    A difference to what the cell says it must run with, and whatever else this host lacks, is an
    error that names the host: never a verdict about the case.

    Parameters
    ----------
    cell : Cell
        What to run.
    cache_root : Path or None
        This host's cache; None: the user's.
    base : Path
        Directory that relative paths of the case are below.

    Returns
    -------
    Trial
        Outcome and log.
    """
    try:
        cache = Cache(cache_root)
        check_basis(cell.basis, cell.machine, cache)
        trial = run_case(cell.case, dict(cell.machine), cache=cache, base=base)
    except (BuildVMError, OSError) as error:
        return broken_run(cell.case, cell.machine, f"{worker()}: {error}")
    return compared(cell.basis, trial)


def trial_of(future: Future[Trial], case: Case, spec: MachineSpec) -> Trial:
    """Return what a worker gave; one that breaks, in whatever way, ran nothing.

    Parameters
    ----------
    future : Future
        Done.
    case, spec : Case, MachineSpec
        What was to be run.

    Returns
    -------
    Trial
        With the verdict `Verdict.ERROR` where nothing was given.

    Raises
    ------
    UsageError
        If the request was wrong: no worker can do it.
    """
    try:
        return future.result()
    except UsageError:
        raise
    except CancelledError:
        return broken_run(case, spec, "the executor dropped it: was the cluster restarted?")
    except Exception as error:  # noqa: BLE001 - of an executor of any kind
        return broken_run(case, spec, f"the worker broke: {type(error).__name__}: {error}")


def broken_run(case: Case, spec: MachineSpec, reason: str) -> Trial:
    """Tell that something could not be run.

    Parameters
    ----------
    case, spec : Case, MachineSpec
        What was to be run.
    reason : str
        Why, in a sentence.

    Returns
    -------
    Trial
        With the verdict `Verdict.ERROR`.
    """
    outcome = Outcome(
        case=case,
        machine=spec,
        verdict=Verdict.ERROR,
        reason=reason,
        host=host_facts(),
        tool_version=version("buildvm-nb"),
    )
    return Trial(outcome=outcome, log=b"")


def check_basis(basis: Basis, spec: MachineSpec, cache: Cache) -> None:
    """Make image and kernel here, and compare them before anything runs.

    Parameters
    ----------
    basis : Basis
        What a run must be made with.
    spec : MachineSpec
        The machine.
    cache : Cache
        Of this host.

    Raises
    ------
    HostError
        If this host has others, or another QEMU.
    UsageError, SourceError
        If they cannot be had.
    """
    if basis.image_digest:
        seen = build_image(spec.image, cache).digest
        _require(f"image {spec.image}", seen, basis.image_digest, "`buildvm image rm` and build")
    if basis.kernel_digest:
        seen = kernel_for(spec, cache).path.name
        refresh = f"`buildvm kernels --fetch {spec.kernel} --refresh`"
        _require(f"kernel {spec.kernel}", seen, basis.kernel_digest, refresh)
    if basis.engine and (seen := engine_for(spec, cache)) != basis.engine:
        raise HostError(
            f"QEMU is another one here: {seen}; the study's is {basis.engine}",
            hint="install the same version of QEMU on all hosts",
        )


def _require(what: str, seen: str, expected: str, remedy: str) -> None:
    if seen != expected:
        raise HostError(
            f"{what} is another one here: its digest is {seen}; the study's is {expected}",
            hint=f"make it anew on both hosts from the same state of the mirror: {remedy}",
        )


def compared(basis: Basis, trial: Trial) -> Trial:
    """Take a verdict back where it was made with something else than the study has.

    Parameters
    ----------
    basis : Basis
        What it must have been made with.
    trial : Trial
        From whomever.

    Returns
    -------
    Trial
        With the verdict `Verdict.ERROR` where it differs.
    """
    outcome = trial.outcome
    if outcome.verdict is Verdict.ERROR:
        return trial
    if outcome.verdict is Verdict.UNAVAILABLE:
        if not basis.source_digests:
            return trial
        reason = f"a worker cannot have the sources, which are here: {outcome.reason}"
    elif difference := basis.difference(outcome):
        reason = f"a worker has {difference}"
    else:
        return trial
    changes = {"verdict": Verdict.ERROR, "reason": reason, "failing_step": None}
    return replace(trial, outcome=outcome.model_copy(update=changes))


def worker() -> str:
    """Name this host and process.

    Returns
    -------
    str
        For an error that is about them.
    """
    return f"worker {socket.gethostname()} (process {os.getpid()})"
