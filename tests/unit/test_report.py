"""Reports: what is gathered of a catalog, how it is cleaned, and what the command line shows."""

import json
import sys

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.cli import main
from buildvm_nb.errors import HostError
from buildvm_nb.model.case import Case, PyPISource, Step, Window
from buildvm_nb.model.finding import Boundary, Finding, Hint
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import clean
from buildvm_nb.report import Report, gather_report, render_page
from buildvm_nb.report.drawing import MOST_ROWS, draw_springs
from buildvm_nb.report.report import Cell, Spring, excerpt

CASE = Case(
    id="demo",
    title="A \x1b[31mdemo\x1b[0m",
    source=PyPISource(name="demo-pkg", version="1.0"),
    step=[Step(name="test", run="make check")],
)
OTHER = CASE.model_copy(update={"id": "other"})
TODAY = parse_instant("2026-11-23")


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    with Catalog() as catalog:
        yield catalog


@pytest.fixture
def buildvm(catalog, capsysbinary):
    """Call the program in this process: status, standard output, standard error."""

    def call(*words):
        status = main(["report", *map(str, words)])
        out, err = capsysbinary.readouterr()
        return status, out.decode(), err.decode()

    return call


def run(catalog, date, verdict="passed", *, case=CASE, cpu="Haswell", log=b"", **more):
    machine = MachineSpec(date=date, cpu=cpu)
    return catalog.record(Outcome(case=case, machine=machine, verdict=verdict, **more), log)


def edge(last, first, before="passed", after="failed", **more):
    fields = {"axis": "date", "last_before": last, "first_after": first, "is_exact": True}
    return Boundary(before=before, after=after, **{**fields, **more})


def find(catalog, *boundaries, case=CASE, **changes):
    fields = {
        "case": case,
        "kind": "time-trap",
        "axis": "date",
        "summary": "fails one day",
        "boundaries": boundaries,
        "windows": (Window(passes_until="2020-01-01"),),
        "confidence": 0.98,
        "environment": MachineSpec(date="2019-05-01", cpu="Haswell", accelerator="tcg"),
        "recorded_at": "2026-01-01",
    }
    return catalog.record_finding(Finding(**{**fields, **changes}))


def test_a_catalog_without_anything_gives_an_empty_report(catalog, buildvm):
    told = gather_report(catalog)
    assert (told.cases, told.kinds, told.verdicts) == (0, {}, {})
    assert (told.springs, told.entries, told.matrices) == ((), (), ())
    assert "There are no findings" in render_page(told)


def test_where_the_own_catalog_is_empty_the_curated_one_is_told_of(buildvm, catalog):
    status, out, err = buildvm()
    assert status == 0
    assert out.startswith("catalog   curated catalog of buildvm")
    assert "holidays-0.9.11-iceland" in out
    assert "your catalog is empty" in err
    find(catalog)
    assert "curated" not in buildvm()[1]


def test_springs_are_sorted_and_told_as_past_or_to_come(catalog):
    cause = Hint(kind="certificate-ends", path="c.pem", line=3, why="CN=\x1bx ends")
    find(
        catalog,
        edge("2009-12-31T23:59:59Z", "2010-01-01T00:00:00Z", "failed", "passed"),
        edge("2200-01-01T00:00:00Z", "2200-01-01T00:00:01Z", cause=cause),
    )
    find(catalog, edge("2019-01-01", "2020-01-01", is_exact=False), case=OTHER)
    told = gather_report(catalog).springs

    assert [(one.case, one.is_to_come, one.breaks, one.is_exact) for one in told] == [
        ("demo", False, False, True),
        ("other", False, True, False),
        ("demo", True, True, True),
    ]
    assert told[2].cause == "certificate-ends c.pem:3: CN= ends"


def test_the_newest_findings_come_first_and_superseded_ones_not_at_all(catalog):
    find(catalog)
    later = find(catalog, recorded_at="2026-02-01")
    cpu = find(
        catalog,
        case=OTHER,
        kind="cpu-dependent",
        axis="cpu",
        recorded_at="2026-03-01",
        passing_cpus=("Nehalem",),
        failing_cpus=("core2duo",),
        features=("sse4.2",),
        windows=(),
    )
    told = gather_report(catalog)
    assert [entry.id for entry in told.entries] == [cpu.id, later.id]
    assert told.kinds == {"time-trap": 1, "cpu-dependent": 1}
    assert told.entries[0].passes == (
        "on CPUs Nehalem",
        "not on CPUs core2duo",
        "not without sse4.2",
    )
    assert told.entries[1].passes == ("from the beginning until 2020-01-01T00:00:00Z",)
    assert told.entries[1].package == "demo-pkg 1.0"
    assert told.entries[1].title == "A demo"

    fewer = gather_report(catalog, most=1)
    assert ([entry.id for entry in fewer.entries], fewer.findings_left_out) == ([cpu.id], 1)
    assert "1 older ones are not shown" in render_page(fewer)


