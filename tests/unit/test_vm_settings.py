import shutil
import struct
import subprocess

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildvm_nb.host.cpio import CpioWriter
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm.keys import ChannelKeys
from buildvm_nb.vm.settings import write_initramfs


@pytest.fixture
def common(tmp_path):
    path = tmp_path / "common.cpio"
    with path.open("wb") as stream:
        archive = CpioWriter(stream)
        archive.file("init", b"#!/bin/sh\n", 0o755)
        archive.close()
    return path


def strings(data):
    while data:
        (length,) = struct.unpack(">I", data[:4])
        yield data[4 : 4 + length]
        data = data[4 + length :]


def test_dropbear_s_host_key_holds_both_halves_of_the_key():
    keys = ChannelKeys.generate()
    kind, secret = strings(keys.host_key_file())
    assert kind == b"ssh-ed25519"
    assert len(secret) == 64
    again = Ed25519PrivateKey.from_private_bytes(secret[:32])
    assert again.public_key() == keys.host.public_key()
    assert again.public_key().public_bytes_raw() == secret[32:]


def test_the_authorized_key_is_the_client_s_and_one_line():
    keys = ChannelKeys.generate()
    line = keys.authorized_keys()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    kind, encoded = line.decode().split()[:2]
    entry = paramiko.hostkeys.HostKeyEntry.from_line(f"guest {kind} {encoded}")
    *_, public = strings(entry.key.asbytes())
    assert public == keys.client.public_key().public_bytes_raw()


def test_every_machine_has_keys_of_its_own():
    one, other = ChannelKeys.generate(), ChannelKeys.generate()
    raw = {key.private_bytes_raw() for key in (one.host, one.client, other.host, other.client)}
    assert len(raw) == 4


def unpack(path, common, into):
    """Unpack what was appended, with the program that reads it in rescue systems."""
    into.mkdir()
    appended = path.read_bytes()[common.stat().st_size :]
    subprocess.run(
        ["busybox", "cpio", "-idm", "--quiet"], input=appended, cwd=into, check=True, timeout=600
    )


@pytest.mark.skipif(not shutil.which("busybox"), reason="no busybox here")
@pytest.mark.parametrize(
    ("fields", "disks", "expected"),
    [
        (
            {"date": "2019-05-01", "memory_mib": 1024},
            ("inputs", "exports", "scratch"),
            {
                "CLOCK": "1556668800.000000",
                "INPUTS": "/dev/vdb",
                "EXPORTS": "/dev/vdc",
                "SCRATCH": "/dev/vdd",
                "NETWORK": "''",
                "MEMORY_BYTES": str(912 * 2**20),
                "PROCESSES": "64",
            },
        ),
        (
            {"date": "2232-04-18T23:47:15Z", "network": "user", "memory_mib": 192},
            ("exports",),
            {
                "CLOCK": "8277292035.000000",
                "INPUTS": "''",
                "EXPORTS": "/dev/vdb",
                "SCRATCH": "''",
                "NETWORK": "user",
                "DISK_MIB": "144",
            },
        ),
    ],
)
def test_busybox_reads_back_what_a_machine_is_told(tmp_path, common, fields, disks, expected):
    keys, target = ChannelKeys.generate(), tmp_path / "initramfs.cpio"
    spec = MachineSpec.parse(fields)
    write_initramfs(target, common, spec, keys, disks=disks, processes=64)
    assert target.read_bytes().startswith(common.read_bytes())
    assert target.stat().st_mode & 0o777 == 0o600
    root = tmp_path / "root"
    unpack(target, common, root)
    lines = (root / "etc/buildvm/settings").read_text().splitlines()
    assert expected.items() <= dict(line.split("=", 1) for line in lines).items()
    host_key = root / "etc/dropbear/host_key"
    assert host_key.read_bytes() == keys.host_key_file()
    assert host_key.stat().st_mode & 0o777 == 0o600
    authorized = root / "home/root/.ssh/authorized_keys"
    assert authorized.read_bytes() == keys.authorized_keys()
    assert authorized.parent.stat().st_mode & 0o777 == 0o700
