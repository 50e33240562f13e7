"""``frame.traps``: when traps spring, what they need, and verdicts laid out."""

import io
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from buildvm_nb.catalog import (
    FAILURES,
    HINTS,
    OUTCOMES,
    Catalog,
    empty_frame,
    read_failures,
    read_table,
)
from buildvm_nb.catalog.frames import check_frame, make_frame
from buildvm_nb.catalog.query import QUERIED
from buildvm_nb.catalog.schema import Kind
from buildvm_nb.catalog.traps import FAILURE_KINDS, failures_of
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.case import Case, GitSource, Provenance, Step, Window
from buildvm_nb.model.finding import Boundary, Finding, FindingKind, Hint
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec, kernel_age
from buildvm_nb.model.outcome import Outcome

assert Catalog  # importing it gives frames their .traps
PLAIN = {
    Kind.TEXT: "x", Kind.JSON: "[]", Kind.INTEGER: 1, Kind.REAL: 0.5, Kind.BOOLEAN: True,
    Kind.INSTANT: datetime(2026, 1, 1, tzinfo=UTC),
}  # fmt: skip
LAST = "9999-12-31T23:59:59Z"


def day(text):
    return pd.Timestamp(text, tz="UTC")


def frame_of(table, *rows):
    cells = ([row.get(column.name, PLAIN[column.kind]) for column in table.columns] for row in rows)
    return make_frame(list(cells), table)


def a_boundary(last, first, before="passed", after="failed", **more):
    return {
        "axis": "date", "last_before": last, "first_after": first, "before": before,
        "after": after, "is_exact": True, **more,
    }  # fmt: skip


def a_failure(key, *boundaries, **more):
    told = json.dumps(boundaries, sort_keys=True, separators=(",", ":"))
    return {"id": key, "case_id": f"case-{key}", "boundaries": told, **more}


CAUSE = {"kind": "certificate-ends", "path": "c.pem", "why": "CN=x ends"}
ONCE = a_failure("ONCE", a_boundary("2027-12-31T23:59:59Z", "2028-01-01T00:00:00Z", cause=CAUSE))
YEAR = a_failure(
    "YEAR",
    a_boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z"),
    a_boundary("2020-12-31T23:59:59Z", "2021-01-01T00:00:00Z", "failed", "passed"),
    a_boundary("2030-01-01", "2031-01-01", after="timeout", is_exact=False),
)
NOT_YET = a_failure("NOT_YET", a_boundary("2018-01-01", "2018-01-02", "failed", "passed"))
NEVER = a_failure("NEVER", a_boundary("9999-12-31T23:59:58Z", LAST))
KERNEL = a_failure("KERNEL", a_boundary("debian:a", "debian:b", axis="kernel"))
ODD = a_failure("ODD", a_boundary("long ago", "yesterday"))


@pytest.fixture
def failures():
    return frame_of(FAILURES, NEVER, YEAR, KERNEL, ONCE, NOT_YET, ODD)


def test_the_timeline_has_each_spring_in_the_order_of_time(failures):
    timeline = failures.traps.timeline(at="2028-01-01")

    assert timeline["id"].tolist() == ["YEAR", "ONCE", "YEAR", "NEVER"]
    assert timeline["springs_at"].tolist() == list(
        map(day, ("2020-01-01", "2028-01-01", "2031-01-01", "9999-12-31T23:59:59"))
    )
    assert timeline["is_past"].tolist() == [True, True, False, False]
    assert timeline["is_exact"].tolist() == [True, True, False, True]
    assert timeline["passes_again_at"].tolist() == [day("2021-01-01"), pd.NaT, pd.NaT, pd.NaT]
    assert timeline.loc[1, ["cause_kind", "cause_path", "cause_why"]].tolist() == [*CAUSE.values()]
    assert timeline["cause_why"].isna().tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("after", "before", "found"),
    [
        ("2019-12-31", "2020-01-01T00:00:00Z", []),
        ("2019-12-31", "2020-01-01T00:00:01Z", ["YEAR"]),
        ("2020-01-01T00:00:00Z", "2020-06-01", []),
        ("2026-01-01", "2030-01-01", ["ONCE"]),
        ("2026-01-01", "2030-01-02", ["ONCE", "YEAR"]),
        ("2030-12-31", "2032-01-01", ["YEAR"]),
        ("2031-01-01", "2032-01-01", []),
        ("2019-01-01", LAST, ["YEAR", "ONCE"]),
        ("2040-01-01", LAST, []),
    ],
)
def test_a_row_expires_if_a_spring_may_lie_in_the_stretch(failures, after, before, found):
    expiring = failures.traps.expiring(before, after=after)

    assert expiring["id"].tolist() == found
    pd.testing.assert_frame_equal(expiring, failures.loc[expiring.index])


