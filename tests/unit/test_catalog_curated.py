"""The curated catalog: what is in step, what lint refuses, what its readers get."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import buildvm_nb
from buildvm_nb.catalog import (
    REPORTED,
    Catalog,
    curated_cases,
    curated_findings,
    curated_root,
    derive,
    dump_proof,
    gather_proof,
    lint_catalog,
    lint_files,
    lint_notes,
    load_case,
    read_proof,
    reported_entries,
    stale_files,
    write_proof,
)
from buildvm_nb.catalog.curated import Proof, load_proof
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

CASE = """\
schema = 1
id = "demo-1.0"
title = "demo 1.0: it ends with 2019"

[source]
kind = "pypi"
name = "Demo"
version = "1.0"

[[step]]
name = "test"
run = "true"

[claim]
kind = "time-trap"
passes_until = 2019-12-31T23:59:59Z

[provenance]
url = "https://example.org/issues/1"

[entry]
status = "verified"
description = "It ends."
workaround = "Build it before."
"""
HEADER = ",".join(REPORTED.dtypes)
README = "# Demo\n\n<!-- begin: made by `buildvm catalog derive` -->\n<!-- end -->\n"


def proof_of(path, **changes):
    fields = {
        "case": load_case(path),
        "kind": "time-trap",
        "axis": "date",
        "summary": "fails from 2020-01-01T00:00:00Z on",
        "boundaries": [
            {
                "axis": "date",
                "last_before": "2019-12-31T23:59:59Z",
                "first_after": "2020-01-01T00:00:00Z",
                "before": "passed",
                "after": "failed",
                "is_exact": True,
            }
        ],
        "windows": [{"passes_until": "2019-12-31T23:59:59Z"}],
        "studied_from": "2010-01-01",
        "studied_until": "2041-01-01",
        "confidence": 0.9,
    }
    return Finding.parse(fields | changes)


@pytest.fixture
def root(tmp_path):
    """A curated catalog of one verified entry, sound in every respect."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "README.md").write_text(README)
    path = tmp_path / "cases" / "demo-1.0.toml"
    path.write_text(CASE)
    write_proof(tmp_path / "proofs" / "demo-1.0.json", Proof(findings=[proof_of(path)]))
    derive(tmp_path)
    return tmp_path


@pytest.fixture
def entry(root):
    return root / "cases" / "demo-1.0.toml"


def told(troubles, root):
    return [str(one).replace(f"{root}/", "") for one in troubles]


def test_the_curated_catalog_that_comes_with_the_package_is_sound():
    troubles = [str(one) for one in lint_catalog()]
    assert not troubles, "\n".join([*troubles, "to make derived files: buildvm catalog derive"])


@pytest.mark.parametrize(
    "path", sorted((curated_root() / "templates").glob("*.toml")), ids=lambda path: path.stem
)
def test_each_template_is_a_sound_proposal(path, tmp_path):
    target = tmp_path / "cases" / f"{load_case(path).id}.toml"
    target.parent.mkdir()
    shutil.copy(path, target)
    assert told(lint_files([target]), tmp_path) == []


