"""Unpacking of binary packages, without installing them."""

from pathlib import Path

from buildvm_nb.host.tools import run_tool

__all__ = ["unpack_deb"]


def unpack_deb(deb: Path, into: Path) -> None:
    """Unpack a package's files; none of its scripts runs.

    Parameters
    ----------
    deb : Path
        A ``.deb`` file.
    into : Path
        Directory for the files, made if it is not there.

    Raises
    ------
    HostError
        If dpkg-deb is missing or the file is damaged.
    """
    into.mkdir(parents=True, exist_ok=True)
    run_tool(["dpkg-deb", "--extract", deb, into])
