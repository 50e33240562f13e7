"""A laboratory: one case, run wherever it is asked for, with no answer bought twice."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import BudgetSpent, BuildVMError, HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import Accelerator
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.cells import compared, trial_of
from buildvm_nb.study.environment import engine_for, prepare
from buildvm_nb.study.inputs import gather
from buildvm_nb.study.probe import Order, order_key, run_probe
from buildvm_nb.study.recording import Basis, as_host_error, broken, unavailable
from buildvm_nb.study.trial import Trial

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = ["Laboratory", "OnOutcome", "Within"]

OnOutcome = Callable[[Outcome, bool], None]
"""Gets each outcome as it comes, and whether the catalog had it already."""

_SAYS_NOTHING = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})


class Laboratory:
    """Runs a case and remembers every answer.

    Parameters
    ----------
    case : Case
        Under study.
    cache : Cache
        Keeps sources, images, kernels and checkpoints.
    catalog : Catalog
        Gets every outcome as it comes, and is asked for those that it has.
    executor : Executor
        Where runs are executed.
    workers : int
        How many runs go on side by side.
    base : Path
        Directory that relative paths of the case are below.
    progress : Progress
        Shows what is being fetched or made.
    on_outcome : callable, optional
        Gets each outcome as it comes.
    fresh : bool
        Do not reuse what the catalog has.
    is_remote : bool
        Whether the executor's workers have caches of their own.
    study : str, optional
        Identifier under which outcomes are recorded.
    budget : int, optional
        Guest runs at most, whatever asks for them; may be set later.

    Raises
    ------
    SourceError
        If a source cannot be had.
    HostError
        If this host lacks something.
    """

    def __init__(  # noqa: PLR0913 - what a study needs; the last five have defaults
        self,
        case: Case,
        *,
        cache: Cache,
        catalog: "Catalog",
        executor: Executor,
        workers: int = 1,
        base: Path = Path(),
        progress: Progress = SILENT,
        on_outcome: OnOutcome | None = None,
        fresh: bool = False,
        is_remote: bool = False,
        study: str | None = None,
        budget: int | None = None,
    ) -> None:
        self.case = case
        self.cache = cache
        self.workers = workers
        self.is_remote = is_remote
        self.base = base.absolute()
        self.study = study
        self.budget = budget
        self.progress = progress
        self.runs = 0
        self.evidence: dict[str, Outcome] = {}
        self._catalog = catalog
        self._is_fresh = fresh
        self._executor = executor
        self._tell = on_outcome or (lambda _outcome, _known: None)
        self._root = None if is_remote else cache.root
        self._digests: dict[tuple[str, str, bool], tuple[str, str]] = {}
        self._sources: dict[str, tuple[str, ...]] = {}
        self.inputs = gather(case, cache=cache, base=self.base, progress=progress)
        self._known: dict[str, Outcome] = {} if fresh else dict(self._recorded())
        self._loaded = {case.build_digest()}
        """Cases whose answers in the catalog are known; variants are of other git commits."""

    def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer orders, side by side where there are workers.

        An error says nothing about the case, so it is tried once more.

        Parameters
        ----------
        orders : sequence of Order
            Of this laboratory's case, or variants of it.

        Returns
        -------
        list of Outcome
            In the order of the orders, each recorded in the catalog.

        Raises
        ------
        UsageError
            If an order is wrong.
        BudgetSpent
            If more runs are needed than may be made; then none is.
        HostError
            If the executor breaks.
        CatalogError
            If an outcome cannot be recorded.
        """
        keys = [order_key(order) for order in orders]
        answers: dict[str, Outcome] = {}
        for key in dict.fromkeys(keys):
            if (outcome := self._recall(key, orders[keys.index(key)].case)) is not None:
                answers[key] = outcome
        missing = {
            key: order for key, order in zip(keys, orders, strict=True) if key not in answers
        }
        if len(missing) > self._left():
            raise _spent(self.budget)
        answers |= self._run_all(missing)
        failed = [key for key in missing if answers[key].verdict is Verdict.ERROR]
        answers |= self._run_all({key: missing[key] for key in failed[: self._left()]})
        self.evidence |= {answers[key].id: answers[key] for key in keys}
        return [answers[key] for key in keys]

    def log(self, outcome: Outcome) -> str:
        """Return what an outcome's steps printed.

        Parameters
        ----------
        outcome : Outcome
            Of this laboratory.

        Returns
        -------
        str
            Empty where there is no log.
        """
        if not outcome.log_digest:
            return ""
        return self._catalog.log(outcome.log_digest).decode(errors="replace")

    def _left(self) -> int:
        """Return how many more runs may be made."""
        return sys.maxsize if self.budget is None else max(0, self.budget - self.runs)

    def _run_all(self, orders: dict[str, Order]) -> dict[str, Outcome]:
        """Run orders and record what comes of them; a worker that breaks is an error of its run."""
        answers = {}
        pinned: dict[str, Order] = {}
        for key, order in orders.items():
            try:
                pinned[key] = order.model_copy(update={"basis": self._basis(order)})
            except UsageError:
                raise
            except SourceError as error:
                trial = Trial(outcome=unavailable(order.case, order.machine, error), log=b"")
                answers[key] = self._record(key, order, trial)
            except (BuildVMError, OSError) as error:
                if isinstance(error, OSError):
                    error = as_host_error(error, self.cache)
                trial = Trial(outcome=broken(order.case, order.machine, error), log=b"")
                answers[key] = self._record(key, order, trial)
        futures = {self._submit(order): (key, order) for key, order in pinned.items()}
        try:
            for future in as_completed(futures):
                self.runs += 1
                key, order = futures[future]
                trial = trial_of(future, order.case, order.machine)
                answers[key] = self._record(key, order, compared(order.basis, trial))
        finally:
            for future in futures:
                future.cancel()
        return answers

    def _submit(self, order: Order) -> Future[Trial]:
        try:
            return self._executor.submit(run_probe, order, self._root, self.base)
        except (BrokenExecutor, RuntimeError) as error:
            raise HostError(
                f"the executor takes no more runs: {error}",
                hint="what has ended is in the catalog: the same study goes on from there",
            ) from error

    def _record(self, key: str, order: Order, trial: Trial) -> Outcome:
        drift_s = trial.outcome.probing.drift_s
        changes = {
            "study": self.study,
            "probing": order.probing.model_copy(update={"drift_s": drift_s}),
        }
        outcome = self._catalog.record(trial.outcome.model_copy(update=changes), trial.log)
        self._known[key] = outcome
        self._tell(outcome, False)  # noqa: FBT003 - a callback's plain argument
        return outcome

    def _recall(self, key: str, case: Case) -> Outcome | None:
        digest = case.build_digest()
        if digest not in self._loaded and not self._is_fresh:
            self._loaded.add(digest)
            self._known |= {order_key(one): one for one in self._catalog.answers(digest)}
        outcome = self._known.get(key)
        if outcome is None or outcome.verdict in _SAYS_NOTHING or not self._fits(outcome):
            return None
        if outcome.id not in self.evidence:
            self._tell(outcome, True)  # noqa: FBT003 - a callback's plain argument
        return outcome

    def _recorded(self) -> Iterator[tuple[str, Outcome]]:
        """Iterate over the catalog's answers on these very sources, the newest last."""
        digests = tuple(one.record.digest for one in self.inputs.fetched)
        for outcome in self._catalog.answers(self.case.build_digest()):
            if tuple(record.digest for record in outcome.sources) == digests:
                yield order_key(outcome), outcome

    def _fits(self, outcome: Outcome) -> bool:
        """Tell whether it was made with what would be taken now."""
        try:
            return not self._basis(outcome).difference(outcome)
        except (
            SourceError,
            HostError,
            OSError,
        ):  # what cannot be had now is told by a run of its own
            return False

    def _basis(self, order: Order | Outcome) -> Basis:
        """Return what a run must be made with, whoever makes it, as long as this study lasts."""
        spec = order.machine
        place = (str(spec.image), spec.kernel, spec.accelerator is Accelerator.UML)
        if place not in self._digests:
            boot = prepare(spec, cache=self.cache, progress=self.progress)
            self._digests[place] = (boot.image_digest, boot.kernel_digest)
        image, kernel = self._digests[place]
        return Basis(
            image_digest=image,
            kernel_digest=kernel,
            source_digests=self._sources_of(order.case),
            engine=engine_for(spec, self.cache, self.progress),
        )

    def _sources_of(self, case: Case) -> tuple[str, ...]:
        """Return the digests of a case's sources, fetched here once: variants have others."""
        digest = case.build_digest()
        if digest not in self._sources:
            own = digest == self.case.build_digest()
            inputs = self.inputs if own else gather(case, cache=self.cache, base=self.base)
            self._sources[digest] = tuple(one.record.digest for one in inputs.fetched)
        return self._sources[digest]


