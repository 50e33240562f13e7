"""A dated archive: its Release file has expired, and it is taken as what it is, the past."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from buildvm_nb import debian as mirrors
from buildvm_nb import debian as private_apt
from buildvm_nb.debian import PackageArchive, host_mirrors, unpack_deb
from buildvm_nb.errors import SourceError, Unreachable
from buildvm_nb.host.cache import Cache
from buildvm_nb.image import build_image
from buildvm_nb.model.machine import ImageSpec

MADE_AT = datetime(2023, 7, 1, 12, tzinfo=UTC)
EXPIRED_AT = datetime(2023, 7, 8, 12, tzinfo=UTC)
pytestmark = pytest.mark.network

PACKAGES = "main/binary-amd64/Packages"


class Snapshot:
    """An archive of its own as of one day, signed by a key of its own and served by HTTP."""

    def __init__(self, root):
        self.root = root
        self.files = root / "archive"
        self.keyring = root / "keyring.gpg"
        self.in_trouble = False
        self.pool = None  # where else its files are, if not here
        home = root / "gnupg"
        home.mkdir(mode=0o700)
        self._gpg = [
            "gpg",
            "--homedir",
            str(home),
            "--batch",
            "--quiet",
            "--pinentry-mode=loopback",
        ]
        name = ["--passphrase=", "--quick-gen-key", "archive@example", "ed25519", "sign", "never"]
        subprocess.run([*self._gpg, *name], check=True, capture_output=True)
        keyring = subprocess.run([*self._gpg, "--export"], check=True, capture_output=True).stdout
        self.keyring.write_bytes(keyring)

    def publish(self, packages):
        dist = self.files / "dists/bookworm"
        (dist / PACKAGES).parent.mkdir(parents=True)
        (dist / PACKAGES).write_bytes(packages)
        digest = hashlib.sha256(packages).hexdigest()
        (dist / "Release").write_text(
            "Suite: oldstable\nCodename: bookworm\nArchitectures: amd64\nComponents: main\n"
            f"Date: {format_datetime(MADE_AT, usegmt=True)}\n"
            f"Valid-Until: {format_datetime(EXPIRED_AT, usegmt=True)}\n"
            f"SHA256:\n {digest} {len(packages)} {PACKAGES}\n"
        )
        sign = ["--output", str(dist / "InRelease"), "--clearsign", str(dist / "Release")]
        subprocess.run([*self._gpg, *sign], check=True, capture_output=True)

    def close(self):
        argv = ["gpgconf", "--homedir", str(self.root / "gnupg"), "--kill", "all"]
        subprocess.run(argv, check=True, capture_output=True)


class Handler(SimpleHTTPRequestHandler):
    """Serves the snapshot's files; what is not there is in another archive."""

    def __init__(self, snapshot, *arguments):
        self.snapshot = snapshot
        super().__init__(*arguments, directory=str(snapshot.files))

    def do_GET(self):
        if self.snapshot.in_trouble:
            self.send_error(503)
        elif self.snapshot.pool and self.path.startswith("/pool/"):
            self.send_response(302)
            self.send_header("Location", f"{self.snapshot.pool}{self.path}")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def snapshot(monkeypatch):
    root = Path(tempfile.mkdtemp(prefix="buildvm-"))
    root.chmod(0o755)  # apt reads the key as a user of its own
    snapshot = Snapshot(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, snapshot))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    snapshot.url = f"http://127.0.0.1:{server.server_port}"
    for module in (mirrors, private_apt):
        monkeypatch.setattr(module, "KEYRING", str(snapshot.keyring))
    yield snapshot
    server.shutdown()
    thread.join()
    server.server_close()
    snapshot.close()
    while root.exists():  # GnuPG's agent takes its sockets away itself, when it comes to it
        with suppress(FileNotFoundError):
            shutil.rmtree(root)