def test_what_expires_is_counted_from_now_on(failures):
    assert "YEAR" in failures.traps.expiring(datetime(2400, 1, 1, tzinfo=UTC))["id"].tolist()
    assert failures.traps.expiring("2020-06-01").empty


def test_rows_with_the_same_index_are_told_apart(failures):
    doubled = pd.concat([failures, failures])

    assert doubled.traps.expiring("2030-01-01", after="2026-01-01")["id"].tolist() == ["ONCE"] * 2


def test_features_are_counted_by_case():
    nothing = dict.fromkeys(("features", "features_needed", "features_harmful"))
    frame = frame_of(
        FAILURES,
        nothing | {"case_id": "b", "features": "avx avx2", "features_needed": "avx"},
        nothing | {"case_id": "a", "features": "avx"},
        nothing | {"case_id": "c", "features_harmful": "amx avx"},
        nothing | {"case_id": "d"},
    )

    assert frame.traps.by_feature().to_numpy().tolist() == [
        ["avx", 2, 1, "a b c"],
        ["amx", 0, 1, "c"],
        ["avx2", 1, 0, "b"],
    ]


def an_outcome(date, cpu, verdict):
    return {"date": datetime.fromisoformat(f"{date}T00:00:00Z"), "cpu": cpu, "verdict": verdict}


def test_verdicts_are_laid_out_and_mixed_ones_are_shown_as_such():
    frame = frame_of(
        OUTCOMES,
        an_outcome("2030-01-01", "max", "failed"),
        an_outcome("2020-01-01", "max", "passed"),
        an_outcome("2020-01-01", "Haswell", "passed"),
        an_outcome("2020-01-01", "Haswell", "failed"),
        an_outcome("2020-01-01", "Haswell", "passed"),
        an_outcome("2020-01-01", "max", "error"),
        an_outcome("9999-01-01", "max", "error"),
    )
    matrix = frame.traps.matrix("date", "cpu")

    assert matrix.columns.tolist() == ["Haswell", "max"]
    assert matrix.index.tolist() == ["2020", "2030", "9999"]
    assert matrix.loc["2020"].tolist() == ["mixed: 1 failed, 2 passed", "passed"]
    assert matrix["max"].tolist() == ["passed", "failed", "error"]
    assert matrix["Haswell"].isna().tolist() == [False, True, True]
    assert {str(dtype) for dtype in matrix.dtypes} == {"string"}
    assert frame.traps.matrix("cpu", "case_id").loc["max", "x"] == "mixed: 1 failed, 1 passed"


def test_cpus_and_kernels_are_laid_out_by_age_and_dates_by_as_much_as_counts():
    frame = frame_of(
        OUTCOMES,
        an_outcome("2020-01-01", "Haswell", "failed") | {"kernel": "debian:sid"},
        an_outcome("2020-01-02", "Penryn", "passed") | {"kernel": "debian:bookworm"},
        an_outcome("2020-02-01", "Haswell,-avx2", "passed") | {"kernel": "/a/kernel"},
        an_outcome("2021-01-01", "max", "passed") | {"kernel": "debian:bookworm-backports"},
        an_outcome("2021-01-01", "Nehalem", "passed") | {"kernel": "debian:bullseye"},
    )
    matrix = frame.traps.matrix("kernel", "cpu")
    assert matrix.columns.tolist() == ["Penryn", "Nehalem", "Haswell", "Haswell,-avx2", "max"]
    assert matrix.index.tolist() == [
        "debian:bullseye",
        "debian:bookworm",
        "debian:bookworm-backports",
        "debian:sid",
        "/a/kernel",
    ]
    assert frame.traps.matrix().index.tolist() == ["2020", "2021"]
    assert frame.traps.matrix(by="month").index.tolist() == ["2020-01", "2020-02", "2021-01"]
    assert len(frame.traps.matrix("cpu", "date", by="day").columns) == 4
    assert frame.traps.matrix(by="instant").index[0] == day("2020-01-01")
    with pytest.raises(UsageError, match="dates by 'week'; allowed: year, month, day, instant"):
        frame.traps.matrix(by="week")


