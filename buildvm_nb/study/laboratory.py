"""A laboratory: one case, run wherever it is asked for, with no answer bought twice."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import BudgetSpent, BuildVMError, HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.model.outcome import Outcome, Probing, Verdict
from buildvm_nb.model.value import Value, says
from buildvm_nb.study.executors import Means, OnOutcome
from buildvm_nb.study.prepare import Prepared, prepare_case, run_carried, run_fork
from buildvm_nb.study.run import (
    Basis,
    Inputs,
    Part,
    Setting,
    Trial,
    as_host_error,
    broken,
    engine_for,
    finish,
    gather,
    machine_for,
    prepare,
    run_once,
    unavailable,
)
from buildvm_nb.study.sweep import check_basis, compared, trial_of, worker

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = [
    "Laboratory",
    "Order",
    "Within",
    "claimed_line",
    "open_laboratory",
    "order_key",
    "quote_line",
    "run_probe",
]

# One probe: a case run once somewhere, plainly or in a fork; wherever an executor runs it.


class Order(Value):
    """What to run."""

    case: Case
    machine: MachineSpec
    probing: Probing = Probing()
    """With `Probing.prepared_at`, the test runs in a fork of a machine prepared at that date."""
    basis: Basis = Basis()
    """What it must be made with; by default anything."""


def order_key(order: Order | Outcome) -> str:
    """Return what tells two orders, or their outcomes, apart.

    Returns: equal for an order and its outcome.
    """
    probing = order.probing.model_copy(update={"drift_s": None})
    return f"{order.case.build_digest()} {order.machine.content_digest()} {probing!r}"


def run_probe(order: Order, cache_root: Path | None = None, base: Path = Path()) -> Trial:
    """Run an order on this host.

    `cache_root`: this host's cache; None: the user's.
    Returns: outcome and log; trouble of sources, host or machine is a verdict.
    """
    began = time.monotonic()
    inputs: Inputs | None = None
    cache = Cache(cache_root)
    try:
        _check(order, cache)
        inputs = _gather(order.case.model_dump_json(by_alias=True), cache.root, base)
        trial = _run(order, Setting(case=order.case, cache=cache), inputs)
    except UsageError:
        raise
    except SourceError as error:
        trial = Trial(outcome=unavailable(order.case, order.machine, error), log=b"")
    except BuildVMError as error:
        trial = Trial(outcome=broken(order.case, order.machine, error), log=b"")
    except OSError as error:
        told = as_host_error(error, cache)
        trial = Trial(outcome=broken(order.case, order.machine, told), log=b"")
    probing = order.probing.model_copy(update={"drift_s": trial.outcome.probing.drift_s})
    outcome = trial.outcome.model_copy(update={"probing": probing})
    sources = tuple(one.record for one in inputs.fetched) if inputs else ()
    return replace(trial, outcome=finish(outcome, sources, began))


def _check(order: Order, cache: Cache) -> None:
    try:
        check_basis(order.basis, order.machine, cache)
    except HostError as error:
        raise HostError(f"{worker()}: {error.message}", hint=error.hint) from error


def _run(order: Order, setting: Setting, inputs: Inputs) -> Trial:
    prepared_at, held = order.probing.prepared_at, order.probing.held
    home = order.probing.prepared_on
    if home is not None and home != order.machine:
        return run_carried(setting, order.machine, inputs, home, held=held)
    if prepared_at is None:
        return run_once(setting, order.machine, inputs, Part(held=held))
    spec = order.machine.model_copy(update={"date": prepared_at})
    prepared = _prepared(setting, spec, inputs)
    if isinstance(prepared, Trial):
        return _not_prepared(order, prepared)
    return run_fork(setting, order.machine, inputs, prepared, held=held)


def _not_prepared(order: Order, trial: Trial) -> Trial:
    """Take the verdict back: it is about another date than the one that was asked for."""
    reason = trial.outcome.reason
    if trial.outcome.verdict is not Verdict.ERROR:
        reason = f"not prepared, as at {order.probing.prepared_at:%Y-%m-%d} {reason}"
    changes = {"machine": order.machine, "verdict": Verdict.ERROR, "reason": reason}
    return replace(trial, outcome=trial.outcome.model_copy(update=changes))


@lru_cache(maxsize=32)
def _gather(document: str, root: Path, base: Path) -> Inputs:
    """Fetch the sources of a case once in this process."""
    case = Case.model_validate_json(document)
    return gather(case, cache=Cache(root), base=base)


_known: dict[tuple[str, str], Prepared] = {}
"""What this process has prepared, or found prepared: the way to a checkpoint costs 0.1 s."""


def _prepared(setting: Setting, spec: MachineSpec, inputs: Inputs) -> Prepared | Trial:
    key = (setting.case.build_digest(), spec.content_digest())
    prepared = _known.get(key)
    if prepared is None or not prepared.place.exists():
        made = prepare_case(setting, spec, inputs)
        if isinstance(made, Trial):
            return made
        prepared = _known[key] = made
    return prepared


_SAYS_NOTHING = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})


class Laboratory:
    """Runs a case and remembers every answer.

    `catalog`: gets every outcome as it comes, and is asked for those that it has.
    `budget`: guest runs at most, whatever asks for them; may be set later.
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

        Returns: in the order of the orders, each recorded in the catalog.
        Raises `UsageError` if an order is wrong.
        Raises `BudgetSpent` if more runs are needed than may be made; then none is.
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
        """Return what an outcome's steps printed."""
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


# Which line of the logs of failing runs shows what a claim says of them.


def claimed_line(lab: Laboratory, text: str, line: str, failed: Iterable[Outcome]) -> str:
    """Choose the line that shows why a case fails.

    A log may show several, and which one comes last may be a matter of chance.

    `text`: what a log is claimed to say; empty where nothing is claimed.
    Returns: the one that the claim quotes, where there is such a line.
    """
    if not text or quote_line(text, [line]):
        return line
    logs = (lab.log(outcome) for outcome in failed)
    evidence = (outcome.evidence for outcome in failed)
    return quote_line(text, chain(evidence, logs)) or line


def quote_line(text: str, logs: Iterable[str]) -> str:
    """Find a text in logs.

    `text`: what a log is claimed to say; how its words are spaced does not matter, nor do
    durations, addresses and the like.
    `logs`: in the order in which they are looked through.
    Returns: the first line that says it, or the text itself where only several lines together do;
    empty where no log does.
    """
    for log in logs:
        if found := next((line for line in log.splitlines() if says(line, text)), ""):
            return found.strip()
        if says(log, text):
            return text
    return ""


@contextmanager
def open_laboratory(
    case: Case,
    means: Means,
    overrides: Mapping[str, Any] | None = None,
    *,
    study: str,
    budget: int | None = None,
) -> Iterator[Laboratory]:
    """Open a laboratory for a case, with its sources at hand.

    `study`: what the study does, in a word; outcomes are recorded under it and the case's digest.
    """
    with means.executing(machine_for(case, overrides or {}, None).memory_mib) as (chosen, workers):
        yield Laboratory(
            case,
            cache=means.cache,
            catalog=means.catalog,
            executor=chosen,
            workers=workers,
            base=means.base,
            progress=means.progress,
            on_outcome=means.on_outcome,
            fresh=means.fresh,
            is_remote=means.is_remote,
            study=f"{study}-{case.build_digest()[:16]}",
            budget=budget,
        )
