import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache, file_digest
from buildvm_nb.image import (
    build_image,
    find_image,
    list_images,
    remove_image,
    rootfs,
    verify_image,
)
from buildvm_nb.model.machine import ImageSpec

pytestmark = pytest.mark.network


def listing(image):
    """Return mode, owner and time of every file, by path."""
    said = subprocess.run(
        ["unsquashfs", "-lln", image.path], capture_output=True, check=True, text=True
    ).stdout
    rows = [line.split(None, 5) for line in said.splitlines() if "squashfs-root" in line]
    return {
        row[5].split(" -> ")[0].removeprefix("squashfs-root") or "/": (row[0], row[1], row[3])
        for row in rows
    }


def content(image, path):
    argv = ["unsquashfs", "-cat", image.path, path]
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


def test_an_image_has_what_a_guest_needs(image):
    files = listing(image)
    assert files["/"][:2] == ("drwxr-xr-x", "0/0")
    assert files["/build"][:2] == files["/home/build"][:2] == ("drwxr-xr-x", "1000/1000")
    assert files["/tmp"][0] == "drwxrwxrwt"
    assert {"/proc", "/sys", "/dev", "/run"} <= set(files)
    assert "\nbuild:x:1000:1000::/home/build:/bin/sh\n" in content(image, "etc/passwd")
    assert "127.0.0.1\tlocalhost" in content(image, "etc/hosts")
    assert content(image, "etc/resolv.conf") == ""
    assert files["/etc/shadow"][0] == "-rw-r-----"


def test_all_files_are_as_old_as_the_hills(image):
    assert {time for _, _, time in listing(image).values()} == {"1980-01-02"}


def test_an_image_is_small_and_tells_nothing_of_the_host(image):
    files = set(listing(image))
    assert image.size < 64 * 2**20
    assert not [path for path in files if path.startswith(("/usr/share/man/man1/", "/dev/"))]
    assert not {"/etc/apt/sources.list", "/etc/apt/apt.conf.d/99mmdebstrap"} & files
    assert content(image, "etc/machine-id") == ""


def test_an_image_tells_how_it_was_made(image):
    assert image.suite == "bookworm"
    assert image.packages["libc6"].startswith("2.36-")
    assert image.release_dates["bookworm"].endswith("Z")
    assert any(source.endswith(" bookworm") for source in image.mirrors)
    assert image.digest == file_digest(image.path)


def test_an_image_that_is_there_needs_no_network(image, cache, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert build_image(image.spec, cache) == image
    assert image in list_images(cache)
    assert find_image("debian:bookworm", cache) == image
    assert find_image(image.key[:12], cache) == image


def test_a_damaged_image_is_noticed(image, tmp_path):
    copy = Cache(tmp_path)
    shutil.copytree(image.path.parent, copy.path("images", image.key))
    (found,) = list_images(copy)
    verify_image(found)
    with found.path.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"damage")
    with pytest.raises(HostError, match="is damaged"):
        verify_image(found)
    with found.path.open("r+b") as stream:
        stream.truncate(1000)
    assert list_images(copy) == ()


def test_a_damaged_image_is_made_anew_before_it_boots(tmp_path, monkeypatch):
    def make(_request, work):
        (work / "root.squashfs").write_bytes(b"a root file system")
        digest = file_digest(work / "root.squashfs")
        facts = {"suite": "", "mirrors": [], "release_dates": {}, "packages": {}, "mmdebstrap": ""}
        return {"digest": digest, **facts}

    monkeypatch.setitem(rootfs._MAKERS, "toy", make)
    spec, cache = ImageSpec(base="toy:image"), Cache(tmp_path)
    image = build_image(spec, cache)
    assert build_image(spec, cache) == image
    image.path.write_bytes(b"a r00t file system")
    assert build_image(spec, cache) == image
    assert image.path.read_bytes() == b"a root file system"


def test_a_removed_image_is_gone(image, tmp_path):
    copy = Cache(tmp_path)
    shutil.copytree(image.path.parent, copy.path("images", image.key))
    removed = remove_image(image.digest[:8], copy)
    assert removed.key == image.key
    assert not removed.path.exists()
    with pytest.raises(UsageError, match="no such image"):
        remove_image("debian:bookworm", copy)


def test_an_unknown_package_is_named_before_anything_is_made(cache):
    with pytest.raises(SourceError, match="no Debian package pyton3") as caught:
        build_image(ImageSpec(packages=("pyton3",)), cache)
    assert "python3" in caught.value.hint


def test_an_unknown_suite_is_named_with_the_known_ones(cache):
    with pytest.raises(UsageError, match="bokworm; known: bullseye") as caught:
        build_image(ImageSpec(base="debian:bokworm"), cache)
    assert "bookworm" in caught.value.hint


BUILDER = """
import sys
from pathlib import Path
from buildvm_nb.host.cache import Cache
from buildvm_nb.image import build_image
from buildvm_nb.model.machine import ImageSpec
print(build_image(ImageSpec(), Cache(Path(sys.argv[1]))).digest)
"""


def builder(root):
    return subprocess.Popen([sys.executable, "-c", BUILDER, root], stdout=subprocess.PIPE)


@pytest.mark.long
def test_a_killed_builder_is_cleared_away_and_two_others_make_one_image(tmp_path, image):
    victim = builder(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("images/.*.partial/tmp/mmdebstrap.*/etc")):
        assert victim.poll() is None
        assert time.monotonic() < deadline
        os.sched_yield()
    victim.send_signal(signal.SIGKILL)
    victim.communicate()

    pair = [builder(tmp_path), builder(tmp_path)]
    first, second = (process.communicate()[0].decode() for process in pair)
    assert [process.returncode for process in pair] == [0, 0]
    assert first == second
    assert len(list_images(Cache(tmp_path))) == 1
    assert not list(tmp_path.glob("images/.*.partial"))
    if image.packages == list_images(Cache(tmp_path))[0].packages:
        assert first.strip() == image.digest  # made again, bit by bit
