"""None"""

import io
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildvm_nb.debian import AptSource
from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import alive_lock, owned_group
from buildvm_nb.image import build_image, find_image, list_images
from buildvm_nb.image.bootstrap import (
    FILE_TIME,
    BootstrapMode,
    RootMaker,
    Watcher,
    bootstrap_mode,
    clean_environment,
    finish,
    mmdebstrap_arguments,
    read_packages,
    toolbox_command,
)
from buildvm_nb.image.initramfs import read_linkage
from buildvm_nb.image.rootfs import check_space
from buildvm_nb.model.machine import ImageSpec

SOURCE = AptSource(uri="http://mirror.example/debian", suite="bookworm")


class Notes:
    """A task that keeps what it is told."""

    def __init__(self):
        self.told = []

    def update(self, done, total=None, note=""):  # noqa: ARG002
        self.told.append((done, note))


def arguments(suite="bookworm", *, dated=False, mode=BootstrapMode.ROOT):
    return mmdebstrap_arguments(suite, [SOURCE], ["gcc", "make=4.3-4.1"], mode=mode, dated=dated)


def test_packages_and_sources_reach_mmdebstrap():
    argv = arguments()
    assert "--include=gcc" in argv
    assert "--include=make=4.3-4.1" in argv
    assert argv[-3:-1] == ["bookworm", "-"]
    assert argv[-1] == SOURCE.line()


def test_a_dated_mirror_may_have_expired():
    assert '--aptopt=Acquire::Check-Valid-Until "false";' in arguments(dated=True)


def test_backports_are_built_upon_their_base_and_preferred():
    argv = arguments("bookworm-backports")
    assert argv[-3] == "bookworm"
    assert '--aptopt=APT::Default-Release "bookworm-backports";' in argv


@pytest.mark.parametrize("mode", [BootstrapMode.FAKECHROOT, BootstrapMode.TOOLBOX])
def test_an_ordinary_users_image_is_made_in_a_pretended_chroot(mode):
    assert "--mode=fakechroot" in arguments(mode=mode)


