import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildvm_nb.catalog.casefile import (
    LARGEST_FILE,
    case_schema,
    dump_case,
    load_case,
    new_case,
    parse_case,
)
from buildvm_nb.catalog.curated import curated_cases, find_case_file
from buildvm_nb.errors import UsageError
from buildvm_nb.model.case import (
    ArchiveSource,
    Case,
    Claim,
    Entry,
    GitSource,
    Input,
    Limits,
    LocalSource,
    Provenance,
    PyPISource,
    Step,
    WheelsSource,
    Window,
)
from buildvm_nb.model.machine import ImageSpec

SOUND = """\
id = "demo"
[source]
kind = "pypi"
name = "six"
version = "1.16.0"
[[step]]
name = "test"
run = "true"
"""


def refusal(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        parse_case(text, "demo.toml")
    return caught.value.message.splitlines()


def test_a_case_file_becomes_a_case():
    case = parse_case(SOUND + 'env = { A = "1" }\n[image]\nbase = "debian:sid"\npackages = ["gcc"]')

    assert case.id == "demo"
    assert case.source == PyPISource(name="six", version="1.16.0")
    assert case.image == ImageSpec(base="debian:sid", packages=("gcc",))
    assert case.steps == (Step(name="test", run="true", env={"A": "1"}),)


def test_an_image_may_be_text():
    case = parse_case('image = "debian:bookworm,gcc,make"\n' + SOUND)

    assert case.image == ImageSpec(packages=("gcc", "make"))


@pytest.mark.parametrize(
    "written",
    ["2020-10-05T23:01:56Z", "2020-10-06T01:01:56+02:00", '"2020-10-05T23:01:56Z"'],
)
def test_an_instant_may_be_a_toml_datetime_or_text(written):
    case = parse_case(SOUND + f'[claim]\nkind = "time-trap"\npasses_until = {written}')

    assert case.claim is not None
    assert case.claim.passes_until == datetime(2020, 10, 5, 23, 1, 56, tzinfo=UTC)


def test_a_toml_date_is_midnight_utc():
    case = parse_case(SOUND + '[claim]\nkind = "time-trap"\npasses_until = 2020-10-05')

    assert case.claim is not None
    assert case.claim.passes_until == datetime(2020, 10, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (
            "timeout_s = 99999999",
            (
                "demo.toml:9: step[0].timeout_s: "
                "Input should be less than or equal to 604800 (got 99999999)"
            ),
        ),
        (
            'timeout_s = "600"',
            "demo.toml:9: step[0].timeout_s: Input should be a valid integer (got '600')",
        ),
        (
            "min_tests = true",
            "demo.toml:9: step[0].min_tests: Input should be a valid integer (got True)",
        ),
        (
            "time_out_s = 5",
            "demo.toml:9: step[0].time_out_s: unknown key 'time_out_s'; did you mean 'timeout_s'?",
        ),
        (
            'cwd = "../x"',
            (
                "demo.toml:9: step[0].cwd: unsafe path: must be relative, without '..' and without "
                "line breaks (got '../x')"
            ),
        ),
        (
            'expect = "("',
            (
                "demo.toml:9: step[0].expect: not a regular expression: missing ), unterminated "
                "subpattern at position 0 (got '(')"
            ),
        ),
        (
            "expect = 2020-01-01",
            "demo.toml:9: step[0].expect: Input should be a valid string (got 2020-01-01)",
        ),
        (
            '\n[step.env]\n"1 x" = "y"',
            (
                "demo.toml:11: step[0].env.'1 x': String should match pattern "
                "'^[A-Za-z_][A-Za-z0-9_]*$' (got '1 x')"
            ),
        ),
        (
            '[claim]\nkind = "time-trap"\npasses_from = 2020-10-05T23:01:56',
            (
                "demo.toml:11: claim.passes_from: a time of day needs a zone: 2020-10-05T23:01:56; "
                "allowed: 2019-05-01, 2019-05-01T12:30:00Z, 2019-05-01T14:30+02:00, today or now"
            ),
        ),
        (
            "[provenance]\nreported_on = 2020-10-05T23:01:56Z",
            (
                "demo.toml:10: provenance.reported_on: not a day: 2020-10-05T23:01:56+00:00; "
                "allowed: a date without a time, such as 2021-08-31"
            ),
        ),
        (
            '[provenance]\nlinks = ["example.org"]',
            (
                "demo.toml:10: provenance.links[0]: not a public page; allowed: a URL that begins "
                "with https:// or http:// (got 'example.org')"
            ),
        ),
        (
            '[entry]\nstatus = "proven"',
            (
                "demo.toml:10: entry.status: Input should be 'proposed', 'verified' or 'withdrawn' "
                "(got 'proven')"
            ),
        ),
        (
            "[entry]\ndescripton = 'x'",
            "demo.toml:10: entry.descripton: unknown key 'descripton'; did you mean 'description'?",
        ),
        (
            "[[input]]\npath = '/etc'\nsource = { kind = 'pipy', name = 'x' }",
            (
                "demo.toml:10: input[0].path: unsafe path: must be relative, without '..' and "
                "without line breaks (got '/etc')\n"
                "demo.toml:11: input[0].source.kind: unknown kind 'pipy'; did you mean 'pypi'?"
            ),
        ),
        ("[[input]]\npath = 'a'", "demo.toml:9: input[0].source: required, but missing"),
        (
            "[[input]]\npath = 'a'\n[input.source]\nname = 'b'",
            "demo.toml:11: input[0].source.kind: required, but missing",
        ),
        (
            "[[input]]\npath = 'a'\n[input.source]\nkind = 'git'\nurl = 'b'\ngit = 3\ncommit='c'",
            (
                "demo.toml:14: input[0].source.git: unknown key 'git'; "
                "allowed: kind, url, commit, before, branch, submodules"
            ),
        ),
        (
            "[[input]]\npath = 'a'\n[input.source]\nkind = 'git'\nurl = 'b'",
            "demo.toml:11: input[0].source: give either commit or before",
        ),
        ("[[steps]]", "demo.toml:9: steps: unknown key 'steps'; did you mean 'step'?"),
        (
            "[[step]]\nname = 'build'\nrun = 'true'",
            (
                "demo.toml:6: step: steps must be prepare, build, test in this order, each once; "
                "got ['test', 'build']"
            ),
        ),
    ],
)
def test_an_error_names_file_line_key_and_value(added, told):
    assert refusal(SOUND + added) == told.splitlines()


