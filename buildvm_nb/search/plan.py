"""A plan: what to search, and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from buildvm_nb.errors import SearchError

__all__ = ["Plan", "Rhythm"]

Rhythm = Callable[[int, int], Sequence[int]]
"""Generic candidates between two positions, for example all turns of a year."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The range to search and what is known about where changes are likely.

    Raises
    ------
    SearchError
        If a field is out of its range.
    """

    first: int
    """First position of the range."""
    last: int
    """Last position of the range; it belongs to it."""
    scan: Sequence[int] = ()
    """Positions of the coarse scan, the most important first."""
    scan_ends: bool = True
    """Whether both ends of the range are part of the scan."""
    hints: Sequence[int] = ()
    """Positions where something is said to end or begin, in any order.

    Whether ``h`` is the last position of the old or the first one of the new state depends on the
    software, so that both ``h`` and ``h + 1`` are tried. Those outside the range do not matter.
    """
    likely: Sequence[int] = ()
    """A few hints that are very likely the changes looked for: tried before all else."""
    rhythms: Sequence[Rhythm] = field(default=(), repr=False)
    """Generic candidates, coarse to fine; each is tried as the first position of the new state.

    They are called with two positions and return the candidates between them, in any order.
    """
    resolution: int = 1
    """Distance between both sides of a change at which it counts as exact, from 1."""
    repeats: int = 2
    """Confirming runs on each side of each change, from 0."""
    workers: int = 1
    """How many probes to ask together, from 1."""
    budget: int | None = None
    """How many probes to ask at most, from 0; None: as many as it takes."""
    can_hold: bool = True
    """Whether the clock can be held inside one second."""
    behind: Sequence[int] | None = None
    """Hints to look behind for windows that the scan steps over, the most promising first.

    None: all hints, the newest first.
    """
    reveal: int = 32
    """How many hints to look behind at most, from 0."""

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise SearchError(
                f"the range ends before it begins: first {self.first}, last {self.last}; "
                "allowed: first <= last"
            )
        _check_least("resolution", self.resolution, 1)
        _check_least("repeats", self.repeats, 0)
        _check_least("workers", self.workers, 1)
        _check_least("reveal", self.reveal, 0)
        if self.budget is not None:
            _check_least("budget", self.budget, 0)
        for position in self.scan:
            if not self.first <= position <= self.last:
                raise SearchError(
                    f"scan position out of range: {position}; allowed: {self.first} to {self.last}"
                )

    @cached_property
    def scanned(self) -> tuple[int, ...]:
        """All positions of the coarse scan, each once, in the order of asking."""
        ends = (self.first, self.last) if self.scan_ends else ()
        return tuple(dict.fromkeys((*ends, *self.scan)))


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise SearchError(f"{name} out of range: {value}; allowed: {least} or more")
