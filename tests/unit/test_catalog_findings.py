import json
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from buildvm_nb.catalog.csvfile import read_csv, write_csv
from buildvm_nb.catalog.findingrows import finding_row
from buildvm_nb.catalog.frames import check_frame, empty_frame, make_frame
from buildvm_nb.catalog.jsonlines import read_jsonl, write_jsonl
from buildvm_nb.catalog.schema import FINDINGS
from buildvm_nb.catalog.store import Catalog
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.case import Case, GitSource, Step
from buildvm_nb.model.finding import Boundary, Finding, FindingKind, Reruns, Window
from buildvm_nb.model.hint import Hint
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

START = datetime(2026, 1, 1, tzinfo=UTC)
CASE = Case(
    id="demo",
    source=GitSource(url="https://example.org/p.git", commit="0012345"),
    step=[Step(name="test", run="make check")],
)
CAUSE = Hint(kind="certificate-ends", path="tests/c.pem", line=3, why="certificate of CN=x ends")


def a_boundary(last, first, before="passed", after="failed", **more):
    fields = {"axis": "date", "is_exact": True, "confirmed": 4}
    return Boundary(
        last_before=last, first_after=first, before=before, after=after, **{**fields, **more}
    )


def a_finding(**changes):
    fields = {
        "case": CASE,
        "kind": "time-trap",
        "axis": "date",
        "summary": "passes until 2020-10-05T23:01:56Z",
        "confidence": 0.9375,
    }
    return Finding(**{**fields, **changes})


def a_full_finding(**changes):
    fields = {
        "summary": 'a\0b "c", é\u2028\r\n=1',
        "boundaries": (
            a_boundary("2001", "2002", "failed", "passed"),
            a_boundary("2010", "2011", cause=CAUSE),
            a_boundary("2020", "2021", "failed", "passed", is_exact=False),
            a_boundary("Haswell", "Nehalem", axis="cpu"),
        ),
        "windows": (Window(passes_until="2010-01-01"), Window(passes_from="9999-12-31")),
        "studied_from": "1970-01-02",
        "studied_until": "2232-04-18T23:47:15Z",
        "passing_cpus": ("Haswell,-avx", "max"),
        "features": ("avx", "avx2"),
        "features_base": "Haswell",
        "passing_kernels": ("debian:bookworm", "/a kernel"),
        "varying_files": ("out/a b",),
        "difference": "0012345",
        "environment": MachineSpec(date="2009-01-01", cpu="Nehalem", image="debian:sid,gcc"),
        "failing_line": "NA",
        "reruns": (Reruns(machine=MachineSpec(date=START), verdicts={"passed": 3, "failed": 1}),),
        "assumptions": ("no window is shorter than a month",),
        "runs": 17,
        "study": "s",
        "tool_version": "0.1",
        "recorded_at": datetime(2400, 12, 31, 23, 59, 58, 999999, tzinfo=UTC),
    }
    return a_finding(**{**fields, **changes})


@pytest.fixture
def catalog(place, tmp_path):
    with Catalog(place, logs=tmp_path / "logs") as catalog:
        yield catalog


def an_outcome_in(catalog):
    machine = MachineSpec(date="2020-01-01")
    return catalog.record(Outcome(case=CASE, machine=machine, verdict="passed"))


def ids(frame):
    check_frame(frame, FINDINGS)
    return frame.id.tolist()


def test_a_finding_comes_back_without_loss(catalog):
    outcomes = [an_outcome_in(catalog).id for _ in range(2)]
    finding = a_full_finding(evidence=(outcomes[1], outcomes[0], outcomes[1]))

    assert catalog.record_finding(finding) == finding
    assert catalog.finding(finding.id) == finding
    assert catalog.finding(finding.id[:20].lower()) == finding
    assert list(catalog.finding_documents()) == [finding]


def test_the_row_of_a_finding_tells_what_matters():
    row = finding_row(a_full_finding())

    assert list(row) == list(FINDINGS.dtypes)
    assert (row["source_kind"], row["source_version"]) == ("git", "0012345")
    assert row["summary"].startswith("a\N{SYMBOL FOR NULL}b")
    assert (row["verdict_before"], row["verdict_after"]) == ("passed", "failed")
    assert (row["last_before"], row["first_after"], row["is_exact"]) == ("2010", "2011", True)
    assert (row["cause_kind"], row["cause_path"]) == ("certificate-ends", "tests/c.pem")
    assert row["passes_from"] == datetime(9999, 12, 31, tzinfo=UTC)
    assert row["passes_until"] is None
    assert (row["passing_cpus"], row["features"]) == ("Haswell,-avx max", "avx avx2")
    assert row["failing_cpus"] is None
    assert row["passing_kernels"] == '["debian:bookworm","/a kernel"]'
    assert (row["env_cpu"], row["env_image"]) == ("Nehalem", "debian:sid,gcc")
    assert [entry["axis"] for entry in json.loads(row["boundaries"])] == [*["date"] * 3, "cpu"]
    assert json.loads(row["reruns"])[0]["verdicts"] == {"failed": 1, "passed": 3}


