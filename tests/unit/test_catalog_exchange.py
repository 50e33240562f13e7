"""Tables in files: whatever is in them, they come back as they were."""

import json
from datetime import UTC, datetime
from itertools import cycle

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildvm_nb.catalog import (
    FAILURES,
    FINDINGS,
    HINTS,
    OUTCOMES,
    read_failures,
    read_table,
    write_table,
)
from buildvm_nb.catalog.columns import Kind
from buildvm_nb.catalog.frames import empty_frame, make_frame
from buildvm_nb.catalog.parquetfile import partitions, write_parquet
from buildvm_nb.catalog.schema import TABLES
from buildvm_nb.errors import CatalogError, UsageError

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
HARD = [
    "0012345", "12e4567", "NA", "null", "nan", "", "'", "=1", "+1", "-1", "@x", "\t=", "\r", "\n",
    "a;=1", "a\n-b\n+c", "\x1b[31m", "\x7f\x85\u2028", '"', "é\U0001f600", "a\0b", "=", "True",
]  # fmt: skip
TEXT = st.sampled_from(HARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)
VALUES = {
    Kind.TEXT: TEXT,
    Kind.JSON: st.lists(JSON_VALUES, max_size=3).map(
        lambda value: json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    ),
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.REAL: st.floats(allow_nan=False, allow_infinity=False),
    Kind.BOOLEAN: st.booleans(),
    Kind.INSTANT: st.sampled_from([FIRST, LAST]) | st.datetimes(timezones=st.just(UTC)),
}
FORMS = ("csv", "jsonl", "parquet")


MISSING = {
    kind: st.lists(st.none() | values, min_size=1, max_size=5) for kind, values in VALUES.items()
}
THERE = {kind: st.lists(values, min_size=1, max_size=2) for kind, values in VALUES.items()}


def rows_of(table, missing, there):
    """Three rows whose columns take their values in turn."""
    turns = {
        column.name: cycle((missing if column.optional else there)[column.kind])
        for column in table.columns
    }
    return [[next(turn) for turn in turns.values()] for _ in range(3)]


def a_row(table, **values):
    plain = {
        Kind.TEXT: "x", Kind.JSON: "[]", Kind.INTEGER: 1, Kind.REAL: 0.5, Kind.BOOLEAN: True,
        Kind.INSTANT: datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return [values.get(column.name, plain[column.kind]) for column in table.columns]


def halves(frame):
    middle = len(frame) // 2
    return [part for part in (frame[:middle], frame[middle:]) if len(part)]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20, deadline=None)
