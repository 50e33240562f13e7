"""Documents of outcomes and findings; those in ``documents`` are never brought up to date."""

import io
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from buildvm_nb.catalog import Catalog, read_jsonl
from buildvm_nb.catalog.frames import check_frame
from buildvm_nb.catalog.schema import FAILURES
from buildvm_nb.errors import CatalogError, SchemaVersionError
from buildvm_nb.model.case import Subject
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import DOCUMENT_VERSION, read_document

DOCUMENTS = Path(__file__).with_name("documents")
KINDS = {"outcome": Outcome, "finding": Finding}
VERSIONS = ("1.0", "1.1", "1.2", "1.99")


def frozen(kind, version):
    return (DOCUMENTS / f"{kind}-{version}.json").read_text()


def changed(kind, version, **fields):
    return json.dumps(json.loads(frozen(kind, version)) | fields)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_frozen_outcome_is_read(version):
    outcome = read_document(Outcome, frozen("outcome", version))
    assert (outcome.verdict, outcome.failing_step) == ("failed", "test")
    assert outcome.steps[0].clock_started_at == parse_instant("2020-10-05T23:01:57Z")
    assert (outcome.probing.drift_s, outcome.probing.held) == (0.008, True)
    assert outcome.case.source.commit == "0012345"
    assert outcome.document_version == DOCUMENT_VERSION
    assert read_document(Outcome, outcome.model_dump_json()) == outcome


@pytest.mark.parametrize("version", VERSIONS)
def test_a_frozen_finding_is_read(version):
    finding = read_document(Finding, frozen("finding", version))
    assert (finding.kind, finding.axis, len(finding.boundaries)) == ("time-trap", "date", 4)
    assert finding.windows[0].passes_until == parse_instant("2019-12-31T23:59:59Z")
    assert finding.boundaries[1].cause.kind == "date-constant"
    assert finding.case.source.name == "holidays"
    is_told = version != "1.0"
    assert bool(finding.recurs) is is_told
    assert (finding.support is not None) is (version == "1.2")
    subject = Subject(ecosystem="pypi", name="Demo", version="1.0") if is_told else None
    assert finding.case.subject == subject


def test_the_digest_of_a_frozen_case_stays_the_same():
    digests = {
        read_document(Outcome, frozen("outcome", version)).case.build_digest()
        for version in VERSIONS
    }
    assert digests == {"9ccaa861140eca56cf01d0e1b8a44935e59598310602700f253cb02d033728b4"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["1.0", DOCUMENT_VERSION, "nonsense", None, 3])
def test_a_field_that_is_unknown_in_a_version_that_is_known_is_refused(kind, version):
    text = changed(kind, "1.0", new_thing=1, document_version=version)
    with pytest.raises(ValidationError, match="new_thing"):
        read_document(KINDS[kind], text)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_in_a_newer_minor_version_is_refused(kind):
    with pytest.raises(ValidationError, match="recorded_at"):
        read_document(KINDS[kind], changed(kind, "1.99", recorded_at="yesterday"))
    with pytest.raises(ValidationError, match="JSON"):
        read_document(KINDS[kind], "{")


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_major_version_is_named(kind):
    text = changed(kind, "1.0", document_version="2.0")
    with pytest.raises(SchemaVersionError, match=r"version 2\.0; this buildvm-nb reads up to 1\.x"):
        read_document(KINDS[kind], text)


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_major_version_is_brought_to_the_present(kind):
    old = json.loads(frozen(kind, "1.0")) | {"document_version": "0.3"}
    old["told_by"] = old.pop("tool_version")

    def rename(data):
        version = data.pop("told_by")
        return {**data, "tool_version": version}

    with pytest.raises(SchemaVersionError, match=r"cannot be brought to 1\."):
        read_document(KINDS[kind], json.dumps(old))
    read = read_document(KINDS[kind], json.dumps(old), {0: rename})
    assert read == read_document(KINDS[kind], frozen(kind, "1.0"))


@pytest.fixture
def newer(tmp_path):
    """A catalog into which a newer buildvm-nb has written."""
    with Catalog(tmp_path / "newer.sqlite") as catalog:
        catalog.record(read_document(Outcome, frozen("outcome", "1.99")), b"log")
        catalog.record_finding(read_document(Finding, frozen("finding", "1.99")))
        with catalog._database.writing() as work:
            for kind in KINDS:
                text = json.dumps(json.loads(frozen(kind, "1.99")))
                work.exec_driver_sql(f"UPDATE {kind}s SET document = ?", (text,))
        yield catalog


def test_what_a_newer_minor_version_tells_is_kept_by_a_merge_and_an_export(newer, tmp_path):
    with Catalog(tmp_path / "ours.sqlite") as catalog:
        merged = catalog.merge(tmp_path / "newer.sqlite")
        assert (merged.outcomes, merged.findings) == (1, 1)
        assert catalog.merge(tmp_path / "newer.sqlite").known == 2
        assert list(catalog.finding_documents()) == list(newer.finding_documents())
        assert list(catalog.check()) == []
        check_frame(catalog.failures(), FAILURES)
        assert catalog.failures().package.tolist() == ["Demo"]
        for kind in KINDS:
            stream = io.StringIO()
            catalog.export(stream, f"{kind}s", form="jsonl")
            assert json.loads(stream.getvalue()) == json.loads(frozen(kind, "1.99"))
        catalog.export(tmp_path / "f.jsonl", "findings")
    assert len(list(read_jsonl(tmp_path / "f.jsonl", Finding))) == 1


def test_a_catalog_with_a_newer_major_document_says_so(newer, tmp_path):
    text = changed("finding", "1.0", document_version="2.0")
    with newer._database.writing() as work:
        work.exec_driver_sql("UPDATE findings SET document = ?", (text,))
    with pytest.raises(SchemaVersionError, match="upgrade buildvm-nb"):
        list(newer.finding_documents())
    assert "document of version 2.0" in next(iter(newer.check())).what
    with (
        Catalog(tmp_path / "ours.sqlite") as catalog,
        pytest.raises(CatalogError, match=r"nothing was: finding .* of version 2\.0"),
    ):
        catalog.merge(tmp_path / "newer.sqlite")
