"""None"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta

import pytest

from buildvm_nb.cli import main
from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.cache import Cache, cache_key, file_digest, free_bytes, prune, survey
from buildvm_nb.model.instants import now

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


# Room made in a cache: what goes, in which order, and what stays because somebody uses it.

MIB = 2**20
OTHER = "import sys; from pathlib import Path; from buildvm_nb.host.cache import Cache\n"
USER = """
place = Cache(Path(sys.argv[1])).entry("sources", {"name": sys.argv[2]}, None)
print(place, flush=True)
sys.stdin.readline()
"""
MAKER = """
def make(work):
    (work / "half").write_bytes(b"x" * 2**20)
    print("half", flush=True)
    sys.stdin.readline()
Cache(Path(sys.argv[1])).entry("sources", {"name": sys.argv[2]}, make)
"""
SHELF = """
cache = Cache(Path(sys.argv[1]))
for name in ("new", "middle", "old"):
    def make(work):
        (work / "data").write_bytes(b"x" * 2**20)
    kind = "kernels" if name == "middle" else "sources"
    cache.entry(kind, {"name": name}, make)
"""


@pytest.fixture
def care_cache(tmp_path):
    """Three entries of 1 MiB, made by a process that has ended and used 0, 10 and 20 days ago."""
    root = tmp_path / "cache"
    subprocess.run([sys.executable, "-c", OTHER + SHELF, root], check=True)
    for age, name in enumerate(["new", "middle", "old"]):
        place = root / ("kernels" if name == "middle" else "sources") / cache_key({"name": name})
        used_at = (now() - timedelta(days=10 * age)).timestamp()
        for path in (place, place / "entry.json"):
            os.utime(path, (used_at, used_at))
    return Cache(root)


@pytest.fixture
def other(care_cache):
    """Start other processes that say when they are half-way; they end when told to."""
    started = []

    def start(script, name):
        argv = [sys.executable, "-c", OTHER + script, str(care_cache.root), name]
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def buildvm(care_cache, capsys):
    def call(*words):
        status = main(["--cache", str(care_cache.root), "cache", *words])
        return status, *capsys.readouterr()

    return call


def names(cache):
    return {
        cache.record(place)["recipe"]["name"]
        for kind in ("kernels", "sources")
        for _, place in cache.entries(kind)
    }


def test_a_survey_lists_everything_the_longest_unused_first(care_cache):
    found = survey(care_cache)
    assert [each.kind for each in found] == ["sources", "kernels", "sources"]
    assert [(now() - each.used_at).days for each in found] == [20, 10, 0]
    assert all(MIB < each.size_bytes < 1.1 * MIB for each in found)
    assert not any(each.is_partial for each in found)
    assert [each.kind for each in survey(care_cache, ["kernels"])] == ["kernels"]
    with pytest.raises(UsageError, match="the cache has no kernel; it has kernels, sources"):
        survey(care_cache, ["kernel"])


def test_a_file_with_several_names_is_counted_once_and_links_are_not_followed(care_cache):
    def make(work):
        (work / "one").write_bytes(bytes(MIB))
        (work / "two").hardlink_to(work / "one")
        (work / "away").symlink_to("/")

    care_cache.entry("linked", {}, make)
    (kept,) = survey(care_cache, ["linked"])
    assert kept.size_bytes < 1.1 * MIB


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, {"new", "middle", "old"}),
        ({"unused_for": timedelta(days=30)}, {"new", "middle", "old"}),
        ({"unused_for": timedelta(days=15)}, {"new", "middle"}),
        ({"unused_for": timedelta()}, set()),
        ({"most_bytes": 3 * MIB}, {"new", "middle"}),
        ({"most_bytes": 2 * MIB}, {"new"}),
        ({"most_bytes": 0}, set()),
        ({"most_bytes": 0, "kinds": ["sources"]}, {"middle"}),
        ({"most_bytes": 3 * MIB, "kinds": ["sources"]}, {"new", "middle", "old"}),
        ({"most_bytes": 9 * MIB, "unused_for": timedelta(days=5)}, {"new"}),
    ],
)
def test_the_longest_unused_goes_first_and_only_as_much_as_must(care_cache, limits, left):
    told = prune(care_cache, dry_run=True, **limits)
    assert names(care_cache) == {"new", "middle", "old"}
    assert prune(care_cache, **limits) == told
    assert names(care_cache) == left
    assert told.in_use == ()
    remaining = survey(care_cache, limits.get("kinds", ()))
    assert told.left_bytes == sum(each.size_bytes for each in remaining)


def test_to_use_an_entry_makes_it_the_last_to_go(care_cache, other):
    other(USER, "old").communicate("done\n")
    prune(care_cache, most_bytes=2 * MIB)
    assert names(care_cache) == {"old"}


def test_what_another_process_uses_stays_until_it_ends(care_cache, other):
    user = other(USER, "old")
    pruned = prune(care_cache, most_bytes=0)
    assert [each.kind for each in pruned.in_use] == ["sources"]
    assert names(care_cache) == {"old"}
    assert prune(care_cache, most_bytes=0, dry_run=True).removed == ()
    user.kill()
    user.wait()
    assert prune(care_cache, most_bytes=0).in_use == ()
    assert names(care_cache) == set()


def test_what_this_process_uses_stays(care_cache):
    care_cache.entry("sources", {"name": "old"}, None)
    assert prune(care_cache, most_bytes=0).in_use
    assert names(care_cache) == {"old"}


def test_what_is_being_made_stays_and_what_a_killed_maker_left_goes(care_cache, other):
    maker = other(MAKER, "being made")
    (partial,) = (each for each in survey(care_cache) if each.is_partial)
    assert partial.key == cache_key({"name": "being made"})
    assert prune(care_cache).in_use == (partial,)
    maker.kill()
    maker.wait()
    assert prune(care_cache, kinds=["kernels"]).removed == ()
    (gone,) = prune(care_cache).removed
    assert gone.key == partial.key
    assert names(care_cache) == {"new", "middle", "old"}
    assert not [each for each in survey(care_cache) if each.is_partial]


def test_rubble_beside_a_whole_entry_goes_alone(care_cache):
    key = cache_key({"name": "old"})
    rubble = care_cache.root / "sources" / f".{key}.partial"
    (rubble / "deep").mkdir(parents=True)
    assert [each.is_partial for each in prune(care_cache).removed] == [True]
    assert names(care_cache) == {"new", "middle", "old"}
    (rubble / "deep").mkdir(parents=True)
    assert care_cache.remove("sources", key)
    assert not rubble.exists()


def test_a_source_whose_directories_are_closed_to_their_owner_is_removed(care_cache, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o500)

    def make(work):
        (work / "tree/inner").mkdir(parents=True)
        (work / "tree/inner/file").write_text("x")
        (work / "tree/link").symlink_to(kept)
        (work / "tree/inner").chmod(0)
        (work / "tree").chmod(0o500)

    place = care_cache.entry("sources", {"name": "closed"}, make)
    assert care_cache.remove("sources", place.name)
    assert kept.stat().st_mode & 0o777 == 0o500


def test_a_mirror_that_is_no_entry_is_pruned_like_one(care_cache):
    key = "0" * 64
    with care_cache.lock("git-mirrors", key):
        care_cache.path("git-mirrors", key).mkdir()
        assert prune(care_cache, kinds=["git-mirrors"], most_bytes=0).in_use
    assert prune(care_cache, kinds=["git-mirrors"], most_bytes=0).removed
    assert not care_cache.path("git-mirrors", key).exists()


def test_a_cache_that_cannot_be_written_is_told(care_cache):
    (old, *_) = survey(care_cache)
    lock = care_cache.root / old.kind / ".locks" / f"{old.key}.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with pytest.raises(HostError, match="cannot write to the cache: Is a directory"):
        prune(care_cache, most_bytes=0)


def test_the_shell_shows_the_cache_by_kind(buildvm):
    status, out, _ = buildvm("show")
    assert status == 0
    words = [line.split() for line in out.splitlines()]
    assert [line[:3] for line in words] == [
        ["kind", "entries", "MiB"],
        ["kernels", "1", "1"],
        ["sources", "2", "2"],
        ["all", "3", "3"],
    ]
    shown = json.loads(buildvm("show", "--json")[1])
    assert [kind["entries"] for kind in shown["kinds"]] == [1, 2]
    assert shown["kinds"][0]["oldest_use"].startswith(words[1][3])


def test_the_shell_says_what_it_freed(buildvm, care_cache):
    status, out, _ = buildvm("prune", "--older-than", "2w", "--dry-run")
    assert (status, out.splitlines()[-1]) == (0, "would free 1 MiB; 2 MiB are left")
    assert names(care_cache) == {"new", "middle", "old"}
    told = json.loads(buildvm("prune", "--older-than", "2w", "--json")[1])
    assert [each["kind"] for each in told["removed"]] == ["sources"]
    assert told["freed_bytes"] >= MIB
    assert names(care_cache) == {"new", "middle"}
    assert buildvm("prune")[1] == "freed 0 MiB; 2 MiB are left\n"
    care_cache.entry("sources", {"name": "new"}, None)
    status, out, err = buildvm("prune", "--max-size", "0K")
    assert out.splitlines()[-1] == "freed 1 MiB; 1 MiB are left"
    assert "1 stay because they are in use now: sources" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--older-than", "30"), "--older-than: not an age: '30'; allowed: 12h, 30d, 8w"),
        (("--older-than", "-1d"), "--older-than: not an age"),
        (("--max-size", "10"), "--max-size: not a size: '10'; allowed: 500M, 10G, 0.5T"),
        (("--kind", "nothing"), "the cache has no nothing; it has kernels, sources"),
    ],
    ids=str,
)
def test_a_wrong_request_is_told_and_removes_nothing(buildvm, care_cache, words, said):
    status, _, err = buildvm("prune", *words)
    assert status == 2
    assert said in err
    assert names(care_cache) == {"new", "middle", "old"}
