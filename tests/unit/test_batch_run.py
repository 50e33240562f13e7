"""Parameters of a batch: text stays text, to the letter, or is refused."""

from datetime import date

import pytest
from papermill.cli import _resolve_type

from buildvm_nb.batch import check_parameters, read_plan
from buildvm_nb.errors import UsageError

CASE = "cityhash-0.4.10"
LOCAL = 'schema = 1\nid = "mine"\n[[step]]\nname = "test"\nrun = "true"\n'


@pytest.mark.parametrize("commit", ["0012345", "12e4567", "7654e10", "1_000", "0x1f", "1e999"])
def test_a_commit_that_looks_like_a_number_stays_text(commit):
    checked = check_parameters(case=CASE, repository="/some/where", commit=commit)
    assert checked.commit == commit
    assert checked.cases()[0].source.commit == commit


@pytest.mark.parametrize("commit", ["0012345", "12e4567", "7654e10"])
def test_what_papermill_took_for_a_number_is_refused_with_the_way_out(commit):
    guessed = _resolve_type(commit)
    assert guessed != commit
    with pytest.raises(
        UsageError, match=r"commit: no text any more, but the (int|float)"
    ) as caught:
        check_parameters(case=CASE, repository="/some/where", commit=guessed)
    assert "write -r commit VALUE" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("date", 2021, "date: no text any more, but the int 2021"),
        ("date", date(2021, 5, 1), "date: no text any more, but the date 2021-05-01"),
        ("date", "2021-13-01", "date: not a date: '2021-13-01'"),
        ("cpu", 486, "cpu: no text any more, but the int 486"),
        ("cpu", "+sse4.2", "cpu: a feature without a model"),
        ("kernel", "bullseye", "kernel: unknown kernel: 'bullseye'"),
        ("commit", True, "commit: no text any more, but the bool True"),
        ("commit", "-v", "commit: not a commit: '-v'"),
        ("commit", None, "commit: no text any more, but the NoneType None"),
        ("case", "nothing-like-it", "case: no such case: 'nothing-like-it'"),
        ("case", "", "case: missing"),
        ("jobs", 0, "jobs: not a number of jobs: 0; allowed: from 1 to 1000"),
        ("jobs", True, "jobs: not a number of jobs: True"),
        ("jobs", 1.0, "jobs: not a number of jobs: 1.0"),
        ("kernal", "x", "kernal: unknown parameter; allowed: case, "),
        ("repository", "/some/where", "commit: missing; a repository needs one"),
    ],
)
def test_a_wrong_parameter_is_told_by_its_name(name, value, told):
    with pytest.raises(UsageError) as caught:
        check_parameters(**{"case": CASE, name: value})
    assert told in caught.value.message


def test_a_year_as_text_is_a_year_and_jobs_may_be_digits():
    checked = check_parameters(case=CASE, date="2021", jobs="2")
    assert (checked.date, checked.jobs) == ("2021", 2)
    assert checked.texts() == {"dates": "2021", "cpus": None, "kernels": None}


def test_a_commit_needs_a_repository_where_the_case_has_none():
    with pytest.raises(UsageError, match="commit 'v1' of what"):
        check_parameters(case=CASE, commit="v1")


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(UsageError) as caught:
        check_parameters(case=CASE, commit=12, date=2021)
    assert [line.partition(":")[0] for line in caught.value.message.splitlines()] == [
        "commit",
        "date",
    ]


def test_jobs_and_catalog_make_no_other_question_but_the_case_does(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(LOCAL)
    asked = check_parameters(case=str(path), date="2021")
    assert (
        asked.digest()
        == check_parameters(case=str(path), date="2021", jobs=2, catalog="team.sqlite").digest()
    )
    assert asked.digest() != check_parameters(case=str(path), date="2022").digest()
    before = asked.digest()
    path.write_text(LOCAL.replace("true", "false"))
    assert asked.digest() != before


def test_today_is_spelled_out_so_that_it_stays_the_same_day():
    asked = check_parameters(case=CASE, date="2021,today").settled("2026-11-23")
    assert asked.date == "2021,2026-11-23T00:00:00Z"


@pytest.fixture
def plan(tmp_path):
    def write(text):
        path = tmp_path / "plan.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_a_plan_is_read_as_text(plan):
    path = plan(
        "\ufeffcase,repository,commit,date\r\n"
        "cityhash-0.4.10,/some/where,0012345,2021\r\n"
        "\r\n"
        'cityhash-0.4.10,/some/where,12e4567,"2018..2030/1Y,today"\r\n'
    )
    first, second = read_plan(path)
    assert (first.number, first.parameters.commit, first.parameters.date) == (2, "0012345", "2021")
    assert (second.number, second.parameters.commit) == (4, "12e4567")
    assert first.digest != second.digest


def test_wrong_cells_are_told_by_row_column_value_and_what_is_allowed(plan):
    path = plan(
        "case,date,cpu,jobs\n"
        "cityhash-0.4.10,2021-02-30,,\n"
        "cityhash-0.4.10,,,many\n"
        "cityhash-0.4.10,2021\n"
        "cityhsh,,,\n"
        "cityhash-0.4.10,2021,,1\n"
        "cityhash-0.4.10,2021,,2\n"
    )
    with pytest.raises(UsageError) as caught:
        read_plan(path)
    lines = caught.value.message.splitlines()[1:]
    assert lines[0].startswith("row 2, column date: not a date: '2021-02-30'; allowed: 2019-05-01")
    assert lines[1] == "row 3, column jobs: not a number of jobs: 'many'; allowed: from 1 to 1000"
    assert lines[2] == "row 4: 2 cells; allowed: 4"
    assert lines[3].startswith("row 5, column case: no such case: 'cityhsh'")
    assert lines[4] == "row 7: asks for the same as row 6"
    assert "did you mean cityhash-0.4.10?" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty; allowed: a header with case"),
        ("case\n", "no rows below the header"),
        ("case;date\nx;y\n", "unknown column: 'case;date'"),
        ("date\n2021\n", "no column 'case'"),
        ("case,case\nx,y\n", "column there twice: 'case'"),
        ("case,comit\nx,y\n", "unknown column: 'comit'"),
        (b"case\n\xff\xfe\n", "not CSV in UTF-8"),
        ('case\n"x\n', "not CSV in UTF-8"),
    ],
)
def test_what_is_no_plan_is_refused(plan, text, told):
    with pytest.raises(UsageError) as caught:
        read_plan(plan(text))
    assert told in caught.value.message


def test_a_plan_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the plan .*gone\.csv: No such file"):
        read_plan(tmp_path / "gone.csv")


def test_a_case_file_is_sought_beside_the_plan(plan, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(LOCAL)
    path = plan("case\nmine.toml\n")
    monkeypatch.chdir("/")
    (row,) = read_plan(path)
    assert row.parameters.case == str(tmp_path / "mine.toml")
    assert row.parameters.cases()[0].id == "mine"
