"""None"""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from functools import partial
from http.server import (
    BaseHTTPRequestHandler,
    HTTPServer,
    SimpleHTTPRequestHandler,
    ThreadingHTTPServer,
)
from pathlib import Path

import pytest

from buildvm_nb.errors import HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import GitSource
from buildvm_nb.source import fetch, list_commits, tree_digest
from buildvm_nb.source.git_repository import repository_name


class Repo:
    """A real repository, made with git itself."""

    def __init__(self, path):
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments, date=1_600_000_000):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "C",
            "GIT_COMMITTER_EMAIL": "c@example.org",
            "GIT_AUTHOR_DATE": f"@{date} +0000",
            "GIT_COMMITTER_DATE": f"@{date} +0000",
        }
        command = ["git", "-c", "protocol.file.allow=always", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.path, env=env, check=True, capture_output=True)
        return done.stdout.decode().strip()

    def commit(self, files, date=1_600_000_000):
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x", date=date)
        return self.git("rev-parse", "HEAD")


def at(moment):
    return datetime.fromtimestamp(moment, UTC)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def repo(tmp_path):
    return Repo(tmp_path / "project")


@pytest.fixture
def serve():
    """Serve directories over http, as git's dumb protocol wants it."""
    servers = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(directory):
        for repo in directory.glob("*/HEAD"):
            subprocess.run(["git", "--git-dir", repo.parent, "update-server-info"], check=True)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=directory))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def published(repo, to):
    """Make a bare repository of one, to be served."""
    subprocess.run(["git", "clone", "-q", "--mirror", repo.path, to], check=True)
    subprocess.run(["git", "--git-dir", to, "update-server-info"], check=True)


def fetch_git(cache, url, **wanted):
    return fetch(GitSource(url=str(url), **wanted), cache)


def test_a_commit_is_written_exactly_as_recorded(cache, repo):
    odd = os.fsdecode(b"odd \xff\n name")
    (repo.path / "link").symlink_to("/nowhere/at all")
    files = {
        "crlf.bat": b"a\r\nb\r\n",
        "lf.bat": b"a\nb\n",
        ".gitattributes": b"*.bat text eol=crlf\nhidden export-ignore\nsubst export-subst\n"
        b"*.big filter=lfs\n*.id ident\n",
        "hidden": b"1",
        "subst": b"$Format:%H$",
        "x.id": b"$Id$",
        "data.big": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        odd: b"odd",
        "empty": b"",
        "large": os.urandom(3 * 2**20),
    }
    for name in ("crlf.bat",):  # recorded as it is
        (repo.path / name).write_bytes(files[name])
    repo.git("config", "core.autocrlf", "false")
    (repo.path / ".git/info/attributes").write_text("* -text -filter -ident\n")
    commit = repo.commit(files)
    (repo.path / "run").write_text("#!/bin/sh\n")
    (repo.path / "run").chmod(0o755)
    commit = repo.commit({}, date=1_500_000_000)
    fetched = fetch_git(cache, repo.path, commit=commit)
    top = fetched.tree / "project"
    assert fetched.top == "project"
    assert {path.name: path.read_bytes() for path in top.iterdir() if path.name in files} == files
    assert (top / "link").readlink() == Path("/nowhere/at all")
    assert (top / "run").stat().st_mode & 0o777 == 0o755
    assert (top / "empty").stat().st_mode & 0o777 == 0o644
    assert {path.lstat().st_mtime for path in (top, *top.iterdir())} == {1_500_000_000}
    record = fetched.record
    assert (record.kind, record.name, record.version) == ("git", "project", commit)
    assert record.dated_at == at(1_500_000_000)
    assert record.origin == str(repo.path)
    assert record.digest == tree_digest(fetched.tree)


