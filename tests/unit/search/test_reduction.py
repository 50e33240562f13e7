import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildvm_nb.errors import SearchError
from buildvm_nb.search import reduce_set

FEATURES = [f"f{index}" for index in range(40)]
SETS = st.frozensets(st.sampled_from(FEATURES), max_size=5)
COUNTS = st.sampled_from([1, 2, 5])


class Oracle:
    """Answers by a predicate, refuses to be asked twice, and keeps to the number of workers."""

    def __init__(self, predicate, workers=1):
        self.predicate, self.workers, self.asked = predicate, workers, []

    def __call__(self, sets):
        assert 1 <= len(sets) <= self.workers
        assert not set(sets) & set(self.asked)
        self.asked += sets
        return [self.predicate(asked) for asked in sets]


def assert_minimal(found, predicate):
    assert predicate(frozenset(found.items)) is True
    for item in found.items:
        rest = frozenset(found.items) - {item}
        assert not rest or predicate(rest) is False


@settings(deadline=None, max_examples=50)
@given(st.lists(SETS.filter(bool), min_size=1, max_size=3), COUNTS)
def test_of_any_of_several_culprits_a_minimal_one_is_left(culprits, workers):
    def predicate(items):
        return any(culprit <= items for culprit in culprits)

    oracle = Oracle(predicate, workers)
    found = reduce_set(FEATURES, oracle, workers=workers)
    assert found.flips
    assert found.is_minimal
    assert_minimal(found, predicate)
    assert frozenset(found.items) in culprits
    assert found.tried == len(oracle.asked)
    assert not found.exhausted


@settings(deadline=None, max_examples=50)
@given(st.randoms(use_true_random=False), st.integers(1, 12), COUNTS)
def test_what_is_left_is_minimal_for_any_predicate(chance, count, workers):
    items = FEATURES[:count]
    answers = {frozenset(items): True, frozenset(): False}

    def predicate(asked):
        return answers.setdefault(asked, chance.random() < 0.4)

    found = reduce_set(items, Oracle(predicate, workers), workers=workers)
    assert found.is_minimal
    assert_minimal(found, lambda asked: answers[asked])


@settings(deadline=None, max_examples=50)
@given(SETS.filter(bool), st.randoms(use_true_random=False), COUNTS)
def test_what_cannot_be_told_is_neither_used_nor_hidden(culprit, chance, workers):
    answers = {frozenset(FEATURES): True}

    def predicate(asked):
        told = culprit <= asked
        return answers.setdefault(asked, None if chance.random() < 0.3 else told)

    found = reduce_set(FEATURES, Oracle(predicate, workers), workers=workers)
    assert culprit <= frozenset(found.items)
    assert set(found.unresolved) == {asked for asked, told in answers.items() if told is None}
    if found.is_minimal:
        assert frozenset(found.items) == culprit


@settings(deadline=None, max_examples=50)
@given(SETS.filter(bool), st.integers(0, 30), COUNTS)
def test_the_budget_is_kept_and_what_is_left_still_flips(culprit, budget, workers):
    oracle = Oracle(lambda asked: culprit <= asked, workers)
    found = reduce_set(FEATURES, oracle, workers=workers, budget=budget)
    assert found.tried == len(oracle.asked) <= budget
    if found.flips:
        assert culprit <= frozenset(found.items)
    else:
        assert found.exhausted
        assert budget == 0
    assert found.exhausted or found.is_minimal


def test_items_are_left_in_the_order_of_preference():
    found = reduce_set(FEATURES, Oracle(lambda asked: {"f30", "f2"} <= asked))
    assert found.items == ("f2", "f30")


def test_of_two_culprits_the_preferred_one_is_left():
    found = reduce_set(FEATURES, Oracle(lambda asked: bool({"f5", "f35"} & asked)))
    assert found.items == ("f5",)


def test_a_single_culprit_takes_few_questions():
    for feature in FEATURES:
        found = reduce_set(FEATURES, Oracle(lambda asked, one=feature: one in asked))
        assert found.items == (feature,)
        assert found.tried <= 14


def test_likely_items_are_tried_at_once_when_workers_are_free():
    oracle = Oracle(lambda asked: "f2" in asked, workers=4)
    found = reduce_set(FEATURES, oracle, workers=4)
    assert found.items == ("f2",)
    assert found.is_minimal
    assert found.tried == 4


def test_nothing_is_reduced_when_all_items_together_do_not_flip():
    found = reduce_set(FEATURES, Oracle(lambda _asked: False))
    assert (found.items, found.flips, found.is_minimal, found.tried) == ((), False, False, 1)


def test_nothing_is_reduced_when_all_items_together_cannot_be_told():
    found = reduce_set(FEATURES, Oracle(lambda _asked: None))
    assert not found.flips
    assert found.unresolved == (frozenset(FEATURES),)


def test_no_items_flip_nothing():
    found = reduce_set([], Oracle(lambda _asked: True))
    assert (found.items, found.flips, found.tried) == ((), False, 0)


@pytest.mark.parametrize(
    ("items", "wrong", "message"),
    [
        (["a", "b", "a"], {}, "an item occurs twice: a, b, a; allowed: each once"),
        (["a"], {"workers": 0}, "workers out of range: 0; allowed: 1 or more"),
        (["a"], {"budget": -1}, "budget out of range: -1; allowed: 0 or more"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(items, wrong, message):
    with pytest.raises(SearchError) as caught:
        reduce_set(items, Oracle(lambda _asked: True), **wrong)
    assert caught.value.message == message


def test_too_few_answers_are_refused():
    with pytest.raises(SearchError, match="wrong number of answers: 0; allowed: one for each"):
        reduce_set(["a"], lambda _sets: [])
