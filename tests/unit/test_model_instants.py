from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildvm_nb.errors import UsageError
from buildvm_nb.model.instants import (
    EARLIEST,
    LATEST,
    LATEST_CLOCK,
    format_instant,
    from_now,
    now,
    parse_instant,
)

INSTANTS = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - hypothesis wants bounds without a zone
    max_value=datetime(9999, 12, 31, 23, 59, 59),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2019-05-01", datetime(2019, 5, 1, tzinfo=UTC)),
        ("  2019-05-01\n", datetime(2019, 5, 1, tzinfo=UTC)),
        ("2019-05-01T12:30:00Z", datetime(2019, 5, 1, 12, 30, tzinfo=UTC)),
        ("2019-05-01 12:30Z", datetime(2019, 5, 1, 12, 30, tzinfo=UTC)),
        ("2019-05-01T14:30+02:00", datetime(2019, 5, 1, 12, 30, tzinfo=UTC)),
        ("2019-05-01T00:00-09:30", datetime(2019, 5, 1, 9, 30, tzinfo=UTC)),
        ("2019-05-01T12:30:00.25Z", datetime(2019, 5, 1, 12, 30, 0, 250_000, tzinfo=UTC)),
        ("20190501", datetime(2019, 5, 1, tzinfo=UTC)),
        ("2000-02-29", datetime(2000, 2, 29, tzinfo=UTC)),
        (date(2019, 5, 1), datetime(2019, 5, 1, tzinfo=UTC)),
        (
            datetime(2019, 5, 1, 1, tzinfo=timezone(timedelta(hours=3))),
            datetime(2019, 4, 30, 22, tzinfo=UTC),
        ),
    ],
)
def test_every_documented_form_is_read_as_utc(given, expected):
    instant = parse_instant(given)
    assert instant == expected
    assert instant.tzinfo is UTC


def test_today_is_midnight_and_now_is_a_whole_second():
    before = now()
    today, present = parse_instant("today"), parse_instant("now")
    after = now()
    assert (today.hour, today.minute, today.second, today.microsecond) == (0, 0, 0, 0)
    assert before.date() <= today.date() <= after.date()
    assert present.microsecond == 0
    assert before - timedelta(seconds=1) < present <= after


@pytest.mark.parametrize(
    "naive",
    [
        "2019-05-01T12:30:00",
        "2019-05-01 12:30",
        datetime(2019, 5, 1, 12, 30),  # noqa: DTZ001 - this is what must be refused
    ],
)
def test_a_time_of_day_without_a_zone_is_refused_and_the_fix_is_named(naive):
    with pytest.raises(UsageError, match="a time of day needs a zone") as caught:
        parse_instant(naive)
    assert caught.value.hint == "for UTC write 2019-05-01T12:30:00Z"


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2019-02-29", "2019-13-01", "2019-05-01T25:00Z", "1556668800"]
)
def test_text_that_is_no_date_is_refused(text):
    with pytest.raises(UsageError, match=r"not a date: .*allowed: 2019-05-01, "):
        parse_instant(text)


@pytest.mark.parametrize("value", [None, 1556668800, 1.5, True, b"2019-05-01", ["2019-05-01"]])
def test_values_that_are_neither_text_nor_dates_are_refused(value):
    with pytest.raises(UsageError, match="not a date: "):
        parse_instant(value)


@pytest.mark.parametrize("edge", [EARLIEST, LATEST, LATEST_CLOCK])
def test_the_edges_themselves_are_allowed(edge):
    assert parse_instant(format_instant(edge)) == edge


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-01",
        "1970-01-01T23:59:59.999999Z",
        "1969-12-31",
        "0001-01-01",
        "9999-12-31T23:59:59.5Z",
        "1970-01-02T00:00:00+00:01",
    ],
)
def test_what_lies_beyond_the_edges_is_refused(text):
    with pytest.raises(UsageError, match=r"date out of range: .*allowed: from 1970-01-02"):
        parse_instant(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00+14:00", "9999-12-31T23:00-14:00"])
def test_a_zone_that_leads_out_of_the_calendar_is_refused(text):
    with pytest.raises(UsageError, match="date out of range"):
        parse_instant(text)


@settings(deadline=None)
@given(INSTANTS)
def test_what_is_written_reads_back_as_the_same_instant(instant):
    text = format_instant(instant)
    assert text.endswith("Z")
    assert parse_instant(text) == instant


@settings(deadline=None)
@given(INSTANTS, st.integers(-14 * 60, 14 * 60))
def test_a_zone_changes_the_text_but_not_the_instant(instant, minutes):
    try:
        local = instant.astimezone(timezone(timedelta(minutes=minutes)))
    except OverflowError:
        return  # the last hours of the year 9999 have no local form
    assert parse_instant(local.isoformat()) == instant


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2019, 5, 1, tzinfo=UTC), "2019-05-01T00:00:00Z"),
        (datetime(2019, 5, 1, 0, 0, 0, 250_000, tzinfo=UTC), "2019-05-01T00:00:00.25Z"),
        (datetime(2019, 5, 1, 0, 0, 0, 1, tzinfo=UTC), "2019-05-01T00:00:00.000001Z"),
        (datetime(2019, 5, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2019-05-01T00:00:00Z"),
    ],
)
def test_fractions_are_written_only_where_there_are_some(instant, text):
    assert format_instant(instant) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+16y", datetime(2044, 2, 29, 5, tzinfo=UTC)),
        ("+1y", datetime(2029, 2, 28, 5, tzinfo=UTC)),
        ("-2w", datetime(2028, 2, 15, 5, tzinfo=UTC)),
        ("+1m", datetime(2028, 3, 29, 5, tzinfo=UTC)),
        ("-12m", datetime(2027, 2, 28, 5, tzinfo=UTC)),
        ("+90d", datetime(2028, 5, 29, 5, tzinfo=UTC)),
        ("16y", None),
        ("+0y", None),
        ("+1h", None),
        ("2028-01-01", None),
    ],
)
def test_a_distance_from_now_is_counted_by_the_calendar(monkeypatch, text, expected):
    present = datetime(2028, 2, 29, 5, tzinfo=UTC)
    monkeypatch.setattr("buildvm_nb.model.instants.now", lambda: present)
    assert from_now(text) == expected


def test_a_distance_that_leads_out_of_the_calendar_is_refused():
    with pytest.raises(UsageError, match="date out of range: -9999y"):
        from_now("-9999y")
