import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.cache import Cache, cache_key, file_digest, free_bytes

RECIPE = {"what": "greeting", "version": 1}
BUILDER = """
import os, sys
from pathlib import Path
from buildvm_nb.host.cache import Cache

def make(place):
    (place / "greeting").write_text("hello")
    print("made", flush=True)
    sys.stdin.readline()

print(Cache(Path(sys.argv[1])).entry("things", {"what": "greeting", "version": 1}, make))
"""


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def builder(cache):
    """Start other processes that make the entry; they stop half-way until told to go on."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(cache.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def make_greeting(place):
    (place / "greeting").write_text("hello")
    return {"words": 1}


class Told:
    """Keeps what is announced."""

    def __init__(self):
        self.labels = []

    @contextmanager
    def task(self, label):
        self.labels.append(label)
        yield self


def overwrite(path, content):
    """Change a file to other content of the same size, some time after it was written."""
    size, status = path.stat().st_size, path.stat()
    path.write_text(content)
    assert path.stat().st_size == size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize("was_read", [True, False])
def test_a_file_that_changed_at_the_same_size_is_noticed_and_its_entry_made_anew(cache, was_read):
    place, told = cache.entry("things", RECIPE, make_greeting), Told()
    digests = {"greeting": file_digest(place / "greeting")}
    known = {} if was_read else digests
    if was_read:
        assert cache.is_sound("things", place.name, progress=told)
    overwrite(place / "greeting", "hallo")
    assert cache.hold("things", place.name)  # by its size alone
    assert not cache.is_sound("things", place.name, known, progress=told)
    assert told.labels == [f"{place}/greeting is damaged; it is made anew"]
    assert not place.exists()
    cache.entry("things", RECIPE, make_greeting)
    assert cache.is_sound("things", place.name, digests)
    assert (place / "greeting").read_text() == "hello"


def test_a_file_is_read_once_while_nobody_touches_it(cache, monkeypatch):
    place, read = cache.entry("things", RECIPE, make_greeting), []
    monkeypatch.setattr(
        "buildvm_nb.host.cache.file_digest", lambda path: read.append(path) or file_digest(path)
    )
    for _ in range(3):
        assert cache.is_sound("things", place.name)
    assert read == [place / "greeting"]
    os.utime(place / "greeting", (1, 1))
    for _ in range(3):
        assert cache.is_sound("things", place.name)
    assert read == [place / "greeting"] * 2


def test_an_entry_made_anew_with_other_content_is_sound(cache):
    place = cache.entry("things", RECIPE, make_greeting)
    assert cache.is_sound("things", place.name)
    cache.remove("things", place.name)
    cache.entry("things", RECIPE, lambda work: (work / "greeting").write_text("other") and None)
    assert cache.is_sound("things", place.name)


def refuse(place):
    pytest.fail("made again")


def left_overs(cache):
    return [path.name for path in (cache.root / "things").iterdir() if path.name != ".locks"]


def test_an_entry_is_made_once_and_remembers_what_it_is(cache):
    place = cache.entry("things", RECIPE, make_greeting)
    assert place == cache.path("things", cache_key(RECIPE))
    assert (place / "greeting").read_text() == "hello"
    assert cache.entry("things", RECIPE, refuse) == place
    assert cache.record(place) == {
        "recipe": RECIPE,
        "facts": {"words": 1},
        "files": {"greeting": 5},
    }
    assert list(cache.entries("things")) == [(cache_key(RECIPE), place)]


def test_an_entry_that_is_being_made_is_not_there_yet(cache):
    key = cache_key(RECIPE)

    def make(work):
        assert work != cache.path("things", key)
        assert not cache.path("things", key).exists()
        assert not list(cache.entries("things"))

    cache.entry("things", RECIPE, make)
    assert cache.path("things", key).exists()


def test_a_maker_that_fails_leaves_nothing(cache):
    def make(work):
        (work / "half").write_text("half")
        raise LookupError("no such thing")

    with pytest.raises(LookupError):
        cache.entry("things", RECIPE, make)
    assert left_overs(cache) == []
    assert cache.entry("things", RECIPE, make_greeting).is_dir()


def test_two_processes_that_want_the_same_entry_make_it_once(cache, builder):
    first, second = builder(), builder()
    for process in (first, second):  # whoever has the lock makes it, the other one then finds it
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=600)[0] for process in (first, second)]
    lines = "".join(outputs).splitlines()
    place = str(cache.path("things", cache_key(RECIPE)))
    assert sorted(lines) == sorted(["made", place, place])
    assert left_overs(cache) == [cache_key(RECIPE)]


def test_a_killed_builder_leaves_nothing_that_counts_and_the_next_one_clears_it(cache, builder):
    process = builder()
    assert process.stdout.readline() == "made\n"
    process.kill()
    process.wait()
    assert left_overs(cache)
    assert not list(cache.entries("things"))
    place = cache.entry("things", RECIPE, make_greeting)
    assert cache.record(place)["facts"] == {"words": 1}
    assert left_overs(cache) == [cache_key(RECIPE)]


def test_a_partial_entry_with_its_record_already_written_does_not_count(cache):
    place = cache.entry("things", RECIPE, make_greeting)
    place.rename(place.with_name(f".{place.name}.partial"))
    assert not list(cache.entries("things"))
    assert cache.entry("things", RECIPE, make_greeting) == place
    assert left_overs(cache) == [place.name]


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / "greeting").unlink(),
        lambda place: (place / "greeting").write_text("hell"),
        lambda place: (place / "entry.json").unlink(),
        lambda place: (place / "entry.json").write_text('{"recipe": '),
        lambda place: (place / "entry.json").write_bytes(b"\0" * 100),
        lambda place: (place / "entry.json").write_text("[]"),
        lambda place: (place / "entry.json").write_text("null"),
        lambda place: (place / "entry.json").write_text('{"files": null}'),
    ],
)
def test_a_corrupt_entry_does_not_count_and_is_made_again(cache, harm):
    place = cache.entry("things", RECIPE, make_greeting)
    (place / "stray").write_text("x")
    harm(place)
    assert not list(cache.entries("things"))
    again = cache.entry("things", RECIPE, make_greeting)
    assert again == place
    assert (again / "greeting").read_text() == "hello"
    assert not (again / "stray").exists()


def test_an_entry_can_be_removed(cache):
    place = cache.entry("things", RECIPE, make_greeting)
    assert cache.remove("things", place.name) is True
    assert cache.remove("things", place.name) is False
    assert left_overs(cache) == []


def test_a_full_disk_is_told_with_the_room_that_is_left_and_leaves_nothing(cache):
    def make(work):
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 - a device
            full.write(b"x")

    with pytest.raises(HostError, match="cannot write to the cache: No space left on") as caught:
        cache.entry("things", RECIPE, make)
    assert "MiB are free there" in caught.value.hint
    assert left_overs(cache) == []


def test_a_cache_that_cannot_be_written_is_told_clearly(cache):
    (cache.root / "things").write_text("in the way")
    with pytest.raises(HostError, match="cannot write to the cache: ") as caught:
        cache.entry("things", RECIPE, make_greeting)
    assert "--cache" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_told_clearly(cache):
    cache.root.chmod(0o500)
    try:
        with pytest.raises(HostError, match="cannot write to the cache: Permission denied"):
            cache.entry("things", RECIPE, make_greeting)
    finally:
        cache.root.chmod(0o700)


def test_a_cache_directory_that_cannot_be_made_is_told_clearly(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"the cache cannot be made: .*: Not a directory") as caught:
        Cache(tmp_path / "file" / "cache")
    assert "BUILDVM_CACHE" in caught.value.hint


def test_a_file_in_place_of_the_cache_is_a_wrong_request(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the cache is no directory"):
        Cache(tmp_path / "file")


def test_the_environment_names_the_cache_where_the_caller_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "named"))
    assert Cache().root == tmp_path / "named"
    assert Cache(tmp_path / "given").root == tmp_path / "given"


def test_a_key_depends_on_the_recipe_and_not_on_its_order():
    assert cache_key({"a": 1, "b": [2]}) == cache_key({"b": [2], "a": 1})
    assert cache_key({"a": 1}) != cache_key({"a": 2})
    assert len(cache_key({})) == 64


def test_digest_and_room_are_what_the_system_says(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "a") == expected
    status = os.statvfs(tmp_path)
    assert 0 < free_bytes(tmp_path) <= status.f_blocks * status.f_frsize


def test_progress_is_shown_only_for_what_is_really_made(cache):
    class Shown:
        def __init__(self):
            self.labels = []

        @contextmanager
        def task(self, label):
            self.labels.append(label)
            yield self

        def update(self, done, total=None, note=""):
            pass

    shown = Shown()
    cache.entry("things", RECIPE, make_greeting, label="greet", progress=shown)
    cache.entry("things", RECIPE, refuse, label="greet", progress=shown)
    cache.entry("things", {"other": 1}, make_greeting, progress=shown)
    assert shown.labels == ["greet", f"things {cache_key({'other': 1})[:12]}"]
