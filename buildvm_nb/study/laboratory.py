"""A laboratory: one case, run wherever it is asked for, with no answer bought twice."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from buildvm_nb.errors import BudgetSpent
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.environment import prepare
from buildvm_nb.study.inputs import gather
from buildvm_nb.study.probe import Order, order_key, run_probe
from buildvm_nb.vm import find_emulator

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog
    from buildvm_nb.study.trial import Trial

__all__ = ["Laboratory", "OnOutcome"]

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
        self._digests: dict[tuple[str, str], tuple[str, str]] = {}
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
            raise BudgetSpent(
                f"the budget of {self.budget} runs is spent", hint="a larger --budget"
            )
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
        futures: dict[Future[Trial], str] = {
            self._executor.submit(run_probe, order, self._root, self.base): key
            for key, order in orders.items()
        }
        answers = {}
        try:
            for future in as_completed(futures):
                trial = future.result()
                outcome = trial.outcome.model_copy(update={"study": self.study})
                outcome = self._catalog.record(outcome, trial.log)
                self.runs += 1
                answers[futures[future]] = self._known[futures[future]] = outcome
                self._tell(outcome, False)  # noqa: FBT003 - a callback's plain argument
        finally:
            for future in futures:
                future.cancel()
        return answers

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
        """Tell whether image, kernel and engine are what they would be now."""
        spec = outcome.machine
        place = (str(spec.image), spec.kernel)
        if place not in self._digests:
            boot = prepare(spec, cache=self.cache, progress=self.progress)
            self._digests[place] = (boot.image_digest, boot.kernel_digest)
        environment = outcome.environment
        engine = f"qemu {find_emulator(self.cache.root).version}"
        return (
            (outcome.image_digest, outcome.kernel_digest) == self._digests[place]
            and environment is not None
            and environment.engine == engine
        )
