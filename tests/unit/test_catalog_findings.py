import json
from datetime import UTC, datetime, timedelta
from functools import partial

import pandas as pd
import pytest

from buildvm_nb.catalog.csvfile import read_csv, write_csv
from buildvm_nb.catalog.findingrows import finding_row
from buildvm_nb.catalog.frames import check_frame, empty_frame, make_frame
from buildvm_nb.catalog.jsonlines import read_jsonl, write_jsonl
from buildvm_nb.catalog.schema import FAILURES, FINDINGS
from buildvm_nb.catalog.store import Catalog
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.case import Case, GitSource, Step
from buildvm_nb.model.finding import Boundary, Finding, FindingKind, Reruns, Window
from buildvm_nb.model.hint import Hint
from buildvm_nb.model.instants import parse_instant
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
            a_boundary("2001-01-01", "2002-01-01", "failed", "passed"),
            a_boundary("2010-01-01", "2011-01-01", cause=CAUSE),
            a_boundary("2020-01-01", "2021-01-01", "failed", "passed", is_exact=False),
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


def ids(frame, table=FINDINGS):
    check_frame(frame, table)
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
    assert (row["last_before"], row["first_after"], row["is_exact"]) == (
        "2010-01-01",
        "2011-01-01",
        True,
    )
    assert (row["cause_kind"], row["cause_path"]) == ("certificate-ends", "tests/c.pem")
    assert row["passes_from"] is None
    assert row["passes_until"] == datetime(2010, 1, 1, tzinfo=UTC)
    assert row["springs_at"] == datetime(2011, 1, 1, tzinfo=UTC)
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
        ([a_boundary("1", "2"), a_boundary("3", "4", after="timeout")], "1"),
        ([a_boundary("1", "2"), a_boundary("3", "4", axis="kernel")], "1"),
        ([a_boundary("1", "2", axis="cpu"), a_boundary("3", "4", axis="kernel")], "3"),
    ],
)
def test_without_an_own_date_the_first_breaking_boundary_decides_else_the_first(
    boundaries, deciding
):
    assert finding_row(a_finding(boundaries=boundaries))["last_before"] == deciding


def test_on_another_axis_than_the_date_the_last_breaking_boundary_decides():
    kernels = [a_boundary("1", "2", axis="kernel"), a_boundary("3", "4", axis="kernel")]
    row = finding_row(a_finding(axis="kernel", kind="kernel-dependent", boundaries=kernels))
    assert (row["last_before"], row["springs_at"], row["may_spring_from"]) == ("3", None, None)


# as holidays-0.9.11 passes: in the year of Iceland's calendar and in others like it
TWO_YEARS = (
    a_boundary("2018-12-31T23:59:59Z", "2019-01-01T00:00:00Z", "failed", "passed"),
    a_boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z"),
    a_boundary("2040-12-31T23:59:59Z", "2041-01-01T00:00:00Z", "failed", "passed"),
    a_boundary("2041-12-31T23:59:59Z", "2042-01-01T00:00:00Z"),
)


@pytest.mark.parametrize(
    ("own", "first", "springs"),
    [
        ("2019-07-28", "2019-01-01", "2020-01-01"),
        ("2019-12-31T23:59:59Z", "2019-01-01", "2020-01-01"),
        ("2041-01-01", "2041-01-01", "2042-01-01"),
    ],
)
def test_a_trap_springs_at_the_end_of_the_window_that_holds_the_own_date(own, first, springs):
    windows = [
        Window(passes_from=f"{year}-01-01", passes_until=f"{year}-12-31T23:59:59Z")
        for year in (2019, 2041)
    ]
    found = a_finding(
        boundaries=TWO_YEARS,
        windows=windows,
        environment=MachineSpec(date=own),
        recurs="FREQ=YEARLY",
    )
    row = finding_row(found)
    assert (row["passes_from"], row["springs_at"]) == (parse_instant(first), parse_instant(springs))
    assert row["first_after"] == f"{springs}T00:00:00Z"
    assert row["may_spring_from"] == datetime(2020, 1, 1, tzinfo=UTC)
    assert row["recurs"] == "FREQ=YEARLY"


def test_what_passes_from_its_own_window_on_springs_nowhere():
    found = a_finding(boundaries=TWO_YEARS[:3], environment=MachineSpec(date="2050-01-01"))
    row = finding_row(found)
    assert (row["first_after"], row["springs_at"]) == ("2041-01-01T00:00:00Z", None)


@pytest.mark.parametrize(
    ("summary", "studied_from", "covers"),
    [
        ("passes everywhere: 16 runs along date, cpu, kernel", "2010-01-01", "date cpu kernel"),
        ("passes everywhere: 16 runs along cpu", None, "cpu"),
        ("as somebody wrote", "2010-01-01", "date"),
        ("as somebody wrote", None, None),
    ],
)
def test_what_is_sound_tells_along_which_axes(summary, studied_from, covers):
    found = a_finding(kind="sound", axis=None, summary=summary, studied_from=studied_from)
    assert finding_row(found)["covers"] == covers
    assert finding_row(a_finding(summary=summary))["covers"] is None


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
        (
            {"kind": "trap"},
            "unknown kind of finding: 'trap'; allowed: time-trap, cpu-dep",
        ),
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


def sound(along="date, cpu, kernel", **changes):
    told = {"kind": "sound", "axis": None, "summary": f"passes everywhere: 9 runs along {along}"}
    return a_finding(**{**told, **changes})


