"""A host's real Guix sends real derivations to a machine of ours, which lives in the past.

The derivations need nothing from the network: their builder is a static shell added to the store.
"""

import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from buildvm_nb.errors import MachineError
from buildvm_nb.guix.machinefile import MachineFile
from buildvm_nb.host.cache import Cache
from buildvm_nb.image.initramfs import fetch_guest_tools
from buildvm_nb.image.rootfs import build_image
from buildvm_nb.model.case import GuixSource, guix_steps
from buildvm_nb.model.machine import ImageSpec
from buildvm_nb.service import Places, machine_status
from buildvm_nb.service.guixbuild import _Guest
from buildvm_nb.service.guixdaemon import GuixDaemon
from buildvm_nb.study import open_machine
from tests.guix.hostside import GuixHost

pytestmark = [pytest.mark.vm, pytest.mark.network]

ROOT = Path(__file__).parents[2]
IMAGE = "debian:sid,guix"
FILE = """\
image = "{image}"
date = {date}
cpu = "Westmere"
cpu_count = 2
accelerator = "tcg"
disk_mib = 700
offload = true
signing_key = "{settings}/signing-key.pub"
port_forwardings = [{{ host = {port}, guest = 22 }}]
"""
DERIVATION = """
(use-modules (guix))
(with-store store
  (let* ((tools (add-to-store store "tools" #t "sha256" "/tools"))
         (drv (derivation store "%s" (string-append tools "/sh")
                          (list "-c" "{ date -u +%%F; cat /proc/cpuinfo; } >$out")
                          #:system "x86_64-linux" #:sources (list tools))))
    (display (derivation-file-name drv))))
"""
FILL = "fallocate -l $(($(stat -f -c '%a*%S' /build) - 50000000)) /build/fill"
THEIRS = ';; my machines\n(define none (list))\nnone ; "(" is no trouble\n'


@pytest.fixture(scope="module")
def host():
    """A host with Guix; it is gone afterwards, as are the things in its store."""
    probe = ["unshare", "--mount", "true"]
    if os.geteuid() or subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("Guix's store has a fixed place: needs root, for a mount name space")
    cache = Cache()
    image = build_image(ImageSpec.parse(IMAGE), cache)
    busybox = fetch_guest_tools(cache) / "bin/busybox"
    place = Path(tempfile.mkdtemp(prefix="buildvm-"))
    guix = GuixHost(image.path, busybox, place / "root", place / "guix")
    try:
        guix.start()
        yield guix
    finally:
        guix.stop()
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def prepared_keys(host):
    """A machine's own signing keys: under emulation Guix takes minutes to make them."""
    key_name = "GUIX_CONFIGURATION_DIRECTORY"

    def make(work):
        argv = ("env", f"{key_name}=/made-keys", "guix", "archive", "--generate-key")
        status, said = host.run(*argv)
        assert status == 0, said
        shutil.copytree(host.root / "made-keys", work / "keys")

    return Cache().entry("test-guix-keys", {"recipe": 1}, make) / "keys"


@pytest.fixture
def call(host, tmp_path):
    """Call ``buildvm``; whatever runs at the end is stopped."""
    place = tmp_path
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BUILDVM_CONFIG": str(place),
        "BUILDVM_STATE": str(place),
        "GUIX_CONFIGURATION_DIRECTORY": str(host.settings),
    }
    (place / "machines").mkdir()

    def write(date):
        file = place / "machines/vm.toml"
        file.write_text(FILE.format(image=IMAGE, date=date, port=port, settings=host.settings))

    def call(*words):
        argv = [sys.executable, "-W", "error", "-m", "buildvm_nb.cli", "--quiet", *words]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call.write, call.place = write, place
    write("2020-01-01")
    yield call
    call("machine", "stop", "vm")


def derivation(host, name):
    """Make a derivation that tells the date and the CPU of its build."""
    (host.root / "derivation.scm").write_text(DERIVATION % name)
    status, said = host.run("guix", "repl", "/derivation.scm")
    assert status == 0, said
    return said.split()[-1]


def offloaded(host, name):
    """Build it, and return what it told, and what Guix said meanwhile."""
    status, said = host.run("guix", "build", derivation(host, name))
    assert status == 0, said
    told = Path(f"{host.root}/{said.split()[-1]}").read_text()
    return told, said


def guest_of(call):
    """The machine, as a build of a case asks it."""
    places = Places(files=call.place / "machines", states=call.place / "machines")
    return _Guest(machine_status(places.state("vm"), "vm"), places)


