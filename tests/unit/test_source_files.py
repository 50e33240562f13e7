"""Archives and local directories."""

import hashlib
import io
import os
import socket
import socketserver
import stat
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from buildvm_nb.errors import HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import ArchiveSource, LocalSource
from buildvm_nb.source import fetch, tree_digest


def make_tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


TAR = make_tar({"pkg-1/file": b"content"})
DIGEST = hashlib.sha256(TAR).hexdigest()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def server():
    """A server whose answers are a dict of path to status, headers and body."""
    answers, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = answers.get(self.path, (404, {}, b""))
            if isinstance(status, list):
                status = status.pop(0)
            self.send_response(status)
            headers = {"Content-Length": str(len(body)), **headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    httpd.answers, httpd.asked = answers, asked
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_an_archive_by_path_is_verified_and_unpacked(cache, tmp_path):
    (tmp_path / "pkg.tgz").write_bytes(TAR)
    fetched = fetch(ArchiveSource(url="pkg.tgz", sha256=DIGEST), cache, base=tmp_path)
    assert fetched.top == "pkg-1"
    assert (fetched.tree / "pkg-1/file").read_bytes() == b"content"
    record = fetched.record
    assert (record.kind, record.name, record.digest) == ("archive", "pkg.tgz", DIGEST)
    assert record.origin == str(tmp_path / "pkg.tgz")
    by_url = fetch(ArchiveSource(url=f"file://{tmp_path}/pkg.tgz", sha256=DIGEST), cache)
    assert by_url == fetched


def test_an_archive_by_url_is_downloaded_once(cache, server):
    server.answers["/a%20b/pkg.tgz"] = (200, {}, TAR)
    source = ArchiveSource(url=f"{server.url}/a%20b/pkg.tgz", sha256=DIGEST)
    fetched = fetch(source, cache)
    assert fetch(source, cache) == fetched
    assert (fetched.top, fetched.record.name) == ("pkg-1", "pkg.tgz")
    assert len(server.asked) == 1


def test_redirects_are_followed_but_not_into_this_hosts_files(cache, server, tmp_path):
    server.answers["/old"] = (302, {"Location": "/new"}, b"")
    server.answers["/new"] = (200, {}, TAR)
    assert fetch(ArchiveSource(url=f"{server.url}/old", sha256=DIGEST), cache).top == "pkg-1"
    (tmp_path / "pkg.tgz").write_bytes(TAR)
    server.answers["/evil"] = (302, {"Location": f"file://{tmp_path}/pkg.tgz"}, b"")
    with pytest.raises(SourceError):
        fetch(ArchiveSource(url=f"{server.url}/evil", sha256=DIGEST), cache)


def test_another_digest_shows_both(cache, tmp_path):
    (tmp_path / "pkg.tgz").write_bytes(TAR)
    with pytest.raises(SourceError, match=f"sha256 {DIGEST}, wanted {'0' * 64}") as caught:
        fetch(ArchiveSource(url="pkg.tgz", sha256="0" * 64), cache, base=tmp_path)
    assert caught.value.sought == (str(tmp_path / "pkg.tgz"),)
    assert not list(cache.entries("sources"))


@pytest.mark.parametrize("status", [404, 410])
def test_what_a_server_does_not_have_is_unavailable(cache, server, status):
    server.answers["/pkg.tgz"] = (status, {}, b"")
    url = f"{server.url}/pkg.tgz"
    with pytest.raises(SourceError, match=f"the server answered {status}") as caught:
        fetch(ArchiveSource(url=url, sha256=DIGEST), cache)
    assert caught.value.sought == (url,)


@pytest.mark.parametrize("status", [401, 403, 407, 429, 500, 502, 503])
def test_a_server_that_refuses_or_is_in_trouble_says_nothing_about_the_source(
    cache, server, status
):
    server.answers["/pkg.tgz"] = (status, {}, b"")
    with pytest.raises(Unreachable, match=f"the server answered {status}|{status} "):
        fetch(ArchiveSource(url=f"{server.url}/pkg.tgz", sha256=DIGEST), cache)


def test_a_name_that_nobody_knows_says_nothing_about_the_source(cache):
    with pytest.raises(Unreachable, match=r"no-such-host\.invalid"):
        fetch(ArchiveSource(url="http://no-such-host.invalid/a.tgz", sha256=DIGEST), cache)


def test_a_server_whose_tls_fails_says_nothing_about_the_source(cache):
    class Plain(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"HTTP/1.0 404 Not Found\r\n\r\n")  # without any encryption

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Plain) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"https://127.0.0.1:{server.server_address[1]}/a.tgz"
        with pytest.raises(Unreachable, match="SSL"):
            fetch(ArchiveSource(url=url, sha256=DIGEST), cache)
        server.shutdown()
        thread.join()


def test_a_server_with_trouble_is_asked_again(cache, server):
    server.answers["/pkg.tgz"] = ([503, 200], {}, TAR)
    assert fetch(ArchiveSource(url=f"{server.url}/pkg.tgz", sha256=DIGEST), cache).top == "pkg-1"
    assert len(server.asked) == 2


def test_a_broken_connection_is_tried_three_times(cache, server):
    server.answers["/pkg.tgz"] = (200, {"Content-Length": "99999"}, TAR)
    with pytest.raises(Unreachable, match="does not answer"):
        fetch(ArchiveSource(url=f"{server.url}/pkg.tgz", sha256=DIGEST), cache)
    assert len(server.asked) == 3


