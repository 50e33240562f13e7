"""Delta debugging: a smallest set of items that still makes the result flip.

References
----------
.. [1] A. Zeller, R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE
   Transactions on Software Engineering 28(2), 2002, algorithm ddmin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from buildvm_nb.errors import BudgetSpent, SearchError

__all__ = ["Flips", "Reduction", "reduce_set"]

Flips = Callable[[Sequence[frozenset[str]]], Sequence[bool | None]]
"""Tells for sets of items, in their order, whether each flips the result; None: cannot be told."""


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """What is left of a set of items."""

    items: tuple[str, ...]
    """The smallest set found that flips, in order of preference; empty when not even all do."""
    flips: bool
    """Whether all items together flip the result; only then is there anything to reduce."""
    is_minimal: bool
    """Whether taking away any single item was seen to undo the flip."""
    tried: int
    """How many sets were asked about."""
    unresolved: tuple[frozenset[str], ...]
    """The sets about which nothing could be told."""
    exhausted: bool
    """Whether the budget ended before the questions did."""


def reduce_set(
    items: Sequence[str], flips: Flips, *, workers: int = 1, budget: int | None = None
) -> Reduction:
    """Reduce items to a smallest set that flips the result on its own.

    The empty set is taken not to flip it and is not asked. With workers to spare the first few
    items are tried one by one right at the beginning. Beyond that the result does not depend on
    `workers`.

    Parameters
    ----------
    items : sequence of str
        Each once, the likeliest culprits first: of sets that do equally well, the one with
        earlier items is preferred.
    flips : callable
        Answers for up to `workers` sets at a time. `BudgetSpent` ends the search with what there
        is; what else it raises is passed on.
    workers : int
        How many sets to ask about together, from 1.
    budget : int, optional
        How many sets to ask about at most, from 0.

    Returns
    -------
    Reduction
        With ``flips=False`` and no items when all items together do not flip the result.

    Raises
    ------
    SearchError
        If a parameter is out of range, an item occurs twice, or `flips` returns another number of
        answers than it was asked for.
    """
    if len(set(items)) != len(items):
        raise SearchError(f"an item occurs twice: {', '.join(items)}; allowed: each once")
    if workers < 1:
        raise SearchError(f"workers out of range: {workers}; allowed: 1 or more")
    if budget is not None and budget < 0:
        raise SearchError(f"budget out of range: {budget}; allowed: 0 or more")
    oracle = _Oracle(flips=flips, workers=workers, budget=budget)
    return _reduce(tuple(items), oracle)


@dataclass(kw_only=True)
class _Oracle:
    """Asks each set once, several together, and remembers the answers."""

    flips: Flips
    workers: int
    budget: int | None
    seen: dict[frozenset[str], bool | None] = field(default_factory=lambda: {frozenset(): False})
    tried: int = 0
    exhausted: bool = False

    def first_flipping(self, sets: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
        """Return the first of `sets` that flips, None if none was seen to."""
        waiting = iter(sets)
        while batch := list(islice(waiting, self.workers)):
            self.ask([frozenset(items) for items in batch])
            for items in batch:
                if self.seen.get(frozenset(items)):
                    return items
        return None

    def ask(self, sets: Sequence[frozenset[str]]) -> None:
        """Ask about those of `sets` that are new, as far as the budget goes."""
        new = [items for items in dict.fromkeys(sets) if items not in self.seen]
        room = len(new) if self.budget is None else self.budget - self.tried
        self.exhausted |= room < len(new)
        new = new[:room]
        if not new:
            return
        try:
            answers = self.flips(new)
        except BudgetSpent:
            self.exhausted = True
            return
        if len(answers) != len(new):
            raise SearchError(
                f"wrong number of answers: {len(answers)}; allowed: one for each of the "
                f"{len(new)} sets"
            )
        self.seen.update(zip(new, answers, strict=True))
        self.tried += len(new)


def _reduce(items: tuple[str, ...], oracle: _Oracle) -> Reduction:
    singles = [frozenset({item}) for item in items[: oracle.workers - 1]]
    oracle.ask([frozenset(items), *singles])
    flips = oracle.seen.get(frozenset(items)) is True
    left = _minimize(items, oracle) if flips else ()
    undone = [oracle.seen.get(frozenset(left) - {item}) is False for item in left]
    return Reduction(
        items=left,
        flips=flips,
        is_minimal=flips and all(undone),
        tried=oracle.tried,
        unresolved=tuple(asked for asked, answer in oracle.seen.items() if answer is None),
        exhausted=oracle.exhausted,
    )


def _minimize(items: tuple[str, ...], oracle: _Oracle) -> tuple[str, ...]:
    for item in items:
        if oracle.seen.get(frozenset({item})):
            return (item,)
    parts = 2
    while len(items) > 1:
        parts = min(parts, len(items))
        pieces = _cut(items, parts)
        rests = [tuple(i for i in items if i not in piece) for piece in reversed(pieces)]
        if (piece := oracle.first_flipping(pieces)) is not None:
            items, parts = piece, 2
        elif (rest := oracle.first_flipping(rests)) is not None:
            items, parts = rest, max(parts - 1, 2)
        elif parts == len(items) or oracle.exhausted:
            break
        else:
            parts *= 2
    return items


def _cut(items: tuple[str, ...], parts: int) -> list[tuple[str, ...]]:
    """Cut items into parts of nearly the same size; the likely ones come first."""
    cuts = [len(items) * index // parts for index in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(cuts)]
