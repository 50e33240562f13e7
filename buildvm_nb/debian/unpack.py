"""The files of a Debian package."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from buildvm_nb.errors import HostError
from buildvm_nb.host.tools import run_tool

__all__ = ["unpack_deb"]

_PERMISSIONS = 0o777


def unpack_deb(deb: Path, into: Path) -> None:
    """Unpack a package's files; none of its scripts runs.

    What would run as its owner does not: nothing of ours needs it, and a service that is confined
    may not make such files.

    Parameters
    ----------
    deb : Path
        A ``.deb`` file.
    into : Path
        Directory for the files, made if it is not there.

    Raises
    ------
    HostError
        If dpkg-deb is missing, the file is damaged, or a file cannot be written.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryFile(dir=into) as plain:
            run_tool(["dpkg-deb", "--fsys-tarfile", deb], stdout=plain)
            plain.seek(0)
            with tarfile.open(fileobj=plain, mode="r:") as archive:
                # it is a verified package of Debian, and its links lead where they are to
                archive.extraction_filter = lambda member, _path: member
                archive.extractall(into, members=_plain_members(archive))  # noqa: S202 - see above
    except (tarfile.TarError, OSError) as error:
        raise HostError(f"cannot unpack {deb.name}: {error}") from error


def _plain_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        member.mode &= _PERMISSIONS
        yield member
