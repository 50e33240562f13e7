"""The timeline of a finding: passes, failures and changes in one line of characters."""

import io
import sys

import pytest

from buildvm_nb.cli.finding_summary import show_finding
from buildvm_nb.cli.timeline import Mark, draw_timeline
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.finding import Boundary, Finding

CASE = Case(id="demo", step=[Step(name="test", run="true")])


def boundary(last_before, first_after, *, passes, axis="date"):
    return Boundary(
        axis=axis,
        last_before=last_before,
        first_after=first_after,
        before="failed" if passes else "passed",
        after="passed" if passes else "crashed",
        is_exact=True,
    )


def drawn(first, last, *boundaries, kind="time-trap", width=78):
    finding = Finding(
        case=CASE,
        kind=kind,
        summary="",
        confidence=1,
        boundaries=boundaries,
        studied_from=first,
        studied_until=last,
    )
    return draw_timeline(finding, width)


def test_one_edge_divides_the_line_where_it_lies():
    edge = boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z", passes=False)
    timeline = drawn("2010-01-01", "2030-01-01", edge, width=40)
    assert timeline.bar() == "█" * 19 + "┃" + "░" * 20
    assert timeline.scale() == "╵2010    ╵2015     ╵2020      ╵2025"
    assert timeline.legend() == "█ passes  ░ fails  ┃ changes"


def test_in_ascii_everything_is_ascii():
    edge = boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z", passes=False)
    timeline = drawn("2010-01-01", "2030-01-01", edge, width=40)
    assert timeline.bar(ascii_only=True) == "=" * 19 + "|" + "." * 20
    assert timeline.scale(ascii_only=True) == "'2010    '2015     '2020      '2025"
    assert timeline.legend(ascii_only=True) == "= passes  . fails  | changes"


def test_a_window_has_both_ends():
    begin = boundary("2012-06-30T23:59:59Z", "2012-07-01T00:00:00Z", passes=True)
    end = boundary("2025-06-30T23:59:59Z", "2025-07-01T00:00:00Z", passes=False)
    timeline = drawn("2010-01-01", "2030-01-01", begin, end, width=40)
    assert timeline.bar() == "░░░░┃█████████████████████████┃░░░░░░░░░"


def test_two_windows_and_a_range_of_sixty_years_fit_eighty_columns():
    edges = (
        boundary("1979-12-31T23:59:59Z", "1980-01-01T00:00:00Z", passes=True),
        boundary("1989-12-31T23:59:59Z", "1990-01-01T00:00:00Z", passes=False),
        boundary("2009-12-31T23:59:59Z", "2010-01-01T00:00:00Z", passes=True),
        boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z", passes=False),
    )
    timeline = drawn("1972-01-01", "2032-01-01", *edges)
    assert timeline.bar().count("┃") == 4
    assert [len(part) for part in timeline.bar().split("┃")] == [10, 12, 25, 12, 15]
    assert timeline.scale().split() == [f"╵{year}" for year in range(1975, 2035, 5)][:11]
    assert len(timeline.bar()) == 78
    assert len(timeline.scale()) <= 78


@pytest.mark.parametrize(("kind", "sign"), [("sound", "█"), ("always-failing", "░")])
def test_without_a_boundary_the_line_is_of_one_kind(kind, sign):
    timeline = drawn("2010-01-01", "2030-01-01", kind=kind)
    assert timeline.bar() == sign * 78
    assert len(timeline.legend().split("  ")) == 1


@pytest.mark.parametrize("kind", ["flaky", "undetermined", "cpu-dependent"])
def test_where_dates_decide_nothing_there_is_no_line(kind):
    assert drawn("2010-01-01", "2030-01-01", kind=kind) is None
    assert drawn(None, None, kind="sound") is None
    kernels = boundary("debian:bullseye", "debian:bookworm", passes=False, axis="kernel")
    assert drawn("2010-01-01", "2030-01-01", kernels, kind="kernel-dependent") is None


def test_a_window_of_a_day_in_sixty_years_is_one_mark():
    edges = (
        boundary("1999-12-31T23:59:59Z", "2000-01-01T00:00:00Z", passes=True),
        boundary("2000-01-01T23:59:59Z", "2000-01-02T00:00:00Z", passes=False),
    )
    timeline = drawn("1972-01-01", "2032-01-01", *edges)
    assert timeline.bar().strip("░") == "┃"


def test_boundaries_within_a_day_have_a_scale_of_hours():
    edges = (
        boundary("2021-11-27T05:59:59Z", "2021-11-27T06:00:00Z", passes=True),
        boundary("2021-11-27T15:28:57Z", "2021-11-27T15:28:58Z", passes=False),
    )
    timeline = drawn("2021-11-27", "2021-11-27T23:59:59Z", *edges, width=48)
    assert timeline.bar() == "░" * 12 + "┃" + "█" * 17 + "┃" + "░" * 17
    assert timeline.scale() == "╵00:00      ╵06:00      ╵12:00      ╵18:00"


@pytest.mark.parametrize(
    ("first", "last", "tick"),
    [
        ("2021-11-27T15:28:00Z", "2021-11-27T15:29:00Z", "15:28:15"),
        ("2021-11-27T15:00:00Z", "2021-11-27T17:00:00Z", "16:00"),
        ("2021-11-20", "2021-12-10", "12-01"),
        ("2021-01-01", "2022-01-01", "2021-07"),
        ("2021-01-01", "2026-01-01", "2023"),
        ("1970-01-02", "2232-04-18", "2100"),
    ],
)
def test_the_scale_fits_the_range(first, last, tick):
    timeline = drawn(first, last, kind="sound")
    assert f"╵{tick}" in timeline.scale().split()
    assert len(timeline.scale()) <= 78
    columns = [column for column, _ in timeline.ticks]
    assert columns == sorted(set(columns))


def test_what_lies_between_the_ends_of_a_wide_boundary_is_not_known():
    vague = boundary("2015-01-01T00:00:00Z", "2020-01-01T00:00:00Z", passes=False)
    timeline = drawn("2010-01-01", "2030-01-01", vague, width=40)
    assert timeline.bar() == "█" * 9 + "?" * 11 + "░" * 20
    assert Mark.UNKNOWN in timeline.marks
    assert "? not known" in timeline.legend()


def test_a_change_at_an_end_of_the_range_is_drawn():
    early = boundary("2009-12-31T23:59:59Z", "2010-01-01T00:00:00Z", passes=True)
    late = boundary("2029-12-31T23:59:58Z", "2029-12-31T23:59:59Z", passes=False)
    timeline = drawn("2010-01-01", "2029-12-31T23:59:59Z", early, late, width=40)
    assert timeline.bar() == "┃" + "█" * 38 + "┃"


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "█"), ("ascii", "="), ("latin-1", "=")])
def test_a_terminal_gets_only_characters_that_it_has(monkeypatch, encoding, sign):
    finding = Finding(
        case=CASE,
        kind="sound",
        summary="passes\x1b[2J everywhere",
        confidence=0.5,
        studied_from="2010-01-01",
        studied_until="2030-01-01",
    )
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    show_finding(finding)
    shown.seek(0)
    headline, _, bar, *_ = shown.read().splitlines()
    assert headline == r"sound: passes\x1b[2J everywhere"
    assert bar == sign * 78