def test_a_sound_catalog_has_no_trouble_and_gives_its_findings(root, entry):
    assert lint_catalog(root) == []
    [finding] = curated_findings(root)
    assert finding.case.id == "demo-1.0"
    assert finding == read_proof(root / "proofs" / "demo-1.0.json")[0]
    rows = (root / "failures.csv").read_text().splitlines()
    assert len(rows) == 2
    assert "demo-1.0" in rows[1]
    assert "fails from 2020-01-01T00:00:00Z on" in (root / "README.md").read_text()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'id = "demo-1.0"',
            'id = "demo-1.0-b"',
            "cases/demo-1.0.toml:2: id: 'demo-1.0-b' is not the file's name; allowed: 'demo-1.0'",
        ),
        (
            'version = "1.0"',
            'version = "1.1"',
            "cases/demo-1.0.toml:2: id: 'demo-1.0'; allowed: demo-1.1, or demo-1.1-WHAT",
        ),
        (
            'title = "demo 1.0: it ends with 2019"',
            "",
            "cases/demo-1.0.toml:1: title: missing: what it is about, in one line",
        ),
        (
            'url = "https://example.org/issues/1"',
            'url = "example.org"',
            "cases/demo-1.0.toml:19: provenance.url: not a public page: 'example.org'",
        ),
        (
            'url = "https://example.org/issues/1"',
            "",
            (
                "cases/demo-1.0.toml:18: provenance.url: missing: a verified entry says where it "
                "is from"
            ),
        ),
        (
            'description = "It ends."',
            "",
            (
                "cases/demo-1.0.toml:21: entry.description: missing: a verified entry explains "
                "itself"
            ),
        ),
        (
            'workaround = "Build it before."',
            "",
            (
                "cases/demo-1.0.toml:21: entry.workaround: missing: how can it be built all the "
                "same?"
            ),
        ),
        (
            'status = "verified"',
            'status = "withdrawn"',
            (
                "cases/demo-1.0.toml:21: entry.withdrawn_because: missing: why is it not believed "
                "any more?"
            ),
        ),
        (
            'description = "It ends."',
            'descripton = "It ends."',
            (
                "cases/demo-1.0.toml:23: entry.descripton: unknown key 'descripton'; did you mean "
                "'description'?"
            ),
        ),
        (
            "passes_until = 2019-12-31T23:59:59Z",
            'evidence = "x"',
            (
                "cases/demo-1.0.toml:15: claim.kind: a claim of kind 'time-trap' needs "
                "passes_from, passes_until or windows"
            ),
        ),
        (
            "passes_until = 2019-12-31T23:59:59Z",
            "passes_until = 2019-12-31T23:59:59Z\npasses_from = 2020-01-01",
            (
                "cases/demo-1.0.toml:16: claim.passes_until: ends before it begins: "
                "2020-01-01T00:00:00Z..2019-12-31T23:59:59Z"
            ),
        ),
        (
            'kind = "time-trap"',
            'kind = "flaky"',
            (
                "cases/demo-1.0.toml:16: claim.passes_until: says nothing about a claim of kind "
                "'flaky'; allowed: evidence"
            ),
        ),
        (
            'kind = "time-trap"\npasses_until = 2019-12-31T23:59:59Z',
            'kind = "cpu-dependent"\nfailing_cpus = ["max"]\npassing_cpus = ["max"]',
            (
                "cases/demo-1.0.toml:16: claim.failing_cpus: 'max' is in passing_cpus as well: it "
                "passes or it fails"
            ),
        ),
        (
            'kind = "pypi"\nname = "Demo"\nversion = "1.0"',
            'kind = "local"\npath = "/src"',
            "cases/demo-1.0.toml:5: source: of this host: /src; allowed: what anyone can fetch",
        ),
        (
            'kind = "pypi"\nname = "Demo"\nversion = "1.0"',
            'kind = "wheels"\nrequirements = ["demo>=1"]',
            "cases/demo-1.0.toml:5: source: not pinned: 'demo>=1'; allowed: NAME==VERSION",
        ),
    ],
)
def test_lint_names_file_line_key_value_and_what_is_allowed(root, entry, old, new, expected):
    assert old in CASE
    entry.write_text(CASE.replace(old, new))
    assert expected in told(lint_catalog(root), root)


def test_an_id_must_fit_the_scheme(root, entry):
    entry.rename(root / "cases" / "demo_1.0.toml")
    found = told(lint_catalog(root), root)
    assert any("'demo-1.0' is not the file's name; allowed: 'demo_1.0'" in one for one in found)
    (root / "cases" / "demo_1.0.toml").write_text(CASE.replace("demo-1.0", "demo_1.0"))
    found = told(lint_catalog(root), root)
    assert any("'demo_1.0' does not fit; allowed: PACKAGE-VERSION[-WHAT]" in one for one in found)


