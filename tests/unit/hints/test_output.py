"""Dates in what a step printed."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.hints import text_hints
from buildvm_nb.model.hint import HintKind
from buildvm_nb.model.instants import EARLIEST, LATEST, format_instant


def instants(text):
    return [format_instant(hint.instant) for hint in text_hints(text)]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("notAfter=Nov 27 15:28:58 2021 GMT", "2021-11-27T15:28:58Z"),
        ("expired on Sat Nov 27 15:28:58 2021", "2021-11-27T15:28:58Z"),
        ("Sat Nov  6 15:28:58 UTC 2021", "2021-11-06T15:28:58Z"),
        ("2021-11-27 15:28:58Z: certificate has expired", "2021-11-27T15:28:58Z"),
        ("at 2021-11-27T15:28:58.123456+01:00", "2021-11-27T14:28:58Z"),
        ("at 2021-11-27T15:28:58-0130", "2021-11-27T16:58:58Z"),
        ("2021/11/27 15:28", "2021-11-27T15:28:00Z"),
        ("20211127T152858Z", "2021-11-27T15:28:58Z"),
        ("UTCTime '211127152858Z'", "2021-11-27T15:28:58Z"),
        ("GeneralizedTime 20211127152858Z", "2021-11-27T15:28:58Z"),
        ("Date: Sat, 27 Nov 2021 15:28:58 +0100", "2021-11-27T14:28:58Z"),
        ("expires=Wed, 13-Jan-2021 22:23:01 GMT; path=/", "2021-01-13T22:23:01Z"),
        ("Sunday, 06-Nov-94 08:49:37 GMT", "1994-11-06T08:49:37Z"),
        ("exp claim 1638026938 is in the past", "2021-11-27T15:28:58Z"),
        ("exp 1638026938.5", "2021-11-27T15:28:58Z"),
        ("expiry (ms): 1638026938123", "2021-11-27T15:28:58Z"),
        ("Date(2021, 10, 27, 15, 28, 58)", "2021-10-27T15:28:58Z"),
        ("new Date(2021, 10, 27, 15, 28, 58)", "2021-11-27T15:28:58Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
    ],
)
def test_an_instant_is_read_in_any_usual_form(line, told):
    assert instants(line) == [told]


@pytest.mark.parametrize(
    "line",
    [
        "valid until 2021-11-27",
        "datetime.date(2021, 11, 27)",
        "LocalDate.of(2021, 11, 27)",
        "time.Date(2021, time.November, 27)",
        "27 November 2021",
        "November 27, 2021",
        "27-Nov-2021",
    ],
)
def test_a_day_gives_its_start_and_its_end(line):
    assert instants(line) == ["2021-11-27T00:00:00Z", "2021-11-28T00:00:00Z"]


def test_years_give_the_turns_of_years():
    assert instants("ValueError: year must be between [2004, 2023]") == [
        "2004-01-01T00:00:00Z",
        "2023-01-01T00:00:00Z",
        "2024-01-01T00:00:00Z",
    ]
    turns = ["2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z"]
    assert instants("AssertionError: expected 2023") == turns
    assert instants("Copyright 2004-2023 The Authors, valid in any year") == []


@pytest.mark.parametrize(
    "line",
    [
        "2021-13-27",
        "2021-02-30 10:00",
        "version 1.2.2021-11-27",
        "99:99:99",
        "12345678901234567890",
    ],
)
def test_what_is_no_date_gives_nothing(line):
    assert instants(line) == []


def test_a_hint_says_where_it_stands_and_comes_once():
    log = "ok\nfailed at 2021-11-27T15:28:58Z\nfailed at 2021-11-27T15:28:58Z\n"
    (hint,) = text_hints(log, path="test.log")
    assert (hint.kind, hint.path, hint.line) == (HintKind.OUTPUT_DATE, "test.log", 2)
    assert hint.why == "the output says 2021-11-27T15:28:58Z"
    (other,) = text_hints(log, kind=HintKind.DATE_CONSTANT)
    assert other.kind is HintKind.DATE_CONSTANT


@given(st.text(alphabet="0123456789-:T Z/,()JanFebDate year[]+.", max_size=200))
def test_any_text_gives_only_instants_that_can_be_told(text):
    for hint in text_hints(text):
        assert EARLIEST <= hint.instant <= LATEST


@pytest.mark.parametrize(
    "unit", ["2021-11-27 ", "1638026938", "Jan ", "2021, ", "year 20", "date(", " " * 9]
)
def test_a_line_of_a_quarter_of_a_megabyte_takes_no_longer_than_its_length(unit):
    start = time.perf_counter()
    text_hints(unit * (2**18 // len(unit)))
    assert time.perf_counter() - start < 10