@given(missing=st.fixed_dictionaries(MISSING), there=st.fixed_dictionaries(THERE))
def test_any_table_comes_back_from_any_format(form, missing, there, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"x.{form}"
    # JSON Lines of outcomes and findings are whole documents; rows are for the other tables
    for table in [FAILURES, HINTS] if form == "jsonl" else TABLES:
        frame = make_frame(rows_of(table, missing, there), table)

        write_table(halves(frame), path, table)

        pd.testing.assert_frame_equal(read_table(path, table), frame)


@pytest.mark.parametrize("form", FORMS)
def test_an_integer_too_long_for_a_float_comes_back_beside_a_missing_one(form, tmp_path):
    path = tmp_path / f"x.{form}"
    frame = make_frame([a_row(HINTS, line=2**53 + 1), a_row(HINTS, line=None)], HINTS)
    write_table([frame], path, HINTS)
    pd.testing.assert_frame_equal(read_table(path, HINTS), frame)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("form", FORMS)
def test_a_table_without_rows_comes_back(form, table, tmp_path):
    write_table([], tmp_path / f"x.{form}", table)

    pd.testing.assert_frame_equal(read_table(tmp_path / f"x.{form}", table), empty_frame(table))


@pytest.mark.parametrize(
    ("table", "partition"),
    [(table, name) for table in TABLES for name in partitions(table)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_parted_table_comes_back(table, partition, tmp_path):
    words = {"kind": "time-trap", "axis": "date", "verdict": "failed"}
    others = {"axis": None} if "axis" in table.dtypes and table["axis"].optional else {}
    keys = ("id", "finding_id")
    frame = make_frame(
        [
            a_row(table, **dict.fromkeys(keys, "A"), recorded_at=FIRST),
            a_row(table, **dict.fromkeys(keys, "B"), recorded_at=LAST, **words),
            a_row(table, **dict.fromkeys(keys, "C"), recorded_at=LAST, **(words | others)),
        ],
        table,
    )

    write_table(halves(frame), tmp_path / "x", table, form="parquet", partition=partition)

    parts = [path.name.partition("=")[0] for path in (tmp_path / "x").iterdir()]
    assert parts == [partition] * len(parts)
    assert len(parts) > 1
    pd.testing.assert_frame_equal(read_table(tmp_path / "x", table), frame)


def test_a_parted_table_without_rows_comes_back(tmp_path):
    write_parquet([], tmp_path / "x", FAILURES, partition="year")

    pd.testing.assert_frame_equal(read_table(tmp_path / "x", FAILURES), empty_frame(FAILURES))


def test_parquet_tells_meaning_and_unit_and_pandas_reads_our_dtypes(tmp_path):
    frame = make_frame([a_row(OUTCOMES, recorded_at=LAST), a_row(OUTCOMES, exit_status=None)])
    write_table([frame], tmp_path / "x.parquet", OUTCOMES)

    told = pq.read_schema(tmp_path / "x.parquet").field("memory_mib").metadata
    assert told[b"unit"] == b"MiB"
    assert told[b"meaning"] == b"memory of the machine"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), frame)


def test_parts_never_mix_with_what_is_there(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "year=2026").touch()

    with pytest.raises(UsageError, match="there is something already"):
        write_parquet([], tmp_path / "x", FAILURES, partition="year")


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("x.parquet", {"partition": "case_id"}, "cannot be parted by 'case_id'; allowed: year"),
        ("x.csv", {"partition": "year"}, "only Parquet can be parted, not csv"),
        ("x", {"form": "xlsx"}, "unknown format: 'xlsx'; allowed: csv, jsonl, parquet"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_a_usage_error(name, more, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        write_table([], tmp_path / name, FAILURES, **more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_what_fails_halfway_leaves_the_old_file(form, tmp_path):
    def frames():
        yield empty_frame(FAILURES)
        raise CatalogError("the catalog fails")

    (tmp_path / f"x.{form}").write_text("old")
    with pytest.raises(CatalogError, match="the catalog fails"):
        write_table(frames(), tmp_path / f"x.{form}", FAILURES)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]\n", "x.jsonl:1: not a row of table 'failures'"),
        ("\n{\n", "x.jsonl:2: not JSON"),
        ("{}\n", "its columns differ"),
    ],
)
def test_a_line_that_is_no_row_says_where(text, told, tmp_path):
    (tmp_path / "x.jsonl").write_text(text)

    with pytest.raises(CatalogError, match=told):
        read_failures(tmp_path / "x.jsonl")


def test_a_row_of_another_type_says_where(tmp_path):
    row = dict(zip(FAILURES.dtypes, a_row(FAILURES), strict=True)) | {"runs": "many"}
    instants = [name for name, value in row.items() if isinstance(value, datetime)]
    row |= dict.fromkeys(instants, "2026-01-01T00:00:00Z")
    (tmp_path / "x.jsonl").write_text(json.dumps(row))

    with pytest.raises(CatalogError, match=r"x\.jsonl:1: column 'runs' cannot hold 'many'"):
        read_failures(tmp_path / "x.jsonl")


def test_a_file_that_is_no_parquet_says_so(tmp_path):
    (tmp_path / "x.parquet").write_text("PAR1")
    with pytest.raises(CatalogError, match="cannot read Parquet"):
        read_table(tmp_path / "x.parquet", OUTCOMES)
    write_table([], tmp_path / "y.parquet", HINTS)
    with pytest.raises(CatalogError, match="cannot read Parquet"):
        read_table(tmp_path / "y.parquet", FINDINGS)
    with pytest.raises(UsageError, match="no such file"):
        read_table(tmp_path / "none.parquet", OUTCOMES)


def test_parquet_of_an_older_version_has_missing_and_default_values_in_newer_columns(tmp_path):
    there = {column: [None, None] for column in OUTCOMES.dtypes}
    there |= {
        column.name: [2, 2] if column.kind is Kind.INTEGER else ["x", "x"]
        for column in OUTCOMES.columns
        if column.kind in {Kind.INTEGER, Kind.TEXT}
    }
    there |= {"recorded_at": [FIRST, LAST], "date": [FIRST, LAST], "duration_s": [0.5, 1.5]}
    there |= {"host": ["{}", "{}"], "clock_held": [True, True]}
    frame = make_frame(zip(*there.values(), strict=True), OUTCOMES)
    path = tmp_path / "outcomes.parquet"
    write_table([frame], path, OUTCOMES)
    newer = ["chosen_by", "attempt", "clock_held", "drift_s"]
    pq.write_table(pq.read_table(path).drop_columns(newer), path)

    read = read_table(path, OUTCOMES)
    assert read["attempt"].tolist() == [0, 0]
    assert read["clock_held"].tolist() == [False, False]
    assert read[["chosen_by", "drift_s"]].isna().all(axis=None)
    rest = [name for name in frame.columns if name not in newer]
    pd.testing.assert_frame_equal(read[rest], frame[rest])


def test_great_integers_beside_missing_ones_come_back_exactly_from_parquet(tmp_path):
    row = {"id": "x", "recorded_at": FIRST, "date": FIRST, "clock_held": False, "attempt": 0}
    statuses = [2**62 - 256, 2**63 - 1, None]
    rows = [[{**row, "exit_status": one}.get(name) for name in OUTCOMES.dtypes] for one in statuses]
    path = tmp_path / "outcomes.parquet"
    write_table([make_frame(rows, OUTCOMES)], path, OUTCOMES)
    assert read_table(path, OUTCOMES)["exit_status"].dropna().tolist() == statuses[:2]
