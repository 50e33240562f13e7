import io
import subprocess

import pytest

from buildvm_nb.host.cache import Cache
from buildvm_nb.host.cpio import CpioWriter
from buildvm_nb.image import fetch_guest_tools


def sample():
    stream = io.BytesIO()
    writer = CpioWriter(stream)
    writer.directory("proc", 0o555)
    writer.file("init", b"#!/bin/sh\n", 0o755)
    writer.file("usr/lib/a.so", b"x" * 5)
    writer.symlink("bin/sh", "busybox")
    writer.character_device("dev/console", (5, 1))
    writer.close()
    return stream.getvalue()


def entries(data):
    """Read the archive by the format's own description."""
    at, found = 0, {}
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at += (110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (fields, data[at : at + fields[6]])
        at += (fields[6] + 3) & ~3


def test_every_entry_can_be_read_back():
    found = entries(sample())
    names = "proc init usr usr/lib usr/lib/a.so bin bin/sh dev dev/console"
    assert " ".join(found) == names
    assert found["init"][0][1] == 0o100755
    assert found["init"][1] == b"#!/bin/sh\n"
    assert found["usr/lib/a.so"][1] == b"xxxxx"
    assert found["bin/sh"] == (found["bin/sh"][0], b"busybox")
    assert found["dev/console"][0][1] == 0o020600
    assert found["dev/console"][0][9:11] == [5, 1]


def test_the_same_calls_write_the_same_bytes_owned_by_root():
    assert sample() == sample()
    assert all(fields[2:4] == [0, 0] for fields, _ in entries(sample()).values())


def test_inodes_differ_so_that_nothing_is_taken_for_a_hard_link():
    inodes = [fields[0] for fields, _ in entries(sample()).values()]
    assert len(set(inodes)) == len(inodes)


def test_a_second_archive_may_follow_the_first():
    assert len(sample()) % 512 == 0


def test_a_tree_is_added_in_order_of_names(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tool").write_bytes(b"tool")
    (tmp_path / "b" / "tool").chmod(0o700)
    (tmp_path / "a").write_bytes(b"data")
    (tmp_path / "c").symlink_to("b/tool")
    stream = io.BytesIO()
    writer = CpioWriter(stream)
    writer.tree(tmp_path, "opt")
    writer.close()
    found = entries(stream.getvalue())
    assert list(found) == ["opt", "opt/a", "opt/b", "opt/b/tool", "opt/c"]
    assert found["opt/b/tool"][0][1] == 0o100755
    assert found["opt/a"][0][1] == 0o100644


def test_what_is_too_large_is_refused():
    class Huge(bytes):
        def __len__(self):
            return 2**32

    with pytest.raises(ValueError, match="too large"):
        CpioWriter(io.BytesIO()).file("huge", Huge())


@pytest.mark.network
def test_busybox_lists_the_archive():
    busybox = fetch_guest_tools(Cache()) / "bin/busybox"
    listed = subprocess.run(
        [busybox, "cpio", "-tv"], input=sample(), capture_output=True, check=True
    ).stdout.decode()
    assert "-rwxr-xr-x" in listed
    assert "bin/sh -> busybox" in listed
    assert "crw-------" in listed
