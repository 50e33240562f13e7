"""Looking through a catalog page by page."""

from datetime import timedelta

import pytest

from buildvm_nb.catalog import FAILURES, Catalog, read_failures
from buildvm_nb.catalog.browsing import Selection
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.case import Case, PyPISource, Step
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

START = parse_instant("2026-01-01")


def a_case(name):
    return Case(
        id=name,
        source=PyPISource(name=f"{name}-pkg", version="1"),
        step=[Step(name="test", run="make check")],
    )


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        for number in range(10):
            opened.record(
                Outcome(
                    id=f"O{number}",
                    case=a_case("even" if number % 2 == 0 else "odd"),
                    machine=MachineSpec(date=f"20{20 - number}-01-01", cpu="Haswell"),
                    verdict="failed" if number == 7 else "passed",
                    reason="100% wrong_here" if number == 7 else "",
                    recorded_at=START + timedelta(days=number),
                )
            )
        for number, (kind, axis) in enumerate(
            [
                ("time-trap", "date"),
                ("sound", None),
                ("cpu-dependent", "cpu"),
                ("time-trap", "date"),
            ]
        ):
            opened.record_finding(
                Finding(
                    id=f"F{number}",
                    case=a_case("even" if number in {0, 3} else f"case{number}"),
                    kind=kind,
                    axis=axis,
                    summary=f"summary {number}",
                    confidence=1,
                    features=("avx2",) if axis == "cpu" else (),
                    recorded_at=START + timedelta(days=number),
                )
            )
        yield opened


def ids(catalog, table, wanted=None, **page):
    return list(catalog.page(table, wanted or Selection(), **page)["id"])


def test_pages_follow_one_another_and_together_have_every_row_once(catalog):
    seen = [ids(catalog, "outcomes", offset=at, size=4) for at in (0, 4, 8, 12)]
    assert seen == [["O9", "O8", "O7", "O6"], ["O5", "O4", "O3", "O2"], ["O1", "O0"], []]
    assert catalog.count("outcomes") == 10


def test_rows_are_sorted_by_any_column_and_what_is_missing_comes_last(catalog):
    assert ids(catalog, "outcomes", sort="date", descending=False, size=2) == ["O9", "O8"]
    assert ids(catalog, "findings", sort="axis", descending=False) == ["F2", "F3", "F1"]
    assert ids(catalog, "findings", sort="axis", descending=True) == ["F3", "F2", "F1"]
    with pytest.raises(UsageError, match="no such column of outcomes: 'document'"):
        catalog.page("outcomes", sort="document")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"case": "VE"}, ["O8", "O6", "O4", "O2", "O0"]),
        ({"only": ("failed",)}, ["O7"]),
        ({"text": "WRONG_here"}, ["O7"]),
        ({"text": "wrongXhere"}, []),
        ({"text": "100%"}, ["O7"]),
        ({"text": "odd-pkg", "since": START + timedelta(days=6)}, ["O9", "O7"]),
        ({"until": START + timedelta(days=1)}, ["O0"]),
        ({"text": "\0"}, []),
    ],
    ids=repr,
)
def test_outcomes_are_selected_by_what_they_say(catalog, wanted, found):
    wanted = Selection(**wanted)
    assert ids(catalog, "outcomes", wanted) == found
    assert catalog.count("outcomes", wanted) == len(found)


def test_only_current_findings_are_selected_by_kind_and_axis(catalog):
    assert ids(catalog, "findings") == ["F3", "F2", "F1"]
    assert ids(catalog, "findings", Selection(axis=("cpu", "kernel"))) == ["F2"]
    assert ids(catalog, "findings", Selection(text="AVX")) == ["F2"]
    assert ids(catalog, "findings", Selection(only=("sound",))) == ["F1"]
    assert catalog.count("failures") == 2
    assert catalog.count("failures", Selection(only=("sound",))) == 0


@pytest.mark.parametrize(
    ("table", "wanted", "told"),
    [
        ("cases", {}, "no such table: 'cases'"),
        ("outcomes", {"only": ("sound",)}, "unknown verdict: 'sound'"),
        ("outcomes", {"axis": ("date",)}, "outcomes have no axis"),
        ("findings", {"only": ("passed",)}, "unknown kind of finding"),
        ("findings", {"axis": ("time",)}, "unknown axis"),
        ("findings", {"until": START.replace(tzinfo=None)}, "needs a zone"),
    ],
    ids=str,
)
def test_a_selection_that_is_none_is_refused(catalog, table, wanted, told):
    with pytest.raises(UsageError, match=told):
        catalog.count(table, Selection(**wanted))


def test_a_selection_is_exported_without_loss(catalog, tmp_path):
    target = tmp_path / "failures.csv"
    catalog.export_selected(target, "failures", Selection(only=("time-trap",)))
    frame = read_failures(target)
    assert list(frame["id"]) == ["F3"]
    assert list(frame.columns) == list(FAILURES.dtypes)
    catalog.export_selected(tmp_path / "o.csv", "outcomes", Selection(case="odd"))
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 6


def test_what_is_there_is_counted(catalog):
    assert catalog.counts() == {
        "outcomes": {"failed": 1, "passed": 9},
        "findings": {"cpu-dependent": 1, "sound": 1, "time-trap": 1},
    }


def test_a_catalog_that_was_removed_fails_and_is_not_made_anew(catalog, tmp_path):
    (tmp_path / "catalog.sqlite").unlink()
    with pytest.raises(CatalogError, match="unable to open"):
        catalog.page("outcomes")
    assert not (tmp_path / "catalog.sqlite").exists()
