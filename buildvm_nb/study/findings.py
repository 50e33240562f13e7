"""A whole diagnosis: a laboratory opened, questions asked, the finding recorded."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.study.diagnose import diagnose
from buildvm_nb.study.environment import prepare
from buildvm_nb.study.executors import is_local, open_executor
from buildvm_nb.study.jobs import default_jobs, fit_jobs
from buildvm_nb.study.laboratory import Laboratory, OnOutcome
from buildvm_nb.study.questions import Questions, refuse_fixed
from buildvm_nb.study.trial import machine_for

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = ["diagnose_case", "open_laboratory"]

_DEFAULT_QUESTIONS = Questions()


def diagnose_case(  # noqa: PLR0913 - all but the case have defaults or are places
    case: Case,
    questions: Questions = _DEFAULT_QUESTIONS,
    overrides: Mapping[str, Any] | None = None,
    *,
    cache: Cache,
    catalog: "Catalog",
    executor: Executor | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    base: Path = Path(),
    progress: Progress = SILENT,
    on_outcome: OnOutcome | None = None,
    fresh: bool = False,
) -> Finding:
    """Find out when, on which CPU and on which kernel a case stops building, and record it.

    Every answer is recorded as it comes, so that a diagnosis that was interrupted goes on where it
    was when it is asked for again.

    Parameters
    ----------
    case : Case
        Under study.
    questions : Questions
        What to find out, and how hard to try.
    overrides : mapping, optional
        Fields of `MachineSpec` that hold for every machine; no date where dates are varied.
    cache : Cache
        Keeps sources, images, kernels and checkpoints; a remote worker has its own.
    catalog : Catalog
        Gets outcomes and the finding, and is asked for what it has.
    executor : Executor, optional
        Where runs are executed, of any kind; it is not shut down. By default one is opened.
    jobs : int, optional
        Guests side by side; by default as many as there are cores and fit into memory.
    scheduler : str, optional
        Address of a Dask scheduler to use instead.
    base : Path
        Directory that relative paths of the case are below.
    progress : Progress
        Shows what is being fetched or made.
    on_outcome : callable, optional
        Gets each outcome as it comes, and whether the catalog had it already.
    fresh : bool
        Run everything anew.

    Returns
    -------
    Finding
        As recorded.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a source, a package or a kernel cannot be had.
    HostError
        If this host lacks something, or the executor breaks.
    CatalogError
        If something cannot be recorded.
    """
    if Axis.DATE in questions.axes:
        refuse_fixed(overrides, ["date"], "a diagnosis of dates")
    with open_laboratory(
        case,
        overrides,
        cache=cache,
        catalog=catalog,
        executor=executor,
        jobs=jobs,
        scheduler=scheduler,
        base=base,
        progress=progress,
        on_outcome=on_outcome,
        fresh=fresh,
        study="diagnose",
    ) as lab:
        return catalog.record_finding(diagnose(lab, questions, overrides))


@contextmanager
def open_laboratory(  # noqa: PLR0913 - what `diagnose_case` takes, handed on
    case: Case,
    overrides: Mapping[str, Any] | None = None,
    *,
    cache: Cache,
    catalog: "Catalog",
    executor: Executor | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    base: Path = Path(),
    progress: Progress = SILENT,
    on_outcome: OnOutcome | None = None,
    fresh: bool = False,
    study: str,
) -> Iterator[Laboratory]:
    """Open a laboratory for a case, with its sources, image and kernel at hand.

    Parameters
    ----------
    case, overrides, cache, catalog, executor, jobs, scheduler, base, progress, on_outcome, fresh
        As for `diagnose_case`.
    study : str
        What the study does, in a word; outcomes are recorded under it and the case's digest.

    Yields
    ------
    Laboratory
        Until the context is left.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a source, a package or a kernel cannot be had.
    HostError
        If this host lacks something.
    """
    remote = scheduler is not None if executor is None else not is_local(executor)
    if scheduler is None:
        jobs = fit_jobs(jobs, machine_for(case, overrides or {}, None).memory_mib)
    with nullcontext(executor) if executor else open_executor(jobs, scheduler) as chosen:
        lab = Laboratory(
            case,
            cache=cache,
            catalog=catalog,
            executor=chosen,
            workers=jobs or default_jobs(),
            base=base,
            progress=progress,
            on_outcome=on_outcome,
            fresh=fresh,
            is_remote=remote,
            study=f"{study}-{case.build_digest()[:16]}",
        )
        own = machine_for(case, overrides or {}, lab.inputs.main)
        prepare(own, cache=cache, progress=progress)  # what cannot be had at all ends it here
        yield lab