def test_releases_of_kernels_are_ordered_by_their_numbers():
    releases = ["6.12.9-amd64", "custom", "6.1.0-44-cloud-amd64", "5.10.0", "debian:sid"]
    assert sorted(releases, key=kernel_age) == [releases[at] for at in (4, 3, 2, 0, 1)]


def test_frames_without_rows_have_nothing_to_tell():
    nothing = empty_frame(FAILURES).traps

    assert nothing.timeline().empty
    assert nothing.timeline()["springs_at"].dtype == "datetime64[us, UTC]"
    assert nothing.expiring("2040-01-01").empty
    assert nothing.by_feature().empty
    assert empty_frame(OUTCOMES).traps.matrix().empty


def test_a_frame_of_another_table_is_refused_with_what_it_lacks(failures):
    outcomes = empty_frame(OUTCOMES).traps
    for call in (outcomes.timeline, outcomes.by_feature, lambda: outcomes.expiring("2030-01-01")):
        with pytest.raises(UsageError, match="the frame has no column"):
            call()
    with pytest.raises(UsageError, match="no column 'verdict', 'date'"):
        failures.traps.matrix("date", "kind")
    with pytest.raises(UsageError, match="rows and columns are the same: 'cpu'"):
        outcomes.matrix("cpu", "cpu")
    with pytest.raises(UsageError, match="not a date: 'soon'"):
        failures.traps.expiring("soon")


def test_boundaries_that_cannot_be_read_are_told():
    with pytest.raises(CatalogError, match="not a list of boundaries"):
        frame_of(FAILURES, {"boundaries": '[{"axis":"date"}]'}).traps.timeline()


def test_no_plot_is_loaded_before_one_is_drawn():
    code = "import sys, buildvm_nb.catalog.store; print('matplotlib' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


# Failures and hints: what the findings of a catalog come to, as tables.

START = datetime(2026, 1, 1, tzinfo=UTC)
CASE = Case(
    id="demo",
    title='=cmd|"x"; A demo',
    source=GitSource(url="https://example.org/p.git", commit="0012345"),
    step=[Step(name="test", run="make check")],
    provenance=Provenance(url="https://example.org/bug/1"),
)
OTHER = Case(id="other", step=[Step(name="test", run="true")])
ENDS = Hint(kind="certificate-ends", path="c.pem", line=3, instant="2027-05-01", why="CN=x ends")
BEGINS = Hint(kind="certificate-begins", why="CN=x\0 begins")


def failures_a_boundary(last, first, before="passed", after="failed", **more):
    fields = {"axis": "date", "is_exact": True, "before": before, "after": after, **more}
    return Boundary(last_before=last, first_after=first, **fields)


def a_finding(number, case=CASE, **changes):
    fields = {
        "id": f"F{number}",
        "case": case,
        "kind": "time-trap",
        "axis": "date",
        "summary": f"finding {number}",
        "confidence": 0.9,
        "recorded_at": START + timedelta(days=number),
    }
    return Finding(**{**fields, **changes})


TWICE = (
    failures_a_boundary(
        "2019-01-01T00:00:00Z", "2019-01-01T00:00:01Z", "failed", "passed", cause=BEGINS
    ),
    failures_a_boundary("2027-04-30T23:59:59Z", "2027-05-01T00:00:00Z", cause=ENDS),
    failures_a_boundary("2028-01-01", "2028-02-01", "failed", "passed", is_exact=False),
    failures_a_boundary("2038-01-01", "2039-01-01", after="crashed", is_exact=False),
)


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


