"""Verification: the claims of curated cases, asked of machines again."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from buildvm_nb.errors import SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.agreement import Agreement, ClaimCheck, claim_agrees, weigh
from buildvm_nb.model.case import Case
from buildvm_nb.model.entry import Claim
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import Value
from buildvm_nb.study.findings import diagnose_case, open_laboratory
from buildvm_nb.study.kernels import KERNELS
from buildvm_nb.study.laboratory import OnOutcome
from buildvm_nb.study.questions import DEFAULT_AXES, Questions
from buildvm_nb.study.spotcheck import spot_check

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from buildvm_nb.catalog import Catalog

__all__ = ["Trouble", "Verification", "questions_of", "verify_case"]

Trouble = Literal["", "unavailable", "machine"]
"""What kept every machine from saying anything about the case; empty: nothing did."""

_SILENT = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})


class Verification(Value):
    """What came of verifying one case."""

    case_id: str
    check: ClaimCheck
    is_quick: bool
    """Whether only the claim's own points were run."""
    runs: int
    """Guest runs that were made; answers that were there already do not count."""
    trouble: Trouble = ""
    finding: Finding | None = None
    """As recorded; None where only points were run, or nothing could be."""


def questions_of(claim: Claim) -> Questions:
    """Return what a diagnosis must be asked so that it can prove a claim, or refute it.

    Parameters
    ----------
    claim : Claim
        Of a case.

    Returns
    -------
    Questions
        The whole search along the claim's axis, reaching around its instants and with the CPUs
        and kernels that it names; all axes where the claim is about none.
    """
    axes: dict[str, tuple[Axis, ...]] = {
        "time-trap": (Axis.DATE,),
        "cpu-dependent": (Axis.CPU,),
        "kernel-dependent": (Axis.KERNEL,),
    }
    named = (*claim.failing_kernels, *claim.passing_kernels)
    chosen = axes.get(claim.kind, DEFAULT_AXES)
    if claim.kind == "time-trap" and claim.failing_cpus:
        chosen = (Axis.DATE, Axis.CPU)  # it takes both together
    if claim.kind == "output-varies" and claim.axis == "cores":
        chosen = (*DEFAULT_AXES, Axis.CORES)
    return Questions(
        axes=chosen,
        around=claim.instants(),
        cpus=(*claim.passing_cpus, *claim.failing_cpus),
        kernels=tuple(dict.fromkeys([*named, *KERNELS])) if named else (),
    )


def verify_case(  # noqa: PLR0913 - what `diagnose_case` takes, handed on
    case: Case,
    overrides: Mapping[str, Any] | None = None,
    *,
    cache: Cache,
    catalog: "Catalog",
    quick: bool = False,
    executor: "Executor | None" = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    base: Path = Path(),
    progress: Progress = SILENT,
    on_outcome: OnOutcome | None = None,
    fresh: bool = False,
) -> Verification:
    """Ask machines whether a case's claim holds.

    Outcomes are recorded as they come, and so is the finding of a whole search.

    Parameters
    ----------
    case : Case
        With a claim.
    overrides : mapping, optional
        Fields of `MachineSpec` that hold for every machine.
    cache, catalog, executor, jobs, scheduler, base, progress, on_outcome, fresh
        As for `buildvm_nb.study.findings.diagnose_case`.
    quick : bool
        Run only the claim's own points.

    Returns
    -------
    Verification
        A source that cannot be had, or machines that break, tell nothing about the claim.

    Raises
    ------
    UsageError
        If the case has no claim.
    HostError
        If this host lacks something, or the executor breaks.
    CatalogError
        If something cannot be recorded.
    """
    claim = case.claim
    if claim is None:
        raise UsageError(f"case {case.id} claims nothing", hint="`buildvm diagnose` needs no claim")
    seen = _Seen(on_outcome)
    given: dict[str, Any] = {
        "cache": cache,
        "catalog": catalog,
        "executor": executor,
        "jobs": jobs,
        "scheduler": scheduler,
        "base": base,
        "progress": progress,
        "on_outcome": seen.tell,
        "fresh": fresh,
    }
    finding = None
    try:
        if quick:
            with open_laboratory(case, overrides, study="verify", **given) as lab:
                check = spot_check(lab, claim, overrides)
        else:
            finding = diagnose_case(case, questions_of(claim), overrides, **given)
            check = claim_agrees(claim, finding)
    except SourceError as error:
        check = weigh(claim, "nothing was shown", (), [f"unavailable: {error.message}"])
        seen.verdicts.append(Verdict.UNAVAILABLE)
    except Unreachable as error:
        check = weigh(claim, "nothing was shown", (), [f"error: {error.message}"])
        seen.verdicts.append(Verdict.ERROR)
    return Verification(
        case_id=case.id,
        check=check,
        is_quick=quick,
        runs=seen.runs,
        trouble=_trouble(check, seen.verdicts),
        finding=finding,
    )


class _Seen:
    """Counts outcomes as they come."""

    def __init__(self, on_outcome: OnOutcome | None) -> None:
        self._tell = on_outcome
        self.verdicts: list[Verdict] = []
        self.runs = 0

    def tell(self, outcome: Outcome, is_known: bool) -> None:  # noqa: FBT001 - a callback's argument
        self.verdicts.append(outcome.verdict)
        self.runs += not is_known
        if self._tell:
            self._tell(outcome, is_known)


def _trouble(check: ClaimCheck, verdicts: Collection[Verdict]) -> Trouble:
    """Name the trouble where it alone is why nothing can be told."""
    if check.agreement is not Agreement.CANNOT_TELL or not verdicts or set(verdicts) - _SILENT:
        return ""
    return "machine" if Verdict.ERROR in verdicts else "unavailable"
