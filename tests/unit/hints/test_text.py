"""Dates, seconds, flags and questions in source text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.hints import ScanLimits, text_hints
from buildvm_nb.model.finding import HintKind
from buildvm_nb.model.instants import EARLIEST, LATEST, format_instant

DATE, EPOCH = "date-constant", "epoch-constant"


def found_in(scan, text, name="test_it.py", **options):
    return [row[1:] for row in scan(text, name, **options).rows]


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ('expiry = "2025-01-01"', DATE, "2025-01-01T00:00:00Z"),
        ("at = datetime(2025, 1, 1, 12, 30)", DATE, "2025-01-01T12:30:00Z"),
        ("end = datetime.date(2030,12,31)", DATE, "2030-12-31T00:00:00Z"),
        ("LocalDate.of(2030, 12, 31)", DATE, "2030-12-31T00:00:00Z"),
        ("LocalDate.of(2030, Month.DECEMBER, 31)", DATE, "2030-12-31T00:00:00Z"),
        ("time.Date(2030, time.January, 1, 0, 0, 0, 0, time.UTC)", DATE, "2030-01-01T00:00:00Z"),
        ("new Date(2030, 0, 1)", DATE, "2030-01-01T00:00:00Z"),
        ("Date.UTC(2030, 11, 31)", DATE, "2030-12-31T00:00:00Z"),
        ("Set-Cookie: a=b; expires=Wed, 13-Jan-2021 22:23:01 GMT", DATE, "2021-01-13T22:23:01Z"),
        ("Set-Cookie: a=b; expires=Wed, 13-Jan-21 22:23:01 GMT", DATE, "2021-01-13T22:23:01Z"),
        ("Date: Tue, 01 Jan 2030 00:00:00 +0100", DATE, "2029-12-31T23:00:00Z"),
        ('not_after = b"230330130955Z"', DATE, "2023-03-30T13:09:55Z"),
        ('"20230330130955Z"', DATE, "2023-03-30T13:09:55Z"),
        ('{"exp": 1893456000}', EPOCH, "2030-01-01T00:00:00Z"),
        ("deadline_ms = 1893456000123", EPOCH, "2030-01-01T00:00:00Z"),
        ("valid_until: 2208988800", EPOCH, "2040-01-01T00:00:00Z"),
    ],
)
def test_a_date_in_source_text_is_found(line, kind, told, scan):
    assert found_in(scan, f"# code\n{line}\n") == [(2, kind, told)]


@pytest.mark.parametrize(
    "line",
    [
        "# Copyright 2020-01-01 The Authors",
        "date = 1985-01-01",
        "date = 2160-01-01",
        "count = 1893456000",
        "timeout = 18934560001",
        "uuid 2025-13-45",
        "at1893456000 date",
    ],
)
def test_other_numbers_and_dates_far_away_are_left_out(line, scan):
    assert found_in(scan, line) == []


def test_what_is_near_depends_on_the_present_that_is_given(scan):
    from datetime import UTC, datetime

    line = "date(1999, 12, 31)"
    assert found_in(scan, line) == []
    around = datetime(1998, 1, 1, tzinfo=UTC)
    assert found_in(scan, line, around=around) == [(1, DATE, "1999-12-31T00:00:00Z")]
    for year in (1, 9999):
        assert found_in(scan, line, around=datetime(year, 6, 1, tzinfo=UTC)) == []


@pytest.mark.parametrize(
    "name",
    [
        "ChangeLog",
        "CHANGES.rst",
        "debian/changelog",
        "NEWS",
        "LICENSE",
        "de.po",
        "x.min.js",
        "changelog.gz",
        "PKG-INFO",
    ],
)
def test_changelogs_and_their_like_are_full_of_dates_that_mean_nothing(name, material, scan):
    text = f"2025-01-01 release, gcc -march=native\n{material.pem}"
    kinds = {row[1] for row in found_in(scan, text, name)}
    assert kinds == {"certificate-begins", "certificate-ends"}


@pytest.mark.parametrize("name", ["history.py", "src/release.rs", "news.c", "metadata.json"])
def test_code_with_the_name_of_a_changelog_is_code(name, scan):
    assert found_in(scan, "date(2025, 1, 1)", name) == [(1, DATE, "2025-01-01T00:00:00Z")]


def test_the_same_date_in_a_file_is_told_once(scan):
    assert found_in(scan, "date(2025, 1, 1)\n" * 3 + "2025-01-01\n") == [
        (1, DATE, "2025-01-01T00:00:00Z")
    ]


def test_a_file_with_very_many_dates_is_cut_and_that_is_reported(scan):
    text = "\n".join(f"2025-01-01T00:{n // 60:02}:{n % 60:02}Z" for n in range(300))
    found = scan(text, "data.csv", limits=ScanLimits(per_file=50))
    assert len(found.rows) == 50
    assert found.left_out == [("data.csv", "over 50 of date-constant: the rest is left out")]


def test_dates_in_a_huge_line_are_found(scan):
    text = '{"a": "2025-01-01", ' + '"x": 1, ' * 200_000 + '"b": "2026-01-01"}'
    assert [row[2] for row in found_in(scan, text, "data.json")] == [
        "2025-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z",
    ]


def test_binary_files_hold_no_constants(scan):
    assert found_in(scan, b"\0 2025-01-01 -march=native") == []


@pytest.mark.parametrize(
    ("line", "kind", "condition"),
    [
        ("CFLAGS += -O2 -march=native", "cpu-tuning", "native"),
        ("'-mcpu=power9',", "cpu-tuning", "power9"),
        ("-mtune=native", "cpu-tuning", "native"),
        ("icc -xHost", "cpu-tuning", "native"),
        ("set(FLAGS -mavx2)", "cpu-tuning", "avx2"),
        ("-msse4.2", "cpu-tuning", "sse4.2"),
        ("RUSTFLAGS=-Ctarget-cpu=native", "cpu-tuning", "native"),
        ('if (__builtin_cpu_supports("avx512f"))', "cpu-dispatch", "avx512f"),
        ('is_x86_feature_detected!("bmi2")', "cpu-dispatch", "bmi2"),
        ('__attribute__((target_clones("avx2","default")))', "cpu-dispatch", "avx2"),
        ('__attribute__((target("sse4.1")))', "cpu-dispatch", "sse4.1"),
        ("#ifdef __AVX2__", "cpu-dispatch", "avx2"),
        ("#if defined(__SSE4_1__)", "cpu-dispatch", "sse4.1"),
        ("if cpu.X86.HasAVX2 {", "cpu-dispatch", "avx2"),
        ("__get_cpuid(1, &a, &b, &c, &d);", "cpu-dispatch", "cpuid"),
        ('asm volatile("cpuid" : : );', "cpu-dispatch", "cpuid"),
        ("getauxval(AT_HWCAP)", "cpu-dispatch", "at_hwcap"),
        ("open('/proc/cpuinfo')", "cpu-dispatch", "/proc/cpuinfo"),
        (
            "from numpy.core._multiarray_umath import __cpu_features__",
            "cpu-dispatch",
            "cpu_features",
        ),
        ("KVER=$(uname -r)", "kernel-version", "uname -r"),
        ("uname -sr", "kernel-version", "uname -r"),
        ("os.uname().release", "kernel-version", "os.uname"),
        ("platform.release()", "kernel-version", "platform.release"),
        ("struct utsname u;", "kernel-version", "utsname"),
        ("#if LINUX_VERSION_CODE < 5", "kernel-version", "LINUX_VERSION_CODE"),
        ("#if x < KERNEL_VERSION(5, 4, 0)", "kernel-version", "KERNEL_VERSION"),
        ("cat /proc/sys/kernel/osrelease", "kernel-version", "/proc/sys/kernel/osrelease"),
        ("/proc/version", "kernel-version", "/proc/version"),
    ],
)
def test_what_asks_for_a_cpu_or_kernel_is_found(line, kind, condition, scan):
    found = scan(f"\n{line}\n{line}\n", "Makefile")
    assert [(hint.line, hint.kind, hint.condition) for hint in found.hints] == [
        (2, kind, condition)
    ]
    assert found.hints[0].instant is None
    assert condition in found.hints[0].why


@pytest.mark.parametrize(
    "line",
    [
        "--march=native",
        "my-mavx2",
        "x-march=native",
        "uname -s",
        "platform.release_notes",
        "-mavx2=1",
        "my_utsname",
        'retarget("avx2")',
        "__MY_AVX2__",
        "guid cpuidle",
    ],
)
def test_what_only_looks_like_it_is_left_out(line, scan):
    assert scan(line, "Makefile").rows == []


# Dates in what a step printed.


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