@pytest.fixture
def plain_apt(tmp_path, monkeypatch):
    """No settings of this host's administrator, who may allow what has expired; asks once."""
    plain = tmp_path / "apt.conf"
    plain.write_text(
        'Dir::Etc::main "/dev/null"; Dir::Etc::parts "/dev/null"; Acquire::Retries "0";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(plain))


def make_package(pool, work):
    """Build a small package and return its stanza."""
    control = work / "DEBIAN/control"
    control.parent.mkdir(parents=True)
    fields = (
        "Package: past\nVersion: 1.0-1\nArchitecture: all\nMaintainer: Nobody <no@body.example>\n"
        "Description: from the past\n"
    )
    control.write_text(fields)
    (work / "usr/share/past").mkdir(parents=True)
    (work / "usr/share/past/file").write_text("hello from the past\n")
    pool.mkdir(parents=True)
    deb = pool / "past_1.0-1_all.deb"
    argv = ["dpkg-deb", "--root-owner-group", "--build", work, deb]
    subprocess.run(argv, check=True, capture_output=True)
    content = deb.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    place = f"Filename: pool/{deb.name}\nSize: {len(content)}\nSHA256: {digest}\n\n"
    return (fields + place).encode()


@pytest.mark.usefixtures("plain_apt")
def test_packages_come_from_a_dated_archive_that_has_expired(snapshot, tmp_path):
    snapshot.publish(make_package(snapshot.files / "pool", tmp_path / "package"))
    archive = PackageArchive("bookworm", snapshot.url, cache=Cache(tmp_path / "cache"))
    assert archive.candidate("past") == "1.0-1"
    (deb,) = archive.download(["past"])
    unpack_deb(deb, tmp_path / "unpacked")
    assert (tmp_path / "unpacked/usr/share/past/file").read_text() == "hello from the past\n"
    assert archive.release_dates() == {"bookworm": "2023-07-01T12:00:00Z"}
    assert archive.sought == (f"{snapshot.url} bookworm",)


@pytest.mark.usefixtures("plain_apt")
def test_what_the_systems_own_mirror_serves_must_not_have_expired(snapshot, tmp_path, monkeypatch):
    snapshot.publish(make_package(snapshot.files / "pool", tmp_path / "package"))
    monkeypatch.setenv("BUILDVM_DEBIAN_MIRROR", snapshot.url)
    archive = PackageArchive("bookworm", cache=Cache(tmp_path / "cache"))
    with pytest.raises(SourceError, match=r"cannot be fetched: .* expired"):
        archive.candidate("past")


@pytest.mark.usefixtures("plain_apt")
@pytest.mark.long
def test_old_lists_do_not_prove_that_a_package_is_missing_while_the_mirror_is_in_trouble(
    snapshot, tmp_path
):
    snapshot.publish(make_package(snapshot.files / "pool", tmp_path / "package"))
    cache = Cache(tmp_path / "cache")
    assert PackageArchive("bookworm", snapshot.url, cache=cache).candidate("past") == "1.0-1"
    with pytest.raises(SourceError, match="no Debian package future"):
        PackageArchive("bookworm", snapshot.url, cache=cache).candidate("future")
    for stamp in cache.root.glob("apt/*/updated.json"):
        os.utime(stamp, (0, 0))
    snapshot.in_trouble = True
    archive = PackageArchive("bookworm", snapshot.url, cache=cache)
    assert archive.candidate("past") == "1.0-1"
    for wanted in ("future", "past=2.0-1"):
        with pytest.raises(Unreachable, match="503 "):
            archive.candidate(wanted)
    with pytest.raises(Unreachable, match="503 "):
        archive.download(["past"])


def test_a_dated_archive_must_be_signed_by_a_key_that_is_trusted(snapshot, tmp_path, monkeypatch):
    snapshot.publish(make_package(snapshot.files / "pool", tmp_path / "package"))
    monkeypatch.undo()
    archive = PackageArchive("bookworm", snapshot.url, cache=Cache(tmp_path / "cache"))
    with pytest.raises(SourceError, match=r"is not signed|public key is not available"):
        archive.candidate("past")


@pytest.fixture(scope="module")
def todays_packages(cache):
    """What the system's mirror serves, and where."""
    PackageArchive("bookworm", cache=cache).refresh()
    lists = cache.root.glob("apt/*/state/lists/*_dists_bookworm_main_binary-amd64_Packages")
    return max(lists, key=lambda path: path.stat().st_mtime_ns).read_bytes(), host_mirrors().archive


@pytest.mark.slow
def test_an_image_of_a_dated_archive_tells_which_and_of_when(todays_packages, snapshot, tmp_path):
    packages, snapshot.pool = todays_packages
    if not snapshot.pool.startswith("http"):
        pytest.skip("the system's mirror is not served by HTTP")
    snapshot.publish(packages)
    spec = ImageSpec(base="debian:bookworm", mirror=snapshot.url)
    image = build_image(spec, Cache(tmp_path / "cache"))
    assert image.mirrors == (f"{snapshot.url} bookworm",)
    assert image.release_dates == {"bookworm": "2023-07-01T12:00:00Z"}
    assert image.spec == spec
    assert image.packages["libc6"].startswith("2.36-")
