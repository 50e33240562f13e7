"""A laboratory: one case, run wherever it is asked for, with no answer bought twice."""

import os
import socket
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from buildvm_nb.errors import (
    BudgetSpent,
    BuildVMError,
    HostError,
    SourceError,
    Unreachable,
    UsageError,
)
from buildvm_nb.host.cache import Cache
from buildvm_nb.image import build_image
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.model.outcome import Outcome, Probing, Verdict
from buildvm_nb.model.value import Value, says
from buildvm_nb.study.executors import Means
from buildvm_nb.study.prepare import Prepared, prepare_case, run_carried, run_fork
from buildvm_nb.study.run import (
    Basis,
    Inputs,
    Output,
    Part,
    Setting,
    Trial,
    engine_for,
    finish,
    gather,
    kernel_for,
    kvm_status,
    machine_for,
    prepare,
    run_case,
    run_here,
    run_once,
    trouble,
)
from buildvm_nb.vm import BootFiles

__all__ = [
    "Laboratory",
    "Order",
    "Within",
    "build_case",
    "claimed_line",
    "compared",
    "open_laboratory",
    "order_key",
    "quote_line",
    "run_probe",
    "trial_of",
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

    A difference to what it must be made with, and whatever else this host lacks, is an error that
    names the host: never a verdict about the case.

    `cache_root`: this host's cache; None: the user's.
    """
    try:
        cache = Cache(cache_root)
        _check_basis(order.basis, order.machine, cache)
    except (BuildVMError, OSError) as error:
        return _broken(order, f"worker {socket.gethostname()} (process {os.getpid()}): {error}")
    setting = Setting(case=order.case, cache=cache)
    document = order.case.model_dump_json(by_alias=True)
    return run_here(
        setting,
        dict(order.machine),
        lambda: _gather(document, cache.root, base),
        lambda _spec, inputs: _run(order, setting, inputs),
        order.probing,
    )


def _check_basis(basis: Basis, spec: MachineSpec, cache: Cache) -> None:
    """Make image and kernel here, and compare them before anything runs."""
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


# What a worker gave: one with another image, kernel, source or QEMU says nothing about a case.


def trial_of(future: Future[Trial], order: Order) -> Trial:
    """Return what a worker gave; one that breaks, in whatever way, ran nothing."""
    try:
        return future.result()
    except UsageError:
        raise
    except CancelledError:
        return _broken(order, "the executor dropped it: was the cluster restarted?")
    except Exception as error:  # noqa: BLE001 - of an executor of any kind
        return _broken(order, f"the worker broke: {type(error).__name__}: {error}")


def _broken(order: Order, reason: str) -> Trial:
    outcome = Outcome(case=order.case, machine=order.machine, verdict=Verdict.ERROR, reason=reason)
    return finish(Trial(outcome=outcome, log=b""), time.monotonic(), None, order.probing)


def compared(basis: Basis, trial: Trial) -> Trial:
    """Take a verdict back where it was made with something else than the study has."""
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


_SAYS_NOTHING = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})
_TRIES = 2
"""An error says nothing about the case, so it is tried once more."""


class Laboratory:
    """The door through which all runs of a study go; it remembers every answer.

    `executor`: where runs are executed; None: none may be made.
    `study`: under which outcomes are recorded.
    `budget`: guest runs at most, whatever asks for them; may be set later.
    """

    def __init__(
        self,
        case: Case,
        means: Means,
        executor: Executor | None = None,
        workers: int = 1,
        *,
        study: str | None = None,
        budget: int | None = None,
    ) -> None:
        self.case = case
        self.cache = means.cache
        self.workers = workers
        self.is_remote = means.is_remote
        self.base = means.base.absolute()
        self.study = study
        self.budget = budget
        self.progress = means.progress
        self.runs = 0
        self.evidence: dict[str, Outcome] = {}
        self._catalog = means.catalog
        self._is_fresh = means.fresh
        self._executor = executor
        self._tell = means.on_outcome or (lambda _outcome, _known: None)
        self._boots: dict[tuple[str, str, bool], BootFiles] = {}
        self._engines: dict[bool, str] = {}
        """Of the first worker, by whether it is user-mode Linux, where this host has none."""
        self._gathered: dict[str, Inputs] = {}
        self._sources: dict[str, tuple[str, ...]] = {}
        self._known: dict[str, Outcome] = {}
        self._recorded: dict[str, list[Outcome]] = {}
        self._loaded: set[str] = set()
        """Cases whose answers in the catalog are at hand; variants are of other git commits."""

    @cached_property
    def inputs(self) -> Inputs:
        """The sources of the case itself."""
        return self.gathered(self.case)

    def gathered(self, case: Case) -> Inputs:
        """Fetch the sources of the case, or of a variant of it, once."""
        digest = case.build_digest()
        if digest not in self._gathered:
            self._gathered[digest] = gather(
                case,
                cache=self.cache,
                base=self.base,
                progress=self.progress,
                elsewhere=self.is_remote,
            )
        return self._gathered[digest]

    def have_ready(self, overrides: Mapping[str, Any] | None) -> None:
        """Have sources, image and kernel of the case's own machine; what cannot be had ends it."""
        self.boot_files(machine_for(self.case, overrides or {}, self.inputs.main))

    def boot_files(self, spec: MachineSpec) -> BootFiles:
        """Have image and kernel of a machine, the same as long as this study lasts."""
        place = (str(spec.image), spec.kernel, spec.accelerator is Accelerator.UML)
        if place not in self._boots:
            self._boots[place] = prepare(
                spec, cache=self.cache, progress=self.progress, elsewhere=self.is_remote
            )
        return self._boots[place]

    def accelerator(self, *, cpu_matters: bool) -> Accelerator:
        """Choose what executes guests: KVM where it is proven to work and hides nothing asked."""
        if cpu_matters or self.is_remote:
            return Accelerator.TCG
        works, _ = kvm_status(self.cache)
        return Accelerator.KVM if works else Accelerator.TCG

    def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer orders; see `answers`.

        Returns: in the order of the orders.
        """
        keys = [order_key(order) for order in orders]
        answers: dict[str, Outcome] = {}
        try:
            with closing(self.answers(orders)) as coming:
                for order, outcome, _ in coming:
                    answers[order_key(order)] = outcome
        finally:  # what was seen counts, also where the budget ended first
            seen = [answers[key] for key in keys if key in answers]
            self.evidence |= {outcome.id: outcome for outcome in seen}
        return [answers[key] for key in keys]

    def answers(self, orders: Sequence[Order]) -> Generator[tuple[Order, Outcome, bool]]:
        """Answer orders, side by side where there are workers, with no answer bought twice.

        Each run is recorded as it ends. One that broke is tried once more, and its last word told.

        Yields: as they come, and whether the catalog had it already.
        Raises `UsageError` if an order is wrong.
        Raises `BudgetSpent` if more runs are needed than may be made, after those that may.
        """
        missing: dict[str, Order] = {}
        for key, order in {order_key(order): order for order in orders}.items():
            outcome = self._recall(key, order)
            if outcome is None:
                missing[key] = order
                continue
            if outcome.id not in self.evidence:
                self._tell(outcome, True)  # noqa: FBT003 - a callback's plain argument
            yield order, outcome, True
        allowed = dict(islice(missing.items(), self._left()))
        yield from self._run_all(allowed)
        if len(allowed) < len(missing):
            raise _spent(self.budget)

    def log(self, outcome: Outcome) -> str:
        """Return what an outcome's steps printed."""
        if not outcome.log_digest:
            return ""
        return self._catalog.log(outcome.log_digest).decode(errors="replace")

    def _left(self) -> int:
        """Return how many more runs may be made."""
        return sys.maxsize if self.budget is None else max(0, self.budget - self.runs)

    def _run_all(self, orders: Mapping[str, Order]) -> Generator[tuple[Order, Outcome, bool]]:
        """Run orders, record what comes of each as it ends, and yield its last word."""
        ended: SimpleQueue[Future[Trial]] = SimpleQueue()
        running: dict[Future[Trial], tuple[str, Order, int]] = {}

        def begin(key: str, order: Order, number: int) -> None:
            order, future = self._begin(order)
            running[future] = (key, order, number)
            future.add_done_callback(ended.put)

        try:
            for key, order in orders.items():
                begin(key, order, 1)
            while running:
                future = ended.get()
                key, order, number = running.pop(future)
                outcome = self._record(order, self._checked(order, trial_of(future, order)))
                if outcome.verdict is Verdict.ERROR and number < _TRIES and self._left():
                    begin(key, order, number + 1)
                    continue
                if outcome.verdict not in _SAYS_NOTHING:
                    self._known[key] = outcome
                self._tell(outcome, False)  # noqa: FBT003 - a callback's plain argument
                yield order, outcome, False
        finally:
            for future in running:
                future.cancel()

    def _begin(self, order: Order) -> tuple[Order, Future[Trial]]:
        """Hand an order to the executor, with what it must be made with."""
        try:
            order = order.model_copy(update={"basis": self._basis(order)})
        except UsageError:
            raise
        except (BuildVMError, OSError) as error:
            refused: Future[Trial] = Future()
            trial = trouble(order.case, order.machine, error, self.cache)
            refused.set_result(finish(trial, time.monotonic()))
            return order, refused
        if self._executor is None:
            raise AssertionError("a laboratory without an executor runs nothing")
        root = None if self.is_remote else self.cache.root
        try:
            future = self._executor.submit(run_probe, order, root, self.base)
        except (BrokenExecutor, RuntimeError) as error:
            raise HostError(
                f"the executor takes no more runs: {error}",
                hint="what has ended is in the catalog: the same study goes on from there",
            ) from error
        self.runs += 1
        return order, future

    def _checked(self, order: Order, trial: Trial) -> Trial:
        """Compare what a run was made with; the first worker sets the engine if none is here."""
        is_uml = order.machine.accelerator is Accelerator.UML
        engine = order.basis.engine or self._engines.get(is_uml, "")
        trial = compared(order.basis.model_copy(update={"engine": engine}), trial)
        seen = trial.outcome.environment
        if seen and trial.outcome.verdict is not Verdict.ERROR:
            self._engines.setdefault(is_uml, seen.engine)
        return trial

    def _record(self, order: Order, trial: Trial) -> Outcome:
        drift_s = trial.outcome.probing.drift_s
        changes = {
            "study": self.study,
            "probing": order.probing.model_copy(update={"drift_s": drift_s}),
        }
        return self._catalog.record(trial.outcome.model_copy(update=changes), trial.log)

    def _recall(self, key: str, order: Order) -> Outcome | None:
        """Return the newest verdict that was made with what would be taken now."""
        digest = order.case.build_digest()
        if digest not in self._loaded and not self._is_fresh:
            self._loaded.add(digest)
            for one in self._catalog.answers(digest):
                if one.verdict not in _SAYS_NOTHING:
                    self._recorded.setdefault(order_key(one), []).append(one)
        if found := self._recorded.pop(key, []):
            try:
                basis = self._basis(order)
            except (BuildVMError, OSError):  # what cannot be had now is told by a run of its own
                return None
            fitting = [one for one in found if not basis.difference(one)]
            if fitting and basis.engine and basis.source_digests is not None:
                self._known[key] = fitting[-1]
        return self._known.get(key)

    def _basis(self, order: Order) -> Basis:
        """Return what a run must be made with, whoever makes it, as long as this study lasts."""
        boot = self.boot_files(order.machine)
        return Basis(
            image_digest=boot.image_digest,
            kernel_digest=boot.kernel_digest,
            source_digests=self._sources_of(order.case),
            engine=self._engine_of(order.machine),
        )

    def _engine_of(self, spec: MachineSpec) -> str:
        """Return what would run it here; empty where it runs elsewhere and this host has none."""
        try:
            return engine_for(spec, self.cache, self.progress)
        except HostError:
            if self.is_remote:
                return ""
            raise

    def _sources_of(self, case: Case) -> tuple[str, ...] | None:
        """Return the digests of a case's sources; None: only a worker may have them."""
        digest = case.build_digest()
        if digest not in self._sources:
            own = digest == self.case.build_digest()
            try:
                inputs = self.inputs if own else self.gathered(case)
            except (SourceError, Unreachable):
                if self.is_remote:
                    return None
                raise
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


# A build, which is one run made here and recorded; and a study, which opens the door.


def build_case(
    case: Case,
    means: Means,
    overrides: Mapping[str, Any] | None = None,
    *,
    chosen_by: tuple[str, ...] = (),
    output: Output | None = None,
    held: bool = False,
) -> Outcome:
    """Build a case once and record the outcome; it is told even where it cannot be recorded.

    `chosen_by`: ids of the findings that chose the machine.
    """
    trial = run_case(
        case,
        overrides,
        cache=means.cache,
        base=means.base,
        progress=means.progress,
        output=output,
        held=held,
    )
    outcome = trial.outcome.model_copy(update={"chosen_by": chosen_by})
    try:
        outcome = means.catalog.record(outcome, trial.log)
    finally:
        if means.on_outcome:
            means.on_outcome(outcome, False)  # noqa: FBT003 - a callback's plain argument
    return outcome


@contextmanager
def open_laboratory(
    case: Case,
    means: Means,
    overrides: Mapping[str, Any] | None = None,
    *,
    study: str,
    budget: int | None = None,
) -> Iterator[Laboratory]:
    """Open a laboratory for a case.

    `study`: what the study does, in a word; outcomes are recorded under it and the case's digest.
    """
    memory_mib = machine_for(case, overrides or {}, None).memory_mib
    study = f"{study}-{case.build_digest()[:16]}"
    with means.executing(memory_mib) as (executor, workers):
        yield Laboratory(case, means, executor, workers, study=study, budget=budget)