def test_a_server_that_refuses_says_nothing_about_the_source(cache):
    with pytest.raises(Unreachable, match=r"does not answer: http://127\.0\.0\.1:9/a") as caught:
        fetch(ArchiveSource(url="http://u:secret@127.0.0.1:9/a.tgz", sha256=DIGEST), cache)
    assert "secret" not in str(caught.value)


def test_a_download_without_end_is_refused_at_once(cache, server):
    server.answers["/pkg.tgz"] = (200, {"Content-Length": str(2**40)}, b"x")
    with pytest.raises(HostError, match="larger than 8 GiB"):
        fetch(ArchiveSource(url=f"{server.url}/pkg.tgz", sha256=DIGEST), cache)


def test_a_download_that_does_not_fit_is_the_hosts_trouble(cache, server, monkeypatch):
    monkeypatch.setattr("buildvm_nb.source.download.free_bytes", lambda _: 3)
    server.answers["/pkg.tgz"] = (200, {}, TAR)
    with pytest.raises(HostError, match="no room for a download"):
        fetch(ArchiveSource(url=f"{server.url}/pkg.tgz", sha256=DIGEST), cache)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.tgz", "data://x", "file://elsewhere/a.tgz"])
def test_other_kinds_of_url_are_refused(cache, url):
    with pytest.raises(UsageError, match="unknown kind of URL"):
        fetch(ArchiveSource(url=url, sha256=DIGEST), cache)


def test_an_archive_path_must_be_a_file_that_is_there(cache, tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        fetch(ArchiveSource(url="gone.tgz", sha256=DIGEST), cache, base=tmp_path)
    with pytest.raises(SourceError, match="not a file"):
        fetch(ArchiveSource(url=".", sha256=DIGEST), cache, base=tmp_path)


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src/run").write_text("#!/bin/sh\n")
    (root / "src/run").chmod(0o775)
    (root / os.fsdecode(b"odd \xff\n")).write_bytes(b"\r\n")
    (root / "dangling").symlink_to("/nowhere")
    (root / "empty").mkdir()
    return root


def test_a_directory_is_copied_as_it_is(cache, project):
    project.joinpath("src/run").touch()
    os.utime(project / "src/run", (1000, 1000))
    os.utime(project / "src", (2000, 2000))
    fetched = fetch(LocalSource(path=str(project)), cache)
    assert fetched.top == ""
    assert tree_digest(fetched.tree) == tree_digest(project) == fetched.record.digest
    assert stat.S_IMODE((fetched.tree / "src/run").stat().st_mode) == 0o775
    assert (fetched.tree / "src/run").stat().st_mtime == 1000
    assert (fetched.tree / "src").stat().st_mtime == 2000
    assert (fetched.record.name, fetched.record.origin) == ("project", str(project))


def test_a_changed_directory_is_another_source(cache, project):
    first = fetch(LocalSource(path="."), cache, base=project)
    assert fetch(LocalSource(path="."), cache, base=project) == first
    (project / "src/new").write_text("x")
    second = fetch(LocalSource(path="."), cache, base=project)
    assert second.record.digest != first.record.digest
    assert not (first.tree / "src/new").exists()


def test_what_version_control_keeps_for_itself_and_the_cache_are_left_out(project):
    (project / ".git/objects").mkdir(parents=True)
    (project / "vendor").mkdir()
    (project / "vendor/.git").write_text("gitdir: ../.git/modules/vendor")
    cache = Cache(project / "my-cache")
    first = fetch(LocalSource(path=str(project)), cache)
    names = {path.name for path in first.tree.rglob("*")}
    assert not names & {".git", "my-cache"}
    (project / ".git/index").write_text("x")
    assert fetch(LocalSource(path=str(project)), cache) == first


def test_sockets_are_passed_over(cache, project):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(project / "s"))
        fetched = fetch(LocalSource(path=str(project)), cache)
    assert not (fetched.tree / "s").exists()


def test_pipes_are_refused_by_name(cache, project):
    os.mkfifo(project / "src/pipe")
    with pytest.raises(SourceError, match=r"cannot hold a named pipe: .*/src/pipe"):
        fetch(LocalSource(path=str(project)), cache)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named(cache, project):
    (project / "src/run").chmod(0)
    with pytest.raises(HostError, match=r"cannot be read: .*/src/run"):
        fetch(LocalSource(path=str(project)), cache)


def test_a_read_only_directory_is_copied(cache, project):
    (project / "src").chmod(0o555)
    fetched = fetch(LocalSource(path=str(project)), cache)
    assert (fetched.tree / "src/run").exists()


def test_a_directory_that_changes_while_it_is_copied_is_refused(cache, project):
    class Meddling:
        @contextmanager
        def task(self, _label):
            (project / "src/run").write_text("changed")
            yield self

    with pytest.raises(HostError, match="changed while it was copied"):
        fetch(LocalSource(path=str(project)), cache, progress=Meddling())


def test_a_directory_that_does_not_fit_is_the_hosts_trouble(cache, project, monkeypatch):
    monkeypatch.setattr("buildvm_nb.source.local.free_bytes", lambda _: 3)
    with pytest.raises(HostError, match="no room to copy"):
        fetch(LocalSource(path=str(project)), cache)


def test_a_local_source_must_be_a_directory_that_is_there(cache, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="no such directory") as caught:
        fetch(LocalSource(path="gone"), cache, base=tmp_path)
    assert caught.value.sought == (str(tmp_path / "gone"),)
    with pytest.raises(SourceError, match="not a directory"):
        fetch(LocalSource(path="file"), cache, base=tmp_path)
