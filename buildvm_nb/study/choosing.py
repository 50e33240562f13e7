"""The choice of an environment: which finding to follow, and what it asks for at least."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.study.allowing import allows
from buildvm_nb.study.choice import Basis, Choice, Mention
from buildvm_nb.study.combining import RESTRICTING, combined, conflicting
from buildvm_nb.study.packages import Package, packages_of
from buildvm_nb.study.showing import EVERYWHERE, Host, Shown, shown_by

__all__ = ["choose_environment"]

_ORDER = (Axis.DATE, Axis.CPU, Axis.KERNEL, Axis.CORES)
"""What is chosen more easily comes first."""
_WHOLE = EVERYWHERE | {FindingKind.ALWAYS_FAILING}
"""Kinds that speak of all axes at once."""
_BY_NAME = frozenset({FindingKind.CPU_DEPENDENT, FindingKind.KERNEL_DEPENDENT})
"""Kinds that name what passes and what does not."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A finding, and whose it is."""

    finding: Finding
    is_curated: bool

    @property
    def rank(self) -> tuple[datetime, bool]:
        """The newer counts more, then the user's own."""
        return self.finding.recorded_at, not self.is_curated

    def mention(self) -> Mention:
        return Mention.of(self.finding, is_curated=self.is_curated)


def choose_environment(
    subject: Case | Package,
    own: Iterable[Finding],
    curated: Iterable[Finding] = (),
    *,
    host: Host,
    own_date: datetime | None = None,
) -> Choice:
    """Choose the least invasive environment in which something was shown to build.

    Findings on the very case count (whatever its id, title and claim), else those on the same
    version of the package. Of findings on one case that contradict each other the newest is
    followed, of those that say the same the user's own; all that are left are followed together.
    Where nothing is known, the date of the source and the CPU of that date are a guess.

    Parameters
    ----------
    subject : Case or Package
        What is to be built.
    own : iterable of Finding
        Current findings of the user's own catalog.
    curated : iterable of Finding
        Verified findings of the curated catalog.
    host : Host
        On which it would be built without a machine.
    own_date : datetime, optional
        Aware; commit or release date of what is to be built.

    Returns
    -------
    Choice
        Without an environment where a finding says that none is known, where findings exclude
        each other, or where nothing is known about a package that is not further described.
    """
    known = [_Known(finding=one, is_curated=False) for one in own]
    known += [_Known(finding=one, is_curated=True) for one in curated]
    packages = packages_of(subject) if isinstance(subject, Case) else (subject,)
    related = [one for one in known if _is_about(one.finding, packages)]
    same = [one for one in related if _is_version(one.finding, packages)]
    others = tuple(one.mention() for one in related if one not in same)
    name = subject.id if isinstance(subject, Case) else str(subject)
    exact: list[_Known] = []
    if isinstance(subject, Case):
        digest = subject.build_digest()
        exact = [one for one in known if one.finding.case.build_digest() == digest]
    if exact or same:
        choice = _follow(exact or same, name, host, own_date)
        is_same = bool(exact) or not isinstance(subject, Case)
        return choice.model_copy(update={"is_same_case": is_same, "other_versions": others})
    return _guess(subject, name, host, own_date).model_copy(update={"other_versions": others})


def _is_about(finding: Finding, packages: Sequence[Package]) -> bool:
    others = packages_of(finding.case)
    return any(one.is_same(other) for one in packages for other in others)


def _is_version(finding: Finding, packages: Sequence[Package]) -> bool:
    others = packages_of(finding.case)
    return any(
        bool(one.version) and one.version == other.version and one.is_same(other)
        for one in packages
        for other in others
    )


def _guess(subject: Case | Package, name: str, host: Host, own_date: datetime | None) -> Choice:
    if own_date is None and not isinstance(subject, Case):
        return Choice(basis=Basis.NONE, subject=name)
    fields: dict[str, Any] = {"date": (own_date or host.date).replace(microsecond=0)}
    if isinstance(subject, Case):
        limits = subject.limits
        fields |= {"memory_mib": limits.memory_mib, "cpu_count": limits.cpu_count}
        fields["image"] = subject.image
    axes = (Axis.DATE, Axis.CPU) if own_date else ()
    machine = MachineSpec.parse(fields)
    return Choice(basis=Basis.GUESS, subject=name, axes=axes, environment=machine)


def _follow(known: Sequence[_Known], name: str, host: Host, own_date: datetime | None) -> Choice:
    """Choose by findings on one thing."""
    valid, refuted = _settle(known)
    by_id = {one.finding.id: one for one in known}
    telling = [one for one in valid if shown_by(one.finding, host, own_date)]
    silent = [one for one in valid if one.finding.kind is FindingKind.FLAKY]
    if silent or not telling:
        last = max(silent or valid, key=lambda one: one.rank)
        return Choice(
            basis=Basis.NONE,
            subject=name,
            because=last.finding,
            is_curated=last.is_curated,
            against=tuple(one.mention() for one in refuted),
        )
    refuted += [one for one in valid if one not in telling]
    against = tuple(one.mention() for one in refuted)
    findings = [one.finding for one in sorted(telling, key=lambda one: one.rank, reverse=True)]
    is_one_case = len({one.case.build_digest() for one in findings}) == 1
    # what passed in a machine is no evidence that another case does
    viable = _viable(findings, host, own_date) if is_one_case else []
    one_for_all = combined(findings, host, own_date)
    if not viable and one_for_all is None:
        clash = [by_id[one.id].mention() for one in conflicting(findings, host, own_date)]
        return Choice(basis=Basis.NONE, subject=name, conflict=tuple(clash), against=against)
    best = min([*viable, *([one_for_all] if one_for_all else [])], key=_effort)
    is_seen = best in viable
    chosen = by_id[best.finding.id]
    others = [
        by_id[one.id].mention()
        for one in findings
        if one is not best.finding
        and one.kind in RESTRICTING
        and (not is_seen or allows(one, best.machine, best.finding))
    ]
    return Choice(
        basis=Basis.CURATED_FINDING if chosen.is_curated else Basis.OWN_FINDING,
        subject=name,
        axes=tuple(axis for axis in _ORDER if axis in best.axes),
        environment=best.machine,
        because=best.finding,
        is_curated=chosen.is_curated,
        also=tuple(others),
        is_combined=bool(others) and not is_seen,
        against=against,
    )