def test_the_mode_follows_from_user_and_c_library(monkeypatch):
    assert bootstrap_mode("0.1-1") is (
        BootstrapMode.ROOT if os.geteuid() == 0 else BootstrapMode.TOOLBOX
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bootstrap_mode(f"{platform.libc_ver()[1]}-9+deb12u1") is BootstrapMode.FAKECHROOT
    assert bootstrap_mode("2.31-13") is BootstrapMode.TOOLBOX


def test_nothing_of_the_users_environment_leaks_into_an_image(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    environment = clean_environment(tmp_path)
    assert "PYTHONPATH" not in environment
    assert environment["http_proxy"] == "http://proxy.example:3128"


def test_a_toolbox_sees_only_the_work_directory_of_the_host(tmp_path):
    argv = toolbox_command(tmp_path / "box", tmp_path / "work", ["mmdebstrap", "--version"])
    assert argv[-2:] == ["mmdebstrap", "--version"]
    assert f"--bind={tmp_path / 'work'}" in argv
    assert not [word for word in argv if word == f"--bind={Path.home()}"]


def test_progress_tells_the_stage_and_the_package():
    notes = Notes()
    watcher = Watcher(notes)
    for line in [
        "I: running apt-get update...",
        "Get:1 http://mirror.example/debian bookworm/main amd64 gcc-12-base amd64 12.2 [37 kB]",
        "I: installing essential packages...",
        "Setting up libc6:amd64 (2.36-9) ...",
        "something else",
    ]:
        watcher.hear(line)
    assert notes.told == [
        (0, "reading package lists"),
        (0, "retrieving gcc-12-base"),
        (35, "installing"),
        (35, "setting up libc6"),
    ]


def test_an_error_tells_what_apt_said_and_not_a_wall_of_it():
    watcher = Watcher(Notes())
    for line in [
        *["Get:1 something"] * 500,
        "The following packages have unmet dependencies:",
        " libfoo-dev : Depends: libfoo (= 1) but 2 is to be installed",
        "E: Unable to correct problems, you have held broken packages.",
        " postfix : Conflicts: mail-transport-agent",
        "E: setup failed: E: apt-get -o Dir::Bin::dpkg=env install failed",
        "E: apt-get failed to run",
        "E: mmdebstrap failed to run",
    ]:
        watcher.hear(line)
    error = watcher.error("debian:bookworm,libfoo-dev", exit_status=25)
    assert isinstance(error, SourceError)
    assert "libfoo-dev : Depends: libfoo (= 1)" in error.message
    assert "postfix : Conflicts" in error.message
    assert len(error.message.splitlines()) == 4


def test_a_packer_that_ends_is_told_and_not_that_its_source_broke_for_that(tmp_path, monkeypatch):
    (programs := tmp_path / "programs").mkdir()
    (programs / "sqfstar").write_text("#!/bin/sh\necho 'FATAL ERROR: no such form' >&2; exit 1\n")
    (programs / "sqfstar").chmod(0o755)
    (programs / "fakeroot").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "fakeroot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "root").mkdir()
    for name in ("first", "second", "third"):  # it is not at its end yet then
        (tmp_path / "root" / name).write_bytes(bytes(4 << 20))
    (tmp_path / "scratch").mkdir()
    argv = ["tar", "--create", f"--directory={tmp_path}/root", "."]
    with alive_lock(tmp_path / "lock") as hold:
        maker = RootMaker(subject="image a", hold=hold, scratch=tmp_path / "scratch")
        with pytest.raises(HostError, match="FATAL ERROR: no such form"):
            maker.pack(argv, tmp_path / "a.squashfs", Notes())


def test_a_full_disk_is_the_hosts_trouble():
    watcher = Watcher(Notes())
    watcher.hear("tar: usr/lib/x: Cannot write: No space left on device")
    error = watcher.error("debian:bookworm", exit_status=2)
    assert isinstance(error, HostError)
    assert "make room" in error.hint


@contextmanager
def group(script, lock, **options):
    def listen(stream):
        stream.read()

    env = {**os.environ, "TMPDIR": str(lock.parent)}
    with (
        alive_lock(lock) as hold,
        owned_group(["sh", "-c", script], hold=hold, listen=listen, env=env, **options) as process,
    ):
        yield process


def test_a_program_runs_to_its_end(tmp_path):
    with group("echo out; echo err >&2; exit 7", tmp_path / "l", stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == b"out\n"
        assert process.wait() == 7


def test_leaving_early_ends_all_that_was_started(tmp_path):
    marker = f"{91000 + os.getpid()}.5"
    with group(f"sleep {marker} & sleep {marker}", tmp_path / "l"):
        wait_for(lambda: running(marker) == 2)
    wait_for(lambda: running(marker) == 0)


def test_a_daemon_that_has_left_the_group_is_ended_too(tmp_path):
    marker = f"{93000 + os.getpid()}.5"
    script = f"setsid sleep {marker} </dev/null >/dev/null 2>&1 & sleep {marker}"
    with group(script, tmp_path / "l"):
        wait_for(lambda: running(marker) == 2)
    wait_for(lambda: running(marker) == 0)


BUILDER = """
import os, sys
from pathlib import Path
from buildvm_nb.image.bootstrap import RootMaker
from buildvm_nb.host.process import alive_lock, owned_group
lock = Path(sys.argv[1])
env = {**os.environ, "TMPDIR": str(lock.parent)}
script = "trap : TERM; sleep {0} & sleep {0}; sleep {0}".format(sys.argv[2])
with (
    alive_lock(lock) as hold,
    owned_group(["sh", "-c", script], hold=hold, listen=lambda s: s.read(), env=env) as process,
):
    process.wait()
"""


def test_a_killed_builder_takes_its_programs_along_and_frees_the_lock_after_them(tmp_path):
    marker = f"{92000 + os.getpid()}.5"
    builder = subprocess.Popen([sys.executable, "-c", BUILDER, tmp_path / "l", marker])
    wait_for(lambda: running(marker) >= 2)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    started_at = time.monotonic()
    with alive_lock(tmp_path / "l"):
        assert running(marker) == 0
        assert time.monotonic() - started_at > 1  # they had to be killed


def running(marker):
    """Count the sleeps of a certain length."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += entry.read_bytes() == b"sleep\0" + marker.encode() + b"\0"
        except OSError:
            continue
    return count


def wait_for(condition, *, timeout_s=600):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_programs_libraries_are_read_from_its_file():
    linkage = read_linkage(Path(sys.executable).resolve())
    assert linkage.interpreter == "/lib64/ld-linux-x86-64.so.2"
    assert "libc.so.6" in linkage.needed


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + bytes(8)])
def test_what_is_no_elf_file_is_refused(content, tmp_path):
    path = tmp_path / "tool"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="ELF file"):
        read_linkage(path)


@pytest.mark.parametrize("base", ["oci:alpine", "tar:/a.tar", "dir:/"])
def test_a_kind_of_image_that_cannot_be_made_is_refused_with_the_known_ones(base, tmp_path):
    with pytest.raises(UsageError, match="known: debian:"):
        build_image(ImageSpec(base=base), Cache(tmp_path))


def test_what_cannot_be_a_suite_is_refused_before_anything_is_fetched(tmp_path):
    with pytest.raises(UsageError, match="unknown Debian suite"):
        build_image(ImageSpec(base="debian:../etc"), Cache(tmp_path))


def test_an_image_that_is_not_there_is_named_with_how_to_make_it(tmp_path):
    cache = Cache(tmp_path)
    assert list_images(cache) == ()
    with pytest.raises(UsageError, match="there is none") as caught:
        find_image("debian:bookworm", cache)
    assert "image build debian:bookworm" in caught.value.hint


def test_too_little_space_is_told_before_anything_is_fetched(tmp_path):
    with pytest.raises(HostError, match=r"too little disk space .* MiB free, about \d+ MiB needed"):
        check_space(tmp_path, package_count=10**9)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_what_an_installer_mounts_is_never_seen_by_the_host(tmp_path):
    place = tmp_path / "root"
    place.mkdir()
    script = f"mount -t tmpfs tmpfs {place} && touch {place}/mounted && ls {place}"
    with group(script, tmp_path / "l", stdout=subprocess.PIPE) as process:
        said = process.stdout.read()
        if process.wait():
            pytest.skip("this host lets root mount nothing")
    assert said == b"mounted\n"
    assert not list(place.iterdir())


STATUS = """\
Package: libc6
Status: install ok installed
Version: 2.36-9

Package: gone
Status: deinstall ok config-files
Version: 1

Package: bash
Status: install ok installed
Version: 5.2-1
"""
PYC = bytes.fromhex("a70d0d0a") + bytes(4) + (1700000000).to_bytes(4, "little") + bytes(4) + b"code"
HASHED_PYC = bytes.fromhex("a70d0d0a") + b"\x01\0\0\0" + b"12345678" + b"code"


def finished(*members):
    """Pass members, given as name and content or as TarInfo, through and read them back."""
    source, target = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=source, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1700000000.5
            archive.addfile(info, io.BytesIO(data))
    source.seek(0)
    seen = finish(source, target)
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        contents = {
            member.name: archive.extractfile(member).read() if member.isreg() else None
            for member in archive
        }
        infos = {member.name: member for member in archive.getmembers()}
    return seen, contents, infos


def test_every_file_has_the_one_time():
    _, _, infos = finished(("./usr/bin/tool", b"x"))
    assert {info.mtime for info in infos.values()} == {FILE_TIME}


def test_the_build_user_can_log_in_nowhere_but_exists():
    _, contents, infos = finished(
        ("./etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n"),
        ("./etc/group", b"root:x:0:\n"),
        ("./etc/shadow", b"root:*:20000:0:99999:7:::\n"),
    )
    assert contents["./etc/passwd"].endswith(b"\nbuild:x:1000:1000::/home/build:/bin/sh\n")
    assert contents["./etc/group"] == b"root:x:0:\nbuild:x:1000:\n"
    assert contents["./etc/shadow"] == b"root:*::0:99999:7:::\nbuild:*::0:99999:7:::\n"
    assert (infos["./home/build"].uid, infos["./build"].gid) == (1000, 1000)


def test_a_guest_finds_localhost_and_its_mount_points():
    _, contents, infos = finished()
    assert b"127.0.0.1\tlocalhost" in contents["./etc/hosts"]
    assert contents["./etc/resolv.conf"] == b""
    assert all(infos[f"./{name}"].isdir() for name in ("proc", "sys", "dev", "run", "tmp"))
    assert infos["./tmp"].mode == 0o1777


def test_what_belongs_to_the_making_is_taken_out():
    device = tarfile.TarInfo("./dev/console")
    device.type = tarfile.CHRTYPE
    _, contents, _ = finished(
        device,
        ("./etc/apt/sources.list", b"deb http://mirror.example/debian bookworm main\n"),
        ("./etc/apt/apt.conf.d/99mmdebstrap", b"Acquire::http::Proxy ...\n"),
        ("./var/log/dpkg.log", b"today"),
        ("./etc/passwd-", b"backup"),
        ("./run/lock/x", b""),
        ("./var/lib/dpkg/info/libc6.list", b"kept"),
    )
    assert contents["./var/lib/dpkg/info/libc6.list"] == b"kept"
    assert not {
        "./dev/console",
        "./etc/apt/sources.list",
        "./etc/apt/apt.conf.d/99mmdebstrap",
        "./var/log/dpkg.log",
        "./etc/passwd-",
        "./run/lock/x",
    } & set(contents)


def test_compiled_python_files_stay_fresh():
    _, contents, _ = finished(("./a.pyc", PYC), ("./b.pyc", HASHED_PYC), ("./c.pyc", b"short"))
    assert int.from_bytes(contents["./a.pyc"][8:12], "little") == FILE_TIME
    assert contents["./a.pyc"][:8] + contents["./a.pyc"][12:] == PYC[:8] + PYC[12:]
    assert contents["./b.pyc"] == HASHED_PYC
    assert contents["./c.pyc"] == b"short"


def test_links_and_attributes_pass_through():
    link = tarfile.TarInfo("./bin")
    link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
    capable = tarfile.TarInfo("./usr/bin/ping")
    capable.pax_headers = {"SCHILY.xattr.security.capability": "v", "atime": "1700000000.1"}
    _, _, infos = finished(link, capable)
    assert infos["./bin"].linkname == "usr/bin"
    assert infos["./usr/bin/ping"].pax_headers == {"SCHILY.xattr.security.capability": "v"}


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_files_with_holes_are_filled_in(form, tmp_path):
    """As a newer mmdebstrap writes its archive; a packer would take them for sparse ones."""
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 20)
        stream.seek(0, 2)
        stream.write(b"end")
    argv = ["tar", "--create", "--sparse", f"--format={form}", "--directory", tmp_path, "./sparse"]
    made = subprocess.run(argv, check=True, capture_output=True).stdout
    assert len(made) < 1 << 20
    target = io.BytesIO()
    finish(io.BytesIO(made), target)
    assert b"GNU.sparse" not in target.getvalue()
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        member = archive.getmember("./sparse")
        assert not member.issparse()
        assert archive.extractfile(member).read() == bytes(1 << 20) + b"end"


def test_the_installed_packages_are_read_on_the_way():
    seen, _, _ = finished(("./var/lib/dpkg/status", STATUS.encode()))
    assert seen.packages == {"bash": "5.2-1", "libc6": "2.36-9"}
    assert read_packages("") == {}


def test_the_same_root_gives_the_same_stream():
    streams = []
    for _ in range(2):
        source, target = io.BytesIO(), io.BytesIO()
        with tarfile.open(fileobj=source, mode="w"):
            pass
        source.seek(0)
        finish(source, target)
        streams.append(target.getvalue())
    assert streams[0] == streams[1]


def test_a_stream_that_breaks_off_is_an_error():
    source = io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as archive:
        info = tarfile.TarInfo("./a")
        info.size = 5000
        archive.addfile(info, io.BytesIO(bytes(5000)))
    cut = io.BytesIO(source.getvalue()[:2000])
    with pytest.raises(tarfile.TarError):
        finish(cut, io.BytesIO())
