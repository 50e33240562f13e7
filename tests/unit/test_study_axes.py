"""Axes of a sweep, as users write them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Hint, HintKind
from buildvm_nb.model.instants import format_instant, parse_instant
from buildvm_nb.model.machine import CPU_MODELS
from buildvm_nb.study.axes import (
    LONGEST_AXIS,
    make_schedule,
    months_after,
    parse_commits,
    parse_cores,
    parse_cpus,
    parse_dates,
    parse_distance,
    parse_kernels,
)

EVERY_MODEL = frozenset(model.name for model in CPU_MODELS)
KERNELS = ("debian:bullseye", "debian:bookworm")


def days(text):
    return [format_instant(instant).removesuffix("T00:00:00Z") for instant in parse_dates(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2018", ["2018-01-01"]),
        ("2018-05", ["2018-05-01"]),
        ("2018-05-02T10:00:00+02:00", ["2018-05-02T08:00:00Z"]),
        ("2018..2020/1Y", ["2018-01-01", "2019-01-01", "2020-01-01"]),
        ("2018..2020/2y", ["2018-01-01", "2020-01-01"]),
        ("2018..2018/1Y", ["2018-01-01"]),
        ("2020-01..2020-03/1M", ["2020-01-01", "2020-02-01", "2020-03-01"]),
        ("2020-01-31..2020-04-30/1M", ["2020-01-31", "2020-02-29", "2020-03-31", "2020-04-30"]),
        ("2020-02-29..2024-02-29/2Y", ["2020-02-29", "2022-02-28", "2024-02-29"]),
        ("2020-01-01..2020-01-25/10D", ["2020-01-01", "2020-01-11", "2020-01-21"]),
        ("2020-01-01..2020-01-15/1W", ["2020-01-01", "2020-01-08", "2020-01-15"]),
        (
            "2020-01-01..2020-01-01T12:00Z/6H",
            ["2020-01-01", "2020-01-01T06:00:00Z", "2020-01-01T12:00:00Z"],
        ),
        (
            " 2031 , 2018..2019/1Y, 2018-01-01",
            ["2018-01-01", "2019-01-01", "2031-01-01"],
        ),
        ("2232..9999/500Y", None),
    ],
)
def test_dates_are_lists_and_ranges(text, expected):
    if expected is None:
        with pytest.raises(UsageError, match="out of range"):
            parse_dates(text)
    else:
        assert days(text) == expected


def test_today_is_midnight_and_can_end_a_range():
    (today,) = parse_dates("today")
    assert today.time().isoformat() == "00:00:00"
    assert max(parse_dates("2018..today/1D")) in {today, parse_instant("today")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty place in the list of dates: ''"),
        ("2018,,2019", "an empty place"),
        ("2018..2020", "its step is missing or wrong; allowed: 2019-05-01, today, 2018..2030/1Y"),
        ("2018..2020/0Y", "its step is missing or wrong"),
        ("2018..2020/1Q", "its step is missing or wrong"),
        ("2018../1Y", "its ends are missing or wrong"),
        ("2020..2018/1Y", "runs backwards: 2020..2018/1Y"),
        ("20x8", "not a date: '20x8'"),
        ("1969..2018/1Y", "out of range: 1969-01-01"),
        ("2018-05-02T10:00:00", "needs a zone"),
        ("2000..2030/1H", f"more than {LONGEST_AXIS:,} dates"),
    ],
)
def test_what_is_no_date_is_refused(text, message):
    with pytest.raises(UsageError) as caught:
        parse_dates(text)
    assert message in str(caught.value)


instants = st.datetimes(datetime(1980, 1, 1), datetime(2150, 1, 1)).map(  # noqa: DTZ001 - naive as hypothesis wants
    lambda naive: naive.replace(microsecond=0, tzinfo=UTC)
)


@given(start=instants, length=st.timedeltas(timedelta(0), timedelta(3000)), step=st.integers(1, 40))
def test_a_range_of_days_is_even_and_stays_within_its_ends(start, length, step):
    end = start + length
    dates = parse_dates(f"{format_instant(start)}..{format_instant(end)}/{step}D")
    assert dates[0] == start
    assert all(later - earlier == timedelta(step) for earlier, later in pairwise(dates))
    assert end - timedelta(step) < dates[-1] <= end


@given(start=instants, months=st.integers(1, 24), count=st.integers(0, 40))
def test_a_range_of_months_counts_from_its_start(start, months, count):
    end = start + timedelta(days=31 * months * count)
    dates = parse_dates(f"{format_instant(start)}..{format_instant(end)}/{months}M")
    assert len(dates) >= count
    for number, date in enumerate(dates):
        assert date.year * 12 + date.month == start.year * 12 + start.month + number * months
        assert date.time() == start.time()
        assert date.day <= start.day
        assert date.day == start.day or (date + timedelta(1)).day == 1


@given(st.lists(instants, min_size=1, max_size=20))
def test_a_list_of_dates_comes_back_sorted_each_once(dates):
    assert parse_dates(",".join(map(format_instant, dates))) == tuple(sorted(set(dates)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Westmere", ["Westmere"]),
        ("Westmere, Haswell,-cx16,+aes ,core2duo", ["Westmere", "Haswell,-cx16,+aes", "core2duo"]),
        ("Haswell,avx2=off,qemu64", ["Haswell,avx2=off", "qemu64"]),
        ("Haswell,Haswell,-avx2,Haswell", ["Haswell", "Haswell,-avx2"]),
    ],
)
def test_a_feature_belongs_to_the_cpu_before_it(text, expected):
    assert list(parse_cpus(text, frozenset())) == expected


def test_sets_of_cpus_hold_what_this_qemu_knows_in_order_of_time():
    names = [model.name for model in CPU_MODELS]
    assert list(parse_cpus("all", EVERY_MODEL)) == names
    assert list(parse_cpus("all", EVERY_MODEL - {"Haswell"})) == [
        n for n in names if n != "Haswell"
    ]
    by_year = parse_cpus("x86-64-by-year", EVERY_MODEL)
    assert by_year[:4] == ("core2duo", "Penryn", "Nehalem", "Westmere")
    assert list(by_year) == sorted(by_year, key=names.index)
    assert parse_cpus("max,x86-64-by-year", EVERY_MODEL) == ("max", *by_year)


@pytest.mark.parametrize("text", ["-avx2,Haswell", "all,-avx2", "x86-64-by-year,+aes"])
def test_a_feature_without_a_model_is_refused(text):
    with pytest.raises(UsageError, match="a feature without a model before it"):
        parse_cpus(text, EVERY_MODEL)


def test_kernels_are_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_kernels("all", KERNELS) == KERNELS
    assert parse_kernels("debian:sid,all,debian:bullseye", KERNELS) == ("debian:sid", *KERNELS)
    assert parse_kernels("./mine", KERNELS) == (f"{tmp_path}/mine",)
    with pytest.raises(UsageError, match="unknown kernel: 'sid'") as caught:
        parse_kernels("sid", KERNELS)
    assert "did you mean debian:sid?" in caught.value.hint


def test_cores_and_commits_are_lists():
    assert parse_cores("4,1,2,1") == (1, 2, 4)
    assert parse_commits("v1.0, main,0012345,main") == ("v1.0", "main", "0012345")


@pytest.mark.parametrize("text", ["0", "256", "two", "1,,2", "1..4", "²"])
def test_what_is_no_number_of_cores_is_refused(text):
    with pytest.raises(UsageError, match="cores"):
        parse_cores(text)


@pytest.mark.parametrize("text", ["--upload-pack=x", "a b", ""])
def test_what_cannot_be_a_commit_is_refused(text):
    with pytest.raises(UsageError, match="commit"):
        parse_commits(text)


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
