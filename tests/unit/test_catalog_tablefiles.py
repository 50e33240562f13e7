"""Tables in files: whatever is in them, they come back as they were."""

import csv
import io
import json
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from buildvm_nb.catalog import (
    FAILURES,
    FINDINGS,
    HINTS,
    OUTCOMES,
    read_failures,
    read_table,
    write_table,
)
from buildvm_nb.catalog.database import findings as sql_findings
from buildvm_nb.catalog.database import outcomes as sql_outcomes
from buildvm_nb.catalog.frames import check_frame, empty_frame, make_array, make_frame
from buildvm_nb.catalog.rows import outcome_row
from buildvm_nb.catalog.schema import TABLES, Column, Kind, TableSchema, data_dictionary
from buildvm_nb.catalog.tablefiles import partitions, read_csv, write_csv, write_parquet
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.case import Case, GitSource, Step
from buildvm_nb.model.machine import Accelerator, CpuIdentity, Environment, MachineSpec
from buildvm_nb.model.outcome import (
    Artifact,
    Outcome,
    SourceRecord,
    StepRecord,
    Verdict,
)

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


SAMPLE = TableSchema(
    name="sample",
    columns=tuple(
        Column(name=kind.value, kind=kind, meaning=f"a column of kind {kind}") for kind in Kind
    ),
)
HARD_TEXTS = [
    "0012345", "12e4567", "1e5", "NA", "nan", "null", "None", "", "'", "''", "'=1", " ", "\t",
    "=1+1", "+1", "-1", "@x", "\r", "\n", "a\rb", "a\nb", "a\r\nb", 'say "x"', '"', ",", ";",
    "é\u2028日本\U0001f600", "\x01\x1b[31m\x7f", "\uff1dx", "true", "2020-01-01", "\ufeff", "#",
    "-inf", "\x85", "\x1c",
]  # fmt: skip
SPREADSHEET_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def frame_of(**columns):
    table = TableSchema(name="sample", columns=tuple(SAMPLE[name] for name in columns))
    rows = zip(*columns.values(), strict=True)
    return make_frame(list(rows), table)


def round_trip(frame, tmp_path):
    write_csv(frame, tmp_path / "x.csv", SAMPLE)
    return read_csv(tmp_path / "x.csv", SAMPLE)


def an_outcome(**changes):
    fields = {
        "case": Case(
            id="demo",
            source=GitSource(url="https://example.org/p.git", commit="0012345"),
            step=[Step(name="build", run="make"), Step(name="test", run="make check")],
        ),
        "machine": MachineSpec(date="2038-01-19T03:14:08Z", cpu="Haswell,-cx16"),
        "verdict": Verdict.CRASHED,
    }
    return Outcome(**{**fields, **changes})


def tables_a_row(outcome):
    frame = make_frame([[outcome_row(outcome)[name] for name in OUTCOMES.dtypes]])
    return frame.iloc[0]


def test_columns_have_their_dtypes_whatever_is_in_them():
    nothing = make_frame([[None] * len(OUTCOMES.columns)])
    real = make_frame([[outcome_row(an_outcome())[name] for name in OUTCOMES.dtypes]])

    for frame in (empty_frame(), nothing, real):
        check_frame(frame)
        assert list(frame.columns) == list(OUTCOMES.dtypes)
        assert {str(frame[name].dtype.na_value) for name in ("id", "signal")} == {"<NA>"}


@pytest.mark.parametrize(
    ("table", "sql_table"), [(OUTCOMES, sql_outcomes), (FINDINGS, sql_findings)]
)
def test_the_sql_table_has_the_columns_of_the_schema(table, sql_table):
    assert [column.name for column in sql_table.columns] == [*table.dtypes, "document"]
    assert all(
        sql_table.columns[column.name].nullable == column.optional for column in table.columns
    )


def test_a_new_column_of_an_old_table_may_be_missing_or_has_a_default():
    first = min(column.since for column in OUTCOMES.columns)
    new = [column for column in OUTCOMES.columns if column.since > first]

    assert new
    assert all(column.optional == (column.default is None) for column in new)


def test_the_data_dictionary_has_a_line_for_each_column():
    text = OUTCOMES.data_dictionary()

    assert text.count("\n") == len(OUTCOMES.columns) + 2
    assert "| `memory_mib` | `Int64` | MiB | never | memory of the machine | 1 |" in text


def test_the_data_dictionary_covers_all_tables():
    text = data_dictionary()

    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Data dictionary",
        "## Files",
        "## outcomes",
        "## findings",
        "## failures",
        "## hints",
    ]
    assert "One row for each run of a case." in text
    assert "| `drift_s` | `Float64` | s | may be | how far a held clock strayed" in text
    assert "| `supersedes` | `string[pyarrow]` |  | may be | id of the earlier finding" in text


