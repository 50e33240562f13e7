"""What a claim must say, and must not say, for a diagnosis to prove it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from buildvm_nb.model.entry import Claim, Window
from buildvm_nb.model.instants import format_instant

__all__ = ["claim_troubles"]

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
    """Say where a claim contradicts itself or leaves out what it is about.

    Parameters
    ----------
    claim : Claim
        Of a case.

    Yields
    ------
    (str, str)
        Key within the claim, and what is wrong with it.
    """
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
