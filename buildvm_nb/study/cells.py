"""One cell of a sweep, run where a worker is: with the same image, kernel and sources, or not."""

import os
import socket
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from buildvm_nb.errors import BuildVMError, HostError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.facts import host_facts
from buildvm_nb.image import build_image, fetch_kernel
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.grid import Cell
from buildvm_nb.study.trial import Trial, run_case

__all__ = ["broken_cell", "run_cell"]


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
        _check(cell, cache)
        trial = run_case(cell.case, dict(cell.machine), cache=cache, base=base)
    except BuildVMError as error:
        return broken_cell(cell, f"{_worker()}: {error}")
    return _compared(cell, trial)


def broken_cell(cell: Cell, reason: str) -> Trial:
    """Tell that a cell could not be run.

    Parameters
    ----------
    cell : Cell
        Which one.
    reason : str
        Why, in a sentence.

    Returns
    -------
    Trial
        With the verdict `Verdict.ERROR`.
    """
    outcome = Outcome(
        case=cell.case,
        machine=cell.machine,
        verdict=Verdict.ERROR,
        reason=reason,
        host=host_facts(),
        tool_version=version("buildvm-nb"),
    )
    return Trial(outcome=outcome, log=b"")


def _check(cell: Cell, cache: Cache) -> None:
    """Make image and kernel here, and compare them before anything runs."""
    spec = cell.machine
    if cell.image_digest:
        seen = build_image(spec.image, cache).digest
        _require(f"image {spec.image}", seen, cell.image_digest, "`buildvm image rm` and build")
    if cell.kernel_digest:
        seen = fetch_kernel(spec.kernel, cache).path.name
        refresh = f"`buildvm kernels --fetch {spec.kernel} --refresh`"
        _require(f"kernel {spec.kernel}", seen, cell.kernel_digest, refresh)


def _require(what: str, seen: str, expected: str, remedy: str) -> None:
    if seen != expected:
        raise HostError(
            f"{what} is another one here: its digest is {seen}; the sweep's is {expected}",
            hint=f"make it anew on both hosts from the same state of the mirror: {remedy}",
        )


def _compared(cell: Cell, trial: Trial) -> Trial:
    """Take a verdict back where the sources are not those that the sweep was planned with."""
    expected, outcome = cell.source_digests, trial.outcome
    seen = tuple(record.digest for record in outcome.sources)
    if expected is None or outcome.verdict is Verdict.ERROR or seen == expected:
        return trial
    if outcome.verdict is Verdict.UNAVAILABLE:
        reason = f"{_worker()} cannot have the sources, which were there before: {outcome.reason}"
    else:
        reason = (
            f"{_worker()} has other sources: their digests are {', '.join(seen)}; "
            f"the sweep's are {', '.join(expected)}"
        )
    changes = {"verdict": Verdict.ERROR, "reason": reason, "failing_step": None}
    return replace(trial, outcome=outcome.model_copy(update=changes))


def _worker() -> str:
    return f"worker {socket.gethostname()} (process {os.getpid()})"
