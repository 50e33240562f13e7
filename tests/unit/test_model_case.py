import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildvm_nb.errors import UsageError
from buildvm_nb.model.case import (
    ArchiveSource,
    Case,
    DebianBinarySource,
    DebianSource,
    GitSource,
    LocalSource,
    PyPISource,
    WheelsSource,
)
from buildvm_nb.model.instants import LATEST, parse_instant
from buildvm_nb.model.machine import ImageSpec
from buildvm_nb.model.outcome import (
    Artifact,
    Outcome,
    SourceRecord,
    StepRecord,
    Verdict,
    new_id,
)

SHA = "0123456789abcdef" * 4
SOURCES = [
    ({"kind": "git", "url": "https://x.example/a.git", "commit": "v1.0"}, GitSource),
    ({"kind": "git", "url": "/srv/a.git", "before": "2019-05-01", "branch": "main"}, GitSource),
    ({"kind": "pypi", "name": "pytz", "version": "2019.1", "sha256": SHA}, PyPISource),
    ({"kind": "wheels", "requirements": ["a==1", "b>=2; python_version<'3'"]}, WheelsSource),
    ({"kind": "debian-source", "name": "openssl", "version": "3.0.1-1"}, DebianSource),
    ({"kind": "debian-binary", "name": "libssl3"}, DebianBinarySource),
    ({"kind": "local", "path": "sources/a b"}, LocalSource),
    ({"kind": "archive", "url": "https://x.example/a.tar.gz", "sha256": SHA}, ArchiveSource),
]


def case(**fields):
    return Case.parse({"id": "a-case", "steps": [{"name": "test", "run": "make check"}]} | fields)


@pytest.mark.parametrize(("source", "kind"), SOURCES)
def test_every_kind_of_source_is_read_and_goes_through_json(source, kind):
    parsed = case(source=source)
    assert type(parsed.source) is kind
    assert Case.model_validate_json(parsed.model_dump_json()) == parsed


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "git", "url": "a"}, "give either commit or before"),
        (
            {"kind": "git", "url": "a", "commit": "b", "before": "2019-05-01"},
            "give either commit or before",
        ),
        ({"kind": "git", "url": "--upload-pack=x", "commit": "b"}, "Case.source.git.url: "),
        ({"kind": "git", "url": "a", "commit": "-b"}, "Case.source.git.commit: "),
        ({"kind": "pypi", "name": "-r", "version": "1"}, "Case.source.pypi.name: "),
        ({"kind": "pypi", "name": "a", "version": "1;x"}, "Case.source.pypi.version: "),
        ({"kind": "pypi", "name": "a", "version": "1", "sha256": "12"}, "Case.source.pypi.sha256"),
        ({"kind": "wheels", "requirements": []}, "Case.source.wheels.requirements: "),
        ({"kind": "wheels", "requirements": ["-r x"]}, "not a requirement: '-r x'"),
        ({"kind": "archive", "url": "a"}, "Case.source.archive.sha256: missing"),
        ({"kind": "svn", "url": "a"}, "'svn'"),
        ({"url": "a"}, "kind"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(source, message):
    with pytest.raises(UsageError) as caught:
        case(source=source)
    assert message in caught.value.message


@pytest.mark.parametrize("path", ["/etc", "..", "a/../b", "../x", "a\0b", "a\nb", ""])
@pytest.mark.parametrize("where", ["input", "artifacts", "cwd"])
def test_paths_that_could_lead_out_of_the_build_directory_are_refused(path, where):
    fields = {
        "input": {"input": [{"path": path, "source": SOURCES[-1][0]}]},
        "artifacts": {"artifacts": [path]},
        "cwd": {"steps": [{"name": "test", "run": "true", "cwd": path}]},
    }[where]
    with pytest.raises(UsageError, match=r"unsafe path: must be relative, without '\.\.'"):
        case(**fields)


@pytest.mark.parametrize("path", ["a", "a/b", "./a", "a..b/c", "*.whl", "dist/**/x y"])
def test_paths_below_the_build_directory_are_allowed(path):
    assert case(artifacts=[path]).artifacts == (path,)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("step_timeout_s", 0),
        ("step_timeout_s", 7 * 86400 + 1),
        ("memory_mib", 191),
        ("memory_mib", 2**40),
        ("disk_mib", 0),
        ("cpu_count", 0),
        ("cpu_count", 256),
        ("processes", 1),
        ("log_mib", 0),
        ("log_mib", 10**6),
        ("artifacts_mib", -1),
        ("step_timeout_s", float("inf")),
        ("memory_mib", "plenty"),
    ],
)
def test_absurd_limits_are_refused_by_name(limit, value):
    with pytest.raises(UsageError, match=rf"^Case\.limits\.{limit}: expected .*, got "):
        case(limits={limit: value})