@pytest.fixture
def filled(catalog):
    """Two findings on one case, one of which is replaced, and one of each other sort."""
    outcome = catalog.record(
        Outcome(id="O1", case=CASE, machine=MachineSpec(date="2020-01-01"), verdict="passed")
    )
    dated = {
        "boundaries": TWICE,
        "windows": (
            Window(passes_from="2019-01-01T00:00:01Z", passes_until="2027-04-30T23:59:59Z"),
            Window(passes_from="2028-02-01", passes_until="2038-01-01"),
        ),
        "environment": MachineSpec(date="2020-01-01"),
    }
    cpu = {
        "kind": "cpu-dependent",
        "axis": "cpu",
        "features_base": "Haswell",
        "features": ("avx",),
        "features_harmful": ("avx512f", "amx"),
    }
    kernel = failures_a_boundary("debian:bullseye", "debian:bookworm", axis="kernel", cause=ENDS)
    for finding in (
        a_finding(1),
        a_finding(2, evidence=(outcome.id,), **dated),
        a_finding(3, **cpu),
        a_finding(4, OTHER, kind="kernel-dependent", axis="kernel", boundaries=(kernel,)),
        a_finding(5, OTHER, kind="sound", axis=None),
        a_finding(6, OTHER, kind="undetermined", axis="cores"),
        a_finding(7, OTHER, kind="flaky", axis="commit"),
    ):
        catalog.record_finding(finding)
    return catalog


def ids(frame, table=FAILURES):
    check_frame(frame, table)
    assert list(frame.columns) == list(table.dtypes)
    return frame["finding_id" if table is HINTS else "id"].tolist()


def test_failures_are_the_current_findings_that_tell_of_one(filled):
    assert ids(filled.failures()) == ["F2", "F3", "F4", "F7"]
    assert set(FindingKind) - set(FAILURE_KINDS) == {"sound", "undetermined"}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"case": "other"}, ["F4", "F7"]),
        ({"kind": "flaky"}, ["F7"]),
        ({"kind": ["cpu-dependent", FindingKind.FLAKY]}, ["F3", "F7"]),
        ({"kind": []}, []),
        ({"axis": ["kernel", "date"]}, ["F2", "F4"]),
        ({"package": "https://example.org/p.git"}, ["F2", "F3"]),
        ({"package": "P"}, ["F2", "F3"]),
        ({"package": "q"}, []),
        ({"since": START + timedelta(days=4)}, ["F4", "F7"]),
        ({"since": "2026-01-05"}, ["F4", "F7"]),
        ({"since": pd.Timestamp("2026-01-05", tz="UTC")}, ["F4", "F7"]),
        ({"case": ["other", "none"]}, ["F4", "F7"]),
        ({"case": []}, []),
        ({"package": ["none", "P"], "kind": "time-trap"}, ["F2"]),
        ({"springs_before": "2027-05-01"}, []),
        ({"springs_before": "2028-01-01"}, ["F2"]),
        ({"limit": 2}, ["F4", "F7"]),
        ({"limit": 0}, []),
        ({"springs_before": datetime(2027, 5, 1, tzinfo=UTC)}, []),
        ({"springs_before": datetime(2027, 5, 1, 0, 0, 1, tzinfo=UTC)}, ["F2"]),
        ({"springs_before": datetime(9999, 1, 1, tzinfo=UTC), "limit": 3}, ["F2"]),
        ({"springs_before": datetime(9999, 1, 1, tzinfo=UTC), "limit": 0}, []),
    ],
    ids=str,
)
def test_failures_are_filtered(filled, filters, found):
    assert ids(filled.failures(**filters)) == found


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"kind": "sound"}, "no kind of failure: 'sound'; allowed: time-trap"),
        ({"kind": "trap"}, "unknown kind of finding: 'trap'"),
        ({"axis": "time"}, "unknown axis: 'time'; allowed: date, cpu"),
        ({"since": datetime(2026, 1, 1)}, "an instant needs a zone"),  # noqa: DTZ001
        ({"springs_before": datetime(2026, 1, 1)}, "an instant needs a zone"),  # noqa: DTZ001
        ({"since": "soon"}, "not a date: 'soon'"),
        ({"case": 3}, "case: expected text, got int: 3"),
        ({"case": [3]}, "case: expected text, got int: 3"),
        ({"limit": -1}, "limit is negative"),
        ({"limit": -1, "springs_before": START}, "limit is negative"),
    ],
    ids=str,
)
def test_a_filter_of_failures_that_is_none_is_a_usage_error(filled, filters, told):
    with pytest.raises(UsageError, match=told):
        filled.failures(**filters)