def test_all_errors_come_at_once_in_the_order_of_the_file():
    lines = refusal(
        SOUND.replace("demo", "Demo")
        .replace("true", "")
        .replace("six", "-x")
        .replace('"1.16.0"', "1.16")
    )

    assert [line.split(" ")[:2] for line in lines] == [
        ["demo.toml:1:", "id:"],
        ["demo.toml:4:", "source.name:"],
        ["demo.toml:5:", "source.version:"],
        ["demo.toml:8:", "step[0].run:"],
    ]


def test_a_flood_of_errors_is_cut_short():
    lines = refusal(SOUND + "[[step]]\n" * 1000)

    assert len(lines) == 101
    assert lines[-1] == "demo.toml: and 1900 more"


def test_a_refused_step_is_not_reported_as_a_missing_one_too():
    assert refusal('id = "x"\n[[step]]\nname = "test"\nrun = 5') == [
        "demo.toml:4: step[0].run: Input should be a valid string (got 5)"
    ]


def test_a_single_table_where_several_are_meant_is_explained():
    assert refusal('id = "x"\n[step]\nname = "test"\nrun = "x"') == [
        "demo.toml:2: step: one of several: write [[step]] instead of [step]"
    ]


def test_an_unknown_key_hints_at_the_schema():
    with pytest.raises(UsageError, match="buildvm case schema"):
        parse_case(SOUND + "[limits]\nmemory = 5")


