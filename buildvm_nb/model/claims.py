"""Claims of curated cases: what one must say, and whether a finding bears it out."""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from buildvm_nb.model.case import Claim, Window
from buildvm_nb.model.finding import Axis, Boundary, Finding, FindingKind
from buildvm_nb.model.instants import format_instant, parse_instant
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.model.value import Value, says

__all__ = [
    "Agreement",
    "ClaimCheck",
    "claim_agrees",
    "claim_troubles",
    "describe_claim",
    "weigh",
]

# What a claim must say, and must not say, for a diagnosis to prove it.

_SECOND = timedelta(seconds=1)
_INSTANTS = ("passes_from", "passes_until", "windows")
_CPUS = ("passing_cpus", "failing_cpus")
_KERNELS = ("passing_kernels", "failing_kernels")
_FIELDS = {
    "time-trap": {*_INSTANTS, "resolution_s", *_CPUS, "features", "evidence"},
    "cpu-dependent": {*_CPUS, "features", "evidence"},
    "kernel-dependent": {*_KERNELS, "evidence"},
    "output-varies": {"axis", "varying_files"},
    "flaky": {"evidence"},
    "always-failing": {"evidence"},
    "sound": set(),
}
_NEEDED = {
    "cpu-dependent": _CPUS,
    "kernel-dependent": _KERNELS,
    "output-varies": ("varying_files",),
}


def claim_troubles(claim: Claim) -> Iterator[tuple[str, str]]:
    """Say where a claim contradicts itself or leaves out what it is about."""
    allowed = _FIELDS[claim.kind]
    for name in sorted(claim.model_fields_set - {"kind"} - allowed):
        may = ", ".join(sorted(allowed)) or "none"
        yield name, f"says nothing about a claim of kind {claim.kind!r}; allowed: {may}"
    for name in _NEEDED.get(claim.kind, ()):
        if not getattr(claim, name):
            yield "kind", f"a claim of kind {claim.kind!r} needs {name}"
    if claim.kind == "time-trap":
        yield from _window_troubles(claim)
        both = claim.passing_cpus and claim.failing_cpus
        if (claim.passing_cpus or claim.failing_cpus or claim.features) and not both:
            yield "kind", "where it springs on some CPUs only: needs passing_cpus and failing_cpus"
    for good, bad in (_CPUS, _KERNELS):
        for name in sorted({*getattr(claim, good)} & {*getattr(claim, bad)}):
            yield bad, f"{name!r} is in {good} as well: it passes or it fails"


def _window_troubles(claim: Claim) -> Iterator[tuple[str, str]]:
    instants = claim.instants()
    if not instants:
        yield "kind", "a claim of kind 'time-trap' needs passes_from, passes_until or windows"
    if claim.windows and (claim.passes_from or claim.passes_until):
        yield "windows", "given beside passes_from or passes_until; allowed: either"
    if len(claim.windows) == 1:
        yield "windows", "one window only; allowed: passes_from and passes_until instead"
    for instant in instants:
        if instant.microsecond:
            yield "kind", f"{format_instant(instant)}: not a whole second"
    yield from _order_troubles(claim)


def _order_troubles(claim: Claim) -> Iterator[tuple[str, str]]:
    windows = claim.stretches()
    key = "windows" if claim.windows else "passes_until"
    for window in windows:
        if _is_backwards(window.passes_from, window.passes_until):
            yield key, f"ends before it begins: {_written(window)}"
    for earlier, later in pairwise(windows):
        ends, begins = earlier.passes_until, later.passes_from
        if ends is None or begins is None or begins - ends <= _SECOND:
            told = f"{_written(earlier)}, then {_written(later)}"
            yield key, f"windows must follow one another with a gap between them: {told}"


def _is_backwards(first: datetime | None, last: datetime | None) -> bool:
    return first is not None and last is not None and last < first


def _written(window: Window) -> str:
    first, last = window.passes_from, window.passes_until
    return f"{format_instant(first) if first else ''}..{format_instant(last) if last else ''}"


# Whether a finding bears out what a curated case claims.


