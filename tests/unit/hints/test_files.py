"""Trees and archives: what is read, in which order, and what is left out and said to be."""

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from backports import zstd

from buildvm_nb.errors import UsageError
from buildvm_nb.hints import ScanLimits, scan_tree

DAY = b"2025-01-01\n"


def paths(found):
    return [row[0] for row in found.rows]


def tar(members, mode="w", form=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as packed:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return stream.getvalue()


def ar(members):
    data = b"!<arch>\n"
    for name, content in members.items():
        head = f"{name + '/':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        data += head.encode() + content + b"\n" * (len(content) % 2)
    return data


PACKED = {
    "a.tar": (lambda d: tar({"./t/a.txt": d}), "!t/a.txt"),
    "a.tar.gz": (lambda d: gzip.compress(tar({"t/a.txt": d})), "!t/a.txt"),
    "a.tgz": (lambda d: tar({"t/a.txt": d}, "w:gz"), "!t/a.txt"),
    "a.tar.bz2": (lambda d: bz2.compress(tar({"t/a.txt": d})), "!t/a.txt"),
    "a.tar.xz": (lambda d: lzma.compress(tar({"t/a.txt": d})), "!t/a.txt"),
    "a.tar.zst": (lambda d: zstd.compress(tar({"t/a.txt": d})), "!t/a.txt"),
    "gnu.tar": (
        lambda d: tar({"t/" * 90 + "a": d}, form=tarfile.GNU_FORMAT),
        "!" + "t/" * 90 + "a",
    ),
    "a.zip": (lambda d: zipped({"t/a.txt": d}), "!t/a.txt"),
    "stored.whl": (lambda d: zipped({"a.txt": d}, zipfile.ZIP_STORED), "!a.txt"),
    "bzip2.zip": (lambda d: zipped({"a.txt": d}, zipfile.ZIP_BZIP2), "!a.txt"),
    "a.txt.gz": (gzip.compress, ""),
    "two.gz": (lambda d: gzip.compress(b"\n") + gzip.compress(d) + b"\0" * 512, ""),
    "a.txt.bz2": (bz2.compress, ""),
    "a.txt.xz": (lzma.compress, ""),
    "a.txt.zst": (zstd.compress, ""),
    "a.deb": (
        lambda d: ar(
            {"debian-binary": b"2.0\n", "data.tar.xz": lzma.compress(tar({"./usr/a": d}))}
        ),
        "!data.tar.xz!usr/a",
    ),
    "a.gem": (
        lambda d: tar({"data.tar.gz": gzip.compress(tar({"lib/a.rb": d}))}),
        "!data.tar.gz!lib/a.rb",
    ),
    "jar in tar": (
        lambda d: gzip.compress(tar({"lib/a.jar": zipped({"a.txt": d})})),
        "!lib/a.jar!a.txt",
    ),
}


@pytest.mark.parametrize("name", PACKED)
def test_archives_are_looked_into(name, scan):
    pack, inside = PACKED[name]
    found = scan(pack(DAY), name)
    assert (paths(found), found.left_out) == ([name + inside], [])


def test_a_tree_is_read_in_the_order_of_its_names(scan, tmp_path):
    for name in ("b/2", "b/1", "a", "b.txt", "é", "C"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(DAY)
    assert paths(scan(tmp_path / "tree")) == ["C", "a", "b/1", "b/2", "b.txt", "é"]


def test_names_that_are_no_text_are_shown(scan, tmp_path):
    (tmp_path / "tree").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "tree") + b"/\xff.txt")).write_bytes(DAY)
    found = scan(tmp_path / "tree")
    assert paths(found) == ["\\xff.txt"]
    assert found.hints[0].model_dump_json()
    assert paths(scan(tar({"\udcff.txt": DAY}), "a.tar")) == ["a.tar!\\xff.txt"]