def test_commits_are_found_by_full_and_short_id_tag_and_branch(cache, repo):
    first = repo.commit({"f": b"1"})
    repo.git("tag", "light")
    repo.git("tag", "-a", "-m", "t", "v1.0")
    annotated = repo.git("rev-parse", "v1.0")
    second = repo.commit({"f": b"2"})
    repo.git("branch", "feature/x")
    for name in (first, first[:8], "light", "v1.0", annotated, "main~1"):
        assert fetch_git(cache, repo.path, commit=name).record.version == first
    for name in (second, "main", "feature/x", "HEAD"):
        assert fetch_git(cache, repo.path, commit=name).record.version == second


def test_a_tag_comes_before_a_branch_of_the_same_name(cache, repo):
    first = repo.commit({"f": b"1"})
    repo.git("tag", "same")
    repo.commit({"f": b"2"})
    repo.git("branch", "same")
    assert fetch_git(cache, repo.path, commit="same").record.version == first


def test_a_dirty_work_tree_is_not_used_and_nothing_in_the_repository_changes(cache, repo):
    commit = repo.commit({"f": b"clean"})
    (repo.path / "f").write_text("dirty")
    (repo.path / "untracked").write_text("x")
    os.utime(repo.path / "f", (1, 1))
    before = (
        tree_digest(repo.path),
        sorted((path, path.lstat().st_mtime_ns) for path in repo.path.rglob("*")),
    )
    fetched = fetch_git(cache, repo.path, commit=commit)
    assert [path.name for path in (fetched.tree / "project").iterdir()] == ["f"]
    assert (fetched.tree / "project/f").read_text() == "clean"
    after = (
        tree_digest(repo.path),
        sorted((path, path.lstat().st_mtime_ns) for path in repo.path.rglob("*")),
    )
    assert after == before


def test_the_repository_cannot_run_anything_on_this_host(cache, repo, tmp_path):
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    commit = repo.commit({".gitattributes": b"* filter=evil diff=evil\n", "f": b"1"})
    for key in ("filter.evil.smudge", "filter.evil.process", "core.fsmonitor", "diff.evil.textconv",
                "core.sshCommand", "core.pager", "gpg.program", "uploadpack.packObjectsHook",
                "core.alternateRefsCommand", "credential.helper"):  # fmt: skip
        repo.git("config", key, trap)
    repo.git("config", "log.showSignature", "true")
    hooks = repo.path / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        (hooks / hook).write_text(trap.read_text())
        (hooks / hook).chmod(0o755)
    assert fetch_git(cache, repo.path, commit=commit).record.version == commit
    assert fetch_git(cache, repo.path, before=at(1_700_000_000)).record.version == commit
    assert not (tmp_path / "sprung").exists()


def test_a_bare_repository_and_a_file_url_will_do(cache, repo, tmp_path):
    commit = repo.commit({"f": b"1"})
    published(repo, tmp_path / "bare.git")
    for url in (tmp_path / "bare.git", f"file://{tmp_path}/bare.git"):
        fetched = fetch_git(cache, url, commit="main")
        assert (fetched.top, fetched.record.version) == ("bare", commit)


def test_a_path_is_relative_to_the_base(cache, repo):
    commit = repo.commit({"f": b"1"})
    source = GitSource(url="./project", commit=commit)
    assert fetch(source, cache, base=repo.path.parent).top == "project"


def test_a_linked_work_tree_will_do(cache, repo, tmp_path):
    commit = repo.commit({"f": b"1"})
    repo.git("worktree", "add", "-q", tmp_path / "linked", "-b", "other")
    assert fetch_git(cache, tmp_path / "linked", commit="HEAD").record.version == commit


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository away")
def test_a_repository_of_another_user_is_read(cache, repo):
    commit = repo.commit({"f": b"1"})
    for path in (repo.path, *repo.path.rglob("*")):
        os.chown(path, 12345, 12345)
    assert fetch_git(cache, repo.path, commit=commit).record.version == commit


def test_before_takes_the_newest_strictly_before_the_instant(cache, repo):
    first = repo.commit({"f": b"1"}, date=1000_000)
    second = repo.commit({"f": b"2"}, date=2000_000)
    chosen = {
        instant: fetch_git(cache, repo.path, before=at(instant)).record.version
        for instant in (1000_001, 2000_000, 2000_001)
    }
    assert chosen == {1000_001: first, 2000_000: first, 2000_001: second}