class Agreement(StrEnum):
    """What machines say to a claim."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    CANNOT_TELL = "cannot tell"
    """The evidence is silent on part of the claim, and contradicts no other part."""


class ClaimCheck(Value):
    """A claim beside what was shown."""

    agreement: Agreement
    claimed: str
    shown: str
    why: tuple[str, ...] = ()
    """What is contradicted, or what the evidence is silent on; empty where it agrees."""


def claim_agrees(claim: Claim, finding: Finding) -> ClaimCheck:
    """Compare a claim with a finding, without mercy for either.

    Instants agree where the finding locates them as closely as they are claimed. A window that is
    shown and not claimed is a contradiction, and so is a claimed one that is not shown.
    """
    if finding.kind is FindingKind.UNDETERMINED:
        silent, wrong = [f"the finding is undetermined: {finding.summary}"], []
    elif finding.kind.value != claim.kind:
        silent, wrong = [], [f"it is not {claim.kind} but {finding.kind.value}"]
    else:
        found = list(_differences(claim, finding))
        silent = [text for is_wrong, text in found if not is_wrong]
        wrong = [text for is_wrong, text in found if is_wrong]
        if finding.confidence <= 0:
            silent.append("no repeated run confirms it")
    return weigh(claim, finding.summary, wrong, silent)


def weigh(
    claim: Claim, shown: str, wrong: Collection[str], silent: Collection[str] = ()
) -> ClaimCheck:
    """Conclude from contradictions and gaps."""
    agreement = (
        Agreement.DISAGREES if wrong else Agreement.CANNOT_TELL if silent else Agreement.AGREES
    )
    why = tuple(wrong or silent)
    return ClaimCheck(agreement=agreement, claimed=describe_claim(claim), shown=shown, why=why)


def describe_claim(claim: Claim) -> str:
    """Put a claim into a line.

    For example ``time-trap: passes until 2023-12-31T23:59:59Z``.
    """
    parts = [
        " and ".join(_describe_window(one) for one in claim.stretches() if claim.instants()),
        _named("fails on", (*claim.failing_cpus, *claim.failing_kernels)),
        _named("passes on", (*claim.passing_cpus, *claim.passing_kernels)),
        _named("decided by", claim.features),
        f"along the {claim.axis} axis" if claim.axis else "",
        _named("in", claim.varying_files),
    ]
    told = ", ".join(filter(None, parts))
    return f"{claim.kind}: {told}" if told else claim.kind


def _differences(claim: Claim, finding: Finding) -> Iterator[tuple[bool, str]]:
    """Iterate over contradictions (True) and gaps (False)."""
    if claim.kind == "time-trap":
        yield from _windows(claim, finding)
        if claim.failing_cpus:
            yield from _cpus(claim, finding)
        elif finding.failing_cpus:
            yield True, f"it springs on some CPUs only: {' '.join(finding.failing_cpus)}"
    elif claim.kind == "cpu-dependent":
        yield from _cpus(claim, finding)
    elif claim.kind == "kernel-dependent":
        claimed = (claim.passing_kernels, claim.failing_kernels)
        yield from _places(claimed, (finding.passing_kernels, finding.failing_kernels))
    elif claim.kind == "output-varies":
        yield from _outputs(claim, finding)
    if claim.evidence and not says(finding.failing_line, claim.evidence):
        shown = finding.failing_line or "nothing"
        yield False, f"the log is claimed to say {claim.evidence!r}; what was kept of it: {shown!r}"


def _windows(claim: Claim, finding: Finding) -> Iterator[tuple[bool, str]]:
    instants = claim.instants()
    if not instants:
        yield False, "the claim names no instant"
        return
    first, last = finding.studied_from, finding.studied_until
    if (
        first is None
        or last is None
        or not (first < instants[0] and instants[-1] + _SECOND <= last)
    ):
        span = (
            f"{_agreement_written(first)} to {_agreement_written(last)}"
            if first and last
            else "no range of dates"
        )
        yield False, f"the claim reaches beyond what was studied: {span}"
        return
    claimed = claim.stretches()
    if len(claimed) != len(finding.windows):
        shown = " and ".join(map(_describe_window, finding.windows)) or "passes never"
        yield True, f"it passes in {len(finding.windows)} windows, not in {len(claimed)}: {shown}"
        return
    for ours, theirs in zip(claimed, finding.windows, strict=True):
        yield from _end(ours.passes_from, theirs.passes_from, finding, claim, is_first=True)
        yield from _end(ours.passes_until, theirs.passes_until, finding, claim, is_first=False)


def _end(
    claimed: datetime | None,
    shown: datetime | None,
    finding: Finding,
    claim: Claim,
    *,
    is_first: bool,
) -> Iterator[tuple[bool, str]]:
    """Compare one end of a window."""
    what = "first" if is_first else "last"
    if claimed is None or shown is None:
        if claimed is not shown:
            yield True, f"{what} second that passes: claimed {_end_words(claimed)}, {_shown(shown)}"
        return
    low, high = _located(shown, finding, is_first=is_first)
    slack = timedelta(seconds=claim.resolution_s - 1)
    if not low - slack <= claimed <= high + slack:
        place = (
            _agreement_written(low)
            if low == high
            else f"between {_agreement_written(low)} and {_agreement_written(high)}"
        )
        yield (
            True,
            f"{what} second that passes: claimed {_agreement_written(claimed)}, shown {place}",
        )
    elif high - low > slack:
        place = f"between {_agreement_written(low)} and {_agreement_written(high)}"
        yield False, f"the {what} second that passes was located only {place}"


def _located(shown: datetime, finding: Finding, *, is_first: bool) -> tuple[datetime, datetime]:
    """Return between which seconds the end of a window lies, as far as the finding tells."""
    for boundary in finding.boundaries:
        if boundary.axis is Axis.DATE and _is_end(boundary, shown, is_first=is_first):
            if boundary.is_exact:
                return shown, shown
            before, after = map(parse_instant, (boundary.last_before, boundary.first_after))
            return (before + _SECOND, after) if is_first else (before, after - _SECOND)
    return shown, shown


def _is_end(boundary: Boundary, shown: datetime, *, is_first: bool) -> bool:
    if is_first:
        return boundary.after is Verdict.PASSED and parse_instant(boundary.first_after) == shown
    return boundary.before is Verdict.PASSED and parse_instant(boundary.last_before) == shown


def _cpus(claim: Claim, finding: Finding) -> Iterator[tuple[bool, str]]:
    claimed = (claim.passing_cpus, claim.failing_cpus)
    yield from _places(claimed, (finding.passing_cpus, finding.failing_cpus))
    yield from _features(claim, finding)


def _places(
    claimed: tuple[tuple[str, ...], tuple[str, ...]], shown: tuple[tuple[str, ...], tuple[str, ...]]
) -> Iterator[tuple[bool, str]]:
    """Compare where it passes and where it fails."""
    passing, failing = shown
    verbs = (("pass", "fails", failing), ("fail", "passes", passing))
    for names, (verb, opposite, others) in zip(claimed, verbs, strict=True):
        for name in names:
            if name in others:
                yield True, f"it is claimed to {verb} on {name}, and {opposite} there"
            elif name not in {*passing, *failing}:
                yield False, f"it was not tried on {name}, or gave no verdict there"
    if not (passing and failing):
        yield False, "it was not seen to pass in one place and to fail in another"


def _features(claim: Claim, finding: Finding) -> Iterator[tuple[bool, str]]:
    sets = (finding.features, finding.features_needed, finding.features_harmful)
    shown = [names for names in sets if names]
    if not claim.features or set(claim.features) in map(set, shown):
        return
    named = "; ".join(" ".join(names) for names in shown)
    if shown:
        yield True, f"claimed to be decided by {' '.join(claim.features)}, shown {named}"
    else:
        yield False, "no set of CPU features was seen to decide it"


def _outputs(claim: Claim, finding: Finding) -> Iterator[tuple[bool, str]]:
    if claim.axis != (finding.axis and finding.axis.value):
        yield True, f"claimed to vary with {claim.axis}, shown to vary with {finding.axis}"
    if claim.varying_files and set(claim.varying_files) != set(finding.varying_files):
        names = " ".join(finding.varying_files)
        yield True, f"claimed to vary: {' '.join(claim.varying_files)}; shown: {names}"


def _describe_window(window: Window) -> str:
    first = f"from {_agreement_written(window.passes_from)}" if window.passes_from else ""
    last = f"until {_agreement_written(window.passes_until)}" if window.passes_until else ""
    return " ".join(filter(None, ("passes", first, last)))


def _end_words(instant: datetime | None) -> str:
    return "none" if instant is None else _agreement_written(instant)


def _shown(instant: datetime | None) -> str:
    return f"shown {_end_words(instant)}"


def _named(what: str, names: tuple[str, ...]) -> str:
    return f"{what} {' '.join(names)}" if names else ""


def _agreement_written(instant: datetime) -> str:
    return format_instant(instant)