def test_links_pipes_and_version_control_are_left_out(scan, tmp_path):
    tree = tmp_path / "tree"
    for name in (".git/config", "sub/.hg/x", "kept"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(DAY)
    (tree / "loop").symlink_to(tree)
    (tree / "link").symlink_to(tree / "kept")
    (tree / "gone").symlink_to("nowhere")
    os.mkfifo(tree / "pipe")
    found = scan(tree)
    assert paths(found) == ["kept"]
    assert sorted(found.left_out) == [
        (".git", "it belongs to version control"),
        ("gone", "it is a symbolic link"),
        ("link", "it is a symbolic link"),
        ("loop", "it is a symbolic link"),
        ("pipe", "it is a named pipe"),
        ("sub/.hg", "it belongs to version control"),
    ]


def test_a_pipe_as_the_target_is_left_out_and_a_link_is_followed(scan, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert scan(tmp_path / "pipe").left_out == [("pipe", "it is a named pipe")]
    (tmp_path / "real").write_bytes(DAY)
    (tmp_path / "link").symlink_to("real")
    assert paths(scan(tmp_path / "link")) == ["real"]


def test_what_must_not_be_read_is_left_out(scan, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "secret").touch(mode=0)
    (tmp_path / "tree" / "closed").mkdir(mode=0)
    if os.access(tmp_path / "tree" / "secret", os.R_OK):
        pytest.skip("root may read everything")
    reason = "cannot be read: Permission denied"
    assert scan(tmp_path / "tree").left_out == [("closed", reason), ("secret", reason)]
    (tmp_path / "tree" / "closed").chmod(0o700)


def test_a_file_that_vanishes_is_left_out(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(DAY)
    left_out = []
    for hint in scan_tree(tmp_path, skipped=lambda *row: left_out.append(row)):
        assert hint.path == "a"
        (tmp_path / "b").unlink()
    assert left_out == [("b", "cannot be read: No such file or directory")]


def test_nothing_to_scan_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"nothing to scan: no such file or directory: .*gone"):
        next(scan_tree(tmp_path / "gone"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="nothing to scan"):
        next(scan_tree(tmp_path / "loop"))


def test_a_long_file_is_read_in_pieces_and_nothing_is_lost_or_told_twice(scan, material):
    filler = "".join(f"line {number}\n" for number in range(2000))
    text = f"{filler}2025-01-01\n{filler}{material.pem}{filler}2025-01-02\n{filler}"
    whole = scan(text)
    assert len(whole.rows) == 4
    for size in (8192, 10_000, 16_384):
        assert scan(text, limits=ScanLimits(member_bytes=size)).rows == whole.rows
    packed = scan(gzip.compress(text.encode()), limits=ScanLimits(member_bytes=8192))
    assert packed.rows == whole.rows


def nested(depth, data=DAY):
    for level in range(depth):
        data = tar({f"{level}.tar": data}) if level % 2 else zipped({f"{level}.zip": data})
    return data


def test_archives_in_archives_are_opened_to_a_depth(scan):
    assert len(scan(nested(4), "a.bin").rows) == 1
    found = scan(nested(5), "a.bin")
    assert found.rows == []
    (row,) = found.left_out
    assert row[1] == "archives too deep"
    many = DAY
    for _ in range(100):
        many = gzip.compress(many)
    assert scan(many, "many.gz").left_out == [("many.gz", "archives too deep")]


def test_a_bomb_is_put_out(scan):
    zeros = bytes(2**22)
    limits = ScanLimits(small_bytes=2**21)
    for name, data in (
        ("bomb.gz", gzip.compress(zeros)),
        ("bomb.tar.xz", lzma.compress(tar({"zeros": zeros, "a": DAY}), preset=0)),
        ("bomb.zip", zipped({"zeros": zeros})),
    ):
        found = scan(data, name, limits=limits)
        assert (found.rows, found.left_out) == ([], [(name, "unpacks to over 200 times its size")])
        assert scan(data, name).left_out == []


def test_all_archives_together_have_their_bounds(scan, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("1.zip", "2.zip", "3.zip"):
        (tree / name).write_bytes(zipped({"a.txt": DAY, "b.txt": DAY}))
    found = scan(tree, limits=ScanLimits(total_bytes=len(DAY) * 3))
    assert paths(found) == ["1.zip!a.txt", "1.zip!b.txt", "2.zip!a.txt"]
    assert {reason for _, reason in found.left_out} == {
        f"all archives together unpack to over {len(DAY) * 3} bytes"
    }
    found = scan(tree, limits=ScanLimits(members=3))
    assert len(found.rows) == 3
    assert found.left_out[0] == ("2.zip", "all archives together have over 3 members")


def test_a_zip_file_in_an_archive_must_fit_into_memory(scan):
    inner = zipped({"a": random.Random(1).randbytes(5000)})
    found = scan(tar({"a.zip": inner, "b": DAY}), "a.tar", limits=ScanLimits(member_bytes=4096))
    assert paths(found) == ["a.tar!b"]
    reason = "a zip file of over 4096 bytes inside an archive"
    assert found.left_out == [("a.tar!a.zip", reason)]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("cut.tar", tar({"a": DAY * 900})[:2000], "damaged: unexpected end of data"),
        ("cut.gz", gzip.compress(DAY * 999)[:-9], "damaged: it ends too early"),
        ("cut.zip", zipped({"a": DAY})[:-30], "damaged: File is not a zip file"),
        ("cut.deb", ar({"a": DAY})[:-4], "damaged: it ends too early"),
        ("odd.deb", b"!<arch>\n" + b"x" * 60, "damaged: a member of an ar archive has no header"),
        (
            "minus.deb",
            ar({"a": b""}).replace(b"0         `", b"-60       `"),
            "damaged: a member of an ar archive has a negative size",
        ),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "its format is not supported: 7z"),
        ("a.rar", b"Rar!\x1a\x07\x00" + bytes(99), "its format is not supported: RAR"),
    ],
    ids=lambda given: given if isinstance(given, str) and len(given) < 10 else "",
)
def test_what_is_damaged_or_unknown_is_reported(name, data, reason, scan):
    found = scan(data, name)
    assert {row[1] for row in found.left_out} == {reason}
    assert found.left_out[-1][0] == name  # after the member that it happens in


def test_a_damaged_member_does_not_hide_the_others(scan):
    data = zipped({"bad": b"x" * 100, "good": DAY}, zipfile.ZIP_STORED).replace(
        b"x" * 9, b"y" * 9, 1
    )
    found = scan(data, "a.zip")
    assert paths(found) == ["a.zip!good"]
    assert found.left_out == [("a.zip!bad", "damaged: Bad CRC-32 for file 'bad'")]


def test_encrypted_members_are_reported(scan):
    data = bytearray(zipped({"a": DAY}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert scan(bytes(data), "a.zip").left_out == [("a.zip!a", "it is encrypted")]


def test_a_tar_archive_cannot_make_its_reader_take_memory(scan):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    found = scan(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)), "a.tar.gz")
    assert found.left_out == [("a.tar.gz", "damaged: a header of 8589934592 bytes")]


def test_limits_that_allow_nothing_are_refused():
    with pytest.raises(UsageError, match="member_bytes out of range: 9; allowed: 1024 or more"):
        ScanLimits(member_bytes=9)
    with pytest.raises(UsageError, match="per_file out of range: 0; allowed: 1 or more"):
        ScanLimits(per_file=0)


def test_progress_is_shown(scan):
    seen = []

    class Shown:
        def task(self, label):
            seen.append(label)
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append("end")

        def update(self, done, **_):
            seen.append(done)

    scan(DAY, "a.txt", progress=Shown())
    assert seen == ["scan a.txt", len(DAY), "end"]


_SCAN = """
import resource, sys
from pathlib import Path
from buildvm_nb.hints import scan_tree

found = [hint.instant.isoformat() for hint in scan_tree(Path(sys.argv[1])) if hint.instant]
print(len(found), *sorted(set(found)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.long
def test_two_gigabytes_are_scanned_in_bounded_memory(tmp_path):
    with (tmp_path / "large.dat").open("wb") as file:
        file.write(b"EXPIRES = '2031-05-06'\n")
        file.truncate(2 * 2**30)
        file.seek(0, os.SEEK_END)
        file.write(b"\nEXPIRES = '2032-05-06'\n")
    with (tmp_path / "lines.txt").open("wb") as file:
        for number in range(64):
            file.write(b"x = 1\n" * (2**20 // 6) + b"UNTIL = '2033-01-%02d'\n" % (number % 28 + 1))
    result = subprocess.run(
        [sys.executable, "-c", _SCAN, tmp_path], capture_output=True, text=True, check=True
    )
    count, *instants, peak_mib = result.stdout.split()
    assert int(count) >= 28
    assert "2033-01-28T00:00:00+00:00" in instants
    assert int(peak_mib) < 600
