"""``frame.traps``: when traps spring, what they need, and verdicts laid out."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pandas as pd
import pytest

from buildvm_nb.catalog import FAILURES, OUTCOMES, Catalog, empty_frame
from buildvm_nb.catalog.columns import Kind
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.machine import kernel_age

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