@pytest.mark.parametrize(
    ("names", "fine"),
    [
        (["prepare", "build", "test"], True),
        (["prepare", "test"], True),
        (["build"], True),
        (["test", "build"], False),
        (["build", "build"], False),
        (["build", "prepare"], False),
    ],
)
def test_steps_come_in_order_and_each_once(names, fine):
    steps = [{"name": name, "run": "true"} for name in names]
    if fine:
        assert [step.name for step in case(steps=steps).steps] == names
    else:
        with pytest.raises(UsageError, match="prepare, build, test in this order, each once"):
            case(steps=steps)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"name": "test", "run": ""}, "run: expected at least 1 character"),
        ({"name": "deploy", "run": "true"}, "name: expected 'prepare', 'build' or 'test'"),
        ({"name": "test", "run": "true", "expect": "(("}, "not a regular expression: "),
        ({"name": "test", "run": "true", "min_tests": 0}, "min_tests: "),
        ({"name": "test", "run": "true", "timeout_s": 0}, "timeout_s: "),
        ({"name": "test", "run": "true", "env": {"A=B": "c"}}, "env.A=B"),
        ({"name": "test", "run": "true", "env": {"A": "\0"}}, "cannot hold a NUL character"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(step, message):
    with pytest.raises(UsageError) as caught:
        case(steps=[step])
    assert message in caught.value.message


def test_a_case_needs_a_step_and_a_plain_id():
    with pytest.raises(UsageError, match="at least 1 item"):
        Case.parse({"id": "a", "steps": []})
    with pytest.raises(UsageError, match=r"Case\.id: "):
        case(id="../a")


def test_a_case_of_another_schema_is_refused():
    with pytest.raises(UsageError, match="expected 1"):
        case(schema=2)


def test_the_build_digest_ignores_what_a_build_does_not_depend_on():
    plain = case()
    told = case(
        id="another",
        title="A title",
        claim={"kind": "time-trap", "passes_until": "2019-05-01", "evidence": "expired"},
        provenance={"url": "https://bugs.example/1", "licence": "CC0-1.0"},
        entry={"status": "verified", "description": "It expires."},
    )
    assert told.build_digest() == plain.build_digest()
    assert re.fullmatch("[0-9a-f]{64}", plain.build_digest())


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [{"name": "test", "run": "make test"}]},
        {"steps": [{"name": "test", "run": "make check", "env": {"TZ": "UTC"}}]},
        {"image": "debian:bookworm,gcc"},
        {"limits": {"memory_mib": 2048}},
        {"source": SOURCES[0][0]},
        {"artifacts": ["dist"]},
        {"input": [{"path": "x", "source": SOURCES[-1][0]}]},
    ],
)
def test_the_build_digest_changes_with_all_that_a_build_depends_on(change):
    assert case(**change).build_digest() != case().build_digest()


def test_the_order_of_packages_does_not_change_the_build_digest():
    one, other = case(image="debian:sid,gcc,make"), case(image="debian:sid,make,gcc")
    assert one.image == ImageSpec(base="debian:sid", packages=("gcc", "make"))
    assert one.build_digest() == other.build_digest()


TEXT = st.text(max_size=20)
RECORDS = st.builds(
    StepRecord,
    name=st.sampled_from(["prepare", "build", "test", "run"]),
    verdict=st.sampled_from(Verdict),
    reason=TEXT,
    exit_status=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    clock_started_at=st.none() | st.just(LATEST),
    duration_s=st.floats(0, 1e6),
    tests_run=st.none() | st.integers(0, 10**6),
)


@settings(deadline=None)
@given(TEXT, TEXT, st.lists(RECORDS, max_size=3), st.sampled_from(Verdict))
def test_an_outcome_goes_through_json_without_loss(reason, evidence, steps, verdict):
    outcome = Outcome(
        case=case(source=SOURCES[1][0], image="debian:sid,gcc"),
        machine={"date": "2019-05-01", "cpu": "Haswell,-cx16"},
        verdict=verdict,
        reason=reason,
        evidence=evidence,
        failing_step="test",
        steps=tuple(steps),
        sources=(
            SourceRecord(
                kind="git",
                name="a",
                version="0012345",
                digest=SHA,
                dated_at=parse_instant("2018-01-01T00:00:00.000001Z"),
            ),
        ),
        artifacts=(Artifact(path="dist/a.whl", size_bytes=3, digest=SHA),),
        host={"cores": 2, "cpu": "x", "nested": {"a": [1, None]}},
    )
    again = Outcome.model_validate_json(outcome.model_dump_json())
    assert again == outcome
    assert again.sources[0].version == "0012345"


def test_identifiers_of_outcomes_sort_by_the_time_they_were_made():
    ids = [new_id() for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(len(one) == 26 for one in ids)
    assert [one[:10] for one in ids] == sorted(one[:10] for one in ids)
