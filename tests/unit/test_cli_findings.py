"""What diagnoses concluded, on the command line."""

import csv
import io
import json
import subprocess
import sys

import pandas as pd
import pytest

from buildvm_nb.catalog import FINDINGS, Catalog, read_csv, read_failures, read_jsonl
from buildvm_nb.cli import main
from buildvm_nb.model.case import Case, Step, Window
from buildvm_nb.model.finding import Boundary, Finding, Hint, Reruns
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

CASE = Case(id="demo", title="A demo", step=[Step(name="test", run="true")])
OUTCOME = "01K0000000000000000000000A"
OLD, TRAP, FLAKY = (f"01M000000000000000000000{letter}0" for letter in "ABC")
NASTY = "ends at \x1b[2J[red]noon[/red]"


@pytest.fixture
def buildvm(capsysbinary, tmp_path, monkeypatch):
    """Call the program in this process: status, standard output, standard error."""
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = main([str(word) for word in words])
        out, err = capsysbinary.readouterr()
        return status, out.decode(), err.decode()

    return call


@pytest.fixture
def findings(tmp_path):
    """Record an outcome, a finding that is superseded, a time trap and a flaky case."""
    machine = MachineSpec(date="2020-01-01", cpu="Nehalem")
    cause = Hint(kind="certificate-ends", path="tests/c.pem", line=3, why="CN=x ends")
    boundary = Boundary(
        axis="date",
        last_before="2020-10-05T23:01:56Z",
        first_after="2020-10-05T23:01:57Z",
        before="passed",
        after="failed",
        is_exact=True,
        confirmed=4,
        cause=cause,
    )
    trap = {
        "case": CASE,
        "kind": "time-trap",
        "axis": "date",
        "summary": NASTY,
        "boundaries": (boundary,),
        "windows": (Window(passes_until="2020-10-05T23:01:56Z"),),
        "studied_from": "1970-01-02",
        "studied_until": "2040-01-01",
        "environment": machine,
        "failing_line": "certificate has expired",
        "confidence": 0.99,
        "assumptions": ("no window is shorter than a month",),
        "evidence": (OUTCOME,),
        "runs": 12,
    }
    flaky = {
        "case": CASE.model_copy(update={"id": "other"}),
        "kind": "flaky",
        "summary": "passes 3 times of 4",
        "passing_cpus": ("Nehalem", "max"),
        "features": ("avx",),
        "features_base": "Haswell",
        "reruns": (Reruns(machine=machine, verdicts={"passed": 3, "failed": 1}),),
        "confidence": 0.5,
    }
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        catalog.record(Outcome(id=OUTCOME, case=CASE, machine=machine, verdict="passed"))
        for day, key, fields in ((1, OLD, trap), (2, TRAP, trap), (3, FLAKY, flaky)):
            catalog.record_finding(Finding(id=key, recorded_at=f"2026-01-0{day}", **fields))


def test_findings_are_listed_as_a_table_without_control_characters(buildvm, findings):
    status, out, _ = buildvm("catalog", "findings")
    header, trap, flaky = out.splitlines()
    assert status == 0
    assert header.split()[:4] == ["id", "recorded", "case", "kind"]
    assert trap.startswith(f"{TRAP}  2026-01-02 00:00  demo   time-trap  2020-10-05T23:01:56Z")
    assert trap.endswith("7 confirming runs  ends at \\x1b[2J[red]noon[/red]")
    assert flaky.startswith(f"{FLAKY}  2026-01-03 00:00  other  flaky  ")


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ((), [TRAP, FLAKY]),
        (("--all",), [OLD, TRAP, FLAKY]),
        (("--case", "demo"), [TRAP]),
        (("--kind", "flaky"), [FLAKY]),
        (("--kind", "flaky", "--kind", "sound"), [FLAKY]),
        (("--kind", "time-trap", "--all"), [OLD, TRAP]),
        (("--case", "none"), []),
    ],
    ids=str,
)
def test_findings_can_be_filtered(buildvm, findings, filters, ids):
    status, out, _ = buildvm("catalog", "findings", "--json", *filters)
    records = json.loads(out)
    assert status == 0
    assert [record["id"] for record in records] == ids
    for record in records:
        assert set(record) == set(FINDINGS.dtypes)
    if TRAP in ids:
        (trap,) = (record for record in records if record["id"] == TRAP)
        assert trap["summary"] == NASTY
        assert trap["boundaries"][0]["cause"]["path"] == "tests/c.pem"
        assert (trap["evidence"], trap["supersedes"]) == ([OUTCOME], None)


def test_a_kind_of_finding_that_is_none_is_refused(buildvm, findings):
    status, out, err = buildvm("catalog", "findings", "--kind", "trap")
    assert (status, out) == (2, "")
    assert "unknown kind of finding: 'trap'; allowed: time-trap" in err


def test_a_finding_is_shown_with_boundaries_cause_environment_and_evidence(buildvm, findings):
    status, out, _ = buildvm("catalog", "show", TRAP)
    headline, _, bar, scale, legend, _, *lines = out.splitlines()
    told = dict(line.split("  ", 1) for line in lines if not line.startswith(" "))
    told = {name: value.strip() for name, value in told.items()}
    assert status == 0
    assert headline == "time-trap: ends at \\x1b[2J[red]noon[/red]"
    assert bar == "█" * 56 + "┃" + "░" * 21
    assert "╵2000" in scale
    assert legend == "█ passes  ░ fails  ┃ changes"
    assert told["case"] == "demo: A demo"
    assert told["boundaries"] == (
        "date: passed up to 2020-10-05T23:01:56Z, failed from 2020-10-05T23:01:57Z "
        "(exact; 4 confirming runs)"
    )
    assert told["cause"] == "certificate-ends tests/c.pem:3: CN=x ends"
    assert told["passes"] == "from the beginning until 2020-10-05T23:01:56Z"
    assert told["passes in"].startswith("2020-01-01T00:00:00Z, Nehalem, 1 virtual, 1024 MiB")
    assert (
        "buildvm build demo.toml --date 2020-01-01T00:00:00Z --cpu Nehalem "
        "--kernel debian:bookworm --accelerator auto\n"
    ) in out
    assert told["failing line"] == "certificate has expired"
    assert told["confirmed by"] == "4 confirming runs"
    assert told["evidence"] == OUTCOME
    assert "\x1b" not in out
    assert "superseded by" not in told
    assert f"superseded by  {TRAP}\n" in buildvm("catalog", "show", OLD)[1]