def test_before_sees_through_commits_with_wrong_clocks(cache, repo):
    repo.commit({"f": b"1"}, date=1_000_000)
    wanted = repo.commit({"f": b"2"}, date=3_000_000)
    repo.commit({"f": b"3"}, date=90_000)
    repo.commit({"f": b"4"}, date=9_000_000)
    assert fetch_git(cache, repo.path, before=at(4_000_000)).record.version == wanted


def test_before_follows_the_branch_and_not_what_was_merged_later(cache, repo):
    base = repo.commit({"f": b"1"}, date=1_000_000)
    repo.git("checkout", "-q", "-b", "side")
    side = repo.commit({"g": b"1"}, date=2_000_000)
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-ff", "-m", "m", "side", date=3_000_000)
    assert fetch_git(cache, repo.path, before=at(2_500_000)).record.version == base
    on_side = fetch_git(cache, repo.path, before=at(2_500_000), branch="side")
    assert on_side.record.version == side


def test_none_before_the_date_tells_the_oldest(cache, repo):
    repo.commit({"f": b"1"}, date=1_600_000_000)
    with pytest.raises(SourceError, match="oldest on HEAD is of 2020-09-13T12:26:40Z") as caught:
        fetch_git(cache, repo.path, before=at(1_000_000_000))
    assert caught.value.sought == (str(repo.path),)


@pytest.mark.parametrize("commit", ["0123456", "f" * 40, "no-such-tag", "main:f", "HEAD^{tree}"])
def test_a_commit_that_is_not_there_is_unavailable(cache, repo, commit):
    repo.commit({"f": b"1"})
    with pytest.raises(SourceError, match="no commit") as caught:
        fetch_git(cache, repo.path, commit=commit)
    assert caught.value.sought == (str(repo.path),)


def test_a_repository_without_commits_is_unavailable(cache, repo):
    with pytest.raises(SourceError, match="no commits"):
        fetch_git(cache, repo.path, before=at(2_000_000_000))
    with pytest.raises(SourceError, match="no commit main"):
        fetch_git(cache, repo.path, commit="main")


def test_a_branch_that_is_not_there_is_named(cache, repo):
    repo.commit({"f": b"1"})
    with pytest.raises(SourceError, match="no branch gone"):
        fetch_git(cache, repo.path, before=at(2_000_000_000), branch="gone")


def test_what_is_no_repository_is_unavailable(cache, repo, tmp_path):
    repo.commit({"inside/f": b"1"})
    with pytest.raises(SourceError, match="no such directory"):
        fetch_git(cache, tmp_path / "gone", commit="main")
    with pytest.raises(SourceError, match="not a git repository"):
        fetch_git(cache, repo.path / "inside", commit="main")


def test_a_shallow_clone_says_what_it_lacks(cache, repo, tmp_path):
    first = repo.commit({"f": b"1"}, date=1_000_000)
    repo.commit({"f": b"2"}, date=2_000_000)
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{repo.path}", shallow], check=True)
    with pytest.raises(SourceError, match="shallow clone"):
        fetch_git(cache, shallow, commit=first)
    with pytest.raises(SourceError, match="shallow clone"):
        fetch_git(cache, shallow, before=at(1_500_000))
    assert fetch_git(cache, shallow, commit="HEAD").top == "shallow"


def test_a_partial_clone_is_not_completed_behind_the_users_back(cache, repo, tmp_path):
    commit = repo.commit({"f": b"1"})
    repo.git("config", "uploadpack.allowFilter", "true")
    partial_clone = tmp_path / "partial"
    subprocess.run(
        ["git", "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{repo.path}",
         partial_clone], check=True,
    )  # fmt: skip
    before = tree_digest(partial_clone)
    with pytest.raises(SourceError, match="lacks object"):
        fetch_git(cache, partial_clone, commit=commit)
    assert tree_digest(partial_clone) == before


