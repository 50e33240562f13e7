"""The commands that need no machine: cases, catalog, CPUs, images and kernels, doctor."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from buildvm_nb.catalog import Catalog, data_dictionary, load_case, read_csv, read_jsonl
from buildvm_nb.cli import main
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.study.host_checks import State, check_space, qemu_version

FIRST, SECOND = "01K0000000000000000000000A", "01M0000000000000000000000B"
NASTY = "died \x1b[2J[red]of[/red] SIGILL"


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
def outcomes(tmp_path):
    """Two recorded outcomes: one passed, one crashed."""

    def outcome(key, verdict, day, **more):
        case = Case(id="demo", title="A demo", step=[Step(name="test", run="true")])
        machine = MachineSpec(date="2020-01-01")
        return Outcome(
            id=key,
            case=case,
            machine=machine,
            verdict=verdict,
            recorded_at=f"2026-01-{day}T10:00:00Z",
            duration_s=1.2345678901,
            **more,
        )

    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        catalog.record(outcome(FIRST, "passed", "01"), b"fine\n")
        catalog.record(
            outcome(SECOND, "crashed", "02", reason=NASTY, host={"cores": 2}), b"log \xff\n"
        )


def test_the_catalog_lists_outcomes_as_a_table_without_control_characters(buildvm, outcomes):
    status, out, _ = buildvm("catalog", "list")
    header, first, second = out.splitlines()
    assert status == 0
    assert header.split()[:4] == ["id", "recorded", "case", "verdict"]
    assert first.startswith(f"{FIRST}  2026-01-01 10:00  demo")
    assert second.endswith("died \\x1b[2J[red]of[/red] SIGILL")


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ((), [FIRST, SECOND]),
        (("--verdict", "crashed"), [SECOND]),
        (("--verdict", "crashed", "--verdict", "passed"), [FIRST, SECOND]),
        (("--case", "demo", "--limit", "1"), [SECOND]),
        (("--case", "other"), []),
        (("--since", "2026-01-02"), [SECOND]),
        (("--limit", "0"), []),
    ],
    ids=str,
)
def test_the_catalogs_list_can_be_filtered(buildvm, outcomes, filters, ids):
    status, out, _ = buildvm("catalog", "list", "--json", *filters)
    records = json.loads(out)
    assert status == 0
    assert [record["id"] for record in records] == ids
    if SECOND in ids:
        assert records[-1]["reason"] == NASTY
        assert records[-1]["host"] == {"cores": 2}
        assert records[-1]["recorded_at"].startswith("2026-01-02T10:00:00")
        assert records[-1]["duration_s"] == 1.2345678901


def test_an_outcome_is_shown_with_the_way_to_its_log(buildvm, outcomes):
    status, out, _ = buildvm("catalog", "show", "01M")
    assert status == 0
    assert "verdict   crashed\n" in out
    assert f"log       buildvm catalog log {SECOND}\n" in out
    assert "\x1b" not in out
    status, out, _ = buildvm("catalog", "show", "01M", "--json")
    assert Outcome.model_validate_json(out).reason == NASTY


def test_a_log_is_written_as_it_is(buildvm, outcomes, capsysbinary):
    assert main(["catalog", "log", "01M"]) == 0
    assert capsysbinary.readouterr().out == b"log \xff\n"


def test_outcomes_are_exported_without_loss(buildvm, outcomes, tmp_path):
    assert buildvm("catalog", "export", "all.csv") == (0, "", "")
    assert read_csv(tmp_path / "all.csv")["id"].tolist() == [FIRST, SECOND]
    assert buildvm("catalog", "export", "all.jsonl")[0] == 0
    assert [outcome.id for outcome in read_jsonl(tmp_path / "all.jsonl")] == [FIRST, SECOND]
    assert buildvm("catalog", "export", "all.parquet")[0] == 0
    assert (tmp_path / "all.parquet").read_bytes()[:4] == b"PAR1"
    assert {path.name for path in tmp_path.glob("*all*")} == {"all.csv", "all.jsonl", "all.parquet"}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_outcomes_of_a_verdict_go_to_standard_output(buildvm, outcomes, form, capsysbinary):
    words = ("catalog", "export", "-", "--verdict", "crashed", "--format", form)
    assert main(words) == 0
    out = capsysbinary.readouterr().out
    if form == "csv":
        (row,) = csv.DictReader(io.StringIO(out.decode()))
    elif form == "jsonl":
        (row,) = map(json.loads, out.splitlines())
    else:
        (row,) = pd.read_parquet(io.BytesIO(out)).to_dict("records")
    assert row["id"] == SECOND


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-", "--kind", "flaky"), "outcomes have --verdict"),
        (("-", "--failures", "--verdict", "failed"), "findings and failures have --kind"),
        (("-", "--format", "xls"), "unknown format: 'xls'"),
        (("-", "--format", "parquet", "--partition", "year"), "standard output cannot be"),
        (("x.csv", "--partition", "year"), "only Parquet can be parted"),
        (("x", "--format", "parquet", "--partition", "kind"), "allowed: year, verdict"),
    ],
    ids=str,
)
def test_an_export_that_makes_no_sense_is_refused(buildvm, outcomes, words, told):
    status, out, err = buildvm("catalog", "export", *words)
    assert (status, out) == (2, "")
    assert told in err


def test_the_schema_is_printed_as_markdown_and_as_json(buildvm):
    assert buildvm("catalog", "schema")[1] == data_dictionary()
    _, out, _ = buildvm("catalog", "schema", "--json")
    told = {table["name"]: table for table in json.loads(out)["tables"]}
    assert list(told) == ["outcomes", "findings", "failures", "hints"]
    assert told["outcomes"]["columns"][16]["unit"] == "MiB"
    assert told["outcomes"]["columns"][16]["dtype"] == "Int64"


def test_an_export_that_cannot_be_written_is_told(buildvm, outcomes):
    status, out, err = buildvm("catalog", "export", "missing/all.parquet")
    assert (status, out) == (1, "")
    assert "cannot write missing/all.parquet" in err


def test_a_new_case_is_valid_and_overwrites_nothing(buildvm, tmp_path):
    words = ("case", "new", "demo", "--pypi", "six==1.16.0", "--package", "python3", "-o", "c.toml")
    status, out, err = buildvm(*words, "--run", "python3 -c 'import six'")
    assert (status, out) == (0, "")
    assert err == "buildvm: wrote c.toml; next: buildvm case check c.toml\n"
    case = load_case(tmp_path / "c.toml")
    assert case.source.version == "1.16.0"
    assert case.image.packages == ("python3",)
    assert case.steps[0].run == "python3 -c 'import six'"
    status, _, err = buildvm(*words)
    assert status == 2
    assert "there is a file already: c.toml" in err


def test_a_new_case_goes_to_standard_output(buildvm, tmp_path):
    _, out, _ = buildvm("case", "new", "demo")
    (tmp_path / "c.toml").write_text(out)
    assert load_case(tmp_path / "c.toml").id == "demo"


def test_checking_cases_tells_all_errors_and_exits_with_1(buildvm, tmp_path):
    (tmp_path / "bad.toml").write_text('schema = 1\nid = "Bad\\u001b"\n')
    status, out, _ = buildvm("case", "check", "dulwich-0.20.23", "bad.toml")
    assert status == 1
    assert "dulwich-0.20.23: valid\n" in out
    assert "bad.toml:2: id" in out
    assert "\x1b" not in out
    status, out, _ = buildvm("case", "check", "bad.toml", "--json")
    (result,) = json.loads(out)
    assert (status, result["valid"]) == (1, False)
    assert buildvm("case", "check", "dulwich-0.20.23")[0] == 0


def test_the_schema_of_cases_is_json(buildvm):
    status, out, _ = buildvm("case", "schema")
    assert status == 0
    assert "step" in json.loads(out)["properties"]


def test_the_curated_cases_are_listed(buildvm):
    _, out, _ = buildvm("case", "list", "--json")
    assert {"id", "title", "claim", "status", "file"} == set(json.loads(out)[0])
    assert "dulwich-0.20.23" in buildvm("case", "list")[1]


def test_the_current_cpu_of_each_vendor_is_marked(buildvm):
    _, out, _ = buildvm("cpus", "--date", "2012-06-01")
    marked = [line.split()[1] for line in out.splitlines() if line.startswith("*")]
    assert marked == ["Opteron_G4", "IvyBridge"]
    _, out, _ = buildvm("cpus", "--vendor", "amd", "--json")
    rows = json.loads(out)
    assert {row["vendor"] for row in rows} == {"AMD"}
    assert [row["since"] for row in rows] == sorted(row["since"] for row in rows)


def test_an_empty_cache_has_no_images_and_no_kernels(buildvm):
    assert buildvm("image", "list")[1] == "image  key  MiB  packages  archive as of\n"
    _, out, _ = buildvm("kernels", "--json")
    assert {row["cached"] for row in json.loads(out)} == {False}


@pytest.mark.parametrize(
    "words",
    [
        ("image", "show", "debian:sid"),
        ("image", "rm", "debian:sid"),
        ("image", "build", "bookworm"),
        ("image", "build", "debian:No"),
        ("kernels", "--fetch", "bookworm"),
        ("kernels", "--refresh"),
    ],
    ids=" ".join,
)
def test_an_image_or_kernel_that_is_none_is_a_wrong_request(buildvm, words):
    status, out, err = buildvm(*words)
    assert (status, out) == (2, "")
    assert err.startswith("buildvm: ")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\n", (7, 2)),
        ("QEMU emulator version 10.0.2", (10, 0)),
        ("", None),
        ("bash: no such thing", None),
    ],
)
def test_qemus_version_is_read(text, version):
    assert qemu_version(text) == version


def test_room_in_the_cache_is_checked(tmp_path):
    assert check_space(tmp_path).found.endswith(f"GiB free for {tmp_path}")
    assert check_space(Path("/proc")).state is State.MISSING  # it has no room at all


def test_a_source_that_cannot_be_had_is_recorded_as_unavailable(buildvm):
    words = ("build", "--git", "/nonexistent/repo.git", "--commit", "abc", "-q", "--", "true")
    status, out, err = buildvm(*words)
    assert (status, err) == (4, "")
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert told["verdict"] == "unavailable"
    assert "/nonexistent" in told["why"]
    assert told["again"].startswith("buildvm build --git /nonexistent/repo.git --commit abc")
    assert told["again"].endswith(" -- true")
    status, out, _ = buildvm("catalog", "list", "--json")
    assert [record["verdict"] for record in json.loads(out)] == ["unavailable"]


def test_a_wrong_machine_is_refused_before_anything_is_fetched(buildvm):
    words = ("build", "--git", "/nonexistent/repo.git", "--commit", "abc", "--", "true")
    status, out, err = buildvm(*words[:-2], "--cpu", "Westmear", *words[-2:])
    assert (status, out) == (2, "")
    assert "Westmere" in err


def test_doctor_tells_what_is_missing_and_how_to_get_it(buildvm, monkeypatch, tmp_path):
    monkeypatch.setattr("buildvm_nb.study.host_checks._KVM", tmp_path / "kvm")
    status, out, _ = buildvm("doctor", "--json")
    checks = {check["subject"]: check for check in json.loads(out)}
    assert status == (1 if any(check["state"] == "missing" for check in checks.values()) else 0)
    assert checks["KVM"]["state"] == "limited"
    assert {"mke2fs", "ssh"} <= set(checks)  # of machines that stay, and of disks
    assert checks["cache"]["found"].startswith(str(tmp_path / "cache"))
    assert checks["catalog"]["found"].endswith("not made yet")
    assert not (tmp_path / "catalog.sqlite").exists()
