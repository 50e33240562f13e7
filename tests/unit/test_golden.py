"""What people and programs read of us, word for word: help, findings, forecasts, reports, tables.

Each text is compared with its file in ``golden``. After an intended change renew them all, and
read the difference before it is committed:

    BUILDVM_RENEW_GOLDEN=1 scripts/test tests/unit/test_golden.py
"""

import json
import os
import re
from contextlib import redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from buildvm_nb.catalog import Catalog
from buildvm_nb.cli import main
from buildvm_nb.cli.app import app, commands
from buildvm_nb.cli.command import Session
from buildvm_nb.cli.describe import write_report
from buildvm_nb.cli.forecast import _show as show_forecast
from buildvm_nb.model.case import Case, GitSource, PyPISource, Step, Window
from buildvm_nb.model.finding import (
    Boundary,
    Change,
    Finding,
    FindingKind,
    Forecast,
    Hint,
    Look,
    Reruns,
)
from buildvm_nb.model.machine import CpuIdentity, Environment, MachineSpec
from buildvm_nb.model.outcome import (
    Artifact,
    Outcome,
    Probing,
    SourceRecord,
    StepRecord,
    Verdict,
)

GOLDEN = Path(__file__).with_name("golden")
RENEWS = "BUILDVM_RENEW_GOLDEN" in os.environ
HINT = "after an intended change: BUILDVM_RENEW_GOLDEN=1 scripts/test tests/unit/test_golden.py"

NASTY = "<b>&| `code` *star* _under_ @someone \x1b[31mred\x1b[0m [x](y)"
CASE = Case(
    id="demo",
    title=f"A demo {NASTY}",
    source=PyPISource(name="demo-pkg", version="1.0"),
    step=[Step(name="build", run="make"), Step(name="test", run="make check")],
)
AT_COMMIT = Case(
    id="history",
    source=GitSource(url="https://example.org/history.git", commit="0012345" + "0" * 33),
    step=[Step(name="test", run="make check")],
)
MACHINE = MachineSpec(date="2020-01-01", cpu="Haswell", accelerator="tcg")
CAUSE = Hint(
    kind="certificate-ends",
    path="tests/key|cert.pem",
    line=41,
    instant="2020-10-05T23:01:56Z",
    why=f"CN=x ends {NASTY}",
)
RECORDED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEYS = {kind: f"01M{number:023d}" for number, kind in enumerate(FindingKind)}
OUTCOMES = {verdict: f"01K{number:023d}" for number, verdict in enumerate(Verdict)}


def edge(axis="date", last="2020-10-05T23:01:56Z", first="2020-10-05T23:01:57Z", **more):
    fields = {"before": "passed", "after": "failed", "is_exact": True, "confirmed": 4}
    return Boundary(axis=axis, last_before=last, first_after=first, **{**fields, **more})


def vague(axis, last, first, **more):
    return edge(axis, last, first, **{"is_exact": False, "confirmed": 0, **more})


