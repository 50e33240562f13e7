"""Recurring rules: what is written is what dateutil reads, and what an instant's calendar says."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from buildvm_nb.errors import UsageError
from buildvm_nb.model.instants import is_within, next_within, occurrences
from buildvm_nb.search import Feature, Rule, features_of
from buildvm_nb.study.dates import rule_text, rule_words

_US_RULES = 13_515 * 86_400
"""Since 2007, and a day for zones."""
_OF_US = {Feature.US_SUMMER, Feature.US_SUMMER_DAYS, Feature.US_CHANGE}
_BY_HOUR = {Feature.EU_SUMMER, Feature.US_SUMMER}
_SEASONS = _BY_HOUR | {Feature.EU_SUMMER_DAYS, Feature.US_SUMMER_DAYS}
_VALUES = {
    Feature.WEEKDAY: st.integers(0, 6),
    Feature.MONTH: st.integers(1, 12),
    Feature.MONTHDAY: st.integers(1, 31),
    Feature.FROM_END: st.just(-1),
    Feature.HOUR: st.integers(0, 23),
    Feature.WEEK: st.sampled_from([True]),
    Feature.YEARDAY: st.sampled_from([True]),
    Feature.EU_CHANGE: st.sampled_from(["begins", "ends"]),
    Feature.US_CHANGE: st.sampled_from(["begins", "ends"]),
    Feature.EU_SUMMER: st.booleans(),
    Feature.US_SUMMER: st.booleans(),
    Feature.EU_SUMMER_DAYS: st.booleans(),
    Feature.US_SUMMER_DAYS: st.booleans(),
    Feature.DATE: st.sampled_from([(2, 29), (12, 31), (1, 1), (7, 4)]),
}


@st.composite
def rules(draw):
    feature = draw(st.sampled_from(list(Feature)))
    most = 1 if feature in _SEASONS else 3
    values = draw(st.frozensets(_VALUES[feature], min_size=1, max_size=most))
    shift_s = draw(st.sampled_from([0, 0, 3600, -8 * 3600, 19_800]))
    is_utc = feature in _BY_HOUR | {Feature.HOUR}
    return Rule(feature=feature, values=values, shift_s=0 if is_utc else shift_s)


@example(rule=Rule(feature=Feature.MONTH, values=frozenset({1}), shift_s=3600), day=0, second=0)
@given(rule=rules(), day=st.integers(0, 40_000), second=st.integers(0, 86_399))
def test_what_is_written_holds_when_the_rule_does(rule, day, second):
    at = day * 86_400 + second
    if rule.feature in _OF_US and at < _US_RULES:
        return  # others held, and are not written
    summer = rule.feature in _BY_HOUR
    change = {Feature.EU_SUMMER: Feature.EU_CHANGE, Feature.US_SUMMER: Feature.US_CHANGE}
    if summer and features_of(at)[change[rule.feature]]:
        return  # of the days of change only whole ones are written
    written = is_within(rule_text(rule), datetime.fromtimestamp(at, UTC))
    assert written is rule.covers(at)


@given(rule=rules(), day=st.integers(0, 36_000))
def test_the_next_instance_is_the_first_instant_that_fails(rule, day):
    start = datetime.fromtimestamp(day * 86_400 + 1, UTC)
    text = rule_text(rule)
    found = next_within(text, start)
    if found is not None:
        assert is_within(text, found)
        assert (
            found == start
            or rule.feature in _OF_US
            or not is_within(text, found - timedelta(seconds=1))
        )
    assert rule_words(rule)


@pytest.mark.parametrize(
    ("rule", "at", "expected"),
    [
        ("FREQ=WEEKLY;BYDAY=MO", "2026-11-29T12:00:00Z", "2026-11-30T00:00:00Z"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", "2026-11-29T12:00:00Z", "2028-02-29T00:00:00Z"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", "2097-01-01T00:00:00Z", "2104-02-29T00:00:00Z"),
        ("FREQ=DAILY;BYHOUR=23", "2026-11-29T23:30:00Z", "2026-11-29T23:30:00Z"),
        (
            "DTSTART;TZID=UTC+09:00:20270101T000000\nRRULE:FREQ=WEEKLY;BYDAY=MO",
            "2026-11-29T12:00:00Z",
            "2027-01-03T15:00:00Z",
        ),
    ],
)
def test_an_instance_is_found_years_ahead_and_in_another_zone(rule, at, expected):
    assert next_within(rule, datetime.fromisoformat(at)) == datetime.fromisoformat(expected)


def test_the_days_of_a_rule_last_a_day_and_its_hours_an_hour():
    first, last = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 3))
    days = list(occurrences("FREQ=DAILY", first, last))
    hours = list(occurrences("FREQ=DAILY;BYHOUR=3", first, last))
    assert {after - begins for begins, after in days} == {timedelta(days=1)}
    assert {after - begins for begins, after in hours} == {timedelta(hours=1)}


@pytest.mark.parametrize("text", ["", "FREQ=SOMETIMES", "BYDAY=MO", "on Mondays"])
def test_what_is_no_rule_is_a_usage_error(text):
    with pytest.raises(UsageError, match="not a recurring rule"):
        is_within(text, datetime(2026, 1, 1, tzinfo=UTC))


def test_hours_of_one_rule_and_days_of_another_last_as_long_as_each_says():
    rule = "FREQ=DAILY;BYHOUR=4\nFREQ=MONTHLY;BYMONTHDAY=31"
    first = datetime(2026, 1, 30, tzinfo=UTC)
    told = [(a, b - a) for a, b in occurrences(rule, first, first + timedelta(days=2))]
    assert told == [
        (first.replace(hour=4), timedelta(hours=1)),
        (first.replace(day=31), timedelta(days=1)),
        (first.replace(day=31, hour=4), timedelta(hours=1)),
    ]
    inside = [is_within(rule, first + timedelta(hours=hours)) for hours in (3, 4, 5, 24, 47, 48)]
    assert inside == [False, True, False, True, True, False]
