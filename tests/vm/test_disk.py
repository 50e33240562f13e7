"""A disk image that boots by itself, as a machine that stays."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from buildvm_nb.service.places import birth
from tests.vm.standin import make_disk

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]
FILE = """\
disk = "../disk.qcow2"
date = 2015-03-04
cpu = "Westmere"
cpu_count = 1
memory_mib = 512
accelerator = "tcg"
port_forwardings = [{{ host = {}, guest = 22 }}, {{ host = {}, guest = 1004 }}]
secrets = "../secrets"
"""
SCRIPT = """\
date -u +%F
cat /etc/guix/acl
stat -c %a /etc/guix/acl
busybox grep -c Westmere /proc/cpuinfo
echo overwritten | dd of=/dev/vda conv=fsync 2>/dev/null
dd if=/dev/vda bs=11 count=1 2>/dev/null
"""


@pytest.fixture
def call(tmp_path, cache):
    """Call ``buildvm machine`` with a disk and secrets in place; what runs then is stopped."""
    work = tmp_path / "work"
    work.mkdir()
    make_disk(work, cache).rename(tmp_path / "disk.qcow2")
    acl = tmp_path / "secrets/etc/guix/acl"
    acl.parent.mkdir(parents=True)
    acl.write_text("a secret\n")
    acl.chmod(0o640)
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [probe.getsockname()[1] for probe in probes]
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines/disk.toml").write_text(FILE.format(*ports))
    places = {"BUILDVM_CONFIG": str(tmp_path), "BUILDVM_STATE": str(tmp_path)}

    def call(*words):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-m", "buildvm_nb.cli", "--quiet", "machine", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **places},
            timeout=600,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return result.returncode, result.stdout, result.stderr

    yield call
    call("stop", "disk")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def temporary_directory(pid):
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(Path(one.removeprefix("TMPDIR=")) for one in variables if one.startswith("TMPDIR="))


@pytest.mark.long
def test_a_disk_boots_at_its_date_with_its_secrets_and_stays_as_it_is(call, tmp_path):
    before = digest(tmp_path / "disk.qcow2")
    status, _, err = call("start", "disk")
    assert status == 0, err
    assert "any local user can reach tcp:127.0.0.1:" in err
    record = json.loads(call("status", "disk", "--json")[1])["record"]
    assert (record["phase"], record["environment"]) == ("ready", None)
    assert "set, but not read back" in call("status", "disk")[1]
    written = temporary_directory(record["qemu_pid"])
    assert written.is_dir()

    status, out, err = call("ssh", "disk", SCRIPT)
    assert (status, out) == (0, "2015-03-04\na secret\n640\n1\noverwritten"), err
    assert "stand-in: got /etc/guix/acl" in call("console", "disk")[1]

    born = birth(record["qemu_pid"])
    assert call("stop", "disk")[0] == 0
    assert birth(record["qemu_pid"]) != born
    assert not written.exists()
    assert digest(tmp_path / "disk.qcow2") == before