FINDINGS = {
    "recurring": {
        "axis": "date",
        "summary": "fails on Mondays: 6 of 6 runs then failed, and 40 at other times passed",
        "recurs": "FREQ=WEEKLY;BYDAY=MO",
        "studied_from": "2010-01-01T00:00:00Z",
        "studied_until": "2041-07-01T00:00:00Z",
        "environment": MACHINE,
        "failing_line": "AssertionError: no",
        "support": {
            "passing": {"agreed": 40, "of": 40},
            "failing": {"agreed": 6, "of": 6},
            "dates": 44,
            "shortest_window_s": 86_400,
            "calendar": ["every weekday", "29 February"],
            "calendar_left": ["ISO week 53"],
            "cpus": ["EPYC", "Haswell"],
            "kernels": ["debian:bookworm"],
            "cores": [1, 2],
            "engines": ["qemu 7.2.22"],
            "crossed": "alike on CPU EPYC, with 2 cores",
        },
        "assumptions": ["no shorter window"],
    },
    "time-trap": {
        "axis": "date",
        "boundaries": (
            vague("date", "2001-01-01T00:00:00Z", "2001-01-01T00:04:01Z"),
            vague("date", "2001-03-01", "2003-03-01", before="failed", after="passed"),
            edge(cause=CAUSE),
            edge(last="2099-12-31T23:59:59Z", first="2100-01-01T00:00:00Z", after="crashed"),
        ),
        "windows": (
            Window(passes_until="2001-01-01T00:00:00Z"),
            Window(passes_from="2003-03-01", passes_until="2020-10-05T23:01:56Z"),
        ),
        "recurs": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29",
        "studied_from": "1999-01-01",
        "studied_until": "2101-01-01",
        "environment": MACHINE,
        "failing_line": f"Error: expired {NASTY}",
        "assumptions": ("no window is shorter than a month", NASTY),
        "evidence": tuple(OUTCOMES.values()),
        "runs": 12,
        "tool_version": "0.1.0",
        "study": "a-study",
    },
    "cpu-dependent": {
        "axis": "cpu",
        "passing_cpus": ("Haswell", "max"),
        "failing_cpus": ("core2duo", "Nehalem"),
        "features": ("avx", "avx2"),
        "features_base": "Haswell",
        "features_needed": ("sse4.2",),
        "features_harmful": ("avx512f",),
        "environment": MACHINE,
        "failing_line": "Illegal instruction",
        "evidence": (OUTCOMES["crashed"], OUTCOMES["passed"]),
    },
    "kernel-dependent": {
        "axis": "kernel",
        "boundaries": (edge("kernel", "debian:bullseye", "debian:bookworm"),),
        "passing_kernels": ("debian:bullseye",),
        "failing_kernels": ("debian:bookworm", "debian:trixie"),
        "environment": MACHINE.model_copy(update={"kernel": "debian:bullseye"}),
    },
    "cores-dependent": {
        "axis": "cores",
        "boundaries": (edge("cores", "1", "2"), vague("cores", "8", "16")),
        "environment": MACHINE.model_copy(update={"cpu_count": 4, "memory_mib": 4096}),
    },
    "timezone-dependent": {
        "axis": "timezone",
        "boundaries": (edge("timezone", "UTC", "Pacific/Kiritimati"),),
        "environment": MACHINE,
    },
    "commit-dependent": {
        "case": AT_COMMIT,
        "axis": "commit",
        "boundaries": (vague("commit", "0012345" + "0" * 33, "7654e10" + "0" * 33, confirmed=1),),
        "environment": MACHINE,
    },
    "output-varies": {
        "axis": "date",
        "varying_files": ("out/demo.so", "out/a`b|c.txt"),
        "difference": "-built 2020\n+built 2021",
        "environment": MACHINE,
    },
    "flaky": {
        "reruns": (
            Reruns(machine=MACHINE, verdicts={"passed": 3, "failed": 1}),
            Reruns(machine=MACHINE.model_copy(update={"cpu": "max"}), verdicts={"timeout": 2}),
        ),
        "environment": MACHINE,
        "confidence": 1,
    },
    "always-failing": {"failing_line": "no rule to make target", "confidence": 0},
    "sound": {"environment": MACHINE, "studied_from": "1999-01-01", "studied_until": "2101-01-01"},
    "undetermined": {"summary": f"machines gave no verdict {NASTY}", "confidence": 0},
}


def finding(kind):
    case = CASE.model_copy(update={"id": f"demo-{kind}"})  # else one would supersede the other
    known = {"id": KEYS[kind], "case": case, "summary": f"it is {kind}", "confidence": 0.9375}
    return Finding(**{**known, "kind": kind, "recorded_at": RECORDED, **FINDINGS[kind]})


def outcome(verdict):
    known = {"id": OUTCOMES[verdict], "case": CASE, "machine": MACHINE, "recorded_at": RECORDED}
    if verdict in {"unavailable", "error"}:
        return Outcome(**known, verdict=verdict, reason=f"{verdict}: {NASTY}")
    exit_status = {"passed": 0, "failed": 2}.get(verdict)
    step = {"clock_started_at": MACHINE.date, "clock_ended_at": "2020-01-01T00:01:00Z"}
    return Outcome(
        **known,
        verdict=verdict,
        reason="" if verdict == "passed" else f"test {verdict}",
        evidence=f"{NASTY}\nsecond line" if verdict == "failed" else "",
        failing_step=None if verdict == "passed" else "test",
        steps=(
            StepRecord(name="build", verdict="passed", exit_status=0, duration_s=1.25, **step),
            StepRecord(
                name="test",
                verdict=verdict,
                exit_status=exit_status,
                signal=4 if verdict == "crashed" else None,
                duration_s=61.5,
                tests_run=7,
                output_bytes=1234,
                **step,
            ),
        ),
        sources=(
            SourceRecord(kind="pypi", name="demo-pkg", version="1.0", digest="1" * 64),
            SourceRecord(kind="wheels", name="six", version="1.16", digest="2" * 64),
        ),
        environment=Environment(
            cpu="Haswell",
            cpu_features=("avx2",),
            cpu_features_lacking=("hle", "rtm"),
            cpu_flags=("avx2", "sse4_2"),
            cpu_identity=CpuIdentity(
                vendor="GenuineIntel", family=6, model=60, stepping=4, name="A CPU"
            ),
            accelerator_reason="no /dev/kvm",
            cpu_count=1,
            kernel_release="6.1.0-1-amd64",
            accelerator="tcg",
            engine="qemu 7.2.22",
        ),
        image_digest="3" * 64,
        kernel_digest="4" * 64,
        artifacts=(Artifact(path="out/demo.so", size_bytes=9, digest="5" * 64),),
        duration_s=62.75,
        host={"cores": 2},
        tool_version="0.1.0",
        study="a-study",
        probing=Probing(held=verdict == "passed", drift_s=0.01, attempt=1),
        chosen_by=(KEYS["time-trap"],) if verdict == "passed" else (),
    )