@pytest.mark.parametrize(
    ("boundaries", "deciding"),
    [
        ((), None),
        ([a_boundary("1", "2", "failed", "passed"), a_boundary("3", "4", "failed", "passed")], "1"),
        ([a_boundary("1", "2"), a_boundary("3", "4", "failed", "crashed")], "1"),
        ([a_boundary("1", "2"), a_boundary("3", "4", after="timeout")], "3"),
        ([a_boundary("1", "2"), a_boundary("3", "4", axis="kernel")], "1"),
        ([a_boundary("1", "2", axis="cpu"), a_boundary("3", "4", axis="kernel")], "3"),
    ],
)
def test_the_last_breaking_boundary_decides_else_the_first(boundaries, deciding):
    assert finding_row(a_finding(boundaries=boundaries))["last_before"] == deciding


def test_findings_are_filtered(catalog):
    kinds = [FindingKind.TIME_TRAP, FindingKind.FLAKY, FindingKind.CPU_DEPENDENT]
    for number, kind in enumerate(kinds):
        catalog.record_finding(
            a_finding(
                id=f"ID{number}",
                kind=kind,
                axis=["date", None, "cpu"][number],
                case=CASE.model_copy(update={"id": "other"}) if number == 1 else CASE,
                study="sweep" if number else None,
                recorded_at=START + timedelta(days=number),
            )
        )

    assert ids(catalog.findings()) == ["ID0", "ID1", "ID2"]
    assert ids(catalog.findings(case="demo")) == ["ID0", "ID2"]
    assert ids(catalog.findings(kind="flaky")) == ["ID1"]
    assert ids(catalog.findings(kind=[FindingKind.TIME_TRAP, "flaky"])) == ["ID0", "ID1"]
    assert ids(catalog.findings(kind=[])) == []
    assert ids(catalog.findings(study="sweep", limit=1)) == ["ID2"]
    assert ids(catalog.findings(since=START + timedelta(days=1))) == ["ID1", "ID2"]
    found = catalog.finding_documents(case="demo", kind="cpu-dependent", study="sweep", since=START)
    assert [finding.id for finding in found] == ["ID2"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"kind": "trap"}, "unknown kind of finding: 'trap'; allowed: time-trap, cpu-dep"),
        ({"since": START.replace(tzinfo=None)}, "an instant needs a zone"),
    ],
)
def test_a_filter_that_is_none_is_a_usage_error(catalog, asked, told):
    with pytest.raises(UsageError, match=told):
        catalog.findings(**asked)
    with pytest.raises(UsageError, match=told):
        catalog.finding_documents(**asked)


def test_a_catalog_without_findings_gives_empty_frames_of_the_schema(catalog):
    pd.testing.assert_frame_equal(catalog.findings(), empty_frame(FINDINGS))
    with pytest.raises(UsageError, match="negative"):
        catalog.findings(limit=-1)


def test_a_later_finding_supersedes_an_earlier_one_which_stays_as_it_was(catalog):
    first = catalog.record_finding(a_finding())
    second = catalog.record_finding(a_finding(summary="better"))
    third = catalog.record_finding(a_finding(summary="best"))

    assert (second.supersedes, third.supersedes) == (first.id, second.id)
    assert ids(catalog.findings()) == [third.id]
    assert ids(catalog.findings(current=False)) == [first.id, second.id, third.id]
    assert list(catalog.finding_documents()) == [third]
    assert list(catalog.finding_documents(current=False)) == [first, second, third]
    assert catalog.finding(first.id) == first


@pytest.mark.parametrize(
    "other",
    [
        {"axis": "cpu"},
        {"axis": None},
        {"case": CASE.model_copy(update={"id": "other"})},
        {"case": Case(id="demo", step=[Step(name="test", run="true")])},
        {"kind": "undetermined"},
        {"recorded_at": START},
    ],
    ids=str,
)
def test_what_answers_another_question_or_is_older_supersedes_nothing(catalog, other):
    catalog.record_finding(a_finding())

    assert catalog.record_finding(a_finding(**other)).supersedes is None
    assert len(catalog.findings()) == 2


def test_findings_on_no_axis_supersede_their_like_and_so_do_undetermined_ones(catalog):
    keys = [
        catalog.record_finding(a_finding(axis=None, kind=kind)).id
        for kind in ("undetermined", "undetermined", "sound", "undetermined")
    ]

    found = catalog.findings(current=False)
    assert found.supersedes[1:3].tolist() == keys[:2]
    assert found.supersedes.isna().tolist() == [True, False, False, True]


def test_what_a_caller_says_is_superseded_wins(catalog):
    first = catalog.record_finding(a_finding())
    catalog.record_finding(a_finding(axis="cpu"))
    case = Case(id="demo", step=[Step(name="test", run="changed")])
    third = catalog.record_finding(a_finding(case=case, axis="cpu", supersedes=first.id))

    assert third.supersedes == first.id
    assert first.id not in ids(catalog.findings())