def test_a_report_is_limited_to_a_case_and_to_what_is_new(catalog):
    run(catalog, "2020-01-01", recorded_at="2026-01-01")
    run(catalog, "2020-01-01", case=OTHER, recorded_at="2026-02-01")
    find(catalog)
    find(catalog, case=OTHER, recorded_at="2026-02-01")
    by_case = gather_report(catalog, case="demo")
    assert ([one.case for one in by_case.entries], by_case.cases) == (["demo"], 1)
    since = gather_report(catalog, since=parse_instant("2026-01-15"))
    assert [one.case for one in since.entries] == ["other"]
    assert [one.case for one in since.matrices] == ["other"]
    assert since.verdicts == {Verdict.PASSED: 1}


def test_verdicts_are_put_together_by_year_and_cpu_oldest_first(catalog):
    run(catalog, "2020-02-01")
    run(catalog, "2020-03-01", "failed")
    run(catalog, "2031-01-01", "crashed", cpu="Nehalem")
    run(catalog, "2020-01-01", "error", cpu="Haswell,-avx2")
    run(catalog, "2020-01-01", cpu="Haswell,-avx,-avx2")
    run(catalog, "2031-01-01", "error", cpu="max")
    (matrix,) = gather_report(catalog).matrices
    assert matrix.cpus == ("Nehalem", "Haswell", "Haswell with changes", "max")
    assert matrix.years == (2020, 2031)
    told = [[(cell.kind, str(cell)) if cell else None for cell in row] for row in matrix.cells]
    assert told == [
        [None, ("mixed", "1 failed, 1 passed"), ("passed", "1 error, 1 passed"), None],
        [("failed", "1 crashed"), None, None, ("unknown", "1 error")],
    ]


def test_the_log_of_a_failing_run_is_cut_to_the_lines_that_show_it(catalog, tmp_path):
    lines = [f"line {number}" for number in range(100)]
    lines[50] = "\x1b[1mError: it has expired\x1b[0m"
    log = "\n".join(lines).encode()
    good = run(catalog, "2020-01-01", log=b"fine")
    bad = run(catalog, "2021-01-01", "failed", log=log, evidence="Error: it has expired")
    find(catalog, evidence=(bad.id, good.id))
    (entry,) = gather_report(catalog).entries
    shown = entry.excerpt.split("\n")
    assert entry.excerpt_of == bad.id
    assert (shown[0], shown[12], shown[-1]) == ("line 38", "Error: it has expired", "line 56")

    for file in (tmp_path / "logs").rglob("*"):
        if file.is_file():
            file.unlink()
    (entry,) = gather_report(catalog).entries  # a finding stands without its log
    assert (entry.excerpt, entry.excerpt_of) == ("", "")


def test_an_excerpt_of_a_log_without_the_line_is_its_end():
    log = [b"x" * 1000 + b"\n"] * 1000 + [b"last \xff\n"]
    assert excerpt(log, "nowhere").split("\n")[-1] == "last \N{REPLACEMENT CHARACTER}"
    assert all(len(line) <= 401 for line in excerpt(log, "").split("\n"))
    assert excerpt([], "") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\after", "after"),
        ("a\r\nb\tc", "a\nb       c"),
        ("bell\x07 nul\0 back\x08", "bell\\x07 nul\\x00 back\\x08"),
        ("right \u202e to left", "right \\u202e to left"),
        ("\x1b", "\\x1b"),
        ("half \ud800", "half \\ud800"),
    ],
    ids=ascii,
)
def test_what_a_terminal_would_act_upon_is_taken_out_or_shown(text, shown):
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("verdicts", "kind"),
    [
        ({"passed": 3}, "passed"),
        ({"failed": 1, "timeout": 1}, "failed"),
        ({"passed": 1, "crashed": 1}, "mixed"),
        ({"error": 1, "unavailable": 1}, "unknown"),
        ({"error": 1, "passed": 1}, "passed"),
    ],
)
def test_a_cell_is_of_one_kind(verdicts, kind):
    assert Cell(verdicts=verdicts).kind == kind


def a_spring(at, case="demo", after="failed"):
    return Spring(
        finding="F",
        case=case,
        last_before=at,
        at=at,
        before="passed" if after == "failed" else "failed",
        after=after,
        is_exact=True,
        is_to_come=parse_instant(at) > TODAY,
    )


