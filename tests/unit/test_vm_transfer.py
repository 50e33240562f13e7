"""None"""

import io
import os
import shutil
import socket
import struct
import subprocess
import tarfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildvm_nb.errors import HostError, MachineError
from buildvm_nb.host.cpio import CpioWriter
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm.session import ChannelKeys
from buildvm_nb.vm.transfer import pack_exports, pack_inputs, unpack_exports, write_initramfs


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


# Disks in and out of a guest: what goes in arrives as it is, what comes out is not trusted.

NEWEST = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture
def disk(tmp_path):
    """Write an exports disk as a guest may leave it: members, then zeros to its end."""

    def write(*members, size=1 << 20):
        path = tmp_path / "disk"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name, content, fields in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                for field, value in fields.items():
                    setattr(member, field, value)
                archive.addfile(member, io.BytesIO(content))
        os.truncate(path, max(size, path.stat().st_size))
        return path

    return write


def file(name, content=b"", **fields):
    return name, content, fields


def listing(image):
    """Return mode, owner and time of every file of a squashfs, by path."""
    argv = ["unsquashfs", "-lln", image]
    said = subprocess.run(
        argv, capture_output=True, check=True, text=True, env={**os.environ, "TZ": "UTC"}
    ).stdout
    rows = [line.split(None, 5) for line in said.splitlines() if "squashfs-root" in line]
    return {row[5].removeprefix("squashfs-root"): (row[0], row[1], row[3]) for row in rows}