@pytest.mark.parametrize("key", ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "", "%"])
def test_what_is_superseded_must_be_there_and_on_the_same_case(catalog, key):
    other = catalog.record_finding(a_finding(case=CASE.model_copy(update={"id": "other"})))
    for wrong in (key, other.id, "ME"):
        with pytest.raises(CatalogError, match=f"ME supersedes {wrong}, which is no finding on"):
            catalog.record_finding(a_finding(id="ME", supersedes=wrong))

    assert ids(catalog.findings(current=False)) == [other.id]


def test_evidence_that_is_not_there_is_named_and_nothing_is_recorded(catalog):
    known = an_outcome_in(catalog).id
    finding = a_finding(evidence=(known, "01NONE", *(f"02N{number}" for number in range(6))))

    with pytest.raises(CatalogError, match=r"no outcome 01NONE, 02N0, .*02N3 and 2 more") as told:
        catalog.record_finding(finding)
    assert finding.id in told.value.message
    assert catalog.findings(current=False).empty
    with pytest.raises(CatalogError, match=f"no outcome {known[:-1]}"):
        catalog.record_finding(a_finding(evidence=(known[:-1],)))


def test_a_finding_may_rest_on_thousands_of_outcomes(catalog):
    known = an_outcome_in(catalog).id
    unknown = [f"N{number}" for number in range(70_000)]

    with pytest.raises(CatalogError, match="no outcome N0, N1, N2, N3, N4 and 69995 more"):
        catalog.record_finding(a_finding(evidence=(known, *unknown)))


def test_the_database_itself_keeps_evidence_whole(catalog):
    finding = catalog.record_finding(a_finding(evidence=(an_outcome_in(catalog).id,)))
    link = f"INSERT INTO finding_evidence VALUES ('{finding.id}', 'unknown')"
    gone = "DELETE FROM outcomes"

    for statement in (link, gone):
        with (
            pytest.raises(CatalogError, match=r"(?i)foreign key"),
            catalog._database.writing() as work,
        ):
            work.exec_driver_sql(statement)


def test_no_finding_is_recorded_twice(catalog):
    finding = catalog.record_finding(a_finding())

    with pytest.raises(CatalogError, match=f"recorded already: {finding.id}"):
        catalog.record_finding(finding.model_copy(update={"summary": "other"}))
    assert catalog.finding(finding.id) == finding


def test_outcomes_and_findings_are_found_in_one_space_of_ids(catalog):
    outcome = an_outcome_in(catalog)
    finding = catalog.record_finding(a_finding(id=f"{outcome.id}X"))

    assert catalog.entry(outcome.id) == outcome  # though the finding's id begins so
    assert catalog.entry(finding.id.lower()) == finding
    with pytest.raises(UsageError, match=f"more than one outcome or finding .*{finding.id}"):
        catalog.entry(outcome.id[:-1])
    assert catalog.outcome(outcome.id[:-1]) == outcome
    for call in (catalog.entry, catalog.finding):
        with pytest.raises(UsageError, match=r"no such .*finding: 'none'") as told:
            call("none")
        assert "`buildvm catalog findings`" in told.value.hint


def test_findings_come_back_from_csv_and_json_lines(catalog, tmp_path):
    evidence = (an_outcome_in(catalog).id,)
    recorded = [
        catalog.record_finding(a_full_finding(evidence=evidence)),
        catalog.record_finding(a_full_finding(evidence=evidence)),
        catalog.record_finding(a_finding(axis=None, kind="sound", recorded_at="9999-12-31")),
    ]
    frame = catalog.findings(current=False)
    write_csv(frame, tmp_path / "x.csv", FINDINGS)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "x.csv", FINDINGS), frame)

    write_jsonl(catalog.finding_documents(current=False), tmp_path / "x.jsonl")
    assert list(read_jsonl(tmp_path / "x.jsonl", Finding)) == recorded
    with Catalog(tmp_path / "other" / "c.sqlite") as other:
        for outcome in catalog.documents():
            other.record(outcome)
        for finding in read_jsonl(tmp_path / "x.jsonl", Finding):
            other.record_finding(finding)
        pd.testing.assert_frame_equal(other.findings(current=False), frame)


def test_a_line_that_is_no_finding_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text(f"{a_finding().model_dump_json()}\n{{}}\n")

    with pytest.raises(CatalogError, match=r"x\.jsonl:2: no finding:\nFinding\.case"):
        list(read_jsonl(tmp_path / "x.jsonl", Finding))


def test_the_dtypes_of_findings_hold_whatever_is_in_them():
    rows = [list(finding_row(finding).values()) for finding in (a_finding(), a_full_finding())]

    for frame in (make_frame(rows, FINDINGS), make_frame(rows[:1], FINDINGS)):
        check_frame(frame, FINDINGS)
