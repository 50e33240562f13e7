from datetime import UTC, datetime, timedelta

import pytest

from buildvm_nb.errors import UsageError
from buildvm_nb.model.hint import Hint, HintKind
from buildvm_nb.study.schedule import make_schedule, months_after, parse_distance

START = datetime(2026, 11, 30, tzinfo=UTC)
UNTIL = datetime(2040, 1, 1, tzinfo=UTC)


def ends(at, path="a.pem"):
    return Hint(kind=HintKind.CERTIFICATE_ENDS, instant=at, path=path, why=f"{path} ends")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2y", "2028-11-30T00:00:00Z"),
        ("2 years", "2028-11-30T00:00:00Z"),
        ("3m", "2027-02-28T00:00:00Z"),
        ("18M", "2028-05-30T00:00:00Z"),
        ("6w", "2027-01-11T00:00:00Z"),
        ("90d", "2027-02-28T00:00:00Z"),
        ("2040", "2040-01-01T00:00:00Z"),
        ("2040-06-01", "2040-06-01T00:00:00Z"),
        ("2040-06-01T12:00:00+02:00", "2040-06-01T10:00:00Z"),
    ],
)
def test_a_distance_is_counted_from_today_and_a_date_is_one(text, at):
    assert parse_distance(text, START) == datetime.fromisoformat(at)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", "neither a distance nor a date: 'soon'; allowed: 2y, 18m"),
        ("0y", "neither a distance nor a date"),
        ("300y", "too far ahead: 300y; a guest's clock ends at 2232-04-18T23:47:15Z"),
        ("99999d", "too far ahead"),
        ("2300", "date out of range"),
        ("2020", "not after 2026-11-30T00:00:00Z: 2020-01-01T00:00:00Z"),
    ],
)
def test_what_is_no_distance_is_refused(text, message):
    with pytest.raises(UsageError) as caught:
        parse_distance(text, START)
    assert message in caught.value.message


def test_months_end_where_a_shorter_month_does():
    assert months_after(START, 3) == datetime(2027, 2, 28, tzinfo=UTC)
    assert months_after(START, 12 * 300) is None


def test_looks_are_at_ends_round_distances_overflows_and_both_ends():
    end = datetime(2028, 8, 26, 14, 23, 14, tzinfo=UTC)
    overflow = datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)
    hints = [
        ends(end),
        ends(UNTIL + timedelta(days=1)),
        ends(START - timedelta(days=1)),
        Hint(kind=HintKind.ROLLOVER, instant=overflow, why="time_t"),
        Hint(kind=HintKind.DATE_CONSTANT, instant=datetime(2029, 1, 1, tzinfo=UTC), why="a date"),
    ]
    stops = make_schedule(START, UNTIL, hints).stops
    assert [(str(stop.at.date()), stop.why) for stop in stops] == [
        ("2026-11-30", "today"),
        ("2027-05-30", "+6 months"),
        ("2027-11-30", "+1 year"),
        ("2028-08-26", "a.pem ends (a.pem)"),
        ("2028-11-30", "+2 years"),
        ("2029-11-30", "+3 years"),
        ("2031-11-30", "+5 years"),
        ("2036-11-30", "+10 years"),
        ("2038-01-19", "time_t"),
        ("2040-01-01", "the end"),
    ]
    assert stops[3].at == end + timedelta(seconds=1)
    assert stops[-2].at == overflow


def test_what_ends_within_minutes_shares_a_look():
    at = datetime(2028, 8, 26, tzinfo=UTC)
    hints = [ends(at + timedelta(minutes=5 * n), f"{n}.pem") for n in range(4)]
    hints.append(ends(at + timedelta(days=1), "late.pem"))
    looks = [stop for stop in make_schedule(START, UNTIL, hints).stops if stop.of_end]
    assert [look.why for look in looks] == [
        "3.pem ends (3.pem), and 3 more",
        "late.pem ends (late.pem)",
    ]
    assert looks[0].at == at + timedelta(minutes=15, seconds=1)


def test_a_round_distance_near_to_an_end_is_left_out():
    near = datetime(2027, 11, 20, tzinfo=UTC)
    reasons = [stop.why for stop in make_schedule(START, UNTIL, [ends(near)]).stops]
    assert "+1 year" not in reasons
    assert "+2 years" in reasons


def test_of_many_ends_the_nearest_are_looked_at_and_the_rest_is_named():
    at = datetime(2028, 1, 1, tzinfo=UTC)
    hints = [ends(at + timedelta(days=40 * n), f"{n}.pem") for n in range(20)]
    schedule = make_schedule(START, UNTIL, reversed(hints))
    assert len([stop for stop in schedule.stops if stop.of_end]) == 12
    assert [hint.path for hint in schedule.left_out] == [f"{n}.pem" for n in range(12, 20)]
    assert not [s for s in schedule.without_ends_after(at).stops if s.of_end and s.at > at]
