"""Trouble while an image is made: the user stops it, or the disk is full. Nothing is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from buildvm_nb.host.cache import Cache
from buildvm_nb.image import list_images

pytestmark = pytest.mark.network

SOON_S = 600.0
PROGRAM = "import sys; from buildvm_nb.cli import main; sys.exit(main())"
SLOW = pytest.mark.slow
FULL = """
import sys
from pathlib import Path
from buildvm_nb.errors import HostError
from buildvm_nb.host.cache import Cache
from buildvm_nb.image import build_image, list_images, rootfs
from buildvm_nb.model.machine import ImageSpec

rootfs._NEEDED_BYTES = 0  # others fill the disk after it was found large enough
cache = Cache(Path(sys.argv[1]))
try:
    build_image(ImageSpec(), cache)
except HostError as error:
    print(error)
print([path.name for path in Path(cache.root, "images").iterdir()], list_images(cache))
"""


def processes_below(root):
    """Return the command lines of processes that work in a directory or know of it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(root) in words and int(entry.name) != os.getpid():
            found.append(words[:200])
    return found


def is_there(root, pattern, size):
    for path in root.glob(pattern):
        try:
            if path.stat().st_size >= size:
                return True
        except OSError:  # it is gone again
            continue
    return False


@pytest.fixture
def build(tmp_path):
    """Start the program that makes an image, in a session of its own as a terminal does."""
    started = []

    def build():
        argv = [sys.executable, "-W", "error", "-c", PROGRAM, "image", "build", "debian:bookworm"]
        process = subprocess.Popen(
            [*argv, "--cache", tmp_path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        started.append(process)
        return process

    yield build
    for process in started:
        process.kill()
        process.communicate()


WORK = "images/.*.partial/tmp/mmdebstrap.*"


@pytest.mark.parametrize(
    ("sign", "size"),
    [
        pytest.param("apt/*/state/lists/partial/*", 0, id="looking-up"),
        pytest.param(f"{WORK}/var/lib/apt/lists/*", 0, id="reading-lists"),
        pytest.param(f"{WORK}/var/cache/apt/archives/**/*.deb", 0, id="downloading", marks=SLOW),
        pytest.param(f"{WORK}/usr/bin/dpkg", 0, id="unpacking", marks=SLOW),
        pytest.param(f"{WORK}/var/lib/dpkg/info/tzdata.list", 0, id="installing", marks=SLOW),
        pytest.param("images/.*.partial/root.squashfs", 2**20, id="squashing", marks=SLOW),
    ],
)
def test_a_build_that_is_stopped_leaves_nothing(build, tmp_path, sign, size):
    process = build()
    deadline = time.monotonic() + 3 * SOON_S
    while not is_there(tmp_path, sign, size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        os.sched_yield()
    os.killpg(process.pid, signal.SIGINT)  # all in the terminal's foreground get it
    _, err = process.communicate(timeout=SOON_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    deadline = time.monotonic() + SOON_S
    while found := processes_below(tmp_path):
        assert time.monotonic() < deadline, found
        os.sched_yield()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    images = tmp_path / "images"
    assert [path.name for path in images.iterdir() if path.name != ".locks"] == []
    assert list_images(Cache(tmp_path)) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("size", ["60m", pytest.param("300m", marks=SLOW)])
def test_a_disk_that_gets_full_is_told_with_its_place_and_leaves_nothing(tmp_path, size):
    script = 'mount -t tmpfs -o "size=$1" tmpfs "$2" || exit 77; shift 2; exec "$@"'
    words = [size, tmp_path, sys.executable, "-c", FULL, tmp_path]
    argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this host lets root mount nothing")
    assert done.returncode == 0, done.stderr
    *told, left = done.stdout.splitlines()
    assert "No space left on device" in "\n".join(told)
    assert "make room" in told[-1]
    assert "--cache" in told[-1]
    assert left == "['.locks'] ()"
