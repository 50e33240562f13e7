"""Disk images: what is refused before QEMU sees it, and how QEMU is told to open the others."""

import json
import struct

import pytest

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm import DiskImage, DiskMachine, Provision, disk_argv, inspect_disk
from buildvm_nb.vm.qemu import Emulator

GIB = 2**30
QEMU = Emulator(
    path="qemu",
    version="7.2.22",
    models=frozenset({"Haswell"}),
    features=frozenset(),
    vendors={"Haswell": "GenuineIntel"},
)


def qcow2(*, version=3, base=b"", size=GIB, encryption=0, features=0):
    at = 512 if base else 0
    header = struct.pack(">4sIQIIQI", b"QFI\xfb", version, at, len(base), 16, size, encryption)
    return (header.ljust(72, b"\0") + struct.pack(">Q", features)).ljust(512, b"\0") + base


def written(tmp_path, content):
    path = tmp_path / "a,b.img"
    path.write_bytes(content)
    return path


def spec_of(**fields):
    return MachineSpec.parse({"date": "2015-03-04", "accelerator": "tcg"} | fields)


def values(argv, option):
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


@pytest.mark.parametrize("version", [2, 3])
def test_a_qcow2_image_is_known_by_its_header(tmp_path, version):
    # in version 2 a header extension is where version 3 has its features
    features = 0 if version == 3 else 2**64 - 1
    path = written(tmp_path, qcow2(version=version, features=features))
    assert inspect_disk(path) == DiskImage(path=path, format="qcow2", size_bytes=GIB)


def test_a_raw_image_is_known_by_its_boot_sector(tmp_path):
    path = written(tmp_path, (b"\0" * 510 + b"\x55\xaa").ljust(2**20, b"\0"))
    assert inspect_disk(path) == DiskImage(path=path, format="raw", size_bytes=2**20)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (qcow2(base=b"/etc/shadow"), "is based on another file '/etc/shadow'"),
        (qcow2(features=1 << 2), "has its data in another file"),
        (qcow2(encryption=1), "is encrypted"),
        (qcow2(version=4), "unknown version of qcow2: 4"),
        (qcow2(size=2**60), "is a disk of 1152921504606846976 bytes"),
        (qcow2(size=0), "is a disk of 0 bytes"),
        (qcow2()[:40], "is cut off"),
        (b"KDMV" + bytes(600), "neither a qcow2 image nor a raw one with a boot sector"),
        (b"", "neither a qcow2 image nor a raw one"),
        (bytes(510) + b"\x55\xaa", "is a disk of 512 bytes"),
    ],
)
def test_what_is_no_disk_or_reaches_for_other_files_is_refused(tmp_path, content, why):
    with pytest.raises(UsageError, match=why):
        inspect_disk(written(tmp_path, content))


def test_a_missing_image_and_a_directory_are_told(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        inspect_disk(tmp_path / "none")
    with pytest.raises(UsageError, match="Is a directory"):
        inspect_disk(tmp_path)


def drive_of(disk):
    (drive,) = values(disk_argv(QEMU, spec_of(), disk, monitor=3), "-drive")
    options, _, node = drive.replace(",,", "\0").partition("file=json:")
    return options.split(","), json.loads(node.replace("\0", ","))


def test_an_image_is_opened_as_what_it_is_and_never_written(tmp_path):
    options, node = drive_of(DiskImage(path=tmp_path / "a,b", format="qcow2", size_bytes=GIB))
    assert "snapshot=on" in options
    # no base, also if the file is exchanged after it was looked at
    assert (node["driver"], node["backing"]) == ("qcow2", None)
    assert node["file"] == {"driver": "file", "filename": str(tmp_path / "a,b")}
    assert drive_of(DiskImage(path=tmp_path, format="raw", size_bytes=GIB))[1]["driver"] == "raw"


def test_a_disk_boots_by_its_own_loader_in_the_machine_that_was_asked_for(tmp_path):
    disk = DiskImage(path=tmp_path, format="raw", size_bytes=GIB)
    spec = spec_of(cpu="Haswell", port_forwardings=[{"host": 11022, "guest": 22}])
    argv = disk_argv(QEMU, spec, disk, monitor=3)
    assert not {"-kernel", "-initrd", "-append"} & set(argv)
    assert values(argv, "-cpu") == ["Haswell"]
    assert values(argv, "-rtc") == ["base=2015-03-04T00:00:00,clock=host"]
    assert values(argv, "-netdev") == ["user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:11022-:22"]
    assert values(argv, "-display") == ["none"]


def test_the_time_of_the_host_is_hidden_under_kvm(tmp_path):
    disk = DiskImage(path=tmp_path, format="raw", size_bytes=GIB)
    argv = disk_argv(QEMU, spec_of(cpu="Haswell", accelerator="kvm"), disk, monitor=3)
    assert values(argv, "-cpu") == ["Haswell,-kvmclock,vendor=GenuineIntel"]


@pytest.mark.parametrize("date", ["2070-01-01", "2200-01-01"])
def test_a_date_that_the_clock_chip_cannot_hold_is_refused(tmp_path, date):
    disk = DiskImage(path=tmp_path, format="raw", size_bytes=GIB)
    with pytest.raises(UsageError, match=r"a disk cannot be booted at .* 2070-01-01"):
        DiskMachine(spec_of(date=date), disk, cache=Cache(tmp_path), provision=Provision())