def _effort(shown: Shown) -> tuple[int, list[int]]:
    """Return what orders machines: the fewer has to be chosen, and the more easily, the less."""
    return len(shown.axes), sorted(map(_ORDER.index, shown.axes))


def _viable(findings: Sequence[Finding], host: Host, own_date: datetime | None) -> list[Shown]:
    """Return the machines that findings show and no other finding speaks against."""
    proposals = [shown for one in findings if (shown := shown_by(one, host, own_date))]
    viable = []
    for one in proposals:
        others = [other for other in proposals if other is not one]
        says = [allows(other.finding, one.machine, one.finding) for other in others]
        if False not in says:
            more = [other.axes for other, is_told in zip(others, says, strict=True) if is_told]
            today = {Axis.DATE} if one.machine.date == host.date else set()
            viable.append(replace(one, axes=one.axes.union(*more) - today))
    return viable


def _settle(known: Sequence[_Known]) -> tuple[list[_Known], list[_Known]]:
    """Choose one finding for each question on each case; return those, and those that differ."""
    cases: dict[str, list[_Known]] = {}
    for one in known:
        cases.setdefault(one.finding.case.build_digest(), []).append(one)
    settled = [_settle_case(same) for same in cases.values()]
    valid = [one for winners, _ in settled for one in winners]
    telling = [one for one in valid if one.finding.kind is not FindingKind.UNDETERMINED]
    return telling or valid, [one for _, refuted in settled for one in refuted]


def _settle_case(known: Sequence[_Known]) -> tuple[list[_Known], list[_Known]]:
    told = [one for one in known if one.finding.kind is not FindingKind.UNDETERMINED] or [*known]
    questions: dict[Axis | None, list[_Known]] = {}
    for one in told:
        questions.setdefault(_question(one.finding), []).append(one)
    winners, refuted = list[_Known](), list[_Known]()
    for same in questions.values():
        held, left = _hold_together(same)
        winners += held
        refuted += left
    whole = [one for one in winners if one.finding.kind in _WHOLE]
    single = [one for one in winners if one not in whole]
    if not (whole and single):
        return winners, refuted
    newest = max(winners, key=lambda one: one.rank)
    kept, left = (
        (whole, single) if newest in whole and _asked_for_dates(newest) else (single, whole)
    )
    return kept, refuted + left


def _hold_together(same: Sequence[_Known]) -> tuple[list[_Known], list[_Known]]:
    """Return the newest answer to one question and all that do not contradict it, and the others.

    Two diagnoses of CPUs or kernels may have tried different ones: then both are true.
    """
    held, left = list[_Known](), list[_Known]()
    for one in sorted(same, key=lambda one: one.rank, reverse=True):
        is_refuted = any(_contradicts(one.finding, newer.finding) for newer in held)
        (left if is_refuted else held).append(one)
    answers: dict[object, list[_Known]] = {}
    for one in held:
        answers.setdefault((_conclusion(one.finding), *_named(one.finding)), []).append(one)
    # of those that say the same, the user's own
    own = [max(same, key=lambda one: (not one.is_curated, one.rank)) for same in answers.values()]
    return own, left


def _contradicts(older: Finding, newer: Finding) -> bool:
    """Tell whether two findings on one question cannot both be true."""
    if older.kind is newer.kind and newer.kind in _BY_NAME:
        (passing, failing), (passes, fails) = _named(older), _named(newer)
        return bool(passing & fails or failing & passes)
    return _conclusion(older) != _conclusion(newer)


def _named(finding: Finding) -> tuple[frozenset[str], frozenset[str]]:
    """Return the CPUs or kernels on which a case passes, and on which it does not."""
    match finding.kind:
        case FindingKind.CPU_DEPENDENT:
            return frozenset(finding.passing_cpus), frozenset(finding.failing_cpus)
        case FindingKind.KERNEL_DEPENDENT:
            return frozenset(finding.passing_kernels), frozenset(finding.failing_kernels)
    return frozenset(), frozenset()


def _asked_for_dates(one: _Known) -> bool:
    """Tell whether what passes everywhere was run at many dates, or at one or two."""
    return one.finding.studied_from is not None


def _question(finding: Finding) -> Axis | None:
    return None if finding.kind in _WHOLE else finding.axis


def _conclusion(finding: Finding) -> object:
    """Return what must be the same in two findings that agree."""
    match finding.kind:
        case FindingKind.TIME_TRAP:
            return finding.kind, finding.windows
        case FindingKind.RECURRING:
            return finding.kind, finding.recurs, finding.windows
        case FindingKind.CPU_DEPENDENT:
            return finding.kind, finding.features, finding.features_harmful
        case FindingKind.KERNEL_DEPENDENT | FindingKind.CORES_DEPENDENT:
            edges = tuple((edge.last_before, edge.first_after) for edge in finding.boundaries)
            return finding.kind, edges
    return finding.kind
