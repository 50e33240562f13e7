import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildvm_nb.debian import AptSource
from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.image import build_image, find_image, list_images
from buildvm_nb.image.bootstrap import (
    BootstrapMode,
    Watcher,
    bootstrap_mode,
    clean_environment,
    mmdebstrap_arguments,
)
from buildvm_nb.image.elf import read_linkage
from buildvm_nb.image.packing import RootMaker
from buildvm_nb.image.process import alive_lock, owned_group
from buildvm_nb.image.rootfs import check_space
from buildvm_nb.image.toolbox import toolbox_command
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
from buildvm_nb.image.packing import RootMaker
from buildvm_nb.image.process import alive_lock, owned_group
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
