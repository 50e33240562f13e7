import subprocess

import pytest

from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import GitSource
from buildvm_nb.source import list_commits


@pytest.fixture
def repository(tmp_path):
    place = tmp_path / "repository"
    place.mkdir()

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, "-C", place, *words], check=True, capture_output=True)

    git("init", "-b", "main")
    for number in range(3):
        git("commit", "--allow-empty", "-m", f"commit {number}")
        git("tag", f"v{number}")
    git("checkout", "-b", "side", "v0")
    git("commit", "--allow-empty", "-m", "aside: ünusual\x01 subject")
    git("checkout", "main")
    git("merge", "--no-ff", "-m", "merge", "side")
    git("tag", "v3")
    return place


@pytest.fixture
def listed(repository, tmp_path):
    source = GitSource(url=str(repository), commit="main")

    def subjects(older, newer):
        commits = list_commits(source, older, newer, cache=Cache(tmp_path / "cache"))
        assert all(len(commit.id) == 40 and commit.committed_at for commit in commits)
        return [commit.subject for commit in commits]

    return subjects


def test_both_ends_are_listed_and_a_merge_counts_as_one(listed):
    assert listed("v0", "v3") == ["commit 0", "commit 1", "commit 2", "merge"]


def test_one_commit_is_its_own_history(listed):
    assert listed("v1", "v1") == ["commit 1"]


def test_the_wrong_order_and_unknown_names_are_told(listed):
    with pytest.raises(SourceError, match="v2 is no ancestor of v0"):
        listed("v2", "v0")
    with pytest.raises(SourceError, match="v9"):
        listed("v0", "v9")
