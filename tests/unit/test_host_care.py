"""Room made in a cache: what goes, in which order, and what stays because somebody uses it."""

import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest

from buildvm_nb.cli import main
from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.cache import Cache, cache_key
from buildvm_nb.host.care import prune, survey
from buildvm_nb.model.instants import now

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
def cache(tmp_path):
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
def other(cache):
    """Start other processes that say when they are half-way; they end when told to."""
    started = []

    def start(script, name):
        argv = [sys.executable, "-c", OTHER + script, str(cache.root), name]
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
def buildvm(cache, capsys):
    def call(*words):
        status = main(["--cache", str(cache.root), "cache", *words])
        return status, *capsys.readouterr()

    return call


def names(cache):
    return {
        cache.record(place)["recipe"]["name"]
        for kind in ("kernels", "sources")
        for _, place in cache.entries(kind)
    }


def test_a_survey_lists_everything_the_longest_unused_first(cache):
    found = survey(cache)
    assert [each.kind for each in found] == ["sources", "kernels", "sources"]
    assert [(now() - each.used_at).days for each in found] == [20, 10, 0]
    assert all(MIB < each.size_bytes < 1.1 * MIB for each in found)
    assert not any(each.is_partial for each in found)
    assert [each.kind for each in survey(cache, ["kernels"])] == ["kernels"]
    with pytest.raises(UsageError, match="the cache has no kernel; it has kernels, sources"):
        survey(cache, ["kernel"])


def test_a_file_with_several_names_is_counted_once_and_links_are_not_followed(cache):
    def make(work):
        (work / "one").write_bytes(bytes(MIB))
        (work / "two").hardlink_to(work / "one")
        (work / "away").symlink_to("/")

    cache.entry("linked", {}, make)
    (kept,) = survey(cache, ["linked"])
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
def test_the_longest_unused_goes_first_and_only_as_much_as_must(cache, limits, left):
    told = prune(cache, dry_run=True, **limits)
    assert names(cache) == {"new", "middle", "old"}
    assert prune(cache, **limits) == told
    assert names(cache) == left
    assert told.in_use == ()
    remaining = survey(cache, limits.get("kinds", ()))
    assert told.left_bytes == sum(each.size_bytes for each in remaining)


def test_to_use_an_entry_makes_it_the_last_to_go(cache, other):
    other(USER, "old").communicate("done\n")
    prune(cache, most_bytes=2 * MIB)
    assert names(cache) == {"old"}


def test_what_another_process_uses_stays_until_it_ends(cache, other):
    user = other(USER, "old")
    pruned = prune(cache, most_bytes=0)
    assert [each.kind for each in pruned.in_use] == ["sources"]
    assert names(cache) == {"old"}
    assert prune(cache, most_bytes=0, dry_run=True).removed == ()
    user.kill()
    user.wait()
    assert prune(cache, most_bytes=0).in_use == ()
    assert names(cache) == set()


def test_what_this_process_uses_stays(cache):
    cache.entry("sources", {"name": "old"}, None)
    assert prune(cache, most_bytes=0).in_use
    assert names(cache) == {"old"}


def test_what_is_being_made_stays_and_what_a_killed_maker_left_goes(cache, other):
    maker = other(MAKER, "being made")
    (partial,) = (each for each in survey(cache) if each.is_partial)
    assert partial.key == cache_key({"name": "being made"})
    assert prune(cache).in_use == (partial,)
    maker.kill()
    maker.wait()
    assert prune(cache, kinds=["kernels"]).removed == ()
    (gone,) = prune(cache).removed
    assert gone.key == partial.key
    assert names(cache) == {"new", "middle", "old"}
    assert not [each for each in survey(cache) if each.is_partial]


def test_rubble_beside_a_whole_entry_goes_alone(cache):
    key = cache_key({"name": "old"})
    rubble = cache.root / "sources" / f".{key}.partial"
    (rubble / "deep").mkdir(parents=True)
    assert [each.is_partial for each in prune(cache).removed] == [True]
    assert names(cache) == {"new", "middle", "old"}
    (rubble / "deep").mkdir(parents=True)
    assert cache.remove("sources", key)
    assert not rubble.exists()


def test_a_source_whose_directories_are_closed_to_their_owner_is_removed(cache, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o500)

    def make(work):
        (work / "tree/inner").mkdir(parents=True)
        (work / "tree/inner/file").write_text("x")
        (work / "tree/link").symlink_to(kept)
        (work / "tree/inner").chmod(0)
        (work / "tree").chmod(0o500)

    place = cache.entry("sources", {"name": "closed"}, make)
    assert cache.remove("sources", place.name)
    assert kept.stat().st_mode & 0o777 == 0o500


def test_a_mirror_that_is_no_entry_is_pruned_like_one(cache):
    key = "0" * 64
    with cache.lock("git-mirrors", key):
        cache.path("git-mirrors", key).mkdir()
        assert prune(cache, kinds=["git-mirrors"], most_bytes=0).in_use
    assert prune(cache, kinds=["git-mirrors"], most_bytes=0).removed
    assert not cache.path("git-mirrors", key).exists()


def test_a_cache_that_cannot_be_written_is_told(cache):
    (old, *_) = survey(cache)
    lock = cache.root / old.kind / ".locks" / f"{old.key}.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with pytest.raises(HostError, match="cannot write to the cache: Is a directory"):
        prune(cache, most_bytes=0)


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


def test_the_shell_says_what_it_freed(buildvm, cache):
    status, out, _ = buildvm("prune", "--older-than", "2w", "--dry-run")
    assert (status, out.splitlines()[-1]) == (0, "would free 1 MiB; 2 MiB are left")
    assert names(cache) == {"new", "middle", "old"}
    told = json.loads(buildvm("prune", "--older-than", "2w", "--json")[1])
    assert [each["kind"] for each in told["removed"]] == ["sources"]
    assert told["freed_bytes"] >= MIB
    assert names(cache) == {"new", "middle"}
    assert buildvm("prune")[1] == "freed 0 MiB; 2 MiB are left\n"
    cache.entry("sources", {"name": "new"}, None)
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
def test_a_wrong_request_is_told_and_removes_nothing(buildvm, cache, words, said):
    status, _, err = buildvm("prune", *words)
    assert status == 2
    assert said in err
    assert names(cache) == {"new", "middle", "old"}