def with_submodule(tmp_path, url=None):
    inner = Repo(tmp_path / "inner")
    inner.commit({"deep": b"inner"})
    middle = Repo(tmp_path / "middle")
    middle.git("submodule", "add", "-q", url or "../inner", "lib/inner")
    middle.commit({"m": b"middle"})
    outer = Repo(tmp_path / "outer")
    outer.git("submodule", "add", "-q", "../middle", "sub")
    return inner, middle, outer, outer.commit({"o": b"outer"}, date=1_700_000_000)


def test_submodules_are_written_recursively_at_their_recorded_commits(cache, tmp_path):
    inner, middle, outer, commit = with_submodule(tmp_path)
    inner.commit({"deep": b"later"})
    middle.commit({"m": b"later"})
    fetched = fetch_git(cache, outer.path, commit=commit)
    top = fetched.tree / "outer"
    assert (top / "sub/m").read_text() == "middle"
    assert (top / "sub/lib/inner/deep").read_text() == "inner"
    assert (top / "sub/lib/inner/deep").stat().st_mtime == 1_700_000_000
    assert not list(top.rglob(".git"))


def test_submodules_can_be_left_out(cache, tmp_path):
    *_, outer, commit = with_submodule(tmp_path)
    fetched = fetch_git(cache, outer.path, commit=commit, submodules=False)
    assert list((fetched.tree / "outer/sub").iterdir()) == []


def test_a_submodule_that_is_not_there_is_named(cache, tmp_path):
    inner, _, outer, commit = with_submodule(tmp_path)
    inner.path.rename(tmp_path / "gone")
    with pytest.raises(SourceError, match="submodule sub/lib/inner at commit") as caught:
        fetch_git(cache, outer.path, commit=commit)
    assert caught.value.sought == (str(tmp_path / "inner"),)
    assert fetch_git(cache, outer.path, commit=commit, submodules=False).top == "outer"


def test_a_submodule_comes_from_the_superprojects_own_clone_of_it(cache, tmp_path):
    inner = Repo(tmp_path / "inner")
    inner.commit({"deep": b"inner"})
    outer = Repo(tmp_path / "outer")
    outer.git("submodule", "add", "-q", "../inner", "sub")
    commit = outer.commit({})
    inner.path.rename(tmp_path / "gone")
    assert (fetch_git(cache, outer.path, commit=commit).tree / "outer/sub/deep").exists()


def test_a_submodule_without_url_is_named(cache, tmp_path):
    *_, outer, _ = with_submodule(tmp_path)
    (outer.path / ".gitmodules").unlink()
    commit = outer.commit({})
    with pytest.raises(SourceError, match=r"submodule sub .* has no URL in \.gitmodules"):
        fetch_git(cache, outer.path, commit=commit)


def test_a_repository_by_url_is_mirrored_once_and_updated_when_needed(cache, repo, tmp_path, serve):
    first = repo.commit({"f": b"1"}, date=1_000_000)
    repo.git("tag", "v1")
    published(repo, tmp_path / "www/project.git")
    url = serve(tmp_path / "www") + "/project.git"
    assert fetch_git(cache, url, commit=first).record.version == first
    assert fetch_git(cache, url, commit="v1").record.origin == url
    assert fetch_git(cache, url, before=at(1_500_000)).record.version == first
    second = repo.commit({"f": b"2"}, date=2_000_000)
    subprocess.run(
        ["git", "--git-dir", tmp_path / "www/project.git", "fetch", "-q", repo.path, "main:main"],
        check=True,
    )
    subprocess.run(
        ["git", "--git-dir", tmp_path / "www/project.git", "update-server-info"], check=True
    )
    assert fetch_git(cache, url, commit="main").record.version == second
    assert fetch_git(cache, url, commit=second).top == "project"
    (tmp_path / "www/project.git").rename(tmp_path / "www/gone.git")
    assert fetch_git(cache, url, commit="v1").record.version == first
    assert fetch_git(cache, url, commit=second[:9]).record.version == second
    with pytest.raises(SourceError, match="cannot be fetched") as caught:
        fetch_git(cache, url, commit="main")
    assert caught.value.sought == (url,)


