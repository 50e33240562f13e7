"""A unit for systemd, run by a real systemd: the first process of name spaces of its own.

It has no other units: those of this host would set up this host. What a unit writes goes to a
directory of the test, which stands in the places of /var/lib and /var/cache.
"""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from buildvm_nb.image import fetch_kernel
from buildvm_nb.image.initramfs import build_initramfs
from buildvm_nb.image.rootfs import build_image
from buildvm_nb.model.machine import ImageSpec

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]
CODE = {Path(sys.prefix), Path(sys.base_prefix), ROOT}
SYSTEMD = Path("/usr/lib/systemd/systemd")
IMAGE = "debian:bookworm,python3"
UNIT = "buildvm-vm.service"
CONFIG = "/run/buildvm-nb"
"""Only there in systemd's name space; an account of its own can read it."""
FILE = """\
image = "{image}"
date = 2019-05-01
cpu = "Westmere"
cpu_count = 1
memory_mib = 512
accelerator = "tcg"
auto_start = true
port_forwardings = [{{ host = {port}, guest = 22 }}]
"""
START = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for hidden in /etc/systemd/system /usr/lib/systemd/system /usr/lib/systemd/system-generators; do
    mount -t tmpfs -o mode=755 tmpfs "$hidden"
done
for name in sysinit basic shutdown multi-user network; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >"/usr/lib/systemd/system/$name.target"
done
mount --bind "$PLACE/lib" /var/lib
mount --bind "$PLACE/cache" /var/cache
# what is in a home that nobody else may enter is where it was, and can be read
for kept in $KEPT; do mkdir -p "/run/kept$kept"; mount --bind "$kept" "/run/kept$kept"; done
for home in $HIDDEN; do mount -t tmpfs -o mode=755 tmpfs "$home"; done
for kept in $KEPT; do mkdir -p "$kept"; mount --bind "/run/kept$kept" "$kept"; done
mkdir -p "$CONFIG/machines"
printf '%s' "$FILE" >"$CONFIG/machines/vm.toml"
export container=unshare
exec "$SYSTEMD" --system --unit=basic.target --log-target=null
"""


def closed_above(path):
    """Return the outermost directory on the way to a path that is not for everybody, if any."""
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & 1), None)


class Systemd:
    """A systemd, and commands beside it."""

    def __init__(self, place, file):
        hidden = {path: above for path in CODE if (above := closed_above(path))}
        self.log = place / "systemd.log"
        environment = os.environ | {
            "PLACE": str(place),
            "KEPT": " ".join(map(str, hidden)),
            "HIDDEN": " ".join(map(str, set(hidden.values()))),
            "CONFIG": CONFIG,
            "FILE": file,
            "SYSTEMD": str(SYSTEMD),
        }
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child=KILL"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", *spaces, "sh", "-e", "-c", START],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._first = self._child()

    def _child(self):
        """Wait until systemd answers; return its process number."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for _ in range(6000):
            if self._process.poll() is not None:
                break
            if (first := children.read_text().strip()) and self._answers(first):
                return first
            threading.Event().wait(0.1)
        self.stop()
        raise RuntimeError(self.log.read_text())

    def _answers(self, first):
        self._first = first
        return self.run("systemctl", "is-active", "basic.target")[1] == "active\n"

    def run(self, *argv, **environment):
        """Run a command in its name spaces; return the status and all that it said."""
        enter = ["nsenter", f"--target={self._first}", "--mount", "--pid", "--ipc", "--uts"]
        done = subprocess.run(
            [*enter, *map(str, argv)],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        return done.returncode, done.stdout

    def stop(self):
        self._process.kill()
        self._process.wait(600)


@pytest.fixture
def systemd(cache, tmp_path, free_port):
    """A systemd whose system units find an image and a kernel in their cache."""
    if os.geteuid() or not SYSTEMD.exists():
        pytest.skip("needs root and systemd's own program, for a systemd in name spaces")
    probe = ["unshare", "--mount", "--pid", "--cgroup", "--fork", "true"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("needs name spaces of its own")
    kernel = fetch_kernel("debian:bookworm", cache)
    image = build_image(ImageSpec.parse(IMAGE), cache)
    for path in (image.path, kernel.vmlinuz, build_initramfs(kernel, cache)):
        entry = path.parent.relative_to(cache.root)
        shutil.copytree(cache.root / entry, tmp_path / "cache/private/buildvm-nb" / entry)
    (tmp_path / "cache/private").chmod(0o700)
    (tmp_path / "lib").mkdir()
    started = Systemd(tmp_path, FILE.format(image=IMAGE, port=free_port))
    yield started
    started.stop()


def test_a_system_unit_runs_a_machine_as_an_account_of_its_own(systemd):
    buildvm = [sys.executable, "-W", "error", "-m", "buildvm_nb.cli", "--quiet"]

    def call(*words):
        given = {"PYTHONPATH": str(ROOT), "BUILDVM_CONFIG": CONFIG}
        return systemd.run(*buildvm, *words, **given, BUILDVM_STATE="/var/lib/buildvm-nb")

    unit = f"/etc/systemd/system/{UNIT}"
    status, said = call("machine", "unit", "vm", "--systemd", "--system", "-o", unit)
    assert status == 0, said
    more = f'[Service]\nEnvironment="PYTHONPATH={ROOT}"\nStandardError=file:/run/said\n'
    # a checkout in /tmp, of which the unit has one of its own
    ours = {str(path) for path in CODE if path.is_relative_to("/tmp")}
    more += f"BindReadOnlyPaths={' '.join(sorted(ours))}\n"
    systemd.run("sh", "-c", f"mkdir {unit}.d; printf '%s' '{more}' >{unit}.d/test.conf")
    assert systemd.run("systemctl", "daemon-reload")[0] == 0
    # the machine's file says auto_start
    assert systemd.run("systemctl", "enable", "--quiet", UNIT)[0] == 0
    status, said = systemd.run("systemctl", "start", "multi-user.target", UNIT)
    if status:
        shown = systemd.run("systemctl", "show", UNIT, "--property=Result,ExecMainStatus")[1]
        pytest.fail(said + shown + systemd.run("cat", "/run/said")[1])

    # ready when systemd says so
    status, said = call("machine", "ssh", "vm", "date -u +%F")
    assert (status, said) == (0, "2019-05-01\n")
    pid = systemd.run("systemctl", "show", "--property=MainPID", "--value", UNIT)[1].strip()
    account = systemd.run("stat", "-c", "%U", f"/proc/{pid}")[1]
    assert account not in {"root\n", "nobody\n"}
    processes = systemd.run("ps", "-eo", "user:32,comm")[1].splitlines()
    assert {line.split()[0] for line in processes if "qemu" in line} == {account.strip()}

    assert systemd.run("systemctl", "stop", UNIT)[0] == 0
    shown = systemd.run("systemctl", "show", "--property=Result,ActiveState", UNIT)[1]
    assert sorted(shown.split()) == ["ActiveState=inactive", "Result=success"]
    assert call("machine", "status", "vm")[0] == 3  # it was ended in order, and says so