def test_a_finding_is_retracted_and_the_earlier_one_stands_again(buildvm, findings):
    status, out, _ = buildvm("catalog", "retract", TRAP[:26], "--because", "a broken\x1b mirror")
    assert (status, out) == (0, f"retracted finding {TRAP}: a broken\\x1b mirror\n")
    shown = [one["id"] for one in json.loads(buildvm("catalog", "findings", "--json")[1])]
    assert OLD in shown
    assert TRAP not in shown
    assert "retracted  a broken" in buildvm("catalog", "show", TRAP)[1]
    status, _, err = buildvm("catalog", "retract", TRAP, "--because", "again")
    assert status == 2
    assert "retracted already" in err
    assert buildvm("catalog", "retract", TRAP)[0] == 2


def test_a_flaky_case_is_shown_with_the_counts(buildvm, findings):
    _, out, _ = buildvm("catalog", "show", FLAKY.lower())
    assert "3 passed, 1 failed: 2020-01-01T00:00:00Z, Nehalem, kernel debian:bookworm" in out
    assert "avx (removed from Haswell)" in out
    assert "Nehalem, max" in out


def test_outcomes_and_findings_share_one_space_of_ids(buildvm, findings):
    status, _, err = buildvm("catalog", "show", "01")
    assert status == 2
    assert f"more than one outcome or finding begins with '01': {OUTCOME}, {OLD}" in err
    _, out, _ = buildvm("catalog", "show", TRAP, "--json")
    assert Finding.model_validate_json(out).id == TRAP
    _, out, _ = buildvm("catalog", "show", "01K", "--json")
    assert Outcome.model_validate_json(out).id == OUTCOME


def test_findings_are_exported_without_loss(buildvm, findings, tmp_path):
    words = ("catalog", "export", "--findings")
    assert buildvm(*words, "all.csv") == (0, "", "")
    assert read_csv(tmp_path / "all.csv", FINDINGS)["id"].tolist() == [OLD, TRAP, FLAKY]
    assert buildvm(*words, "all.jsonl")[0] == 0
    recorded = [finding.id for finding in read_jsonl(tmp_path / "all.jsonl", Finding)]
    assert recorded == [OLD, TRAP, FLAKY]
    assert buildvm(*words, "all.parquet")[0] == 0
    assert (tmp_path / "all.parquet").read_bytes()[:4] == b"PAR1"
    _, out, _ = buildvm(*words, "-", "--case", "other", "--since", "2026-01-02")
    assert [row["kind"] for row in csv.DictReader(io.StringIO(out))] == ["flaky"]
    status, _, err = buildvm(*words, "-", "--failures")
    assert status == 2
    assert "either --failures or --findings" in err


def test_failures_are_exported_as_the_public_table(buildvm, findings, tmp_path):
    words = ("catalog", "export", "--failures")
    assert buildvm(*words, "failures.csv") == (0, "", "")
    frame = read_failures(tmp_path / "failures.csv")
    assert frame["id"].tolist() == [TRAP, FLAKY]
    assert frame["title"].tolist() == ["A demo", "A demo"]
    assert buildvm(*words, "parts", "--format", "parquet", "--partition", "kind")[0] == 0
    assert {part.name for part in (tmp_path / "parts").iterdir()} == {
        "kind=time-trap",
        "kind=flaky",
    }
    pd.testing.assert_frame_equal(read_failures(tmp_path / "parts"), frame)
    _, out, _ = buildvm(*words, "-", "--format", "jsonl", "--kind", "flaky")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [FLAKY]


def test_traps_that_spring_in_time_are_listed(buildvm, findings):
    words = ("catalog", "expiring", "--before", "2030-01-01")
    assert buildvm(*words)[1].splitlines() == ["springs    case  why  finding"]
    _, out, _ = buildvm(*words, "--after", "2020-10-01")
    assert out.splitlines()[1].split("  ")[0] == "2020-10-05T23:01:57Z"
    assert f"demo  CN=x ends  {TRAP}" in out
    _, out, _ = buildvm(*words, "--after", "2020-10-01", "--json")
    (row,) = json.loads(out)
    assert (row["id"], row["evidence"]) == (TRAP, [OUTCOME])
    assert row["springs_at"].startswith("2020-10-05T23:01:57")
    assert buildvm("catalog", "expiring", "--before", "soon")[0] == 2
    assert json.loads(buildvm(*words, "--after", "2020-10-01", "--case", "x", "--json")[1]) == []


def test_the_commands_load_no_pandas_before_they_need_it():
    code = "import sys, buildvm_nb.cli.catalog; print({'pandas', 'sqlalchemy'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_where_the_own_catalog_is_empty_the_traps_of_the_curated_one_are_listed(buildvm):
    words = ("catalog", "expiring", "--before", "2034-01-01", "--after", "2032-01-01")
    status, out, err = buildvm(*words)
    assert status == 0
    assert "your catalog is empty" in err
    assert "2032-12-08T19:53:41Z" in out
    assert "libio-socket-ssl-perl-2.081" in out