def test_a_failure_tells_what_its_finding_and_case_tell(filled):
    failures = filled.failures().set_index("id")
    trap, cpu = failures.loc["F2"], failures.loc["F3"]

    assert (trap.title, trap.provenance_url) == (CASE.title, "https://example.org/bug/1")
    assert (trap.ecosystem, trap.package, trap.version) == ("generic", "p", "0012345")
    assert trap.purl == "pkg:generic/p@0012345"
    assert (trap.springs_at, trap.is_exact) == (datetime(2027, 5, 1, tzinfo=UTC), True)
    assert (trap.passes_from, trap.evidence) == (
        datetime(2019, 1, 1, 0, 0, 1, tzinfo=UTC),
        '["O1"]',
    )
    assert trap.passes_until == datetime(2027, 4, 30, 23, 59, 59, tzinfo=UTC)
    assert pd.isna(trap.failing_kernels)  # and not an empty list
    assert pd.isna(trap.features_harmful)
    assert (cpu.features, cpu.features_harmful) == ("avx", "avx512f amx")
    assert pd.isna(cpu.springs_at)
    assert pd.isna(failures.loc["F4"].springs_at)
    assert pd.isna(failures.loc["F7"].title)


@pytest.mark.parametrize(
    ("now", "springs", "passes"),
    [
        ("2018-01-01", "2027-05-01", "2019-01-01T00:00:01Z"),
        ("2026-11-29", "2027-05-01", "2028-02-01"),
        ("2027-05-01", "2039-01-01", "2028-02-01"),
        ("2030-01-01", "2039-01-01", None),
        ("2039-01-01", None, None),
    ],
)
def test_what_comes_next_is_told_from_now_on(now, springs, passes):
    (row,) = failures_of([a_finding(1, boundaries=TWICE)], parse_instant(now)).itertuples()
    expected = [text and parse_instant(text) for text in (springs, passes)]
    told = [row.next_springs_at, row.next_passes_at]
    assert [None if pd.isna(one) else one for one in told] == expected


def test_failures_of_a_version_that_had_sources_are_read_without_them(tmp_path):
    path = tmp_path / "failures.csv"
    path.write_text("id,source_kind,source_name,source_version,kind\nF1,pypi,p,1.0,time-trap\n")
    assert list(read_failures(path).columns) == ["id", "kind"]


def test_a_failure_whose_document_cannot_be_read_says_which(filled):
    with filled._database.writing() as connection:
        connection.exec_driver_sql("UPDATE findings SET document = '{\"features_harmful\": 3}'")

    with pytest.raises(CatalogError, match="finding F3 cannot be read"):
        filled.failures()


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [("F2", "certificate-begins"), *((key, "certificate-ends") for key in ("F2", "F4"))]),
        ({"kind": "certificate-begins"}, [("F2", "certificate-begins")]),
        ({"kind": "certificate-begins", "limit": 1}, [("F2", "certificate-begins")]),
        ({"axis": "kernel"}, [("F4", "certificate-ends")]),
        ({"limit": 1}, [("F4", "certificate-ends")]),
        ({"case": "demo", "kind": "certificate-ends"}, [("F2", "certificate-ends")]),
        ({"package": "q"}, []),
        ({"since": START + timedelta(days=3)}, [("F4", "certificate-ends")]),
    ],
    ids=str,
)  # fmt: skip
def test_hints_are_the_causes_that_current_findings_name(filled, filters, found):
    hints = filled.hints(**filters)

    ids(hints, HINTS)
    assert list(zip(hints.finding_id, hints.kind, strict=True)) == found


def test_a_hint_tells_where_and_what(filled):
    begins, ends, _ = filled.hints().itertuples(index=False)

    assert (ends.path, ends.line, ends.why) == ("c.pem", 3, "CN=x ends")
    assert ends.instant == datetime(2027, 5, 1, tzinfo=UTC)
    assert (ends.axis, ends.first_after) == ("date", "2027-05-01T00:00:00Z")
    assert pd.isna(begins.path)
    assert begins.why == "CN=x\N{SYMBOL FOR NULL} begins"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["outcomes", "findings", "failures"])
def test_an_export_reads_back_as_the_frame(filled, name, form, tmp_path):
    frame = {
        "outcomes": filled.outcomes,
        "findings": lambda: filled.findings(current=False),
        "failures": filled.failures,
    }[name]()

    filled.export(tmp_path / f"x.{form}", name)

    assert len(frame)
    pd.testing.assert_frame_equal(read_table(tmp_path / f"x.{form}", QUERIED[name]), frame)