def test_the_drawing_stands_alone_and_follows_the_pages_ink():
    drawn = draw_springs([a_spring("2021-01-01"), a_spring("2031-01-01", after="passed")], TODAY)
    assert drawn.startswith("<svg")
    assert "currentColor" in drawn
    assert "#010203" not in drawn
    assert "<metadata" not in drawn
    for word in ("demo", "breaks", "begins to pass", "today"):
        assert f">{word}<" in drawn
    again = draw_springs([a_spring("2021-01-01"), a_spring("2031-01-01", after="passed")], TODAY)
    assert again == drawn


def test_the_drawing_leaves_out_what_would_squeeze_or_flood_it():
    assert draw_springs([], TODAY) == ""
    assert draw_springs([a_spring("9999-12-31")], TODAY) == ""
    many = [a_spring(f"20{number:02}-01-01", f"case-{number}") for number in range(10, 80)]
    drawn = draw_springs(many, TODAY)
    assert sum(f">case-{number}<" in drawn for number in range(10, 80)) == MOST_ROWS


def test_a_page_without_matplotlib_names_the_extra(catalog, buildvm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "buildvm_nb.report.drawing", raising=False)
    with pytest.raises(HostError, match="needs matplotlib") as told:
        render_page(gather_report(catalog))
    assert "pip install 'buildvm-nb[notebook]'" in told.value.hint
    status, out, err = buildvm("--html", tmp_path / "r.html")
    assert (status, out) == (1, "")
    assert "buildvm-nb[notebook]" in err
    assert list(tmp_path.glob("*r.html*")) == []
    assert buildvm()[0] == 0


def test_the_terminal_shows_what_springs_and_what_was_found(catalog, buildvm):
    run(catalog, "2020-01-01")
    finding = find(catalog, edge("2020-01-01T00:00:00Z", "2020-01-01T00:00:01Z"))
    status, out, _ = buildvm()
    assert status == 0
    assert "findings  1 time-trap" in out
    assert "2020-01-01T00:00:01Z  demo  passed to failed  past" in out
    assert f"{finding.id}  demo  time-trap  fails one day" in out
    assert "1 older findings are not shown" in buildvm("--limit", "0")[1]


def test_the_data_comes_as_json_with_the_commands_that_reproduce_it(catalog, buildvm):
    find(
        catalog,
        edge("2020-01-01T00:00:00Z", "2020-01-01T00:00:01Z"),
        studied_from="2010-01-01",
        studied_until="2030-01-01",
    )
    status, out, _ = buildvm("--json", "--case", "demo")
    told = json.loads(out)
    assert status == 0
    assert Report.model_validate(told).model_dump(mode="json") == told
    commands = told["entries"][0]["commands"]
    assert commands["Make this finding again"] == (
        "buildvm diagnose --pypi demo-pkg==1.0 --axis date --from 2010-01-01T00:00:00Z "
        "--to 2030-01-01T00:00:00Z --image debian:bookworm -- 'make check'"
    )
    assert " --date 2020-01-01T00:00:01Z " in commands["Build it where it fails"]


def test_a_commit_is_diagnosed_again_between_its_neighbours(catalog, buildvm):
    source = {"kind": "git", "url": "https://example.org/p.git", "commit": "aaa"}
    case = Case.parse({"id": "git", "source": source, "step": [{"name": "test", "run": "true"}]})
    find(
        catalog,
        edge("good1", "bad1", axis="commit"),
        case=case,
        kind="commit-dependent",
        axis="commit",
        windows=(),
    )
    commands = json.loads(buildvm("--json")[1])["entries"][0]["commands"]
    assert "--axis commit --good good1 --bad bad1" in commands["Make this finding again"]


def test_a_page_is_written_whole_and_the_file_is_named(catalog, buildvm, tmp_path):
    find(catalog, edge("2020-01-01", "2020-01-02"))
    page = tmp_path / "r.html"
    status, out, err = buildvm("--html", page)
    assert (status, out, err) == (0, "", f"buildvm: wrote {page}\n")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.glob(".*.partial")) == []


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--html", "."), 2, "--html: a directory: ."),
        (("--html", "/none/r.html"), 1, "cannot write /none/r.html: No such file"),
        (("--since", "soon"), 2, "not a date: 'soon'"),
        (("--catalog", "none.sqlite"), 2, "no such catalog: none.sqlite"),
        (("--limit", "-1"), 2, "--limit"),
    ],
    ids=str,
)
def test_a_wrong_request_is_refused(buildvm, words, status, told):
    seen, out, err = buildvm(*words)
    assert (seen, out) == (status, "")
    assert told in err
