"""One probe: a case run once somewhere, plainly or in a fork; wherever an executor runs it."""

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from buildvm_nb.errors import BuildVMError, HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Probing, Verdict
from buildvm_nb.model.value import Value
from buildvm_nb.study.carrying import run_carried
from buildvm_nb.study.cells import check_basis, worker
from buildvm_nb.study.inputs import Inputs, gather
from buildvm_nb.study.preparation import Prepared, prepare_case, run_fork
from buildvm_nb.study.recording import Basis, as_host_error, broken, finish, unavailable
from buildvm_nb.study.trial import Part, Setting, Trial, run_once

__all__ = ["Order", "order_key", "run_probe"]


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

    Parameters
    ----------
    order : Order or Outcome
        Of a case.

    Returns
    -------
    str
        Equal for an order and its outcome.
    """
    probing = order.probing.model_copy(update={"drift_s": None})
    return f"{order.case.build_digest()} {order.machine.content_digest()} {probing!r}"


def run_probe(order: Order, cache_root: Path | None = None, base: Path = Path()) -> Trial:
    """Run an order on this host.

    Parameters
    ----------
    order : Order
        What to run.
    cache_root : Path, optional
        This host's cache; None: the user's.
    base : Path
        Directory that relative paths of the case are below.

    Returns
    -------
    Trial
        Outcome and log; trouble of sources, host or machine is a verdict.

    Raises
    ------
    UsageError
        If the request is wrong.
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