def test_the_default_branch_of_a_url_is_the_servers(cache, repo, tmp_path, serve):
    repo.commit({"f": b"1"})
    repo.git("checkout", "-q", "-b", "trunk")
    wanted = repo.commit({"f": b"2"})
    published(repo, tmp_path / "www/project.git")
    url = serve(tmp_path / "www") + "/project.git"
    assert fetch_git(cache, url, before=at(1_700_000_000)).record.version == wanted


def test_a_damaged_mirror_is_made_anew(cache, repo, tmp_path, serve):
    commit = repo.commit({"f": b"1", "g": b"2"})
    published(repo, tmp_path / "www/project.git")
    url = serve(tmp_path / "www") + "/project.git"
    fetch_git(cache, url, commit="main")
    for key, _ in list(cache.entries("sources")):
        cache.remove("sources", key)
    blob = repo.git("rev-parse", "main:g")
    mirror = next(
        path for path in (cache.root / "git-mirrors").iterdir() if (path / "HEAD").exists()
    )
    for path in mirror.glob(f"objects/{blob[:2]}/{blob[2:]}"):
        path.unlink()
    for path in mirror.glob("objects/pack/*"):
        path.chmod(0o644)
        path.write_bytes(b"")
    assert (fetch_git(cache, url, commit=commit).tree / "project/g").read_text() == "2"


def test_a_repository_that_its_server_does_not_have_is_unavailable(cache, tmp_path, serve):
    (tmp_path / "www").mkdir()
    with pytest.raises(SourceError, match="cannot be fetched") as caught:
        fetch_git(cache, serve(tmp_path / "www") + "/nothing.git", commit="main")
    assert "gone" in caught.value.hint


@pytest.mark.parametrize("commit", ["0" * 40, "v9"])
def test_a_commit_that_the_server_does_not_have_is_unavailable(
    cache, repo, tmp_path, serve, commit
):
    repo.commit({"f": b"1"})
    published(repo, tmp_path / "www/project.git")
    with pytest.raises(SourceError, match=f"no commit {commit}"):
        fetch_git(cache, serve(tmp_path / "www") + "/project.git", commit=commit)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_git_server_in_trouble_says_nothing_about_the_commit(cache, status):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/x.git"
        # forges ask for a name where they do not tell whether there is such a repository
        kind = SourceError if status == 401 else Unreachable
        with pytest.raises(kind, match="cannot be fetched"):
            fetch_git(cache, url, commit="0" * 40)
        server.shutdown()
        thread.join()


def test_locks_that_a_killed_git_left_in_a_mirror_are_cleared(cache, repo, tmp_path, serve):
    repo.commit({"f": b"1"})
    published(repo, tmp_path / "www/project.git")
    url = serve(tmp_path / "www") + "/project.git"
    first = fetch_git(cache, url, commit="main").record.version
    second = repo.commit({"f": b"2"})
    copy = ["git", "--git-dir", tmp_path / "www/project.git"]
    subprocess.run([*copy, "fetch", "-q", repo.path, "main:main"], check=True)
    subprocess.run([*copy, "update-server-info"], check=True)
    [mirror] = [path.parent for path in (cache.root / "git-mirrors").glob("*/HEAD")]
    for name in ("HEAD.lock", "packed-refs.lock", "config.lock", "refs/heads/main.lock"):
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).touch()
    assert fetch_git(cache, url, commit="main").record.version == second != first


def test_submodules_of_a_url_are_found_beside_it_but_never_on_this_host(cache, tmp_path, serve):
    with_submodule(tmp_path)
    (tmp_path / "www").mkdir()
    base = serve(tmp_path / "www")
    published(existing(tmp_path / "inner"), tmp_path / "www/inner.git")
    relative = Repo(tmp_path / "relative")
    relative.git("submodule", "add", "-q", f"{tmp_path}/inner", "sub")
    (relative.path / ".gitmodules").write_text(
        '[submodule "sub"]\npath = sub\nurl = ../inner.git\n'
    )
    relative.commit({})
    published(relative, tmp_path / "www/relative.git")
    fetched = fetch_git(cache, f"{base}/relative.git", commit="main")
    assert (fetched.tree / "relative/sub/deep").read_text() == "inner"
    hostile = Repo(tmp_path / "hostile")
    hostile.git("submodule", "add", "-q", f"{tmp_path}/inner", "sub")
    hostile.commit({})
    published(hostile, tmp_path / "www/hostile.git")
    with pytest.raises(SourceError, match=r"submodule sub .* may not name a path of this host"):
        fetch_git(cache, f"{base}/hostile.git", commit="main")


