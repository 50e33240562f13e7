import pytest

from buildvm_nb.errors import SearchError
from buildvm_nb.search import State, coin_confidence
from buildvm_nb.search.plan import count_states, is_split


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0.0), (1, 0.5), (4, 0.9375)])
def test_each_agreeing_run_halves_the_chance_that_it_was_a_coin(agreeing, expected):
    assert coin_confidence(agreeing) == expected


def test_confidence_never_exceeds_one():
    assert coin_confidence(5000) == 1.0


def test_a_negative_number_of_runs_is_refused():
    with pytest.raises(SearchError, match="agreeing out of range: -1; allowed: 0 or more"):
        coin_confidence(-1)


def test_counts_name_only_what_occurred():
    counts = count_states([State.UNKNOWN, State.GOOD, State.GOOD])
    assert list(counts.items()) == [(State.GOOD, 2), (State.UNKNOWN, 1)]
    assert not is_split(counts)
    assert is_split({State.GOOD: 5, State.BAD: 1})
