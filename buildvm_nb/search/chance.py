"""Changes among answers that also come out by chance: counts on both sides, and Fisher's test.

References
----------
.. [1] R. A. Fisher, "The logic of inductive inference", Journal of the Royal Statistical Society
   98(1), 1935: the exact test of two proportions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import comb, log

from buildvm_nb.search.answers import State

__all__ = ["LEVEL", "ChanceChange", "fisher_exact", "locate_change"]

LEVEL = 0.001
"""A change counts where counts so unlike would come by chance less often than that."""
_NEAR = 6
"""So many runs on each side, right beside the change, have to differ as well."""
_NEAR_LEVEL = 0.05
_MOST_REPEATS = 8
_SURE = log(200)
"""By so much one side must explain the answers at a place better than the other."""

AskTimes = Callable[[int, int], Sequence[State]]
"""Asks a position so many times anew."""


@dataclass(frozen=True, kw_only=True)
class ChanceChange:
    """A change of how often it fails."""

    low: int
    high: int
    """It comes after `low` and not after `high`."""
    before: tuple[int, int]
    after: tuple[int, int]
    """How many runs passed and failed on each side."""
    chance: float
    """How often counts that unlike come by chance."""

    @property
    def fails_after(self) -> bool:
        """Whether it fails more often afterwards."""
        return _share(self.after) > _share(self.before)


def fisher_exact(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return how often chance alone makes two pairs of counts at least as unlike.

    Parameters
    ----------
    first, second : tuple of int
        How many runs passed and failed.

    Returns
    -------
    float
        The two-sided p of Fisher's exact test, from 0 to 1.
    """
    (a, b), (c, d) = first, second
    row, column, total = a + b, a + c, a + b + c + d
    whole = comb(total, row)
    low, high = max(0, row + column - total), min(row, column)
    ways = [comb(column, k) * comb(total - column, row - k) for k in range(low, high + 1)]
    seen = comb(column, a) * comb(total - column, row - a)
    return min(1.0, sum(way for way in ways if way <= seen) / whole)


def locate_change(
    counts: Mapping[int, tuple[int, int]], ask: AskTimes, *, resolution: int, most_runs: int
) -> ChanceChange | None:
    """Find the one change of how often it fails, as near as runs allow.

    Parameters
    ----------
    counts : mapping of int to tuple of int
        How many runs passed and failed at each position.
    ask : callable
        Asks a position anew, so many times.
    resolution : int
        At which distance of both sides to stop.
    most_runs : int
        How many more to ask for.

    Returns
    -------
    ChanceChange or None
        None: what was seen may well be chance everywhere.
    """
    known = dict(counts)
    change = _best(known)
    if change is None:
        return None
    asked = 0
    while change.high - change.low > resolution and asked < most_runs:
        middle = (change.low + change.high) // 2
        is_after, used = _decide(change, partial(ask, middle))
        asked += used
        if is_after is None:
            break
        low, high = (change.low, middle) if is_after else (middle, change.high)
        change = replace(change, low=low, high=high)
    passed = [_counted(ask(at, _NEAR)) for at in (change.low, change.high)]
    return change if fisher_exact(*passed) < _NEAR_LEVEL else None


def _best(counts: Mapping[int, tuple[int, int]]) -> ChanceChange | None:
    positions = sorted(counts)
    found = []
    for number in range(1, len(positions)):
        before = _summed([counts[at] for at in positions[:number]])
        after = _summed([counts[at] for at in positions[number:]])
        found.append((fisher_exact(before, after), number, before, after))
    if not found:
        return None
    chance, number, before, after = min(found)
    if chance * len(found) >= LEVEL:  # the best of many looks better than it is
        return None
    return ChanceChange(
        low=positions[number - 1],
        high=positions[number],
        before=before,
        after=after,
        chance=chance,
    )


def _decide(change: ChanceChange, ask: Callable[[int], Sequence[State]]) -> tuple[bool | None, int]:
    """Ask a place until one side explains it much better; None: neither does."""
    before, after = (_share(side) for side in (change.before, change.after))
    weight, used = 0.0, 0
    while abs(weight) < _SURE and used < _MOST_REPEATS:
        passed, failed = _counted(ask(2))
        used += 2
        if not passed + failed:
            return None, used
        weight += failed * log(after / before) + passed * log((1 - after) / (1 - before))
    return (weight > 0 if abs(weight) >= _SURE else None), used


def _share(side: tuple[int, int]) -> float:
    """Return how often it fails, never quite 0 or 1."""
    passed, failed = side
    return (failed + 0.5) / (passed + failed + 1)


def _counted(states: Sequence[State]) -> tuple[int, int]:
    return sum(s is State.GOOD for s in states), sum(s is State.BAD for s in states)


def _summed(sides: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(passed for passed, _ in sides), sum(failed for _, failed in sides)
