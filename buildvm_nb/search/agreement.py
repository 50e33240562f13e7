"""Repetitions: what they agree on, and how much that is worth."""

from collections import Counter
from collections.abc import Iterable, Mapping

from buildvm_nb.errors import SearchError
from buildvm_nb.search.answers import State

__all__ = ["coin_confidence", "count_states", "is_split"]


def coin_confidence(agreeing: int) -> float:
    """Return 1 less the chance that a thrown coin gives the same run of agreeing answers.

    Parameters
    ----------
    agreeing : int
        How many confirming answers agreed, from 0.

    Returns
    -------
    float
        From 0 up to, and for very many answers rounded to, 1.

    Raises
    ------
    SearchError
        If `agreeing` is negative.
    """
    if agreeing < 0:
        raise SearchError(f"agreeing out of range: {agreeing}; allowed: 0 or more")
    return 1 - 0.5**agreeing


def count_states(states: Iterable[State]) -> dict[State, int]:
    """Count the answers to one question.

    Parameters
    ----------
    states : iterable of State
        What was answered each time.

    Returns
    -------
    dict of State to int
        Only states that occurred, good before bad before unknown.
    """
    counts = Counter(states)
    return {state: counts[state] for state in State if counts[state]}


def is_split(counts: Mapping[State, int]) -> bool:
    """Tell whether the same question was answered both GOOD and BAD.

    Parameters
    ----------
    counts : mapping of State to int
        How often each state was the answer.

    Returns
    -------
    bool
        True if both occurred; UNKNOWN does not count as disagreement.
    """
    return bool(counts.get(State.GOOD)) and bool(counts.get(State.BAD))
