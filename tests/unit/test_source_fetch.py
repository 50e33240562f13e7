"""Archives and local directories."""

import hashlib
import io
import json
import os
import socket
import socketserver
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from buildvm_nb.errors import HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import ArchiveSource, LocalSource, PyPISource, WheelsSource
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
    monkeypatch.setattr("buildvm_nb.source.tree.free_bytes", lambda _: 3)
    with pytest.raises(HostError, match="no room to copy"):
        fetch(LocalSource(path=str(project)), cache)


def test_a_local_source_must_be_a_directory_that_is_there(cache, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="no such directory") as caught:
        fetch(LocalSource(path="gone"), cache, base=tmp_path)
    assert caught.value.sought == (str(tmp_path / "gone"),)
    with pytest.raises(SourceError, match="not a directory"):
        fetch(LocalSource(path="file"), cache, base=tmp_path)


# Sdists and wheels out of an index that is served here.

JSON = "application/vnd.pypi.simple.v1+json"
TRAP = "import pathlib; pathlib.Path('/tmp/buildvm-setup-py-ran').touch()\n"


def sdist(name, version, suffix="tar.gz"):
    top = f"{name}-{version}"
    files = {
        "PKG-INFO": f"Metadata-Version: 1.0\nName: {name}\nVersion: {version}\n",
        "setup.py": TRAP,
    }
    buffer = io.BytesIO()
    if suffix == "zip":
        with zipfile.ZipFile(buffer, "w") as packed:
            for path, text in files.items():
                packed.writestr(f"{top}/{path}", text)
    else:
        mode = {"tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2"}[suffix]
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            for path, text in files.items():
                info = tarfile.TarInfo(f"{top}/{path}")
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
    return f"{top}.{suffix}", buffer.getvalue()