def test_failures_csv_is_safe_in_a_spreadsheet_and_reads_back(filled, tmp_path):
    filled.export(tmp_path / "failures.csv")
    text = (tmp_path / "failures.csv").read_text()

    assert text.startswith(
        "ecosystem,package,version,purl,kind,axis,summary,springs_at,next_springs_at,"
        "next_passes_at,failing_cpus,failing_kernels,"
    )
    assert ',"\'=cmd|""x""; A demo",' in text
    pd.testing.assert_frame_equal(read_failures(tmp_path / "failures.csv"), filled.failures())


def test_what_pandas_writes_of_failures_is_read_again(filled, tmp_path):
    for name, more in (
        ("index.csv", {}),
        ("plain.csv", {"index": False}),
        ("de.csv", {"sep": ";"}),
    ):
        frame = filled.failures()
        frame.to_csv(tmp_path / name, **more)
        pd.testing.assert_frame_equal(read_failures(tmp_path / name), frame)


SOFFICE = shutil.which("soffice")


@pytest.mark.skipif(SOFFICE is None, reason="no LibreOffice (Debian: libreoffice-calc)")
def test_what_libreoffice_saves_of_failures_is_read_again(filled, tmp_path):
    path = tmp_path / "failures.csv"
    filled.export(path)
    for number, detects in enumerate(("false", "true")):  # and with special numbers detected
        out = tmp_path / detects
        subprocess.run(
            [
                *(SOFFICE, f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"),
                *("--headless", f"--infilter=CSV:44,34,76,1,,0,false,{detects}"),
                *("--convert-to", "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true"),
                *("--outdir", out, path),
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )
        saved = (out / "failures.csv").read_text()
        assert "TRUE" in saved, number
        told, expected = read_failures(out / "failures.csv"), filled.failures()
        assert list(told.columns) == list(expected.columns)
        # it keeps 15 digits, and takes 0012345 for a number, as the data dictionary says
        changed = ["confidence", "version"]
        pd.testing.assert_frame_equal(told.drop(columns=changed), expected.drop(columns=changed))
        assert told.confidence.tolist() == pytest.approx(expected.confidence.tolist())


RSCRIPT = shutil.which("Rscript")


@pytest.mark.skipif(RSCRIPT is None, reason="no R (Debian: r-base-core)")
def test_r_reads_failures_with_no_surprise(filled, tmp_path):
    filled.export(tmp_path / "failures.csv")
    script = """
        f <- read.csv("failures.csv")
        cat(nrow(f), names(f)[1:4], class(f$is_exact), class(f$purl), f$purl[1], "\\n")
        cat(class(f$confirmed), class(f$confidence), f$title[1], "\\n")
        cat(format(as.POSIXct(f$springs_at[1], format="%Y-%m-%dT%H:%M:%SZ", tz="UTC")))
    """
    argv = [RSCRIPT, "-e", script]
    done = subprocess.run(
        argv, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines() == [
        "4 ecosystem package version purl logical character pkg:generic/p@0012345 ",
        'integer numeric \'=cmd|"x"; A demo ',
        "2027-05-01",
    ]


def test_an_export_is_filtered_and_may_go_to_a_stream(filled):
    stream = io.StringIO()
    filled.export(stream, "failures", form="jsonl", case="other", only="flaky")
    assert '"id": "F7", "recorded_at": "2026-01-08T00:00:00Z"' in stream.getvalue()
    assert stream.getvalue().count("\n") == 1
    with pytest.raises(UsageError, match="needs a file, not a text stream"):
        filled.export(stream, form="parquet")
    with pytest.raises(UsageError, match="no such table: 'hints'; allowed: outcomes, findings"):
        filled.export(stream, "hints")
    with pytest.raises(UsageError, match="unknown verdict: 'flaky'"):
        filled.export(stream, "outcomes", only="flaky")


def test_pieces_make_up_the_whole(filled):
    pieces = list(filled.pieces("failures", size=3))

    assert [len(piece) for piece in pieces] == [3, 1]
    pd.testing.assert_frame_equal(pd.concat(pieces), filled.failures())
    (findings,) = filled.pieces("findings", only=["sound", "time-trap"])
    assert findings["id"].tolist() == ["F1", "F2", "F5"]