class Within:
    """A laboratory, or what stands in for one, that makes no more runs than it was allowed.

    A laboratory keeps its own budget, to the retries of what broke. What stands in for one need
    not: so nothing is handed on once the budget is spent, and no more at once than is left.
    """

    def __init__(self, lab: Laboratory, budget: int | None) -> None:
        lab.budget = budget
        self._lab = lab
        self._budget = sys.maxsize if budget is None else budget
        self._answers: dict[str, Outcome] = {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a laboratory has
        return getattr(self._lab, name)

    def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer orders as a laboratory does; what was answered before is free."""
        keys = [order_key(order) for order in orders]
        waiting = {
            key: order
            for key, order in zip(keys, orders, strict=True)
            if key not in self._answers or self._answers[key].verdict in _SAYS_NOTHING
        }
        while waiting:
            left = self._budget - self._lab.runs
            if left <= 0:
                raise _spent(self._budget)
            part = dict(islice(waiting.items(), left))
            self._answers |= zip(part, self._lab.run(list(part.values())), strict=True)
            waiting = dict(islice(waiting.items(), left, None))
        return [self._answers[key] for key in keys]


def _spent(budget: int | None) -> BudgetSpent:
    return BudgetSpent(f"the budget of {budget} runs is spent", hint="a larger --budget")