def wheel(name, version, requires=(), tag="py3-none-any", files=None):
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    contents = {
        f"{name}/__init__.py": f"version = '{version}'\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **(files or {}),
        f"{info}/RECORD": "",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path, text in contents.items():
            packed.writestr(path, text)
    return f"{name}-{version}-{tag}.whl", buffer.getvalue()


class Index:
    """A package index (PEP 691, or PEP 503 without upload times) on a loopback port."""

    def __init__(self):
        self.files, self.pages = {}, {}
        self.as_html = False
        self.status = 200
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                kind, body = index.answer(self.path)
                self.send_response(index.status if body is not None else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"

    def add(self, file, uploaded="2020-01-01T00:00:00.000000Z", **facts):
        name, content = file
        self.files[name] = content
        project = name.split("-")[0].replace("_", "-").lower()
        digest = hashlib.sha256(content).hexdigest()
        entry = {"filename": name, "url": f"/files/{name}", "hashes": {"sha256": digest}, **facts}
        if uploaded:
            entry["upload-time"] = uploaded
        self.pages.setdefault(project, []).append(entry)
        return digest

    def answer(self, path):
        if path.startswith("/files/"):
            return "application/octet-stream", self.files.get(path.removeprefix("/files/"))
        entries = self.pages.get(path.strip("/").removeprefix("simple/"))
        if entries is None:
            return "text/plain", None
        if self.as_html:
            links = (
                f"<a href='{entry['url']}#sha256={entry['hashes']['sha256']}'>"
                f"{entry['filename']}</a>"
                for entry in entries
            )
            return (
                "text/html",
                f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode(),
            )
        page = {"meta": {"api-version": "1.1"}, "name": "x", "files": entries}
        return JSON, json.dumps(page).encode()


@pytest.fixture
def index(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    served = Index()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "zip"])
def test_an_sdist_is_unpacked_without_running_its_setup(cache, index, suffix):
    digest = index.add(sdist("Old-Thing", "1.0", suffix), "2019-01-30T01:29:54.471154Z")
    index.pages = {"old-thing": next(iter(index.pages.values()))}
    fetched = fetch(PyPISource(name="old.thing", version="1.0"), cache)
    assert fetched.top == "Old-Thing-1.0"
    assert (fetched.tree / fetched.top / "setup.py").exists()
    record = fetched.record
    assert (record.kind, record.version, record.digest) == ("pypi", "1.0", digest)
    assert record.dated_at.isoformat() == "2019-01-30T01:29:54.471154+00:00"
    assert record.origin.endswith(f"/files/Old-Thing-1.0.{suffix}")
    assert not Path("/tmp/buildvm-setup-py-ran").exists()


def test_what_was_fetched_once_needs_no_index(cache, index):
    index.add(sdist("thing", "1.0"))
    first = fetch(PyPISource(name="thing", version="1.0"), cache)
    index.pages.clear()
    assert fetch(PyPISource(name="Thing", version="1.0"), cache).tree == first.tree


def test_a_yanked_and_an_early_release_can_be_had_when_pinned(cache, index):
    index.add(sdist("thing", "1.0"), yanked="broken")
    index.add(sdist("thing", "2.0rc1"))
    for version in ("1.0", "2.0rc1"):
        assert fetch(PyPISource(name="thing", version=version), cache).record.version == version


def test_a_wheel_must_fit_the_guests_python(cache, index):
    index.add(wheel("fast", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64"))
    index.add(wheel("fast", "1.0", tag="cp39-cp39-manylinux_2_28_x86_64"))
    index.add(wheel("fast", "1.0", tag="cp312-cp312-manylinux_2_39_x86_64"))
    index.add(wheel("fast", "1.0", tag="cp313-cp313-macosx_11_0_arm64"))

    def origin(python):
        source = PyPISource(name="fast", version="1.0", form="wheel", python=python)
        fetched = fetch(source, cache)
        assert fetched.top == ""
        return fetched.record.origin.rpartition("/")[2]

    assert origin("3.11") == "fast-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
    assert origin("3.9") == "fast-1.0-cp39-cp39-manylinux_2_28_x86_64.whl"
    for python in ("3.12", "3.13"):
        with pytest.raises(SourceError, match=f"no wheel of fast==1.0 for Python {python}"):
            origin(python)


def test_an_index_without_upload_times_will_do(cache, index):
    index.as_html = True
    index.add(sdist("thing", "1.0"))
    assert fetch(PyPISource(name="thing", version="1.0"), cache).record.dated_at is None


def test_a_missing_version_tells_what_there_is_and_where_it_was_sought(cache, index):
    index.add(sdist("thing", "1.0"))
    index.add(wheel("thing", "2.0"))
    with pytest.raises(SourceError, match=r"no sdist of thing==2\.0") as caught:
        fetch(PyPISource(name="thing", version="2.0"), cache)
    assert caught.value.sought == (index.url,)
    assert caught.value.hint == "there is as sdist: 1.0; there is as wheel: 2.0"


def test_a_missing_project_is_unavailable(cache, index):
    with pytest.raises(SourceError, match="no sdist of nothing==1") as caught:
        fetch(PyPISource(name="nothing", version="1"), cache)
    assert caught.value.sought == (index.url,)


def test_a_file_that_is_not_what_the_index_says_is_refused(cache, index):
    name, content = sdist("thing", "1.0")
    index.add((name, content))
    index.files[name] = content + b"\0"
    with pytest.raises(SourceError, match="is damaged: sha256"):
        fetch(PyPISource(name="thing", version="1.0"), cache)


def test_a_file_that_is_not_what_the_case_says_is_refused(cache, index):
    digest = index.add(sdist("thing", "1.0"))
    with pytest.raises(SourceError, match=f"sha256 {digest}, wanted {'0' * 64}"):
        fetch(PyPISource(name="thing", version="1.0", sha256="0" * 64), cache)
    assert fetch(PyPISource(name="thing", version="1.0", sha256=digest), cache).record


def test_the_digest_chooses_among_files_of_one_version(cache, index):
    index.add(sdist("thing", "1.0"))
    digest = index.add(sdist("thing", "1.0", "zip"))
    fetched = fetch(PyPISource(name="thing", version="1.0", sha256=digest), cache)
    assert fetched.record.origin.endswith(".zip")


def test_a_listed_file_that_is_gone_is_unavailable(cache, index):
    index.add(sdist("thing", "1.0"))
    index.files.clear()
    with pytest.raises(SourceError, match="the server answered 404"):
        fetch(PyPISource(name="thing", version="1.0"), cache)


@pytest.mark.parametrize("status", [500, 503, 401, 403, 429])
def test_an_index_in_trouble_says_nothing_about_the_source(cache, index, status):
    index.add(sdist("thing", "1.0"))
    index.status = status
    with pytest.raises(HostError, match="does not serve this host"):
        fetch(PyPISource(name="thing", version="1.0"), cache)


def test_an_index_that_does_not_answer_says_nothing_about_the_source(cache, index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(HostError, match="cannot be reached"):
        fetch(PyPISource(name="thing", version="1.0"), cache)
    with pytest.raises(HostError, match="does not answer: http"):
        fetch(WheelsSource(requirements=("thing",)), cache)


def test_an_index_that_fails_is_not_passed_over_for_an_older_file_elsewhere(
    cache, index, monkeypatch
):
    index.add(wheel("thing", "1.0"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(HostError, match=r"does not answer: http://127\.0\.0\.1:9/simple/thing/"):
        fetch(WheelsSource(requirements=("thing",)), cache)


def test_another_index_and_a_directory_can_stand_in(cache, index, monkeypatch, tmp_path):
    index.add(sdist("thing", "1.0"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.url)
    assert fetch(PyPISource(name="thing", version="1.0"), cache).record.origin.startswith("http")
    name, content = sdist("other", "1.0")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / name).write_bytes(content)
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path}/links {tmp_path}/gone")
    assert fetch(PyPISource(name="other", version="1.0"), cache).record.origin.startswith("file:")


def test_a_version_that_is_none_is_a_mistake(cache):
    with pytest.raises(UsageError, match="not a version"):
        fetch(PyPISource(name="thing", version="1-final!"), cache)


def test_wheels_come_with_their_dependencies_side_by_side(cache, index):
    index.add(wheel("app", "1.0", ["lib>=1"]))
    index.add(wheel("lib", "1.5"))
    fetched = fetch(WheelsSource(requirements=("app==1.0",)), cache)
    assert fetched.record.version == "app==1.0 lib==1.5"
    assert fetched.top == ""
    assert (fetched.tree / "app/__init__.py").exists()
    assert (fetched.tree / "lib/__init__.py").exists()
    assert not list(fetched.tree.rglob("*.pyc"))
    alone = fetch(WheelsSource(requirements=("app==1.0",), dependencies=False), cache)
    assert alone.record.version == "app==1.0"


def test_wheels_as_of_a_date_are_strictly_older(cache, index):
    index.add(wheel("app", "1.0", ["lib"]), "2019-01-01T00:00:00Z")
    index.add(wheel("lib", "1.0"), "2019-05-01T00:00:00Z")
    index.add(wheel("lib", "2.0"), "2020-05-01T00:00:00Z")

    def version(as_of):
        return fetch(WheelsSource(requirements=("app",), as_of=as_of), cache).record.version

    assert version("2020-05-01") == "app==1.0 lib==1.0"
    assert version("2020-05-01T00:00:01Z") == "app==1.0 lib==2.0"
    with pytest.raises(SourceError, match="no wheels for app"):
        version("2019-02-01")


def test_what_came_too_late_for_a_date_is_told_with_the_day_that_it_came(cache, index):
    index.add(sdist("lib", "1.0"), "2020-05-01T00:00:00Z")
    index.add(wheel("lib", "1.0", tag="cp310-cp310-manylinux_2_17_x86_64"), "2020-05-02T00:00:00Z")
    index.add(wheel("lib", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64"), "2022-06-30T10:00:00Z")
    missing = r"no wheels for lib that fit Python 3\.11 uploaded before 2022-06-15T00:00:00Z: "
    with pytest.raises(SourceError, match=missing) as caught:
        fetch(WheelsSource(requirements=("lib",), as_of="2022-06-15"), cache)
    assert "there is as sdist: 1.0; " in caught.value.hint
    assert "the first wheel was uploaded only at 2022-06-30T10:00:00Z" in caught.value.hint


def test_a_local_file_never_passes_for_an_old_one(cache, index, monkeypatch, tmp_path):
    index.add(wheel("lib", "1.0"), "2019-05-01T00:00:00Z")
    name, content = wheel("lib", "9.0")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / name).write_bytes(content)
    page = tmp_path / "local/lib/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f"<!DOCTYPE html><a href='../../links/{name}'>{name}</a>")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file://{tmp_path}/local")
    dated = fetch(WheelsSource(requirements=("lib",), as_of="2020-01-01"), cache)
    assert dated.record.version == "lib==1.0"
    assert fetch(WheelsSource(requirements=("lib",)), cache).record.version == "lib==9.0"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SourceError, match="no index tells when files were uploaded"):
        fetch(WheelsSource(requirements=("lib",), as_of="2021-01-01"), cache)


def test_an_index_without_upload_times_cannot_serve_a_date(cache, index):
    index.as_html = True
    index.add(wheel("lib", "1.0"))
    with pytest.raises(SourceError, match="does not tell when files were uploaded") as caught:
        fetch(WheelsSource(requirements=("lib",), as_of="2021-01-01"), cache)
    assert caught.value.sought == (index.url,)
    assert "pin all versions" in caught.value.hint


def test_markers_and_tags_are_the_guests(cache, index):
    index.add(
        wheel("app", "1.0", ["old; python_version < '3.10'", "new; python_version >= '3.10'"])
    )
    index.add(wheel("old", "1.0", tag="cp39-cp39-manylinux_2_17_x86_64"))
    index.add(wheel("old", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64"))
    index.add(wheel("new", "1.0"))

    def version(python):
        return fetch(WheelsSource(requirements=("app",), python=python), cache).record.version

    assert version("3.9") == "app==1.0 old==1.0"
    assert version("3.13") == "app==1.0 new==1.0"


def test_what_is_an_sdist_only_is_refused_with_a_way_out(cache, index):
    index.add(sdist("thing", "1.0"))
    with pytest.raises(SourceError, match="no wheels for thing") as caught:
        fetch(WheelsSource(requirements=("thing",)), cache)
    assert "an input of kind pypi" in caught.value.hint
    assert not Path("/tmp/buildvm-setup-py-ran").exists()


def test_requirements_that_contradict_each_other_are_unavailable(cache, index):
    index.add(wheel("app", "1.0", ["lib<2"]))
    index.add(wheel("lib", "1.0"))
    index.add(wheel("lib", "2.0"))
    with pytest.raises(SourceError, match="no wheels for app lib>=2"):
        fetch(WheelsSource(requirements=("lib>=2", "app")), cache)


@pytest.mark.parametrize("text", ["thing @ https://127.0.0.1/x.whl", "thing==", "a b"])
def test_a_requirement_that_cannot_be_is_a_mistake(cache, text):
    with pytest.raises(UsageError, match="requirement"):
        fetch(WheelsSource(requirements=(text,)), cache)


def test_the_order_of_requirements_does_not_matter(cache, index):
    index.add(wheel("a", "1.0"))
    index.add(wheel("b", "1.0"))
    first = fetch(WheelsSource(requirements=("b", "A")), cache)
    assert fetch(WheelsSource(requirements=("a", "b")), cache) == first


def test_users_own_pip_options_do_not_change_a_case(cache, index, monkeypatch):
    index.add(wheel("lib", "1.0"))
    index.add(wheel("lib", "2.0rc1"))
    monkeypatch.setenv("PIP_PRE", "1")
    monkeypatch.setenv("PIP_NO_BINARY", "lib")
    assert fetch(WheelsSource(requirements=("lib",)), cache).record.version == "lib==1.0"


def test_scripts_start_the_python_of_the_guest(cache, index):
    info = "tool-1.0.dist-info"
    files = {
        f"{info}/entry_points.txt": "[console_scripts]\nTool = tool:main.run [extra]\n",
        "tool/__init__.py": "class main:\n    run = staticmethod(lambda: print('ran') or 3)\n",
        "tool-1.0.data/scripts/helper": "#!python\nprint('helped')\n",
        "tool-1.0.data/scripts/shell": "#!/bin/sh\n",
        "tool-1.0.data/purelib/pure.py": "",
        "tool-1.0.data/platlib/plat.py": "",
        "tool-1.0.data/data/share/doc": "text",
        "tool-1.0.data/headers/tool.h": "",
    }
    index.add(wheel("tool", "1.0", files=files))
    tree = fetch(WheelsSource(requirements=("tool",)), cache).tree
    assert sorted(path.name for path in (tree / "bin").iterdir()) == ["Tool", "helper", "shell"]
    assert (tree / "bin/helper").read_text().startswith("#!/usr/bin/env python3\n")
    assert stat.S_IMODE((tree / "bin/Tool").stat().st_mode) == 0o755
    for name in ("pure.py", "plat.py", "share/doc", "include/tool/tool.h"):
        assert (tree / name).exists()
    script = [sys.executable, "-B", tree / "bin/Tool"]
    done = subprocess.run(script, env={"PYTHONPATH": str(tree)}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"ran\n")


@pytest.mark.parametrize(
    "name", ["../evil.py", "/evil.py", "hostile-1.0.data/scripts/../../../evil"]
)
def test_a_hostile_wheel_is_refused(cache, index, name):
    index.add(wheel("hostile", "1.0", files={name: "x"}))
    with pytest.raises(SourceError, match="unsafe name"):
        fetch(WheelsSource(requirements=("hostile",)), cache)