def test_a_verified_entry_needs_a_proof_and_a_proposed_one_has_none(root, entry):
    proof = root / "proofs" / "demo-1.0.json"
    entry.write_text(CASE.replace('"verified"', '"proposed"'))
    [trouble] = told(lint_catalog(root), root)
    assert "cases/demo-1.0.toml:22: entry.status: 'proposed', but there is a proof: " in trouble
    entry.write_text(CASE)
    proof.unlink()
    [trouble] = told(lint_catalog(root), root)
    assert "entry.status: 'verified', but there is no proof: " in trouble
    assert "`buildvm catalog verify demo-1.0 --write`" in trouble
    with pytest.raises(CatalogError, match="no such proof"):
        curated_findings(root)


def test_a_proof_of_another_build_is_refused_by_lint_and_by_the_reader(root, entry):
    entry.write_text(CASE.replace('run = "true"', 'run = "false"'))
    [trouble] = told(lint_catalog(root), root)
    assert trouble.startswith("proofs/demo-1.0.json: [0].case: on another build: demo-1.0 ")
    with pytest.raises(CatalogError, match=r"the proof of demo-1\.0 is on another build"):
        curated_findings(root)


def test_a_proof_that_does_not_bear_out_the_claim_is_refused(root, entry):
    entry.write_text(CASE.replace("2019-12-31T23:59:59Z", "2019-12-31T23:59:58Z"))
    [trouble] = told(lint_catalog(root), root)
    assert trouble == (
        "proofs/demo-1.0.json: does not bear out the claim (time-trap: passes until "
        "2019-12-31T23:59:58Z): last second that passes: claimed 2019-12-31T23:59:58Z, shown "
        "2019-12-31T23:59:59Z"
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[]", "no finding in it"),
        ("{", "EOF while parsing"),
        ('[{"kind": "sound"}]', "case: Field"),
    ],
)
def test_a_broken_proof_is_told_and_never_read(root, content, what):
    (root / "proofs" / "demo-1.0.json").write_text(content)
    [trouble] = told(lint_catalog(root), root)
    assert "not a proof" in trouble
    assert what in trouble
    with pytest.raises(CatalogError, match="not a proof"):
        curated_findings(root)


def test_files_that_belong_to_no_entry_are_told(root):
    (root / "proofs" / "gone-1.0.json").write_text("[]")
    (root / "cases" / "notes.txt").write_text("")
    assert told(lint_catalog(root), root) == [
        "cases/notes.txt: no case file; allowed: ID.toml",
        "proofs/gone-1.0.json: proves nothing: there is no such case; allowed: ID.json",
    ]


def test_derived_files_out_of_step_are_told_and_made_anew(root):
    (root / "failures.csv").write_text("")
    [trouble] = told(lint_catalog(root), root)
    assert trouble == "failures.csv: not in step; `buildvm catalog derive` makes it anew"
    assert stale_files(root) == derive(root) == (root / "failures.csv",)
    assert derive(root) == ()
    (root / "README.md").write_text("no place\n")
    [trouble] = told(lint_catalog(root), root)
    assert "no place for the table" in trouble


def test_what_is_sound_is_no_failure(root, entry):
    entry.write_text(
        CASE.replace('kind = "time-trap"\npasses_until = 2019-12-31T23:59:59Z', 'kind = "sound"')
    )
    write_proof(
        root / "proofs" / "demo-1.0.json",
        Proof(findings=[proof_of(entry, kind="sound", axis=None, boundaries=[], windows=[])]),
    )
    derive(root)
    assert lint_catalog(root) == []
    assert len((root / "failures.csv").read_text().splitlines()) == 1


def test_a_proof_is_the_same_text_for_the_same_findings(entry):
    findings = [proof_of(entry), proof_of(entry, axis="cpu")]
    text = dump_proof(Proof(findings=findings))
    assert text == dump_proof(Proof(findings=findings[::-1]))
    assert [one["axis"] for one in json.loads(text)["findings"]] == ["cpu", "date"]
    assert text.endswith("}\n")


