"""Packages unpacked."""

import stat
import subprocess

import pytest

from buildvm_nb.debian import unpack_deb
from buildvm_nb.errors import HostError

CONTROL = """\
Package: a
Version: 1
Architecture: all
Maintainer: nobody
Description: nothing
"""


def test_what_would_run_as_its_owner_does_not(tmp_path):
    """A confined service may not make such files at all."""
    (root := tmp_path / "a/bin").mkdir(parents=True)
    (root / "su").write_text("su")
    (root / "su").chmod(0o4755)
    (root / "link").symlink_to("/elsewhere/su")
    (tmp_path / "a/DEBIAN").mkdir()
    (tmp_path / "a/DEBIAN/control").write_text(CONTROL)
    deb = tmp_path / "a.deb"
    build = ["dpkg-deb", "--build", "--root-owner-group", tmp_path / "a", deb]
    subprocess.run(build, check=True, capture_output=True)
    unpack_deb(deb, tmp_path / "into")
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["bin"]
    assert stat.S_IMODE((tmp_path / "into/bin/su").stat().st_mode) == 0o755
    assert (tmp_path / "into/bin/link").readlink().as_posix() == "/elsewhere/su"


def test_a_package_that_is_damaged_is_told(tmp_path):
    (tmp_path / "a.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(HostError, match="dpkg-deb"):
        unpack_deb(tmp_path / "a.deb", tmp_path / "into")
