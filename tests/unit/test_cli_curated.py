"""``buildvm catalog lint``, ``verify`` and ``derive`` without guests."""

import json
import re
from pathlib import Path

import pytest

from buildvm_nb.catalog import load_case, mark_verified
from buildvm_nb.cli import main
from buildvm_nb.errors import CatalogError

ROOT = Path(__file__).parents[2]
CASE = """\
schema = 1  # the format
id = "demo-1.0"
title = "demo"
[[step]]
name = "test"
run = "true"
[claim]
kind = "sound"
[entry]
status = "proposed"  # for now
[subject]
ecosystem = "generic"
name = "demo"
"""


@pytest.fixture
def buildvm(capsys, tmp_path, monkeypatch):
    """Call the program in this process: status, standard output, standard error."""
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "demo-1.0.toml").write_text(CASE)

    def call(*words):
        return (main(["catalog", *words]), *capsys.readouterr())

    return call


def test_lint_of_the_curated_catalog_exits_with_0_and_says_so(buildvm):
    status, out, err = buildvm("lint")
    assert (status, out) == (0, "")
    assert "all is well" in err


def test_lint_tells_each_trouble_and_exits_with_1(buildvm, tmp_path):
    path = tmp_path / "cases" / "demo-1.0.toml"
    assert buildvm("lint", "cases/demo-1.0.toml")[0] == 0
    path.write_text(CASE.replace('title = "demo"\n', "").replace('"sound"', '"\\u001b"'))
    status, out, _ = buildvm("lint", "cases/demo-1.0.toml")
    assert status == 1
    assert out.startswith("cases/demo-1.0.toml:7: claim.kind: ")
    assert "\x1b" not in out
    path.write_text(CASE.replace('title = "demo"\n', ""))
    status, out, _ = buildvm("lint", "cases/demo-1.0.toml", "--json")
    assert status == 1
    assert json.loads(out) == [
        {
            "file": "cases/demo-1.0.toml",
            "line": 1,
            "key": "title",
            "text": "missing: what it is about, in one line",
        }
    ]
    assert buildvm("lint", "demo.toml")[0] == 2


def test_derived_files_are_made_and_then_in_step(buildvm, tmp_path):
    mark = "<!-- begin: made by `buildvm catalog derive` -->\n<!-- end -->\n"
    (tmp_path / "README.md").write_text(mark)
    status, out, _ = buildvm("derive", ".", "--check")
    assert (status, out.splitlines()) == (1, ["failures.csv", "README.md"])
    assert not (tmp_path / "failures.csv").exists()
    assert buildvm("derive", ".", "--json")[0] == 0
    assert buildvm("derive", ".", "--check")[:2] == (0, "")
    assert "demo-1.0" in (tmp_path / "README.md").read_text()
    assert buildvm("derive", "cases")[0] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "name cases, or give --all"),
        (("demo-1.0", "--all"), "name cases, or give --all"),
        (("cases/demo-1.0.toml", "--status", "verified"), "name cases, or give --all"),
        (("--all", "--status", "withdrawn"), "--status: 'withdrawn'; allowed: verified, proposed"),
        (("cases/demo-1.0.toml", "--quick", "--write"), "--quick makes no proof"),
        (("cityhash",), "did you mean cityhash-0.4.10"),
    ],
)
def test_a_verification_that_makes_no_sense_is_refused(buildvm, words, told):
    status, _, err = buildvm("verify", *words)
    assert status == 2
    assert told in err


def test_only_an_entry_of_a_catalog_that_claims_something_is_verified(buildvm, tmp_path):
    path = tmp_path / "cases" / "demo-1.0.toml"
    (tmp_path / "alone.toml").write_text(CASE)
    assert "not in a curated catalog: alone.toml" in buildvm("verify", "alone.toml", "--write")[2]
    path.write_text(CASE.replace('[claim]\nkind = "sound"\n', ""))
    assert "it claims nothing" in buildvm("verify", "cases/demo-1.0.toml")[2]
    path.write_text(CASE.replace('"proposed"', '"withdrawn"'))
    assert "status 'withdrawn'" in buildvm("verify", "cases/demo-1.0.toml", "--write")[2]


def test_marking_an_entry_as_verified_leaves_the_rest_of_the_file_alone(tmp_path):
    path = tmp_path / "demo-1.0.toml"
    path.write_bytes(CASE.encode())
    mark_verified(path)
    assert path.read_text() == CASE.replace('"proposed"', '"verified"')
    assert load_case(path).entry.status == "verified"
    mark_verified(path)
    path.write_text('id = "a"\n')
    with pytest.raises(CatalogError, match=r"no \[entry\]"):
        mark_verified(path)


def test_the_job_that_verifies_again_installs_what_is_needed_and_calls_what_there_is():
    job = (ROOT / "docs" / "ci" / "verify.yml").read_text()
    wanted = (ROOT / "binder" / "apt.txt").read_text().split()
    assert set(wanted) <= set(re.findall(r"[\w.+-]+", job))
    called = re.findall(r"bin/buildvm catalog (\w+)([^\n|>]*)", job)
    assert [name for name, _ in called] == ["lint", "verify"]
    for name, rest in called:
        for how in ("--fresh", "--quick --fresh"):
            words = rest.replace("$HOW", how).replace("\\", "").split()
            assert main(["catalog", name, *words, "--help"]) == 0