# evidence


@pytest.fixture
def proved(entry, tmp_path):
    """A catalog with runs on both sides of the boundary, and the finding that they prove."""
    case = load_case(entry)
    days = ("2010-01-01", "2019-12-31T23:59:59Z", "2020-01-01", "2030-01-01")
    with Catalog(tmp_path / "own.sqlite") as catalog:
        outcomes = [
            catalog.record(
                Outcome(
                    case=case,
                    machine=MachineSpec(date=day),
                    verdict="passed" if day < "2020" else "failed",
                ),
                f"first\n\x1b[2Jran on {day}\tend\n".encode(),
            )
            for day in days
        ]
        earlier = catalog.record_finding(proof_of(entry))
        fields = {"evidence": [one.id for one in outcomes], "runs": 4, "supersedes": earlier.id}
        yield catalog, catalog.record_finding(proof_of(entry, **fields)), outcomes


def test_a_proof_carries_its_outcomes_and_the_ends_of_the_logs_that_decide(root, proved, tmp_path):
    catalog, finding, outcomes = proved
    place = root / "proofs" / "demo-1.0.json"
    write_proof(place, gather_proof(catalog, [finding]))

    proof = load_proof(place)
    assert proof.missing == ()
    assert [one.id for one in proof.outcomes] == [one.id for one in outcomes]
    assert proof.outcomes[0].case == finding.case
    assert set(proof.excerpts) == {one.id for one in outcomes[:3]}
    assert proof.excerpts[outcomes[2].id] == "first\n\ufffd[2Jran on 2020-01-01    end"
    assert dump_proof(proof) == place.read_text()
    derive(root)
    assert (lint_catalog(root), lint_notes(root)) == ([], [])

    # and refers to nothing outside, so that anyone's catalog takes it
    with Catalog(tmp_path / "another.sqlite") as another:
        another.record_many([(one, b"") for one in proof.outcomes])
        assert [another.record_finding(one) for one in proof.findings] == list(proof.findings)
        assert list(another.check()) == []


def test_a_proof_does_not_tell_from_which_mirror_its_sources_came(entry, tmp_path):
    had = {"kind": "pypi", "name": "demo", "version": "1.0", "digest": "a" * 64}
    ran = Outcome(
        case=load_case(entry),
        machine=MachineSpec(date="2010-01-01"),
        verdict="passed",
        sources=[had | {"origin": "http://mirror.example/demo-1.0.tar.gz"}],
    )
    with Catalog(tmp_path / "own.sqlite") as catalog:
        kept = catalog.record(ran)
        proof = gather_proof(catalog, [proof_of(entry, evidence=[kept.id], runs=1)])
    assert "mirror.example" not in dump_proof(proof)
    assert proof.outcomes[0].sources[0].digest == "a" * 64


def test_a_proof_without_all_its_evidence_or_runs_is_told(root, proved):
    catalog, finding, outcomes = proved
    proof = gather_proof(catalog, [finding.model_copy(update={"runs": 0})])
    place = root / "proofs" / "demo-1.0.json"
    write_proof(place, proof.model_copy(update={"outcomes": proof.outcomes[2:]}))
    troubles = told(lint_catalog(root), root)
    missing = f"outcomes: evidence that is not in it: {outcomes[0].id} and 1 more"
    no_run = "findings[0].runs: no run was made for it; allowed: what `--write` runs anew"
    assert troubles == [f"proofs/demo-1.0.json: {text}" for text in (missing, no_run)]


