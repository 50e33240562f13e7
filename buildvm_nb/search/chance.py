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

from buildvm_nb.search.plan import State

__all__ = ["LEVEL", "ChanceChange", "fisher_exact", "locate_change"]

LEVEL = 0.001
"""A change counts where counts so unlike would come by chance less often than that."""
_NEAR = 6
"""So many runs on each side, right beside the change, have to differ as well."""
_NEAR_LEVEL = 0.05
_MOST_REPEATS = 8
_SUGGESTED = 0.3
"""A change that chance makes less often than that is worth new runs on both sides."""
_MOST_SUGGESTED = 2
_FRESH = 6
"""New runs on a side at a time."""
_FRESH_ROUNDS = 3
_FRESH_PLACES = 3
_MOST_MOVED = 4
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

    Returns: None: what was seen may well be chance everywhere.
    """
    coarse = _best(counts) or _by_fresh_runs(counts, ask)
    coarse = _made_sure(coarse, sorted(counts), ask) if coarse else None
    if coarse is None:
        return None
    change, asked = coarse, 0
    while change.high - change.low > resolution and asked < most_runs:
        middle = (change.low + change.high) // 2
        is_after, used = _decide(change, partial(ask, middle))
        asked += used
        if is_after is None:
            break
        low, high = (change.low, middle) if is_after else (middle, change.high)
        change = replace(change, low=low, high=high)
    passed = [_counted(ask(at, _NEAR)) for at in (change.low, change.high)]
    return change if fisher_exact(*passed) < _NEAR_LEVEL else coarse


def _best(counts: Mapping[int, tuple[int, int]]) -> ChanceChange | None:
    found = _splits(counts)
    if not found or found[0].chance * len(found) >= LEVEL:  # the best of many looks better than is
        return None
    return found[0]


def _splits(counts: Mapping[int, tuple[int, int]]) -> list[ChanceChange]:
    """Return all ways to part the counts in two, the one that chance makes least often first."""
    positions = sorted(counts)
    found = []
    for number in range(1, len(positions)):
        before = _summed([counts[at] for at in positions[:number]])
        after = _summed([counts[at] for at in positions[number:]])
        change = ChanceChange(
            low=positions[number - 1],
            high=positions[number],
            before=before,
            after=after,
            chance=fisher_exact(before, after),
        )
        found.append(change)
    return sorted(found, key=lambda change: (change.chance, change.low))


def _by_fresh_runs(counts: Mapping[int, tuple[int, int]], ask: AskTimes) -> ChanceChange | None:
    """Ask both sides of the likeliest changes anew: what few runs suggest, new ones prove."""
    likely = [change for change in _splits(counts) if change.chance < _SUGGESTED][:_MOST_SUGGESTED]
    for change in likely:
        sides = [
            [at for at in sorted(counts) if at <= change.low][-_FRESH_PLACES:],
            [at for at in sorted(counts) if at >= change.high][:_FRESH_PLACES],
        ]
        before, after = (0, 0), (0, 0)
        for _ in range(_FRESH_ROUNDS):
            more = [_asked_in_turn(side, ask) for side in sides]
            before, after = _summed([before, more[0]]), _summed([after, more[1]])
            chance = fisher_exact(before, after)
            if chance < LEVEL / (_FRESH_ROUNDS * _MOST_SUGGESTED):
                return replace(change, before=before, after=after, chance=chance)
            if chance > _SUGGESTED:
                break
    return None


def _asked_in_turn(places: Sequence[int], ask: AskTimes) -> tuple[int, int]:
    """Ask so many runs at places in turn."""
    runs = [place for _ in range(_FRESH) for place in places][:_FRESH]
    return _summed([_counted(ask(at, 1)) for at in runs])


def _made_sure(
    change: ChanceChange, positions: Sequence[int], ask: AskTimes
) -> ChanceChange | None:
    """Have both ends of a change on their sides: a failure by chance may have moved one."""
    is_low = partial(_is_surely, change, ask, is_after=False)
    is_high = partial(_is_surely, change, ask, is_after=True)
    before = [at for at in reversed(positions) if at <= change.low][:_MOST_MOVED]
    after = [at for at in positions if at >= change.high][:_MOST_MOVED]
    low, high = next(filter(is_low, before), None), next(filter(is_high, after), None)
    return None if low is None or high is None else replace(change, low=low, high=high)


def _is_surely(change: ChanceChange, ask: AskTimes, at: int, *, is_after: bool) -> bool:
    return _decide(change, partial(ask, at))[0] is is_after


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