def change(last, first, kind="breaks", **more):
    fields = {"is_exact": True, "of_whole": True, "verdict": "failed", "confirmed": 2}
    return Change(kind=kind, last_before=last, first_after=first, **{**fields, **more})


CHANGES = (
    change(
        "2028-08-26T14:23:14Z",
        "2028-08-26T14:23:15Z",
        cause=CAUSE,
        suspects=(CAUSE,),
        failing_line=f"Error: expired {NASTY}\nmore",
        outcome=OUTCOMES["failed"],
    ),
    change(
        "2029-01-01",
        "2030-01-01",
        is_exact=False,
        of_whole=False,
        tests=tuple("abcdefg"),
        suspects=(CAUSE, CAUSE),
    ),
    change("2031-01-01", "2031-01-01T00:00:01Z", "heals", verdict="passed"),
    change("2032-01-01", "2032-06-01", "fails-otherwise", of_whole=False, is_exact=False),
)
FORECASTS = {
    "sound": {"sound_until": "2040-01-01"},
    "breaks": {
        "changes": CHANGES,
        "sound_until": "2028-08-26T14:23:14Z",
        "looks": (
            Look(at="2028-01-01", why="a year", verdict="passed"),
            Look(at="2030-01-01", why=NASTY, verdict="failed", failed_tests=3),
            Look(at="2039-01-01", why="a year", verdict=None),
        ),
        "unstable": ("test_a", "test_b"),
        "is_exhausted": True,
        "finding": KEYS["time-trap"],
    },
    "fails-today": {"today": "failed", "today_line": f"Error: x {NASTY}"},
    "undetermined": {"today": "passed"},
}


def forecast(status):
    known = {
        "case": CASE,
        "machine": MACHINE,
        "start": RECORDED,
        "until": "2040-01-01",
        "today": "passed",
        "today_outcome": OUTCOMES["passed"],
        "assumptions": ("the source stays as it is", NASTY),
        "runs": 9,
        "evidence": tuple(OUTCOMES.values()),
        "study": "a-study",
        "tool_version": "0.1.0",
        "made_at": RECORDED,
    }
    return Forecast(**{**known, "status": status, **FORECASTS[status]})