def existing(path):
    repo = Repo.__new__(Repo)
    repo.path = path
    return repo


@pytest.mark.parametrize(
    "url", ["ext::sh -c true".replace(" ", "%20"), "fd::17", "ftp://h/x", "svn://h/x"]
)
def test_other_transports_are_refused(cache, url):
    with pytest.raises(UsageError, match="unknown kind of repository URL"):
        fetch_git(cache, url, commit="main")


def test_a_server_that_does_not_answer_says_nothing_and_secrets_stay_secret(cache):
    with pytest.raises(Unreachable, match=r"cannot be fetched: http://127\.0\.0\.1:9/x") as caught:
        fetch_git(cache, "http://user:secret@127.0.0.1:9/x.git", commit="main")
    assert "secret" not in str(caught.value)


def test_an_unsafe_name_in_a_tree_is_refused(cache, repo, tmp_path):
    blob = repo.commit({"f": b"1"}) and repo.git("rev-parse", "HEAD:f")
    entry = b"100644 ../evil\0" + bytes.fromhex(blob)
    (tmp_path / "raw").write_bytes(entry)
    tree = repo.git("hash-object", "-t", "tree", "-w", "--literally", tmp_path / "raw")
    commit = repo.git("commit-tree", "-m", "x", tree)
    with pytest.raises(SourceError, match="unsafe name in the tree"):
        fetch_git(cache, repo.path, commit=commit)
    assert not (tmp_path / "evil").exists()


def test_a_missing_git_is_the_hosts_trouble(cache, repo, monkeypatch):
    commit = repo.commit({"f": b"1"})
    monkeypatch.setattr("buildvm_nb.host.process.shutil.which", lambda *_, **__: None)
    with pytest.raises(HostError, match="program not found on this host: git"):
        fetch_git(cache, repo.path, commit=commit)


def test_the_users_environment_and_settings_have_no_influence(cache, repo, tmp_path, monkeypatch):
    commit = repo.commit({"f": b"a\n"})
    (tmp_path / ".gitconfig").write_text(
        "[core]\nautocrlf = true\n[safe]\nbareRepository=explicit\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nowhere")
    assert (fetch_git(cache, repo.path, commit=commit).tree / "project/f").read_bytes() == b"a\n"


def test_a_tree_that_somebody_wrote_into_is_fetched_anew(cache, repo):
    commit = repo.commit({"f": b"1"})
    fetched = fetch_git(cache, repo.path, commit=commit)
    (fetched.tree / "project/f").write_text("2")
    again = fetch_git(cache, repo.path, commit=commit)
    assert (again.tree / "project/f").read_text() == "1"
    assert again == fetched


def test_two_processes_may_fetch_the_same_at_once(cache, repo, tmp_path):
    repo.commit({f"d{n}/f{m}": b"x" for n in range(20) for m in range(20)})
    code = (
        "import sys; from pathlib import Path; from buildvm_nb.host.cache import Cache;"
        "from buildvm_nb.model.case import GitSource; from buildvm_nb.source import fetch;"
        "print(fetch(GitSource(url=sys.argv[1], commit='main'), Cache(Path(sys.argv[2]))).tree)"
    )
    command = [sys.executable, "-c", code, str(repo.path), str(cache.root)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    said = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/project.git", "project"),
        ("https://host/a/project/", "project"),
        ("host:project.git", "project"),
        ("git@host:a/project", "project"),
        ("/a/project/.git", "project"),
        ("/", "source"),
    ],
)
def test_a_repository_is_named_as_git_clone_would_name_it(url, name):
    assert repository_name(url) == name


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
