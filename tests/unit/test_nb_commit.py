"""The commit picker, driven without a browser, over real repositories."""

import re
import socket
import subprocess
import threading

import pytest

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, GitSource
from buildvm_nb.nb.commit import CommitPicker
from buildvm_nb.source import Revision

LONG_S = 600.0
DAY_S = 86_400
QUARTER_S = DAY_S // 4
SCRIPT = "<script>alert(1)</script>"


def stream(count, subject, step_s):
    """A history for `git fast-import`, from 1970-01-02 on."""
    for number in range(count):
        said = subject(number).encode()
        moment = DAY_S + number * step_s
        author = b"Ada Lovelace" if number % 2 else b"Alan Turing"
        yield b"commit refs/heads/main\n"
        yield b"author %s <a@example.org> %d +0000\n" % (author, moment - 3600)
        yield b"committer C <c@example.org> %d +0000\n" % moment
        yield b"data %d\n%s\n" % (len(said), said)
        if number == 0:
            yield b"M 644 inline file\ndata 2\nx\n\n"
    yield b"reset refs/tags/v1.0\nfrom refs/heads/main\n\n"


def make_repository(path, count, subject=lambda number: f"Commit number {number}", step_s=DAY_S):
    subprocess.run(["git", "init", "-q", "-b", "main", path], check=True)
    subprocess.run(
        ["git", "-c", "core.compression=0", "-C", path, "fast-import", "--quiet"],
        input=b"".join(stream(count, subject, step_s)),
        check=True,
    )
    return path


@pytest.fixture
def picker_of(tmp_path):
    made = []

    def make(source, **more):
        made.append(CommitPicker(source, cache=Cache(tmp_path / "cache"), **more))
        assert made[-1].wait(LONG_S)
        return made[-1]

    yield make
    for picker in made:
        picker.close()


@pytest.fixture(scope="module")
def huge_picker(huge, tmp_path_factory):
    picker = CommitPicker(str(huge), cache=Cache(tmp_path_factory.mktemp("cache")), name="huge")
    assert picker.wait(LONG_S)
    yield picker
    picker.close()


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    subjects = ["Fix ssl again", "Add a parser", "Release"]
    return make_repository(
        tmp_path_factory.mktemp("huge") / "repository",
        100_000,
        lambda number: f"{subjects[number % 3]} {number}",
        QUARTER_S,
    )


def test_choosing_a_commit_gives_its_date_and_a_source_for_a_case(picker_of, tmp_path):
    repository = make_repository(tmp_path / "r", 10)
    picker = picker_of(str(repository))
    seen = []
    picker.observe(lambda _: seen.append((picker.commit, picker.date)), "commit")
    chosen = picker.choose("v1.0")
    assert chosen.subject == "Commit number 9"
    assert picker.commit == chosen.id
    assert picker.date.isoformat() == "1970-01-11T00:00:00+00:00"
    assert seen == [(picker.commit, picker.date)]
    assert picker.source == GitSource(url=str(repository), commit=chosen.id)
    Case.parse({"id": "x", "source": picker.source, "steps": [{"name": "test", "run": "true"}]})
    assert "1970-01-10T23:00:00Z" in picker._details.value


def test_a_row_of_the_list_chooses_too(picker_of, tmp_path):
    picker = picker_of(str(make_repository(tmp_path / "r", 10)))
    assert picker.commit is None
    picker._list.index = 1
    assert picker.revision.subject == "Commit number 8"
    picker.search("number 8")
    assert picker.rows[picker._list.index] is picker.revision
    assert picker.revision.subject == "Commit number 8"


def test_as_one_types_a_huge_history_sends_few_rows_to_the_browser(huge_picker):
    picker = huge_picker
    picker.search("")
    assert picker.status == "100000 of 100000 match; 200 are shown"
    for typed in ("f", "fi", "fix", "fix s", "fix ssl"):
        rows = picker.search(typed)
        assert len(rows) == len(picker._list.options) == 200
        assert sum(map(len, picker._list.options)) < 200 * 141
    assert picker.status == "33334 of 100000 match; 200 are shown"
    assert [row.subject for row in picker.search("SSL again 99999")] == ["Fix ssl again 99999"]
    assert not picker.search("no such thing")


def test_a_history_is_shown_around_a_date(huge_picker):
    picker = huge_picker
    rows = picker.search("turing", around="2000-01-01")
    assert len(rows) == 200
    assert rows[0].dated_at.isoformat()[:7] == "2000-02"
    assert rows[-1].dated_at.isoformat()[:7] == "1999-11"
    assert {row.author for row in rows} == {"Alan Turing"}
    assert picker.search("", around="1970-01-02")[-1].subject.endswith(" 0")