def test_lines_are_right_with_crlf_line_ends():
    text = SOUND.replace("\n", "\r\n") + "timeout_s = 0"

    assert refusal(text)[0].startswith("demo.toml:9: step[0].timeout_s:")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('id = "x"\n[[step]\n', "demo.toml:2:7: not valid TOML: Expected ']]'"),
        ('id = "x', "demo.toml:1:8: not valid TOML: Unterminated string"),
        ("a = 1\na = 2", "demo.toml:2:6: not valid TOML: Cannot overwrite a value"),
        ("a = 2020-02-31", "demo.toml:1:5: not valid TOML: Invalid date"),
        (f"a = {'9' * 5000}", "demo.toml: not valid TOML: Exceeds the limit"),
        (f"a = {'[' * 5000}", "demo.toml: arrays or tables are nested too deeply"),
        (f"{'.'.join('a' * 3000)} = 1", "demo.toml: arrays or tables are nested too deeply"),
        ("a = '\0'", "demo.toml:1:6: not valid TOML: Found invalid character"),
        ("", "demo.toml:1: id: required, but missing"),
    ],
)
def test_broken_toml_is_located(text, told):
    assert refusal(text)[0].startswith(told)


def test_a_case_file_that_cannot_be_read_is_a_usage_error(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'id = "x"\ntitle = "\xe9"\n')
    (tmp_path / "huge.toml").write_bytes(b"#" * (LARGEST_FILE + 1))
    os.mkfifo(tmp_path / "pipe.toml")
    for name, told in {
        "none.toml": "no such case file",
        ".": "not a case file but a directory",
        "pipe.toml": "not a regular file",
        "huge.toml": "too large for a case file",
        "latin.toml": "latin.toml:2: not UTF-8: byte 0xe9",
    }.items():
        with pytest.raises(UsageError, match=told):
            load_case(tmp_path / name)


def test_a_byte_order_mark_is_no_error(tmp_path):
    file = tmp_path / "demo.toml"
    file.write_bytes(b"\xef\xbb\xbf" + SOUND.encode())

    assert load_case(file).id == "demo"


def test_local_paths_are_relative_to_the_case_file(tmp_path):
    file = tmp_path / "cases" / "demo.toml"
    file.parent.mkdir()
    file.write_text(
        """
        id = "demo"
        source = { kind = "local", path = "../project" }
        input = [
            { path = "a", source = { kind = "git", url = "./repository", commit = "c" } },
            { path = "b", source = { kind = "git", url = "https://host/x", commit = "c" } },
        ]
        step = [{ name = "test", run = "true" }]
        """
    )
    case = load_case(file)

    assert case.source == LocalSource(path=str(tmp_path / "project"))
    assert [entry.source.url for entry in case.inputs if isinstance(entry.source, GitSource)] == [
        str(tmp_path / "cases" / "repository"),
        "https://host/x",
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
LINE = TEXT.filter(lambda text: text.replace("\0", ""))
WORD = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,15}", fullmatch=True)
INSTANTS = st.datetimes(
    *(datetime(year, 1, 2, tzinfo=UTC).replace(tzinfo=None) for year in (1970, 2400)),
    timezones=st.just(UTC),
)
SOURCES = st.one_of(
    st.builds(GitSource, url=WORD, commit=WORD, submodules=st.booleans()),
    st.builds(GitSource, url=WORD, before=INSTANTS, branch=st.none() | WORD),
    st.builds(
        WheelsSource,
        requirements=st.lists(WORD, min_size=1, max_size=9).map(tuple),
        as_of=st.none() | INSTANTS,
    ),
    st.builds(ArchiveSource, url=WORD, sha256=st.just("0" * 64)),
    st.builds(LocalSource, path=LINE),
)
STEPS = st.builds(
    lambda **fields: Step(**fields),  # noqa: PLW0108 - else arguments left out are drawn too
    name=st.just("test"),
    run=TEXT.filter(bool),
    env=st.dictionaries(
        st.from_regex(r"[A-Za-z_]\w{0,5}", fullmatch=True).filter(str.isascii),
        TEXT.map(lambda text: text.replace("\0", "")),
        max_size=3,
    ),
    cwd=st.none() | WORD.filter(lambda word: ".." not in word),
    timeout_s=st.none() | st.integers(1, 9999),
)
CASES = st.builds(
    lambda **fields: Case(**fields),  # noqa: PLW0108 - likewise
    id=st.just("demo"),
    title=TEXT,
    source=st.none() | SOURCES,
    inputs=st.lists(st.builds(Input, path=st.just("lib"), source=SOURCES), max_size=2).map(tuple),
    steps=st.tuples(STEPS),
    limits=st.builds(Limits, cpu_count=st.integers(1, 4)),
    claim=st.none()
    | st.builds(Claim, kind=st.just("time-trap"), passes_until=INSTANTS, evidence=TEXT)
    | st.builds(
        Claim,
        kind=st.just("time-trap"),
        windows=st.lists(st.builds(Window, passes_until=INSTANTS), max_size=2).map(tuple),
    ),
    provenance=st.none() | st.builds(Provenance, reported_by=TEXT, reported_on=st.dates()),
    entry=st.none() | st.builds(Entry, description=TEXT, workaround=TEXT),
)


