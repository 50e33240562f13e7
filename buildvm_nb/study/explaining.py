"""Which hint may be the cause of a change on the date axis."""

from collections.abc import Iterable, Iterator

from buildvm_nb.model.hint import VALIDITIES, VALIDITY_BEGINS, VALIDITY_ENDS, Hint, HintKind

__all__ = ["explain_boundary", "hint_within"]

_RANKS = (
    VALIDITIES,
    {HintKind.OUTPUT_DATE},
    {HintKind.DATE_CONSTANT, HintKind.EPOCH_CONSTANT},
    {HintKind.ROLLOVER},
    {HintKind.CALENDAR},
)
_STRONG = VALIDITIES | {HintKind.ROLLOVER}


def explain_boundary(hints: Iterable[Hint], first_after: int, *, becomes_good: bool) -> Hint | None:
    """Find what says that something changes at just this second.

    Parameters
    ----------
    hints : iterable of Hint
        Known ones.
    first_after : int
        First second of the new state, since 1970.
    becomes_good : bool
        Whether the case passes from then on.

    Returns
    -------
    Hint or None
        The most telling one: a validity that begins where the case begins to pass or ends where
        it begins to fail, before dates in logs and in sources, overflows, and the calendar. None
        where nothing says so.
    """
    matching = []
    for second, hint in _fitting(hints, becomes_good=becomes_good):
        # the end of a validity may be its last good second or the first bad one
        if second == first_after or (hint.kind in VALIDITY_ENDS and second == first_after - 1):
            matching.append(hint)
    return min(matching, key=_telling, default=None)


def hint_within(
    hints: Iterable[Hint], last_before: int, first_after: int, *, becomes_good: bool
) -> Hint | None:
    """Find what would explain a change that was not located to the second.

    Parameters
    ----------
    hints : iterable of Hint
        Known ones.
    last_before, first_after : int
        Between which seconds it lies, since 1970.
    becomes_good : bool
        Whether the case passes from then on.

    Returns
    -------
    Hint or None
        A validity or an overflow, where all that lie in between are of one instant.
    """
    inside = [
        hint
        for second, hint in _fitting(hints, becomes_good=becomes_good)
        if last_before <= second <= first_after and hint.kind in _STRONG
    ]
    is_one = len({hint.instant for hint in inside}) == 1
    return min(inside, key=_telling) if is_one else None


def _fitting(hints: Iterable[Hint], *, becomes_good: bool) -> Iterator[tuple[int, Hint]]:
    """Leave out validities that begin where it should end, and the other way round."""
    unfitting = VALIDITY_ENDS if becomes_good else VALIDITY_BEGINS
    for hint in hints:
        is_pivot = hint.kind is HintKind.ROLLOVER and _is_new_year(hint)
        if hint.instant is not None and hint.kind not in unfitting and not is_pivot:
            yield int(hint.instant.timestamp()), hint


def _is_new_year(hint: Hint) -> bool:
    """Tell whether it is a pivot of short years: tables of years end on that day as well."""
    at = hint.instant
    return at is not None and (at.month, at.day, at.hour, at.minute, at.second) == (1, 1, 0, 0, 0)


def _telling(hint: Hint) -> tuple[int, bool, int, str]:
    rank = next((number for number, kinds in enumerate(_RANKS) if hint.kind in kinds), len(_RANKS))
    return rank, "test" not in hint.path, len(hint.path), hint.path
