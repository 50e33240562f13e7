"""Counts on two sides: when they differ by more than chance, and where."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.search import State, fisher_exact
from buildvm_nb.search.chance import locate_change

COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [  # from the tea-tasting lady, and tables of R's fisher.test
        ((3, 1), (1, 3), 0.485714),
        ((4, 0), (0, 4), 0.028571),
        ((10, 2), (3, 15), 0.000537),
        ((0, 0), (5, 5), 1.0),
    ],
)
def test_the_exact_test_is_that_of_the_books(first, second, expected):
    assert fisher_exact(first, second) == pytest.approx(expected, abs=5e-5)


@given(first=COUNTS, second=COUNTS)
def test_it_does_not_matter_which_side_is_named_first(first, second):
    chance = fisher_exact(first, second)
    assert 0 <= chance <= 1
    assert chance == pytest.approx(fisher_exact(second, first))
    assert chance == pytest.approx(fisher_exact(first[::-1], second[::-1]))


@given(seed=st.integers(0, 400), rate=st.sampled_from([0.0, 0.02, 0.1, 0.3]))
def test_a_change_of_how_often_it_fails_is_where_it_is(seed, rate):
    chance = random.Random(seed)

    def state(at):
        return State.BAD if at >= 7_000 or chance.random() < rate else State.GOOD

    counts = {}
    for at in range(0, 10_000, 500):
        bad = state(at) is State.BAD
        counts[at] = (not bad, bad)
    found = locate_change(
        counts, lambda at, times: [state(at) for _ in range(times)], resolution=1, most_runs=300
    )
    if found is not None:
        assert abs(found.high - 7_000) < 1_500
        if rate <= 0.02:
            assert found.low < 7_000 <= found.high or rate


@given(seed=st.integers(0, 200))
def test_chance_alone_is_seldom_a_change(seed):
    chance = random.Random(seed)
    counts = {at: (1, 0) if chance.random() < 0.8 else (0, 1) for at in range(40)}
    found = locate_change(
        counts,
        lambda _at, times: [
            State.GOOD if chance.random() < 0.8 else State.BAD for _ in range(times)
        ],
        resolution=1,
        most_runs=100,
    )
    assert found is None
