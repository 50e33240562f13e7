"""Turns, leaps and overflows."""

from datetime import UTC, datetime

import pytest

from buildvm_nb.hints import calendar_hints, midnights, rollovers, year_turns
from buildvm_nb.model.finding import HintKind

DAY = 86_400


def at(*parts):
    return datetime(*parts, tzinfo=UTC)


@pytest.mark.parametrize(
    ("instant", "words"),
    [
        (at(1980, 1, 1), "FAT"),
        (at(2000, 1, 1), "two digits"),
        (at(2019, 4, 6, 23, 59, 42), "GPS week 2048"),
        (at(2036, 2, 7, 6, 28, 16), "NTP era 1"),
        (at(2038, 1, 19, 3, 14, 8), "time_t"),
        (at(2038, 11, 20, 23, 59, 42), "GPS week 3072"),
        (at(2040, 2, 6, 6, 28, 16), "HFS"),
        (at(2042, 9, 17, 23, 53, 48), "IBM"),
        (at(2050, 1, 1), "UTCTime"),
        (at(2069, 1, 1), "strptime"),
        (at(2100, 3, 1), "no leap year"),
        (at(2106, 2, 7, 6, 28, 16), "without a sign"),
        (at(2108, 1, 1), "FAT"),
        (at(2262, 4, 11, 23, 47, 17), "nanoseconds"),
        (at(2286, 11, 20, 17, 46, 40), "eleventh digit"),
    ],
    ids=str,
)
def test_an_overflow_is_told_with_its_reason(instant, words):
    (found,) = [
        hint for hint in rollovers(at(1971, 1, 1), at(2300, 1, 1)) if hint.instant == instant
    ]
    assert found.kind is HintKind.ROLLOVER
    assert words in found.why


@pytest.mark.parametrize(
    ("epoch", "count", "overflow"),
    [
        (at(1970, 1, 1), 2**31, at(2038, 1, 19, 3, 14, 8)),
        (at(1970, 1, 1), 2**32, at(2106, 2, 7, 6, 28, 16)),
        (at(1900, 1, 1), 2**32, at(2036, 2, 7, 6, 28, 16)),
        (at(1904, 1, 1), 2**32, at(2040, 2, 6, 6, 28, 16)),
        (at(1970, 1, 1), 2**15 * DAY, at(2059, 9, 19)),
        (at(1970, 1, 1), 2**16 * DAY, at(2149, 6, 7)),
        (at(1980, 1, 6), 1024 * 7 * DAY - 13, at(1999, 8, 21, 23, 59, 47)),
        (at(1980, 1, 6), 2048 * 7 * DAY - 18, at(2019, 4, 6, 23, 59, 42)),
        (at(1980, 1, 6), 3072 * 7 * DAY - 18, at(2038, 11, 20, 23, 59, 42)),
    ],
    ids=str,
)
def test_an_overflow_lies_where_its_counter_ends(epoch, count, overflow):
    assert (overflow - epoch).total_seconds() == count
    assert overflow in {hint.instant for hint in rollovers(at(1971, 1, 1), at(2300, 1, 1))}


def test_a_span_begins_after_its_first_and_ends_with_its_last_instant():
    overflow = at(2038, 1, 19, 3, 14, 8)
    assert rollovers(at(2038, 1, 1), overflow)[0].instant == overflow
    assert rollovers(overflow, at(2038, 2, 1)) == ()
    assert list(midnights(0, 2 * DAY)) == [DAY, 2 * DAY]
    assert list(midnights(-1, 0)) == [0]
    assert list(midnights(DAY, DAY)) == []
    assert list(year_turns(-1, 365 * DAY)) == [0, 365 * DAY]
    assert list(year_turns(0, 365 * DAY - 1)) == []


def test_midnights_of_centuries_take_no_memory():
    every = midnights(0, int(at(2232, 1, 1).timestamp()))
    assert isinstance(every, range)
    assert len(every) == (at(2232, 1, 1) - at(1970, 1, 1)).days


def test_the_calendar_tells_turns_leaps_and_changes_of_daylight_saving_time():
    found = calendar_hints(at(2027, 12, 31), at(2028, 12, 31))
    assert [(f"{hint.instant:%Y-%m-%dT%H:%MZ}", hint.why.partition(" (")[0]) for hint in found] == [
        ("2028-01-01T00:00Z", "the year 2028 begins"),
        ("2028-02-29T00:00Z", "29 February of the leap year 2028"),
        ("2028-03-01T00:00Z", "1 March of the leap year 2028"),
        ("2028-03-12T07:00Z", "daylight saving time begins by the rules of the US"),
        ("2028-03-26T01:00Z", "daylight saving time begins by the rules of the EU"),
        ("2028-10-29T01:00Z", "daylight saving time ends by the rules of the EU"),
        ("2028-11-05T06:00Z", "daylight saving time ends by the rules of the US"),
    ]


def test_centuries_give_a_bounded_number_of_changes():
    found = calendar_hints(at(1970, 1, 2), at(9999, 12, 31))
    changes = [hint for hint in found if "daylight" in hint.why]
    assert len(changes) == 2 * 40
    assert "29 February of the leap year 2100" not in {hint.why for hint in found}
