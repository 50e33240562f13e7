"""Units for systemd, run by a real systemd: the first process of name spaces of its own.

It has no other units: those of this host would set up this host. What a unit writes goes to a
directory of the test, which stands in the places of /var/lib, /var/cache and a user's home. That
user's manager is run by this systemd.
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
USER = 1
"""Whose manager is run: the account `daemon`, which every Debian has."""
HOME = "/run/home"
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
MANAGER = f"""\
[Service]
Type=notify
User={USER}
Environment=HOME={HOME} XDG_RUNTIME_DIR=/run/user/{USER}
ExecStart={SYSTEMD} --user --unit=basic.target --log-target=null
Delegate=yes
KillMode=mixed
"""
START = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for hidden in /etc/systemd/system /usr/lib/systemd/system /usr/lib/systemd/system-generators \\
    /etc/systemd/user /usr/lib/systemd/user /usr/lib/systemd/user-generators; do
    ! [ -d "$hidden" ] || mount -t tmpfs -o mode=755 tmpfs "$hidden"
done
for name in sysinit basic shutdown multi-user network default; do
    for who in system user; do
        printf '[Unit]\\nDefaultDependencies=no\\n' >"/usr/lib/systemd/$who/$name.target"
    done
done
printf '%s' "$MANAGER" >/etc/systemd/system/manager.service
install -d -o "$USER_ID" -m 700 "/run/user/$USER_ID"
mkdir "$HOME_OF_USER"
mount --bind "$PLACE/home" "$HOME_OF_USER"
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
            "MANAGER": MANAGER,
            "USER_ID": str(USER),
            "HOME_OF_USER": HOME,
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
def start(tmp_path, free_port):
    """Start a systemd with a machine's file: ``start(image)``; it is ended afterwards."""
    if os.geteuid() or not SYSTEMD.exists():
        pytest.skip("needs root and systemd's own program, for a systemd in name spaces")
    probe = ["unshare", "--mount", "--pid", "--cgroup", "--fork", "true"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("needs name spaces of its own")
    for name in ("lib", "cache/private", "home"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache/private").chmod(0o700)
    started = []

    def start(image):
        started.append(Systemd(tmp_path, FILE.format(image=image, port=free_port)))
        return started[0]

    yield start
    for one in started:
        one.stop()


def fill(place, cache):
    """Put what a machine boots into a cache of its own."""
    kernel = fetch_kernel("debian:bookworm", cache)
    image = build_image(ImageSpec.parse(IMAGE), cache)
    for path in (image.path, kernel.vmlinuz, build_initramfs(kernel, cache)):
        entry = path.parent.relative_to(cache.root)
        shutil.copytree(cache.root / entry, place / entry)


BUILDVM = [sys.executable, "-P", "-W", "error", "-m", "buildvm_nb.cli", "--quiet"]


def written_for_the_system(systemd):
    """Have a unit for the system's manager written and known; it finds this checkout."""
    unit = f"/etc/systemd/system/{UNIT}"
    words = ("machine", "unit", "vm", "--systemd", "--system", "-o", unit)
    status, said = called(systemd, *words)
    assert status == 0, said
    more = f'[Service]\nEnvironment="PYTHONPATH={ROOT}"\nStandardError=file:/run/said\n'
    # a checkout in /tmp, of which the unit has one of its own
    ours = {str(path) for path in CODE if path.is_relative_to("/tmp")}
    more += f"BindReadOnlyPaths={' '.join(sorted(ours))}\n"
    systemd.run("sh", "-c", f"mkdir {unit}.d; printf '%s' '{more}' >{unit}.d/test.conf")
    assert systemd.run("systemctl", "daemon-reload")[0] == 0


def called(systemd, *words):
    """Call ``buildvm`` as root does who looks at a machine of the system."""
    given = {"PYTHONPATH": str(ROOT), "BUILDVM_CONFIG": CONFIG}
    return systemd.run(*BUILDVM, *words, **given, BUILDVM_STATE="/var/lib/buildvm-nb")


def started_unit(systemd, *units):
    status, said = systemd.run("systemctl", "start", *units, UNIT)
    if status:
        shown = systemd.run("systemctl", "show", UNIT, "--property=Result,ExecMainStatus")[1]
        pytest.fail(said + shown + systemd.run("cat", "/run/said")[1])


@pytest.mark.long
def test_a_system_unit_runs_a_machine_as_an_account_of_its_own(start, cache, tmp_path):
    fill(tmp_path / "cache/private/buildvm-nb", cache)
    systemd = start(IMAGE)
    written_for_the_system(systemd)
    # the machine's file says auto_start
    assert systemd.run("systemctl", "enable", "--quiet", UNIT)[0] == 0
    started_unit(systemd, "multi-user.target")

    # ready when systemd says so
    status, said = called(systemd, "machine", "ssh", "vm", "date -u +%F")
    assert (status, said) == (0, "2019-05-01\n")
    pid = systemd.run("systemctl", "show", "--property=MainPID", "--value", UNIT)[1].strip()
    account = systemd.run("stat", "-c", "%U", f"/proc/{pid}")[1]
    assert account not in {"root\n", "nobody\n"}
    processes = systemd.run("ps", "-eo", "user:32,comm")[1].splitlines()
    assert {line.split()[0] for line in processes if "qemu" in line} == {account.strip()}

    assert systemd.run("systemctl", "stop", UNIT)[0] == 0
    shown = systemd.run("systemctl", "show", UNIT, "--property=Result,ActiveState")[1]
    assert sorted(shown.split()) == ["ActiveState=inactive", "Result=success"]
    assert called(systemd, "machine", "status", "vm")[0] == 3  # ended in order, and says so


def test_a_system_unit_says_at_once_that_its_image_has_to_be_there(start):
    """Its account may make no files that run as their owner: packages would be unpacked wrongly."""
    systemd = start(IMAGE)
    written_for_the_system(systemd)
    assert systemd.run("systemctl", "start", UNIT)[0] != 0
    said = systemd.run("cat", "/run/said")[1]
    assert f"the image {IMAGE} is not in the cache, and cannot be made here" in said
    command = f"buildvm --cache /var/cache/buildvm-nb image build {IMAGE}"
    assert f"make it outside, as root: {command}" in said
    assert "kernel" not in said  # it was told before anything was fetched
    assert command in systemd.run("cat", f"/etc/systemd/system/{UNIT}")[1]


@pytest.mark.long
def test_a_users_unit_runs_a_machine_in_the_users_manager(start, cache, tmp_path):
    home = tmp_path / "home"
    fill(home / ".cache/buildvm-nb", cache)
    for path in (home, *home.rglob("*")):
        os.chown(path, USER, USER)
    systemd = start(IMAGE)

    def as_user(*argv):
        login = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
        clean = (
            "env",
            "-i",
            f"HOME={HOME}",
            f"XDG_RUNTIME_DIR=/run/user/{USER}",
            "PATH=/usr/bin:/bin",
        )
        given = (f"PYTHONPATH={ROOT}", f"BUILDVM_CONFIG={CONFIG}")
        return systemd.run(*login, *clean, *given, *argv)

    # what docs/guix.md says, and what the note of `unit` says
    unit = f"{HOME}/.config/systemd/user/{UNIT}"
    status, said = as_user(*BUILDVM, "machine", "unit", "vm", "--systemd", "-o", unit)
    assert status == 0, said
    more = f'[Service]\nEnvironment="PYTHONPATH={ROOT}"\n'
    as_user("sh", "-c", f"mkdir {unit}.d; printf '%s' '{more}' >{unit}.d/test.conf")
    status, said = systemd.run("systemctl", "start", "manager.service")
    assert status == 0, said
    assert as_user("systemctl", "--user", "daemon-reload") == (0, "")
    assert as_user("systemctl", "--user", "enable", "--quiet", "--now", UNIT) == (0, "")

    assert as_user(*BUILDVM, "machine", "ssh", "vm", "date -u +%F") == (0, "2019-05-01\n")
    processes = systemd.run("ps", "-eo", "uid,comm")[1].splitlines()
    assert {line.split()[0] for line in processes if "qemu" in line} == {str(USER)}

    assert as_user("systemctl", "--user", "stop", UNIT) == (0, "")
    shown = as_user("systemctl", "--user", "show", UNIT, "--property=Result,ActiveState")[1]
    assert sorted(shown.split()) == ["ActiveState=inactive", "Result=success"]
    assert as_user(*BUILDVM, "machine", "status", "vm")[0] == 3