def written_forecast(status, *, as_json=False, as_markdown=False):
    with redirect_stdout(StringIO()) as out:
        session = Session(quiet=True, as_json=as_json)
        show_forecast(session, forecast(status), RECORDED, as_markdown=as_markdown)
    return out.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A catalog with one of each: it is only read."""
    root = tmp_path_factory.mktemp("golden")
    with Catalog(root / "catalog.sqlite") as catalog:
        for verdict in Verdict:
            log = f"building\nmake: *** Error {NASTY}\n" if verdict != "error" else ""
            catalog.record(outcome(verdict), log.encode())
        for kind in FindingKind:
            catalog.record_finding(finding(kind))
    return root / "catalog.sqlite"


@pytest.fixture
def buildvm(capsysbinary, place, tmp_path, monkeypatch):
    """Call the program in this process; return what it writes, without what differs each time."""
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDVM_CATALOG", str(place))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        assert main([str(word) for word in words]) == 0
        out = capsysbinary.readouterr().out.decode()
        return out.replace(str(place), "CATALOG")

    return call


@pytest.fixture(autouse=True)
def any_terminal(monkeypatch):
    """Have one width, one zone and one language, whatever this machine has."""
    for name, value in {"COLUMNS": "100", "LINES": "50", "TZ": "UTC", "LC_ALL": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    for module in ("catalog.traps", "report.report"):  # what springs next differs by day
        monkeypatch.setattr(f"buildvm_nb.{module}.now", lambda: RECORDED)
    for name in ("FORCE_COLOR", "BUILDVM_DEBUG", "PYTHONUTF8"):
        monkeypatch.delenv(name, raising=False)


def assert_golden(name, text):
    """Compare text with its golden file, or write that anew where this was asked for."""
    path = GOLDEN / name
    text = text if text.endswith("\n") else f"{text}\n"
    if RENEWS:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    assert path.exists(), f"no golden file {path}; {HINT}"
    assert text == path.read_bytes().decode(), HINT


def pretty(document):
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)


GROUPS = [[name] if name else [] for name in commands()]
HELPED = GROUPS + [
    [*filter(None, [group]), each.name]
    for group, (_, members) in commands().items()
    for each in members
]


@pytest.mark.parametrize("path", HELPED, ids=lambda path: "-".join(path) or "buildvm")
def test_help_is_as_it_was(path):
    shell = {"terminal_width": 100, "max_content_width": 100}
    result = CliRunner().invoke(app, [*path, "--help"], prog_name="buildvm", **shell)
    assert result.exit_code == 0, result.output
    # how much room is left between columns is click's affair
    text = re.sub(r"(?m)^ {12,}", " " * 12, re.sub(r"(?<=\S) {2,}", "  ", result.stdout))
    assert_golden(f"help/{'-'.join(path) or 'buildvm'}.txt", text)


def test_no_help_is_left_of_a_command_that_is_gone():
    known = {f"{'-'.join(path) or 'buildvm'}.txt" for path in HELPED}
    assert {path.name for path in (GOLDEN / "help").iterdir()} == known


@pytest.mark.parametrize("kind", FindingKind, ids=str)
def test_a_finding_reads_as_it_did(buildvm, kind):
    key = KEYS[kind]
    assert_golden(f"finding/{kind}.txt", buildvm("catalog", "show", key))
    assert_golden(f"finding/{kind}.json", buildvm("catalog", "show", key, "--json"))
    asked = ("buildvm", "diagnose", "demo", "--axis", "date")
    assert_golden(f"finding/{kind}.md", write_report(finding(kind), asked=asked))
    assert_golden(f"finding/{kind}.html", lines_of(finding(kind)._repr_html_()))


@pytest.mark.parametrize("verdict", Verdict, ids=str)
def test_an_outcome_reads_as_it_did(buildvm, verdict):
    key = OUTCOMES[verdict]
    assert_golden(f"outcome/{verdict}.txt", buildvm("catalog", "show", key))
    assert_golden(f"outcome/{verdict}.json", buildvm("catalog", "show", key, "--json"))
    assert_golden(f"outcome/{verdict}.html", lines_of(outcome(verdict)._repr_html_()))


@pytest.mark.parametrize("status", FORECASTS)
def test_a_forecast_reads_as_it_did(status):
    assert_golden(f"forecast/{status}.txt", written_forecast(status))
    assert_golden(f"forecast/{status}.json", written_forecast(status, as_json=True))
    assert_golden(f"forecast/{status}.md", written_forecast(status, as_markdown=True))
    assert_golden(f"forecast/{status}.html", lines_of(forecast(status)._repr_html_()))


def lines_of(html):
    """Break HTML into lines, so that a difference shows where it is."""
    return re.sub(r"(</(?:tr|caption|table|thead|p|li|h\d)>)", r"\1\n", html)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("list.txt", ("catalog", "list")),
        ("list.json", ("catalog", "list", "--json")),
        ("findings.txt", ("catalog", "findings")),
        ("findings.json", ("catalog", "findings", "--json")),
        (
            "expiring.txt",
            ("catalog", "expiring", "--before", "2101-01-01", "--after", "2000-01-01"),
        ),
        ("schema.md", ("catalog", "schema")),
        ("schema.json", ("catalog", "schema", "--json")),
        *(
            (f"{table}.{form}", ("catalog", "export", "-", "--format", form, *option))
            for form in ("csv", "jsonl")
            for table, option in (
                ("outcomes", ()),
                ("findings", ("--findings",)),
                ("failures", ("--failures",)),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_reads_as_it_did(buildvm, name, words):
    text = buildvm(*words)
    assert_golden(f"catalog/{name}", text.replace("\r\n", "\n"))


def test_a_report_reads_as_it_did(buildvm, tmp_path):
    assert_golden("report/report.txt", buildvm("report"))
    report = json.loads(buildvm("report", "--json"))
    made_by = (report.pop("made_at"), report.pop("tool_version"))
    assert_golden("report/report.json", pretty(report))
    buildvm("report", "--html", "report.html")
    page = (tmp_path / "report.html").read_text()
    # when, by which release, from where; and what matplotlib draws, each release its own way
    page = re.sub(r"Made \S+ by buildvm \S+ from", "Made WHEN by buildvm VERSION from", page)
    page = re.sub(r"(?s)<svg.*?</svg>", "<svg/>", page)
    page = re.sub(r"[^\s<>]*catalog\.sqlite", "CATALOG", page)
    assert made_by[1] not in re.sub(r"(?s)<style.*?</style>", "", page)
    assert_golden("report/report.html", page)