@pytest.mark.long
def test_a_derivation_of_this_host_is_built_in_the_past(call, host, prepared_keys):
    """As the next test, for every day: one derivation, and a machine that has its keys."""
    state = Places(files=call.place / "machines", states=call.place / "machines").state("vm")
    state.make()
    shutil.copytree(prepared_keys, state.root / "guix/etc/guix")
    (host.settings / "machines.scm").write_text(THEIRS)
    call("machine", "start", "vm")
    call("guix", "machines", "vm", "--install")
    drv = derivation(host, "alone")
    told, said = offloaded(host, "alone")
    assert f"done with offloaded '{drv}'" in said
    assert told.startswith("2020-01-01\n")
    assert "model name\t: Westmere" in told
    assert drv in guest_of(call).facts([drv]).logs
    call("machine", "stop", "vm")
    call("guix", "machines", "vm", "--undo")
    assert (host.settings / "machines.scm").read_text() == THEIRS
    key = (prepared_keys / "signing-key.pub").read_text()
    assert "".join(key.split()) not in "".join((host.settings / "acl").read_text().split())


@pytest.mark.slow
@pytest.mark.long
def test_builds_of_this_host_happen_in_the_past_and_go_on_at_another_date(call, host):
    (host.settings / "machines.scm").write_text(THEIRS)
    call("machine", "start", "vm")
    call("guix", "machines", "vm", "--install")
    guest = guest_of(call)
    first = derivation(host, "first")
    before = guest.facts([first])
    told, said = offloaded(host, "first")
    after = guest.facts([first])
    assert f"offloading '{first}' to '127.0.0.1'..." in said
    assert f"done with offloaded '{first}'" in said
    assert not before.logs
    assert before.clock_at.timestamp() - 1 <= after.logs[first] <= after.clock_at.timestamp()
    assert before.clock_at.year == 2020
    assert (after.oom_kills, after.free_kib > 10_000) == (0, True)
    assert told.startswith("2020-01-01\n")
    assert "model name\t: Westmere" in told
    assert "found valid signature" in said
    # this date is before the making of the machine's keys, which were made in its 2020
    call.write("2011-05-06")
    call("machine", "restart", "vm")
    status, said = host.run("guix", "offload", "test")
    assert status == 0, said
    assert "successfully imported" in said
    assert call("machine", "ssh", "vm", "date -u +%F") == "2011-05-06\n"
    # a full store is told by Guix, which then waits
    call("machine", "ssh", "vm", FILL)
    hook = ["guix", "offload", "x86_64-linux", "3600", "1", "0"]
    order = f"1 x86_64-linux {derivation(host, 'second')} \n"
    status, said = host.run(*hook, stdin=order)
    assert "because it is low on disk space" in said
    assert "# postpone" in said
    call("machine", "stop", "vm")
    # a machine that is not up is not in the list: what is to be built is not held up
    status, said = host.run("guix", "offload", "test")
    assert status == 0, said
    assert "testing 0 build machines" in said
    call("guix", "machines", "vm", "--undo")
    assert (host.settings / "machines.scm").read_text() == THEIRS
    status, said = host.run("guix", "offload", "test")
    assert status == 0, said
    assert "testing 0 build machines" in said


def test_a_case_gets_as_far_as_the_network_with_the_real_guix(host):
    commit = "6298c3ffd9654d3231a6f25390b056483e8f407c"
    source = GuixSource(commit=commit, packages=("hello",))
    for _, command in guix_steps(source):
        status, said = host.run("sh", "-e", "-c", command)
        assert status == 1
        assert re.search("Git error|failed to resolve|could not connect", said), said


@pytest.fixture
def place(tmp_path):
    place = Places(files=tmp_path, states=tmp_path).state("vm")
    place.make()
    return place


def guest_with(image, **fields):
    machine = MachineFile.parse(
        {"name": "vm", "image": image, "accelerator": "tcg", "cpu_count": 2, "offload": True}
        | {"port_forwardings": (), **fields}
    )
    return machine, open_machine(machine.spec(), cache=Cache())


@pytest.mark.slow
def test_a_daemon_that_dies_is_told(host, place):
    # with keys that are there already, a machine need not make them
    settings = place.root / "guix/etc/guix"
    shutil.copytree(host.settings, settings, ignore=shutil.ignore_patterns("offload", "*.scm"))
    key = host.settings / "signing-key.pub"
    machine, guest = guest_with(IMAGE, signing_key=str(key))
    daemon = GuixDaemon(guest, place, machine)
    with closing(daemon), guest:
        daemon.start()
        kill = (
            "mount -t cgroup2 none /mnt && cd /mnt/build && for step in s*; do "
            'grep -q "^0::/build/$step$" /proc/self/cgroup || echo 1 >$step/cgroup.kill; done'
        )
        assert guest.run(kill, as_root=True).status == 0
        assert select.select([daemon.end], [], [], 30)[0]
        lost = daemon.lost()
        assert "Guix's daemon in the machine vm has ended" in lost.message
        assert "accepted connection" in lost.evidence


@pytest.mark.slow
def test_an_image_without_guix_is_told(host, place):
    key = host.settings / "signing-key.pub"
    machine, guest = guest_with("debian:bookworm,python3", signing_key=str(key))
    daemon = GuixDaemon(guest, place, machine)
    with closing(daemon), guest, pytest.raises(MachineError, match="no Guix") as caught:
        daemon.start()
    assert "debian:sid,guix" in caught.value.hint