def whole(kind, **changes):
    return a_finding(**{"kind": kind, "axis": None, "summary": "as it was", **changes})


def on(axis, kind="cpu-dependent", **changes):
    return a_finding(**{"kind": kind, "axis": axis, **changes})


def test_a_later_finding_replaces_an_earlier_one_which_stays_as_it_was(catalog):
    first = catalog.record_finding(a_finding())
    second = catalog.record_finding(a_finding(summary="better"))
    third = catalog.record_finding(a_finding(summary="best"))

    assert ids(catalog.findings()) == [third.id]
    assert ids(catalog.findings(current=False)) == [first.id, second.id, third.id]
    assert list(catalog.finding_documents()) == [third]
    assert list(catalog.finding_documents(current=False)) == [first, second, third]
    assert catalog.finding(first.id) == first
    assert catalog.successors(first.id) == [second.id, third.id]
    assert catalog.successors(third.id) == []


QUESTIONS = [
    (a_finding, partial(on, "cpu"), "12"),
    (a_finding, partial(a_finding, case=CASE.model_copy(update={"id": "other"})), "12"),
    (
        a_finding,
        partial(a_finding, case=Case(id="demo", step=[Step(name="test", run="true")])),
        "12",
    ),
    (a_finding, partial(a_finding, kind="undetermined"), "12"),
    (partial(a_finding, kind="undetermined"), a_finding, "2"),
    # a whole-case finding and one on an axis
    (partial(whole, "always-failing"), sound, "2"),
    (sound, partial(whole, "always-failing"), "2"),
    (a_finding, sound, "2"),
    (a_finding, partial(sound, "cpu"), "12"),
    (partial(on, "cpu"), partial(sound, "date, cpu"), "2"),
    (partial(on, "cores", "cores-dependent"), sound, "12"),
    (sound, partial(on, "kernel", "kernel-dependent"), "2"),
    (sound, partial(on, "cpu", "flaky"), "2"),
    (partial(whole, "always-failing"), a_finding, "2"),
    (a_finding, partial(whole, "always-failing"), "2"),
    (a_finding, partial(on, "cpu", "flaky"), "12"),
    (partial(whole, "flaky"), a_finding, "12"),
    (partial(whole, "flaky"), sound, "2"),
    # what is undetermined refutes nothing, and is answered by anything
    (sound, partial(whole, "undetermined"), "12"),
    (partial(whole, "undetermined"), partial(whole, "undetermined"), "2"),
    (partial(whole, "undetermined"), a_finding, "2"),
]


@pytest.mark.parametrize(("earlier", "later", "current"), QUESTIONS)
def test_a_finding_is_current_until_a_later_one_answers_its_question(
    catalog, earlier, later, current
):
    made = [catalog.record_finding(make()).id for make in (earlier, later)]

    assert ids(catalog.findings()) == [made[int(number) - 1] for number in current]
    assert catalog.counts()["findings"] != {}
    assert catalog.successors(made[0]) == ([] if "1" in current else [made[1]])


def test_what_was_concluded_later_counts_whichever_was_recorded_first(catalog):
    new = catalog.record_finding(a_finding(recorded_at=START + timedelta(days=1)))
    catalog.record_finding(a_finding(recorded_at=START))
    assert ids(catalog.findings()) == [new.id]


def test_of_findings_of_one_instant_the_one_with_the_later_id_counts(catalog):
    for key in ("F2", "F3", "F1"):
        catalog.record_finding(a_finding(id=key, recorded_at=START))
    assert ids(catalog.findings()) == ["F3"]


def test_a_repaired_case_is_no_failure_any_more(catalog):
    catalog.record_finding(a_finding())
    catalog.record_finding(on("cpu"))
    assert len(catalog.failures()) == 2
    catalog.record_finding(sound())
    assert catalog.failures().empty


# retraction


def test_a_retracted_finding_is_never_current_and_what_it_replaced_is_again(catalog):
    first = catalog.record_finding(a_finding())
    second = catalog.record_finding(sound())
    told = catalog.retract(second.id.lower(), " why ")

    assert (told.finding_id, told.because) == (second.id, "why")
    assert catalog.retraction(second.id) == told
    assert catalog.retraction(first.id) is None
    assert ids(catalog.findings()) == ids(catalog.failures(), FAILURES) == [first.id]
    assert ids(catalog.findings(current=False)) == [first.id, second.id]
    assert catalog.successors(first.id) == []
    assert catalog.finding(second.id) == second


def test_what_supersedes_a_finding_by_name_does_so_only_until_it_is_retracted(catalog):
    first = catalog.record_finding(a_finding())
    second = catalog.record_finding(on("cpu", supersedes=first.id))
    assert ids(catalog.findings()) == [second.id]
    catalog.retract(second.id, "it was another machine")
    assert ids(catalog.findings()) == [first.id]


def test_a_finding_is_retracted_once_and_for_a_reason(catalog):
    finding = catalog.record_finding(a_finding())
    with pytest.raises(UsageError, match="for a reason"):
        catalog.retract(finding.id, " ")
    with pytest.raises(UsageError, match="no such finding"):
        catalog.retract("01NONE", "why")
    catalog.retract(finding.id, "why")
    with pytest.raises(UsageError, match="retracted already: why"):
        catalog.retract(finding.id, "another reason")


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
