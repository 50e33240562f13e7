import io
import subprocess
import tarfile

import pytest

from buildvm_nb.image.finishing import FILE_TIME, finish, read_packages

STATUS = """\
Package: libc6
Status: install ok installed
Version: 2.36-9

Package: gone
Status: deinstall ok config-files
Version: 1

Package: bash
Status: install ok installed
Version: 5.2-1
"""
PYC = bytes.fromhex("a70d0d0a") + bytes(4) + (1700000000).to_bytes(4, "little") + bytes(4) + b"code"
HASHED_PYC = bytes.fromhex("a70d0d0a") + b"\x01\0\0\0" + b"12345678" + b"code"


def finished(*members):
    """Pass members, given as name and content or as TarInfo, through and read them back."""
    source, target = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=source, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1700000000.5
            archive.addfile(info, io.BytesIO(data))
    source.seek(0)
    seen = finish(source, target)
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        contents = {
            member.name: archive.extractfile(member).read() if member.isreg() else None
            for member in archive
        }
        infos = {member.name: member for member in archive.getmembers()}
    return seen, contents, infos


def test_every_file_has_the_one_time():
    _, _, infos = finished(("./usr/bin/tool", b"x"))
    assert {info.mtime for info in infos.values()} == {FILE_TIME}


def test_the_build_user_can_log_in_nowhere_but_exists():
    _, contents, infos = finished(
        ("./etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n"),
        ("./etc/group", b"root:x:0:\n"),
        ("./etc/shadow", b"root:*:20000:0:99999:7:::\n"),
    )
    assert contents["./etc/passwd"].endswith(b"\nbuild:x:1000:1000::/home/build:/bin/sh\n")
    assert contents["./etc/group"] == b"root:x:0:\nbuild:x:1000:\n"
    assert contents["./etc/shadow"] == b"root:*::0:99999:7:::\nbuild:*::0:99999:7:::\n"
    assert (infos["./home/build"].uid, infos["./build"].gid) == (1000, 1000)


def test_a_guest_finds_localhost_and_its_mount_points():
    _, contents, infos = finished()
    assert b"127.0.0.1\tlocalhost" in contents["./etc/hosts"]
    assert contents["./etc/resolv.conf"] == b""
    assert all(infos[f"./{name}"].isdir() for name in ("proc", "sys", "dev", "run", "tmp"))
    assert infos["./tmp"].mode == 0o1777


def test_what_belongs_to_the_making_is_taken_out():
    device = tarfile.TarInfo("./dev/console")
    device.type = tarfile.CHRTYPE
    _, contents, _ = finished(
        device,
        ("./etc/apt/sources.list", b"deb http://mirror.example/debian bookworm main\n"),
        ("./etc/apt/apt.conf.d/99mmdebstrap", b"Acquire::http::Proxy ...\n"),
        ("./var/log/dpkg.log", b"today"),
        ("./etc/passwd-", b"backup"),
        ("./run/lock/x", b""),
        ("./var/lib/dpkg/info/libc6.list", b"kept"),
    )
    assert contents["./var/lib/dpkg/info/libc6.list"] == b"kept"
    assert not {
        "./dev/console",
        "./etc/apt/sources.list",
        "./etc/apt/apt.conf.d/99mmdebstrap",
        "./var/log/dpkg.log",
        "./etc/passwd-",
        "./run/lock/x",
    } & set(contents)


def test_compiled_python_files_stay_fresh():
    _, contents, _ = finished(("./a.pyc", PYC), ("./b.pyc", HASHED_PYC), ("./c.pyc", b"short"))
    assert int.from_bytes(contents["./a.pyc"][8:12], "little") == FILE_TIME
    assert contents["./a.pyc"][:8] + contents["./a.pyc"][12:] == PYC[:8] + PYC[12:]
    assert contents["./b.pyc"] == HASHED_PYC
    assert contents["./c.pyc"] == b"short"


def test_links_and_attributes_pass_through():
    link = tarfile.TarInfo("./bin")
    link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
    capable = tarfile.TarInfo("./usr/bin/ping")
    capable.pax_headers = {"SCHILY.xattr.security.capability": "v", "atime": "1700000000.1"}
    _, _, infos = finished(link, capable)
    assert infos["./bin"].linkname == "usr/bin"
    assert infos["./usr/bin/ping"].pax_headers == {"SCHILY.xattr.security.capability": "v"}


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_files_with_holes_are_filled_in(form, tmp_path):
    """As a newer mmdebstrap writes its archive; a packer would take them for sparse ones."""
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 20)
        stream.seek(0, 2)
        stream.write(b"end")
    argv = ["tar", "--create", "--sparse", f"--format={form}", "--directory", tmp_path, "./sparse"]
    made = subprocess.run(argv, check=True, capture_output=True).stdout
    assert len(made) < 1 << 20
    target = io.BytesIO()
    finish(io.BytesIO(made), target)
    assert b"GNU.sparse" not in target.getvalue()
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        member = archive.getmember("./sparse")
        assert not member.issparse()
        assert archive.extractfile(member).read() == bytes(1 << 20) + b"end"


def test_the_installed_packages_are_read_on_the_way():
    seen, _, _ = finished(("./var/lib/dpkg/status", STATUS.encode()))
    assert seen.packages == {"bash": "5.2-1", "libc6": "2.36-9"}
    assert read_packages("") == {}


def test_the_same_root_gives_the_same_stream():
    streams = []
    for _ in range(2):
        source, target = io.BytesIO(), io.BytesIO()
        with tarfile.open(fileobj=source, mode="w"):
            pass
        source.seek(0)
        finish(source, target)
        streams.append(target.getvalue())
    assert streams[0] == streams[1]


def test_a_stream_that_breaks_off_is_an_error():
    source = io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as archive:
        info = tarfile.TarInfo("./a")
        info.size = 5000
        archive.addfile(info, io.BytesIO(bytes(5000)))
    cut = io.BytesIO(source.getvalue()[:2000])
    with pytest.raises(tarfile.TarError):
        finish(cut, io.BytesIO())
