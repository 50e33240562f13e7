import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from buildvm_nb.errors import SourceError
from buildvm_nb.source.archive import unpack
from buildvm_nb.source.tree import tree_digest, tree_stamp


def member(name, **facts):
    info = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def make_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name, (2019, 5, 1, 12, 0, 0))
            info.external_attr = mode << 16 | 0x20
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, content)
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    return member(name, type=kind, linkname=target), b""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def test_a_tar_keeps_contents_modes_links_and_times(tmp_path, tree):
    archive = make_tar(
        tmp_path / "a.tar.gz",
        [
            (member("pkg-1/", type=tarfile.DIRTYPE, mode=0o755, mtime=1000), b""),
            (member("pkg-1/run", mode=0o755, mtime=2000), b"#!/bin/sh\n"),
            (member("pkg-1/data", mode=0o664, mtime=3000), b"\r\n\x00"),
            link("pkg-1/latest", "data"),
            link("pkg-1/twin", "pkg-1/data", tarfile.LNKTYPE),
        ],
    )
    assert unpack(archive, tree, what="a.tar.gz") == "pkg-1"
    top = tree / "pkg-1"
    assert stat.S_IMODE((top / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((top / "data").stat().st_mode) == 0o644
    assert (top / "data").read_bytes() == b"\r\n\x00"
    assert (top / "latest").readlink() == Path("data")
    assert (top / "twin").samefile(top / "data")
    assert (top / "run").stat().st_mtime == 2000
    assert top.stat().st_mtime == 1000


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_the_format_is_told_by_the_content_and_not_by_the_name(tmp_path, tree, pack):
    plain = make_tar(tmp_path / "plain", [(member("only/file"), b"x")], "w")
    archive = tmp_path / "misnamed.zip"
    archive.write_bytes(pack(plain.read_bytes()))
    assert unpack(archive, tree, what="misnamed.zip") == "only"


def test_a_zip_keeps_modes_links_and_times(tmp_path, tree):
    archive = make_zip(
        tmp_path / "a.zip",
        [
            ("top/run", b"#!/bin/sh\n", stat.S_IFREG | 0o755),
            ("top/plain", b"x", 0),
            ("top/link", b"plain", stat.S_IFLNK | 0o777),
        ],
    )
    assert unpack(archive, tree, what="a.zip") == "top"
    assert stat.S_IMODE((tree / "top/run").stat().st_mode) == 0o755
    assert stat.S_IMODE((tree / "top/plain").stat().st_mode) == 0o644
    assert (tree / "top/link").readlink() == Path("plain")
    assert (tree / "top/run").stat().st_mtime == 1556712000


def test_directories_that_an_archive_does_not_name_are_no_younger_than_its_files(tmp_path, tree):
    archive = make_tar(tmp_path / "a.tar", [(member("a/b/c", mtime=5000), b"x")], "w")
    unpack(archive, tree, what="a.tar")
    assert (tree / "a").stat().st_mtime == 5000


def test_several_entries_at_the_top_give_no_top_directory(tmp_path, tree):
    archive = make_tar(tmp_path / "a.tar", [(member("a/x"), b""), (member("b"), b"")], "w")
    assert unpack(archive, tree, what="a.tar") == ""


HOSTILE = {
    "leads up": [(member("../evil"), b"x")],
    "leads up inside": [(member("a/../../evil"), b"x")],
    "absolute": [(member("/etc/evil"), b"x")],
    "absolute link": [link("a", "/etc/passwd")],
    "link out": [link("a/b", "../../outside")],
    "link out through links": [link("l", "."), link("m", "l/l/l/../../../outside")],
    "write through a link": [link("a", "b"), (member("b/x"), b""), (member("a/evil"), b"x")],
    "link below a link": [link("a", "b"), (member("b/x"), b""), link("a/c", "b")],
    "hard link out": [link("a", "../outside", tarfile.LNKTYPE)],
    "hard link to nothing": [link("a", "b", tarfile.LNKTYPE)],
    "hard link to a link": [link("a", "b"), link("c", "a", tarfile.LNKTYPE)],
    "named pipe": [(member("a", type=tarfile.FIFOTYPE), b"")],
    "character device": [(member("a", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b"")],
    "block device": [(member("a", type=tarfile.BLKTYPE, devmajor=8), b"")],
    "file over a directory": [(member("a/b"), b""), (member("a"), b"x")],
    "directory over a file": [(member("a"), b"x"), (member("a/b"), b"")],
    "name too long": [(member("n" * 300), b"x")],
    "no name": [(member("./"), b"x")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile_tars_are_refused_and_leave_nothing_outside(tmp_path, tree, members):
    archive = make_tar(tmp_path / "evil.tar", members, "w")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SourceError, match=r"evil\.tar"):
        unpack(archive, tree, what="evil.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "entry",
    [
        ("../evil", b"x", 0o644),
        ("/evil", b"x", 0o644),
        ("a", b"/etc/passwd", stat.S_IFLNK | 0o777),
        ("a", b"", stat.S_IFIFO | 0o644),
    ],
)
def test_hostile_zips_are_refused(tmp_path, tree, entry):
    archive = make_zip(tmp_path / "evil.zip", [entry])
    with pytest.raises(SourceError, match=r"evil\.zip"):
        unpack(archive, tree, what="evil.zip")


def test_an_encrypted_zip_is_refused(tmp_path, tree):
    archive = make_zip(tmp_path / "a.zip", [("a", b"x", 0o644)])
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(SourceError, match="encrypted"):
        unpack(archive, tree, what="a.zip")


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_a_decompression_bomb_is_refused(tmp_path, tree, form):
    size = 80 * 2**20
    archive = tmp_path / "bomb"
    if form == "tar":
        make_tar(archive, [(member("a"), bytes(size))], "w:xz")
    else:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as packed:
            packed.writestr("a", bytes(size))
    assert archive.stat().st_size < 2**16
    with pytest.raises(SourceError, match="decompression bomb"):
        unpack(archive, tree, what="bomb")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_truncated_archive_is_damaged(tmp_path, tree, pack):
    plain = make_tar(tmp_path / "plain", [(member("a"), os.urandom(100_000))], "w")
    archive = tmp_path / "cut"
    archive.write_bytes(pack(plain.read_bytes())[:50_000])
    with pytest.raises(SourceError, match="damaged archive: cut"):
        unpack(archive, tree, what="cut")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04junk", b"\x1f\x8bjunk", b"BZhjunk"])
def test_what_is_no_archive_is_called_damaged(tmp_path, tree, content):
    archive = tmp_path / "junk"
    archive.write_bytes(content)
    with pytest.raises(SourceError, match="damaged archive: junk"):
        unpack(archive, tree, what="junk")


def test_an_unknown_compression_is_named_with_those_that_are_known(tmp_path, tree):
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(b"\x28\xb5\x2f\xfdrest")
    with pytest.raises(SourceError, match=r"zstd.*allowed: zip, and tar"):
        unpack(archive, tree, what="a.tar.zst")


def test_loops_of_links_inside_the_tree_do_no_harm(tmp_path, tree):
    archive = make_tar(tmp_path / "a.tar", [link("a", "b"), link("b", "a")], "w")
    unpack(archive, tree, what="a.tar")
    assert (tree / "a").is_symlink()


def test_the_digest_of_a_tree_sees_names_modes_targets_and_contents_only(tmp_path):
    digests = []

    def look():
        digests.append(tree_digest(root))

    root = tmp_path / "t"
    (root / "d").mkdir(parents=True)
    (root / "d/f").write_text("1")
    (root / "l").symlink_to("d")
    look()
    (root / "d/f").write_text("2")
    look()
    (root / "d/f").chmod(0o755)
    look()
    (root / "d/f").rename(root / "d/g")
    look()
    (root / "l").unlink()
    (root / "l").symlink_to("e")
    look()
    (root / "empty").mkdir()
    look()
    assert len(set(digests)) == 6
    (root / "d/g").touch()
    assert tree_digest(root) == digests[-1]


def test_the_stamp_of_a_tree_sees_a_write_that_keeps_the_size(tmp_path):
    (tmp_path / "f").write_text("1")
    before = tree_stamp(tmp_path)
    assert tree_stamp(tmp_path) == before
    (tmp_path / "f").write_text("2")
    assert tree_stamp(tmp_path) != before
