"""Dates, seconds, flags and questions in source text."""

import pytest

from buildvm_nb.hints import ScanLimits

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