def test_regular_files_come_out_and_nothing_else(disk, tmp_path):
    path = disk(
        file("out", type=tarfile.DIRTYPE),
        file("out/b.txt", b"two\n"),
        file("out/deep/er/a.txt", b"one\n", mode=0o4755),
        file("out/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        file("out/hard", type=tarfile.LNKTYPE, linkname="out/b.txt"),
        file("device", type=tarfile.CHRTYPE),
        file("pipe", type=tarfile.FIFOTYPE),
    )
    target = tmp_path / "new/target"
    assert unpack_exports(path, target) == (Path("out/b.txt"), Path("out/deep/er/a.txt"))
    assert (target / "out/deep/er/a.txt").read_text() == "one\n"
    assert not (target / "out/deep/er/a.txt").stat().st_mode & 0o7111
    assert {entry.name for entry in target.rglob("*")} == {*("out", "b.txt", "deep", "er", "a.txt")}


def test_a_file_behind_a_link_stays_inside(disk, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    path = disk(
        file("door", type=tarfile.SYMTYPE, linkname=str(outside)), file("door/in", b"gotcha")
    )
    unpack_exports(path, tmp_path / "target")
    assert list(outside.iterdir()) == []
    assert (tmp_path / "target/door/in").read_bytes() == b"gotcha"


@pytest.mark.parametrize(
    "name", ["../out", "/etc/out", "a/../../out", "a\0b", "x" * 300, "x/" * 3000 + "x"], ids=ascii
)
def test_a_name_that_no_file_inside_may_have_is_refused(disk, tmp_path, name):
    target = tmp_path / "x" / "target"
    path = disk(file("fine"), file("?", pax_headers={"path": name}))
    with pytest.raises(MachineError, match="artifacts"):
        unpack_exports(path, target)
    assert not (tmp_path / "x" / "out").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "members",
    [
        (file("a", b"x"), file("a/b", b"x")),
        (file("a/b", b"x"), file("a", b"x")),
        (file("a", b"x"), file("a", type=tarfile.DIRTYPE)),
        (file(".", b"x"),),
    ],
    ids=["file-as-directory", "directory-as-file", "file-made-directory", "the-target-itself"],
)
def test_names_that_contradict_each_other_are_the_guests_fault(disk, tmp_path, members):
    with pytest.raises(MachineError, match="artifacts cannot be unpacked"):
        unpack_exports(disk(*members), tmp_path / "target")


def test_a_name_that_comes_twice_has_what_came_last(disk, tmp_path):
    assert set(unpack_exports(disk(file("a", b"one"), file("a", b"two")), tmp_path / "t")) == {
        Path("a")
    }
    assert (tmp_path / "t/a").read_bytes() == b"two"


@pytest.mark.parametrize(
    "headers",
    [
        {"size": "1000000000000"},
        {"size": "-1000000"},
        {"GNU.sparse.map": "0,x", "GNU.sparse.size": "5"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"},
        {"GNU.sparse.size": "nothing"},
    ],
    ids=str,
)
def test_an_archive_that_lies_about_sizes_is_refused(disk, tmp_path, headers):
    path = disk(file("a", b"x" * 100, pax_headers=headers))
    with pytest.raises(MachineError, match="artifacts"):
        unpack_exports(path, tmp_path / "target")


def test_an_archive_that_claims_more_than_its_disk_holds_is_refused(tmp_path):
    member = tarfile.TarInfo("huge")
    member.size = 10**12
    (tmp_path / "disk").write_bytes(member.tobuf(tarfile.PAX_FORMAT) + bytes(10_000))
    with pytest.raises(MachineError, match="not acceptable: 'huge'"):
        unpack_exports(tmp_path / "disk", tmp_path / "target")


@pytest.mark.parametrize("content", [b"", b"this is no tar archive" * 1000, b"\xff" * 4096])
def test_what_is_no_archive_is_an_error(tmp_path, content):
    (tmp_path / "disk").write_bytes(content)
    with pytest.raises(MachineError, match="artifacts"):
        unpack_exports(tmp_path / "disk", tmp_path / "target")


def test_an_archive_that_breaks_off_is_an_error(disk, tmp_path):
    path = disk(file("big", os.urandom(100_000)), size=0)
    os.truncate(path, 50_000)
    with pytest.raises(MachineError, match="artifacts"):
        unpack_exports(path, tmp_path / "target")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damage=st.lists(
        st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
    )
)
def test_no_damage_leads_out_of_the_target_or_to_an_error_that_is_not_ours(
    disk, tmp_path_factory, damage
):
    path = disk(
        file("a/b", b"x" * 600, pax_headers={"comment": "y" * 20, "path": "a/longer/b"}),
        file("c", b"z"),
        size=8192,
    )
    with path.open("r+b") as stream:
        for place, data in damage:
            stream.seek(place)
            stream.write(data)
    around = tmp_path_factory.mktemp("around")
    with suppress(MachineError):
        unpack_exports(path, around / "target")
    assert [entry.name for entry in around.iterdir()] == ["target"]


def test_artifacts_for_a_full_disk_are_the_hosts_trouble(disk, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "full").symlink_to("/dev/full")
    with pytest.raises(HostError, match=r"cannot write artifacts: .*No space left on device"):
        unpack_exports(disk(file("full", b"x" * 100_000)), target)


def test_inputs_arrive_where_they_belong_with_their_own_names_and_no_time_after_the_newest(
    tmp_path,
):
    tree, more = tmp_path / "tree", tmp_path / "mo.re[1],&$"
    (tree / "sub").mkdir(parents=True)
    more.mkdir()
    odd = "a b\\c,d&e\n"
    for path, year in ((tree / "old", 1999), (tree / "sub" / odd, 2020), (more / "x", 1998)):
        path.write_text("content")
        at = datetime(year, 6, 1, tzinfo=UTC).timestamp()
        os.utime(path, (at, at))
    (tree / "link").symlink_to("/etc/passwd")
    image = tmp_path / "inputs.squashfs"
    pack_inputs({"": tree, "second,&": more}, image, newest=NEWEST)
    files = listing(image)
    assert files["/old"] == ("-rw-r--r--", "1000/1000", "1999-06-01")
    assert files["/second,&/x"] == ("-rw-r--r--", "1000/1000", "1998-06-01")
    assert files["/link -> /etc/passwd"][0] == "lrwxrwxrwx"
    old = ("/old", "/second,&/x")
    del files[""]  # the guest mounts its own directory over this one's time
    assert {time for name, (_, _, time) in files.items() if name not in old} == {"2001-01-01"}
    unpacked = tmp_path / "unpacked"
    argv = ["unsquashfs", "-quiet", "-no-progress", "-dest", unpacked, image]
    subprocess.run(argv, check=True, capture_output=True)
    assert (unpacked / "sub" / odd).read_text() == "content"


def test_our_own_cache_is_not_packed_with_the_directory_that_holds_it(tmp_path):
    home = tmp_path / "ho[m]e"
    for name in (".cache/ours/machines", ".cache/theirs", "work"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text("content")
    ours = tmp_path / "link"
    ours.symlink_to(home / ".cache/ours")
    pack_inputs({"": home}, tmp_path / "outer", newest=NEWEST, without=ours)
    names = set(listing(tmp_path / "outer"))
    assert {"/work/file", "/.cache/theirs/file"} <= names
    assert not [name for name in names if "ours" in name]
    inner = home / ".cache/ours/machines"  # as sources are
    pack_inputs({"": inner}, tmp_path / "inner", newest=NEWEST, without=ours)
    assert "/file" in listing(tmp_path / "inner")


def test_inputs_that_do_not_fit_are_refused_before_any_is_packed(tmp_path):
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree/huge").open("wb") as stream:
        stream.truncate(2**43)  # sparse
    with pytest.raises(HostError, match=f"no room to copy {tmp_path}/tree for a guest: .* MiB are"):
        pack_inputs({"": tmp_path / "tree"}, tmp_path / "image", newest=NEWEST)
    assert not (tmp_path / "image").exists()


def test_what_cannot_be_packed_is_noted(tmp_path):
    tree, notes = tmp_path / "tree", []
    tree.mkdir()
    os.mkfifo(tree / "pipe")
    (tree / "secret").write_text("content")
    (tree / "secret").chmod(0)
    (tree / "file").write_text("content")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        pack_inputs({"": tree}, tmp_path / "image", newest=NEWEST, on_note=notes.append)
    assert {"/pipe", "/file"} <= set(listing(tmp_path / "image"))
    assert f"not copied as it is: {tree}/socket: socket ignored" in notes
    unreadable = [note for note in notes if "secret" in note]
    assert bool(unreadable) is (os.geteuid() != 0)
    assert len(notes) == 1 + len(unreadable)


def test_many_notes_are_counted(tmp_path):
    tree, notes, sockets = tmp_path / "t", [], []
    tree.mkdir()
    for number in range(11):
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(tree / f"s{number}"))
        sockets[-1].close()
    pack_inputs({"": tree}, tmp_path / "image", newest=NEWEST, on_note=notes.append)
    assert len(notes) == 9
    assert notes[-1] == "so were 3 more files"


def test_an_input_that_is_not_there_is_named(tmp_path):
    with pytest.raises(HostError, match=r"cannot read an input: tar exited with 2: .*missing"):
        pack_inputs({"": tmp_path / "missing"}, tmp_path / "image", newest=NEWEST)


def test_inputs_that_cannot_be_written_are_told_with_the_packers_words(tmp_path):
    (tmp_path / "tree").mkdir()
    with pytest.raises(HostError, match=r"cannot pack the inputs: sqfstar exited with \d+: .*No "):
        pack_inputs({"": tmp_path / "tree"}, tmp_path / "missing/image", newest=NEWEST)


def test_exports_are_packed_without_being_unpacked_here(disk, tmp_path):
    path = disk(
        file("dir", type=tarfile.DIRTYPE, mode=0o755, uid=1000, gid=1000),
        file("dir/file", b"x", mode=0o600, uid=1000, gid=1000, mtime=946684800),
        file("dir/link", type=tarfile.SYMTYPE, linkname="/nowhere"),
    )
    pack_exports(path, tmp_path / "built.squashfs")
    files = listing(tmp_path / "built.squashfs")
    assert files["/dir/file"] == ("-rw-------", "1000/1000", "2000-01-01")
    assert "/dir/link -> /nowhere" in files
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["built.squashfs", "disk"]


def test_exports_that_are_no_archive_are_told(tmp_path):
    (tmp_path / "disk").write_bytes(b"this is no tar archive" * 1000)
    with pytest.raises(HostError, match="sqfstar"):
        pack_exports(tmp_path / "disk", tmp_path / "built.squashfs")