def test_a_proof_of_the_first_version_is_read_and_named_as_one_without_evidence(root, proved):
    _, finding, _ = proved
    plain = finding.model_copy(update={"supersedes": None}).model_dump(mode="json")
    place = root / "proofs" / "demo-1.0.json"
    place.write_text(json.dumps([plain]))
    derive(root)
    assert read_proof(place)[0].id == finding.id
    assert lint_catalog(root) == []
    [note] = told(lint_notes(root), root)
    assert note.startswith("proofs/demo-1.0.json: carries none of its 4 outcomes; `buildvm catalog")
    place.write_text(json.dumps([plain | {"supersedes": "01M850QQVMY7PWQHNXG43JMGN2"}]))
    [trouble] = told(lint_catalog(root), root)
    assert "findings[0].supersedes: 01M850QQVMY7PWQHNXG43JMGN2, which is in nobody" in trouble


def test_a_proof_of_a_newer_version_is_named(root):
    (root / "proofs" / "demo-1.0.json").write_text('{"proof": 3, "findings": []}')
    [trouble] = told(lint_catalog(root), root)
    assert "a proof of version 3; this buildvm-nb reads up to 2" in trouble


def row(**changes):
    fields = {
        "id": "openssl-1.1.1-ct",
        "ecosystem": "generic",
        "package": "openssl",
        "purl": "pkg:generic/openssl",
        "version": "1.1.1k to 1.1.1o",
        "kind": "time-trap",
        "springs_at": "2022-06-01T00:00:00Z",
        "symptom": "a certificate has expired",
        "source_url": "https://example.org/1",
        "checked": "source read",
    }
    return ",".join((fields | changes).get(name, "") for name in REPORTED.dtypes)


def test_the_reported_tier_is_a_frame_with_a_fixed_schema(root):
    assert list(reported_entries(root).columns) == list(REPORTED.dtypes)
    (root / "reported.csv").write_text("\n".join([HEADER, row(springs_at="2022"), ""]))
    frame = reported_entries(root)
    assert frame.dtypes.astype(str).to_dict() == dict.fromkeys(REPORTED.dtypes, "string")
    assert frame["springs_at"].tolist() == ["2022"]
    assert frame["ends_at"].isna().all()
    derive(root)
    assert lint_catalog(root) == []
    assert "| time-trap | 1 |" in (root / "README.md").read_text()
    (root / "reported.csv").write_text("id,package\n")
    with pytest.raises(CatalogError, match="wrong columns"):
        reported_entries(root)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"springs_at": "2022-13"}, "springs_at: not a date: '2022-13'; allowed: 2024, 2024-02, "),
        ({"springs_at": "2022-06-01T00:00:00"}, "springs_at: not a date: "),
        ({"springs_at": "today"}, "springs_at: not a date: 'today'"),
        ({"ends_at": "2021"}, "ends_at: 2021 is before springs_at: 2022-06-01T00:00:00Z"),
        ({"kind": "cpu"}, "kind: unknown: 'cpu'; allowed: time-trap, cpu-dependent, "),
        ({"source_url": "ftp://x.org"}, "source_url: not a public page: 'ftp://x.org'"),
        ({"symptom": ""}, "symptom: missing"),
        ({"symptom": "a\x1b[0m"}, "symptom: control characters: 'a\\x1b[0m'"),
        ({"checked": "yes"}, "checked: unknown: 'yes'; allowed: source read, second hand"),
        ({"id": "OpenSSL"}, "id: 'OpenSSL' does not fit; allowed: PACKAGE-VERSION[-WHAT]: "),
        ({"id": "demo-1.0"}, "id: 'demo-1.0' is there already: an entry of the other tier"),
        ({"symptom": "a,b"}, "15 cells; allowed: 14"),
        ({"purl": "pkg:pypi/openssl"}, "purl: 'pkg:pypi/openssl'; allowed: pkg:generic/NAME"),
        ({"ecosystem": ""}, "ecosystem: missing"),
    ],
)
def test_a_reported_row_that_is_not_well_formed_is_told_with_its_line(root, changes, expected):
    (root / "reported.csv").write_text("\n".join([HEADER, row(id="a-1"), row(**changes), ""]))
    troubles = told(lint_files([root / "reported.csv"]), root)
    assert [one for one in troubles if one.startswith(f"reported.csv:3: {expected}")], troubles


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({"symptom": "=1+1"}, "'=1+1"),
        ({"symptom": '"plain"'}, "plain"),
    ],
)
def test_a_cell_that_a_spreadsheet_may_take_amiss_is_told(root, changes, cell):
    (root / "reported.csv").write_bytes(f"{HEADER}\n{row(**changes)}\n".encode())
    [trouble] = told(lint_catalog(root), root)
    assert trouble.startswith("reported.csv:2: ")
    assert cell in trouble.partition("allowed: ")[2]