def test_of_a_history_beyond_the_limit_the_newest_is_listed_and_told(picker_of, huge):
    picker = picker_of(str(huge), limit=1000)
    assert "the history is longer: the newest 1000 are listed" in picker.status
    with pytest.raises(UsageError, match="of the 1000 that are listed") as caught:
        picker.choose("0000000")
    assert "limit=" in caught.value.hint


def test_subjects_cannot_become_tags_nor_turn_the_line_around(picker_of, tmp_path):
    evil = f"{SCRIPT}\N{RIGHT-TO-LEFT OVERRIDE}\x1b[31m"
    picker = picker_of(str(make_repository(tmp_path / "r", 1, lambda _: evil)))
    picker.choose("v1.0")
    assert "<script" not in picker._details.value
    assert "&lt;script&gt;" in picker._details.value
    (shown,) = picker._list.options
    assert shown.isprintable()


def test_a_repository_that_is_gone_is_told_in_the_panel(picker_of, tmp_path):
    picker = picker_of(str(tmp_path / "gone"))
    assert f"no such directory: {tmp_path / 'gone'}" in picker.error_html
    assert picker.source is None
    picker.load(str(make_repository(tmp_path / "r", 3)))
    picker.wait(LONG_S)
    assert not picker.error_html
    assert len(picker.rows) == 3


def test_a_server_that_does_not_answer_is_told_in_the_panel(picker_of, free_port):
    picker = picker_of(f"http://127.0.0.1:{free_port}/r.git")
    assert "cannot be fetched" in picker.error_html


def test_an_empty_repository_is_told_in_the_panel(picker_of, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path / "r"], check=True)
    picker = picker_of(str(tmp_path / "r"))
    assert "the repository is empty" in picker.error_html


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("ext::sh", "unknown kind of repository URL"),
        ("pypi:../..", "PyPISource.name"),
        ("debian:hello/no suite", "DebianSource.suite"),
        ("--upload-pack=id", "GitSource.url"),
    ],
)
def test_what_is_no_source_is_told_in_the_panel(picker_of, source, told):
    assert told in picker_of(source).error_html


def test_a_wrong_date_is_told_in_the_panel(picker_of, tmp_path):
    picker = picker_of(str(make_repository(tmp_path / "r", 3)))
    picker._around.value = "31.12.1999"
    assert "not a date" in picker.error_html


def test_fetching_can_be_cancelled(tmp_path):
    """A server that takes the call and says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        called = threading.Event()

        def serve():
            connection, _ = server.accept()
            with connection:
                called.set()
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        picker = CommitPicker(f"http://127.0.0.1:{port}/r.git", cache=Cache(tmp_path / "cache"))
        assert called.wait(LONG_S)
        assert picker.busy
        picker._stop.click()
        assert picker.wait(LONG_S)
        thread.join(LONG_S)
    assert picker.job.state == "cancelled"
    assert not picker.busy
    assert not picker.error_html
    assert picker.status == "history not read: cancelled"
    picker.close()


def test_versions_of_a_package_have_a_source_of_their_own(picker_of, tmp_path):
    from buildvm_nb.model.case import PyPISource
    from buildvm_nb.nb.commit import RevisionIndex

    picker = picker_of("")
    old = PyPISource(name="six", version="1.0")
    picker._origin = PyPISource(name="six", version="0")
    picker._index = RevisionIndex([Revision(id="1.0", dated_at=None, source=old)])
    picker.choose("1.0")
    assert picker.source == old
    assert picker.date is None


def test_while_history_is_read_the_picker_says_so_whatever_is_typed(tmp_path):
    """The repository is on a server that takes the call and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/r.git"
        picker = CommitPicker(cache=Cache(tmp_path / "cache"))
        assert picker.status.startswith("no source yet: URL or path")
        picker.load(url)
        # a worker may have begun already, and says what it is at
        assert re.match(r"(reading the history of|fetch) http://127\.0\.0\.1.* …", picker.status)
        connection, _ = server.accept()
        with connection:
            picker._around.value = "2020-01-01"
            assert "0 of 0" not in picker.status
            assert picker.status.endswith("…") or " … " in picker.status
            picker.cancel()
            assert picker.wait(LONG_S)
        picker._around.value = ""
        assert picker.status == "history not read: cancelled"
        picker.close()