@given(CASES)
@settings(max_examples=60)
def test_a_written_case_reads_back_as_the_same_case(case):
    assert parse_case(dump_case(case)) == case


def test_commands_of_several_lines_are_written_as_such():
    case = parse_case(SOUND).model_copy(
        update={"steps": (Step(name="test", run="set -x\nmake check\n"),)}
    )

    assert 'run = """\nset -x\nmake check\n"""' in dump_case(case)


def test_a_new_case_is_valid_and_holds_what_was_given():
    source = GitSource(url="https://example.org/p.git", commit="0012345")
    text = new_case("demo", title='A "title"', source=source, run="./configure\nmake {check}")
    case = parse_case(text)

    assert (case.id, case.title, case.source) == ("demo", 'A "title"', source)
    assert case.steps == (Step(name="test", run="./configure\nmake {check}"),)
    assert parse_case(new_case("other")).source is None


def test_what_the_template_only_shows_is_valid_too():
    shown = [
        line.removeprefix("# ")
        for line in new_case("demo").splitlines()
        if line.startswith("# ") and (" = " in line or line.startswith("# [")) and "…" not in line
    ]
    tables = "\n".join(shown).split("\n[")
    claim = next(table for table in tables if table.startswith("claim]"))
    limits = next(table for table in tables if table.startswith("limits]"))
    told = [table for table in tables if table.startswith(("provenance]", "entry]"))]

    case = parse_case("\n[".join([SOUND, claim, limits, *told]))

    assert case.claim is not None
    assert case.provenance is not None
    assert case.provenance.reported_on == date(2020, 10, 6)
    assert case.entry == Entry(
        description="What goes wrong and why, in your own words.",
        workaround="How it can be built all the same.",
    )
    assert case.limits == Limits(disk_mib=8192)


def test_a_new_case_with_a_bad_id_is_refused():
    with pytest.raises(UsageError, match=r"Case\.id"):
        new_case("No Spaces")


def test_the_schema_has_the_keys_as_the_file_spells_them():
    schema = case_schema()

    assert {"schema", "step", "input"} <= set(schema["properties"])
    assert "steps" not in schema["properties"]
    assert json.loads(json.dumps(schema)) == schema


def test_every_curated_case_loads_and_is_named_by_its_id():
    files = curated_cases()

    assert len(files) >= 13
    for name, file in files.items():
        case = load_case(file)
        assert case.id == name
        assert case.title
        assert case.claim is not None
        assert parse_case(dump_case(case)) == case


def test_a_curated_case_is_found_by_id_and_a_file_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert find_case_file("cityhash-0.4.10") == curated_cases()["cityhash-0.4.10"]
    assert find_case_file("some/where.toml") == Path("some/where.toml")
    with pytest.raises(UsageError, match=r"did you mean cityhash-0\.4\.10"):
        find_case_file("cityhash")


def test_reading_case_files_imports_neither_pandas_nor_sqlalchemy():
    code = (
        "import sys; from buildvm_nb.catalog import load_case, new_case, case_schema;"
        "print(sorted({'pandas', 'sqlalchemy', 'numpy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout == "[]\n"