DEMO = {"id": "demo-2020", "ecosystem": "pypi", "package": "Demo", "purl": "pkg:pypi/demo@1.0"}


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"springs_at": "2020-01-01"}, True),
        ({"springs_at": "2019"}, True),
        ({"springs_at": "2019-12-31T23:59:59Z", "purl": "pkg:pypi/DEMO"}, True),
        ({"springs_at": "2021"}, False),
        ({"springs_at": ""}, False),
        ({"springs_at": "", "source_url": "https://example.org/issues/1"}, True),
        ({"springs_at": "2020-01-01", "kind": "cpu-dependent"}, False),
        ({"springs_at": "2020-01-01", "purl": "pkg:pypi/other"}, False),
    ],
)
def test_what_a_case_is_about_is_not_reported_again(root, changes, is_same):
    (root / "reported.csv").write_text(f"{HEADER}\n{row(**(DEMO | changes))}\n")
    troubles = told(lint_files([root / "reported.csv"]), root)
    expected = "reported.csv:2: id: 'demo-2020' tells of the same as the case demo-1.0"
    assert troubles == ([expected] if is_same else [])


def test_a_case_that_does_not_tell_what_it_is_about_is_told(root, entry):
    entry.write_text(CASE.replace('[source]\nkind = "pypi"\nname = "Demo"\nversion = "1.0"\n', ""))
    expected = "subject: missing: its source does not tell"
    assert [one for one in told(lint_files([entry]), root) if expected in one]
    with_subject = '[subject]\necosystem = "deb"\nname = "demo"\n\n[[step]]'
    entry.write_text(entry.read_text().replace("[[step]]", with_subject))
    assert not [one for one in told(lint_files([entry]), root) if "subject" in one]


def test_an_id_there_twice_and_a_wrong_header_are_told(root):
    (root / "reported.csv").write_text(f"{HEADER}\n{row()}\n{row()}\n")
    [trouble] = told(lint_catalog(root), root)
    assert trouble == "reported.csv:3: id: 'openssl-1.1.1-ct' is there already: line 2"
    (root / "reported.csv").write_text("id;package\n")
    [trouble] = told(lint_catalog(root), root)
    assert trouble.startswith(
        "reported.csv:1: wrong header: id;package; allowed: id,ecosystem,package,"
    )


def test_only_parts_of_a_curated_catalog_are_linted(root, tmp_path):
    assert lint_files([root, root / "cases" / "demo-1.0.toml"]) == []
    with pytest.raises(UsageError, match="no part of a curated catalog"):
        lint_files([root / "README.md"])


def test_the_curated_catalog_is_found_in_an_installed_package_too(tmp_path):
    package = tmp_path / "buildvm_nb"
    source = Path(buildvm_nb.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "_catalog"))
    shutil.copytree(curated_root(), package / "_catalog")
    script = (
        "import buildvm_nb.catalog as c; print(c.curated_root()); c.curated_findings(); "
        "print(len(c.curated_cases())); print(len(c.reported_entries()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    place, count, _ = result.stdout.split()
    assert Path(place) == package / "_catalog"
    assert int(count) == len(curated_cases())


def test_the_findings_of_the_curated_catalog_are_read_without_pandas():
    script = (
        "import sys, buildvm_nb.catalog as c; c.curated_findings(); "
        "sys.exit('pandas' in sys.modules or 'sqlalchemy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
