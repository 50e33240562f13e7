"""When traps spring: the boundaries on the date axis after which what passed does not pass."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError

from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.finding import Axis, Boundary, Hint
from buildvm_nb.model.instants import occurrences
from buildvm_nb.model.outcome import Verdict

__all__ = ["Spring", "breaks", "next_turns", "read_boundaries", "spring_at", "springs"]

_BOUNDARIES = TypeAdapter(tuple[Boundary, ...])
_SECOND = timedelta(seconds=1)
_RECURS_WITHIN = timedelta(days=12 * 366)
"""29 February may be that far away."""
_ON_DATES = f'"axis":"{Axis.DATE}"'


@dataclass(frozen=True, kw_only=True)
class Spring:
    """One time at which a trap springs: after `passes_until` and not after `springs_at`."""

    passes_until: datetime
    """Last instant before it that is known to pass."""
    springs_at: datetime
    """First instant after it that is known to fail."""
    is_exact: bool
    """Whether both are neighbouring seconds."""
    passes_again_at: datetime | None = None
    """First instant that is known to pass again; None: it stays broken in the studied range."""
    cause: Hint | None = None

    def may_lie(self, after: datetime, before: datetime) -> bool:
        """Tell whether it may spring between two instants.

        Returns: True as well where it is not exact and only part of its bracket lies between them.
        """
        return self.springs_at > after and self.passes_until < before - _SECOND


def springs(boundaries: str) -> tuple[Spring, ...]:
    """Find the springs of a finding.

    Returns: in the order of time; empty where no boundary of the date axis leads from passing to
    failing.
    """
    if _ON_DATES not in boundaries:
        return ()
    on_dates = [entry for entry in read_boundaries(boundaries) if entry.axis is Axis.DATE]
    return tuple(_springs(on_dates))


def next_turns(
    boundaries: str, at: datetime, recurs: str | None = None
) -> tuple[datetime | None, datetime | None]:
    """Tell what comes next on the date axis.

    Returns: first instant after it from which on it is known to fail where it passed, and to pass
    where it did not; None: there is none in the range that was studied.
    """
    fails = passes = None
    for before, after, first in _turns(boundaries):
        if first > at and fails is None and breaks(before, after):
            fails = first
        elif first > at and passes is None and after == Verdict.PASSED != before:
            passes = first
    ends: datetime | None = None
    for begins, until in _instances(recurs, at) if recurs else ():
        if begins > (ends or at):
            return min(begins, fails or begins), ends or passes
        ends = until
    return fails, ends or passes


def read_boundaries(boundaries: str) -> tuple[Boundary, ...]:
    """Read a cell of column ``boundaries``.

    Returns: in the order of their axis.
    """
    try:
        return _BOUNDARIES.validate_json(boundaries)
    except ValidationError as error:
        raise CatalogError(
            f"not a list of boundaries: {boundaries[:80]!r}",
            hint="it was written by another version, or changed by hand",
        ) from error


def breaks(before: str | None, after: str | None) -> bool:
    """Tell whether a boundary leads from passing to failing."""
    return before == Verdict.PASSED and after is not None and after != Verdict.PASSED


def spring_at(text: str | None) -> datetime | None:
    """Read one end of a boundary on the date axis.

    Returns: aware, in UTC, midnight where it is only a day; None: it is no instant.
    """
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _instances(recurs: str, at: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Iterate over a rule's days or hours; none where another version wrote it otherwise."""
    try:
        yield from occurrences(recurs, at, at + _RECURS_WITHIN)
    except UsageError:
        return


@lru_cache(maxsize=4096)
def _turns(boundaries: str) -> tuple[tuple[str, str, datetime], ...]:
    """Return verdicts and instants of the boundaries on the date axis, without their causes."""
    if _ON_DATES not in boundaries:
        return ()
    try:
        told = [
            (one["before"], one["after"], spring_at(one["first_after"]))
            for one in json.loads(boundaries)
            if one["axis"] == Axis.DATE
        ]
    except (ValueError, KeyError, TypeError):
        read_boundaries(boundaries)  # says what is wrong
        raise
    return tuple((before, after, first) for before, after, first in told if first is not None)


def _springs(boundaries: list[Boundary]) -> Iterator[Spring]:
    for number, boundary in enumerate(boundaries):
        last, first = spring_at(boundary.last_before), spring_at(boundary.first_after)
        if last is None or first is None or not breaks(boundary.before, boundary.after):
            continue
        later = boundaries[number + 1 :]
        healed = [entry.first_after for entry in later if entry.after is Verdict.PASSED]
        yield Spring(
            passes_until=last,
            springs_at=first,
            is_exact=boundary.is_exact,
            passes_again_at=spring_at(healed[0]) if healed else None,
            cause=boundary.cause,
        )
