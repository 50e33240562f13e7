import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from buildvm_nb.debian import PackageArchive, unpack_deb
from buildvm_nb.errors import SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def archive(cache):
    return PackageArchive("bookworm", cache=cache)


def system_state():
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for root in ("/var/lib/apt", "/var/cache/apt", "/etc/apt")
        for path in Path(root).rglob("*")
    }


def test_packages_are_fetched_without_touching_the_systems_apt(tmp_path):
    before = system_state()
    archive = PackageArchive("bookworm-backports", cache=Cache(tmp_path / "cache"))
    (deb,) = archive.download(["needrestart"])
    assert system_state() == before
    unpack_deb(deb, tmp_path / "unpacked")
    assert (tmp_path / "unpacked/usr/sbin/needrestart").is_file()


def test_a_package_comes_in_the_version_that_is_the_candidate(archive):
    version = archive.candidate("hostname")
    (deb,) = archive.download([f"hostname={version}"])
    assert version.replace(":", "%3a") in deb.name
    assert archive.download(["hostname"]) == [deb]
    assert "libc6" in archive.dependencies("hostname")


def test_a_damaged_package_is_fetched_again(tmp_path):
    archive = PackageArchive("bookworm-backports", cache=Cache(tmp_path))
    (deb,) = archive.download(["needrestart"])
    whole = deb.read_bytes()
    deb.write_bytes(b"x" + whole[1:])
    assert archive.download(["needrestart"])[0].read_bytes() == whole


def test_a_source_package_comes_with_its_files(archive):
    dsc = archive.download_source("hostname")
    assert "Source: hostname" in dsc.read_text()
    assert [path.name for path in dsc.parent.glob("*.tar.*")]


def test_a_package_that_does_not_exist_is_named_with_near_ones(archive):
    with pytest.raises(SourceError, match="no Debian package pyton3 in bookworm") as caught:
        archive.download(["pyton3"])
    assert "python3" in caught.value.hint
    assert caught.value.sought


def test_a_version_that_does_not_exist_is_named_with_those_that_do(archive):
    version = archive.candidate("hostname")
    with pytest.raises(SourceError) as caught:
        archive.download(["hostname=0.1"])
    assert version in caught.value.message


@pytest.mark.parametrize(("name", "version"), [("no-such-source", None), ("hostname", "0.1")])
def test_a_source_package_that_does_not_exist_is_an_error(archive, name, version):
    with pytest.raises(SourceError, match=name) as caught:
        archive.download_source(name, version)
    assert caught.value.sought


@pytest.mark.parametrize("name", ["-oDir=/", "a b", "../x", "Upper"])
def test_what_cannot_be_a_package_never_reaches_apt(archive, name):
    with pytest.raises(UsageError, match="not the name of a Debian package"):
        archive.download([name])


def test_a_suite_that_the_mirror_does_not_serve_is_unknown(cache):
    with pytest.raises(UsageError, match=r"unknown Debian suite at .*bokworm") as caught:
        PackageArchive("bokworm", cache=cache).candidate("hostname")
    assert "bookworm" in caught.value.hint


def test_a_mirror_that_cannot_be_reached_is_told(tmp_path):
    mirror = f"file:{tmp_path}/nothing"
    with pytest.raises((SourceError, UsageError), match="nothing"):
        PackageArchive("bookworm", mirror, cache=Cache(tmp_path / "cache")).candidate("hostname")


@pytest.fixture
def troubled():
    """Serve whatever is asked for with a status that the test may change."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(self.server.status)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.status, server.url = 404, f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("hasty_apt")
@pytest.mark.parametrize(
    "mirror",
    [
        "http://127.0.0.1:9",
        pytest.param("http://no-such-host.invalid", marks=pytest.mark.long),
    ],
)
def test_a_mirror_that_is_out_of_reach_says_nothing_about_a_package(tmp_path, mirror):
    archive = PackageArchive("bookworm", mirror, cache=Cache(tmp_path / "cache"))
    for ask in (archive.candidate, archive.download_source):
        with pytest.raises(Unreachable, match="package lists of Debian bookworm cannot be fetched"):
            ask("hostname")


@pytest.mark.usefixtures("hasty_apt")
@pytest.mark.parametrize(
    "status", [403, 503, *(pytest.param(one, marks=pytest.mark.long) for one in (429, 500))]
)
def test_a_mirror_in_trouble_says_nothing_about_a_package(tmp_path, troubled, status):
    troubled.status = status
    archive = PackageArchive("bookworm", troubled.url, cache=Cache(tmp_path / "cache"))
    with pytest.raises(Unreachable, match=f"{status} "):
        archive.candidate("hostname")


def test_an_archive_that_is_not_signed_is_refused(tmp_path):
    dist = tmp_path / "mirror/dists/bookworm"
    (dist / "main/binary-amd64").mkdir(parents=True)
    (dist / "main/binary-amd64/Packages").write_text("")
    (dist / "Release").write_text("Suite: bookworm\nDate: Sat, 01 Jul 2023 00:00:00 UTC\n")
    archive = PackageArchive("bookworm", f"file:{tmp_path}/mirror", cache=Cache(tmp_path / "cache"))
    with pytest.raises(SourceError, match="not signed"):
        archive.candidate("hostname")


def test_processes_side_by_side_fetch_one_after_the_other(tmp_path):
    script = (
        "import sys; from buildvm_nb.debian import PackageArchive\n"
        "from buildvm_nb.host.cache import Cache; from pathlib import Path\n"
        "archive = PackageArchive('bookworm-backports', cache=Cache(Path(sys.argv[1])))\n"
        "print(*archive.download(['needrestart']))\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(said)) == 1