def test_instants_from_the_first_to_the_last_year_fit():
    instants = [datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC), None]
    array = make_array(instants, Kind.INSTANT)

    assert [None if pd.isna(value) else value.to_pydatetime() for value in array] == instants


def test_a_frame_that_is_not_of_the_table_is_refused():
    with pytest.raises(UsageError, match=r"(?s)unknown column.*'verdikt'.*did you mean 'verdict'"):
        check_frame(pd.DataFrame({"verdikt": []}))
    with pytest.raises(UsageError, match=r"(?s)'signal' has dtype float64.*astype"):
        check_frame(pd.DataFrame({"signal": [1.5]}))


def test_a_row_tells_of_the_step_that_decided():
    clock = datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)
    outcome = an_outcome(
        failing_step="build",
        steps=(
            StepRecord(name="prepare", verdict=Verdict.PASSED, exit_status=0, duration_s=0.5),
            StepRecord(
                name="build",
                verdict=Verdict.CRASHED,
                signal=4,
                clock_started_at=clock,
                duration_s=1.5,
                tests_run=3,
            ),
        ),
        sources=(
            SourceRecord(kind="git", name="p", version="0012345" + "0" * 33, digest="a" * 64),
            SourceRecord(kind="wheels", name="six", version="1.16.0", digest="b" * 64),
        ),
        environment=Environment(
            cpu="Haswell,-cx16",
            cpu_features=("avx", "avx2"),
            cpu_flags=(),
            cpu_identity=CpuIdentity(
                vendor="GenuineIntel", family=6, model=60, stepping=4, name="Haswell it is"
            ),
            cpu_count=1,
            kernel_release="6.1.0",
            accelerator=Accelerator.TCG,
            engine="qemu 7.2.22",
        ),
        artifacts=(Artifact(path="a.out", size_bytes=1, digest="c" * 64),),
        host={"cores": 2},
    )
    row = tables_a_row(outcome)

    assert row.source_version == "0012345" + "0" * 33
    assert row.inputs == (
        f'[{{"digest":"{"b" * 64}","kind":"wheels","name":"six","version":"1.16.0"}}]'
    )
    assert (row.accelerator, row.accelerator_used) == ("auto", "tcg")
    assert (row.signal, row.tests_run, row.cpu_features) == (4, 3, "avx avx2")
    assert (row.cpu_vendor, row.cpu_name) == ("GenuineIntel", "Haswell it is")
    assert (row.cpu_family, row.cpu_model, row.cpu_stepping) == (6, 60, 4)
    assert pd.isna(row.exit_status)
    assert row.clock_started_at == clock
    assert (row.prepare_s, row.build_s) == (0.5, 1.5)
    assert pd.isna(row.test_s)
    assert row.artifacts == f'{{"a.out":"{"c" * 64}"}}'
    assert row.host == '{"cores":2}'


def test_without_a_failing_step_the_last_one_counts():
    outcome = an_outcome(
        verdict=Verdict.PASSED,
        steps=tuple(
            StepRecord(name=name, verdict=Verdict.PASSED, exit_status=0, duration_s=1, tests_run=n)
            for n, name in enumerate(("build", "test"))
        ),
    )

    assert tables_a_row(outcome).tests_run == 1


def test_an_unavailable_source_is_named_as_it_was_asked_for():
    row = tables_a_row(an_outcome(verdict=Verdict.UNAVAILABLE))

    assert (row.source_kind, row.source_name, row.source_version) == (
        "git",
        "https://example.org/p.git",
        "0012345",
    )
    assert pd.isna(row.source_digest)


def test_a_nul_character_is_shown_in_the_row():
    assert tables_a_row(an_outcome(evidence="a\0b")).evidence == "a\N{SYMBOL FOR NULL}b"


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_text_comes_back_from_csv(text, tmp_path):
    frame = frame_of(text=[text, None, text], json=[None, text, "{}"])

    pd.testing.assert_frame_equal(round_trip(frame, tmp_path), frame)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_a_single_column_comes_back_from_csv(text, tmp_path):
    frame = frame_of(text=[None, text, None])

    pd.testing.assert_frame_equal(round_trip(frame, tmp_path), frame)


TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ROWS = st.tuples(
    TEXTS,
    TEXTS,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.booleans(),
    st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(rows=st.lists(ROWS, max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_frame_comes_back_from_csv(rows, tmp_path_factory):
    frame = make_frame(rows, SAMPLE)

    pd.testing.assert_frame_equal(round_trip(frame, tmp_path_factory.getbasetemp()), frame)


FORMULA_LIKE = st.text(st.sampled_from("=+-@;,\t\r\n\"' a\uff1d"), max_size=9)


@given(texts=st.lists(st.none() | FORMULA_LIKE, max_size=4))
@settings(max_examples=200, deadline=None)
def test_text_that_is_much_like_formulas_comes_back_from_csv(texts, tmp_path_factory):
    frame = frame_of(text=texts)

    pd.testing.assert_frame_equal(round_trip(frame, tmp_path_factory.getbasetemp()), frame)


@given(text=FORMULA_LIKE, separator=st.sampled_from(";\t"))
@settings(max_examples=200, deadline=None)
def test_no_cell_begins_like_a_formula_for_who_parts_at_something_else(text, separator):
    target = io.StringIO()
    write_csv(frame_of(text=["x"], json=[text]), target, SAMPLE)
    rows = csv.reader(io.StringIO(target.getvalue(), newline=""), delimiter=separator)

    assert not any(
        cell.lstrip('" ').startswith(("=", "+", "-", "@")) for row in rows for cell in row
    )


@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
@settings(deadline=None)
def test_no_cell_of_text_begins_like_a_formula(texts):
    target = io.StringIO()
    write_csv(frame_of(text=texts), target, SAMPLE)
    cells = [row[0] for row in csv.reader(io.StringIO(target.getvalue(), newline=""))][1:]

    assert len(cells) == len(texts)
    assert not any(cell.startswith(SPREADSHEET_FORMULA) for cell in cells)


def test_missing_and_empty_text_are_told_apart_in_the_file(tmp_path):
    write_csv(frame_of(text=["", None, "NA"], integer=[1, 2, -3]), tmp_path / "x.csv", SAMPLE)

    assert (tmp_path / "x.csv").read_text() == "text,integer\n',1\n,2\nNA,-3\n"


def test_columns_are_written_in_the_order_of_the_schema(tmp_path):
    frame = frame_of(integer=[1], text=["x"])
    write_csv(frame, tmp_path / "x.csv", SAMPLE)

    assert (tmp_path / "x.csv").read_text() == "text,integer\nx,1\n"


def test_what_a_spreadsheet_saves_reads_the_same(tmp_path):
    frame = frame_of(text=["a\nb", None, "'", "é"], boolean=[True, None, False, None])
    write_csv(frame, tmp_path / "x.csv", SAMPLE)
    text = (tmp_path / "x.csv").read_text()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    saved = io.StringIO(newline="")
    csv.writer(saved, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    (tmp_path / "y.csv").write_bytes(b"\xef\xbb\xbf" + saved.getvalue().encode())

    pd.testing.assert_frame_equal(read_csv(tmp_path / "y.csv", SAMPLE), frame)


def test_a_cell_of_a_million_characters_comes_back(tmp_path):
    frame = frame_of(text=["x\n" * 5_000_000])

    pd.testing.assert_frame_equal(round_trip(frame, tmp_path), frame)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("verdikt\n1\n", r"unknown column in .*x\.csv: 'verdikt'"),
        ("integer\n1\n1.5\n", r"row 2, column 'integer': not an integer of 64 bits: '1\.5'"),
        ("text,json,integer\na,b\n", "row 1 has 2 cells; the header has 3"),
        ("text,integer\na,1\na,1,2\n", "row 2 has 3 cells; the header has 2"),
        ("text,text\na,1\n", "a column there twice"),
        ("integer\n9223372036854775808\n", "not an integer of 64 bits"),
        ("boolean\nyes\n", "not true or false: 'yes'"),
        ("instant\n2020-01-01T00:00:00\n", "not an instant"),
        ("real\nabc\n", "not a number"),
        ('text\n"a', "cannot read CSV"),
        ("", "cannot read CSV"),
    ],
)  # fmt: skip
def test_a_bad_csv_says_where(text, told, tmp_path):
    (tmp_path / "x.csv").write_text(text)

    with pytest.raises(CatalogError, match=told):
        read_csv(tmp_path / "x.csv", SAMPLE)


def test_no_csv_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_csv(tmp_path / "none.csv")


def test_a_csv_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(CatalogError, match="cannot write"):
        write_csv(empty_frame(), tmp_path / "nowhere" / "x.csv")
    (tmp_path / "taken").mkdir()
    with pytest.raises(CatalogError, match="cannot write"):
        write_csv(empty_frame(), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_sql_tables_can_be_made_in_postgresql_too():
    ddl = "".join(
        str(CreateTable(table).compile(dialect=postgresql.dialect()))
        for table in (sql_outcomes, sql_findings)
    )

    assert "recorded_at TIMESTAMP WITH TIME ZONE NOT NULL" in ddl
    assert "FOREIGN KEY(case_id, case_digest) REFERENCES cases (id, digest)" in ddl
    assert "clock_held BOOLEAN DEFAULT false NOT NULL" in ddl
    assert "FOREIGN KEY(supersedes) REFERENCES findings (id)" in ddl


def test_the_data_dictionary_in_the_documentation_is_up_to_date():
    text = (Path(__file__).parents[2] / "docs" / "data-dictionary.md").read_text(encoding="utf-8")

    assert text == data_dictionary(), "buildvm catalog schema > docs/data-dictionary.md"
