"""The kernel axis, and others whose values are few and in order: numbers of cores, commits."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from debian.debian_support import NativeVersion

from buildvm_nb.errors import SourceError, Unreachable
from buildvm_nb.image.uml import UML_KERNELS
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.search import Answer, Plan, Probe, State, Survey, find_transitions
from buildvm_nb.study.dates import state_of
from buildvm_nb.study.environment import kernel_for
from buildvm_nb.study.keeping import home_of
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.probe import Order

__all__ = ["KERNELS", "OrderedStudy", "study_cores", "study_kernels", "study_order"]

KERNELS = ("debian:bullseye", "debian:bookworm", "debian:bookworm-backports", "debian:sid")
"""One for each long-lived series that Debian's mirrors have; trixie has that of the backports."""

_FLAVOUR = re.compile(r"(?:-(?:cloud|rt|amd64|generic|unsigned))+$")
_T = TypeVar("_T")


@dataclass(kw_only=True)
class OrderedStudy:
    """What was found along an axis of a few values."""

    survey: Survey
    values: tuple[str, ...]
    """In the order of the axis."""
    outcomes: dict[Probe, Outcome] = field(default_factory=dict)
    """By index into `values`."""
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """What should have been tried and could not be had."""

    def at(self, index: int) -> list[Outcome]:
        """Return the outcomes at one value.

        Parameters
        ----------
        index : int
            Of the value.

        Returns
        -------
        list of Outcome
            All repetitions.
        """
        return [outcome for probe, outcome in self.outcomes.items() if probe.at == index]


def study_order(
    lab: Laboratory,
    values: Sequence[_T],
    order: Callable[[_T, int], Order],
    plan: Plan,
    *,
    name: Callable[[_T], str] = str,
    judge: Callable[[Outcome], State] = state_of,
) -> OrderedStudy:
    """Find where the verdict changes along a list of values.

    Parameters
    ----------
    lab : Laboratory
        Runs the case.
    values : sequence
        In their order.
    order : callable
        Makes an order of a value and the number of the repetition.
    plan : Plan
        How to search the indexes of `values`.
    name : callable
        How a value is shown.
    judge : callable
        What an outcome says; by default as its verdict.

    Returns
    -------
    OrderedStudy
        With the outcomes behind each answer.

    Raises
    ------
    HostError
        If the executor breaks.
    CatalogError
        If an outcome cannot be recorded.
    """
    seen: dict[Probe, Outcome] = {}

    def ask(probes: Sequence[Probe]) -> list[Answer]:
        outcomes = lab.run([order(values[probe.at], probe.attempt) for probe in probes])
        seen.update(zip(probes, outcomes, strict=True))
        return [
            Answer(state=judge(outcome), first=probe.at, last=probe.at)
            for probe, outcome in zip(probes, outcomes, strict=True)
        ]

    survey = find_transitions(ask, plan)
    names = tuple(name(value) for value in values)
    return OrderedStudy(survey=survey, values=names, outcomes=seen)


def study_kernels(
    lab: Laboratory, spec: MachineSpec, names: Sequence[str] = (), *, repeats: int = 2
) -> OrderedStudy:
    """Run a case on kernels, in the order of their versions.

    Parameters
    ----------
    lab : Laboratory
        Runs the case.
    spec : MachineSpec
        The machine; its kernel is one of those tried.
    names : sequence of str
        Kernels to try beside that of `spec`; by default `KERNELS`.
    repeats : int
        Confirming runs on each side of each change.

    Returns
    -------
    OrderedStudy
        Values are releases, as ``uname -r`` says them. A kernel that cannot be had is left out,
        with a note.

    Raises
    ------
    UsageError
        If a kernel is unknown.
    HostError
        If the executor breaks, or this host lacks something.
    CatalogError
        If an outcome cannot be recorded.
    """
    releases: dict[str, str] = {}
    notes, missing = [], []
    for name in dict.fromkeys([*(names or _usual(spec)), spec.kernel]):
        try:
            kernel = kernel_for(spec.model_copy(update={"kernel": name}), lab.cache, lab.progress)
        except (SourceError, Unreachable) as error:
            missing.append(f"kernel {name} cannot be had: {error.message}")
        else:
            release = kernel.release
            other = releases.setdefault(release, name)
            if other == name:
                continue
            if name.startswith("debian:") and other.startswith("debian:"):
                notes.append(f"kernel {name} is the same as {other}: {release}")
            else:  # one's own may differ all the same
                missing.append(f"kernel {name} is left out: it has the release of {other}")
    ordered = sorted(releases, key=_version)

    def order(release: str, attempt: int) -> Order:
        machine = spec.model_copy(update={"kernel": releases[release]})
        probing = {"attempt": attempt, "prepared_on": home_of(lab.case, spec)}
        return Order(case=lab.case, machine=machine, probing=probing)

    study = study_order(lab, ordered, order, _everywhere(len(ordered), repeats, lab.workers))
    study.notes += [*missing, *notes]
    study.missing += missing
    return study


def study_cores(
    lab: Laboratory, spec: MachineSpec, counts: Sequence[int] = (1, 2, 4), *, repeats: int = 2
) -> OrderedStudy:
    """Run a case with several numbers of cores.

    Parameters
    ----------
    lab : Laboratory
        Runs the case.
    spec : MachineSpec
        The machine.
    counts : sequence of int
        Numbers of cores to try.
    repeats : int
        Confirming runs on each side of each change.

    Returns
    -------
    OrderedStudy
        Values are numbers of cores.

    Raises
    ------
    HostError
        If the executor breaks.
    CatalogError
        If an outcome cannot be recorded.
    """
    ordered = sorted({*counts, spec.cpu_count})

    def order(count: int, attempt: int) -> Order:
        machine = spec.model_copy(update={"cpu_count": count})
        return Order(case=lab.case, machine=machine, probing={"attempt": attempt})

    return study_order(lab, ordered, order, _everywhere(len(ordered), repeats, lab.workers))


def _everywhere(count: int, repeats: int, workers: int) -> Plan:
    """Ask at every index: bad intervals between good ones do occur."""
    return Plan(
        first=0,
        last=count - 1,
        scan=range(count),
        repeats=repeats,
        workers=workers,
        can_hold=False,
        reveal=0,
    )


def _version(release: str) -> tuple[NativeVersion, str]:
    """Return what orders releases: as Debian orders versions, ABI numbers among their parts.

    The flavour, such as ``cloud-amd64``, comes last of all. A candidate, ``6.6-rc1``, comes before
    what it becomes.
    """
    plain = re.sub(r"-rc(?=\d)", "~rc", _FLAVOUR.sub("", release))
    return NativeVersion(re.sub(r"[^A-Za-z0-9.+~-]", "-", plain)), release


def _usual(spec: MachineSpec) -> tuple[str, ...]:
    return UML_KERNELS if spec.accelerator is Accelerator.UML else KERNELS
