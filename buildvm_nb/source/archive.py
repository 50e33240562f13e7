"""Tar and zip archives that strangers made: checked by digest, unpacked safely."""

import bz2
import calendar
import errno
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache, file_digest, free_bytes
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.case import ArchiveSource
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.download import download, new_client, redacted
from buildvm_nb.source.tree import MAX_TREE_BYTES, Fetched, TreeWriter, keep, single_directory

__all__ = [
    "fetch_archive",
    "local_path",
    "size_limit",
    "unpack",
    "unpack_zip",
    "unpacking",
]

# Unpacking tar and zip archives that strangers made.
#
# The format is told by the first bytes, not by the name. What comes out is bounded in size and in
# ratio; only files, directories and links come out, and nothing lands outside the tree.
#
# References: APPNOTE.TXT of the ZIP format, 4.4.15: the upper 16 bits of the external attributes
# hold the Unix mode where the archive was made on Unix.

_MAX_RATIO = 1000
_ALWAYS_ALLOWED = 64 * 2**20


class _Reads(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


_COMPRESSIONS: tuple[tuple[bytes, Callable[[IO[bytes]], _Reads]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"\x5d\x00\x00", lzma.open),
)
_UNREADABLE = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x9d": "compress", b"Rar!": "rar", b"7z": "7z"}
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError)

_ARCHIVES_FAULT = {None, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
"""Error numbers that an archive brings about; gzip and bz2 raise `OSError` without a number."""


def unpack(archive: Path, into: Path, *, what: str) -> str:
    """Unpack a tar (plain, gzip, bzip2, xz, lzma) or zip archive.

    `into`: an empty directory.
    Returns: name of the one directory at its top; empty if there is more or less than that.
    Raises `SourceError` if it is damaged, of another format, too large when unpacked, or unsafe.
    """
    with archive.open("rb") as stream:
        start = stream.read(8)
    writer = TreeWriter(into, what, limit=size_limit(archive))
    with unpacking(what):
        if start.startswith(b"PK"):
            unpack_zip(archive, writer)
        else:
            _unpack_tar(archive, start, writer)
        writer.finish()
    return single_directory(into)


@contextmanager
def unpacking(what: str) -> Iterator[None]:
    """Turn what a damaged archive makes the standard library raise into one error."""
    try:
        yield
    except _BROKEN as error:
        raise SourceError(f"damaged archive: {what}: {error}") from error
    except OSError as error:
        if error.errno not in _ARCHIVES_FAULT:
            raise
        raise SourceError(f"damaged archive: {what}: {error}") from error


def size_limit(*archives: Path) -> int:
    """Return to how much archives may unpack together.

    Returns: bytes; a thousand times their size is more than honest ones need.
    """
    packed = sum(archive.stat().st_size for archive in archives)
    return min(MAX_TREE_BYTES, max(_ALWAYS_ALLOWED, packed * _MAX_RATIO))


class _Bounded(io.RawIOBase):
    """A stream that ends with an error when more comes out of it than was allowed."""

    def __init__(self, stream: _Reads, limit: int, what: str) -> None:
        super().__init__()
        self._stream = stream
        self._limit = limit
        self._room = limit
        self._what = what

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._room -= len(data)
        if self._room < 0:
            raise SourceError(
                f"unpacks to more than {self._limit // 2**20} MiB: {self._what}; this looks like "
                "a decompression bomb"
            )
        return data


def _unpack_tar(archive: Path, start: bytes, writer: TreeWriter) -> None:
    for magic, name in _UNREADABLE.items():
        if start.startswith(magic):
            raise SourceError(
                f"archive format not supported: {writer.what} ({name}); allowed: zip, and tar "
                "plain or with gzip, bzip2, xz or lzma"
            )
    with archive.open("rb") as packed:
        opener = next((open_ for magic, open_ in _COMPRESSIONS if start.startswith(magic)), None)
        plain = opener(packed) if opener else packed
        bounded = _Bounded(plain, size_limit(archive) + _ALWAYS_ALLOWED, writer.what)
        with tarfile.open(fileobj=bounded, mode="r|", errors="surrogateescape") as tar:
            for member in tar:
                _write_member(tar, member, writer)


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, writer: TreeWriter) -> None:
    mtime = int(member.mtime)
    if member.isdir():
        writer.directory(member.name, mtime=mtime)
    elif member.issym():
        writer.symlink(member.name, member.linkname, mtime=mtime)
    elif member.islnk():
        writer.hardlink(member.name, member.linkname)
    elif member.isreg() and (content := tar.extractfile(member)) is not None:
        writer.file(member.name, content, mode=member.mode, mtime=mtime)
    else:
        raise SourceError(
            f"unsafe entry in {writer.what}: {member.name!r} is a device, a named pipe or of an "
            "unknown type; allowed: files, directories and links"
        )


def unpack_zip(
    archive: Path, writer: TreeWriter, *, rename: Callable[[str], str] = lambda name: name
) -> None:
    """Unpack a zip archive into a tree that the caller finishes.

    `rename`: gives the name in the tree for a name in the archive; empty: leave it out.
    """
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            if not (name := rename(info.filename)):
                continue
            try:
                _write_zip_entry(packed, info, name, writer)
            except (RuntimeError, NotImplementedError) as error:
                raise SourceError(f"cannot be unpacked: {writer.what}: {error}") from error


def _write_zip_entry(
    packed: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, writer: TreeWriter
) -> None:
    mode = info.external_attr >> 16
    mtime = _zip_time(info)
    kind = stat.S_IFMT(mode)
    if info.is_dir():
        writer.directory(name, mtime=mtime)
        return
    with packed.open(info) as content:
        if kind == stat.S_IFLNK:
            target = content.read(4097)
            writer.symlink(name, target.decode(errors="surrogateescape"), mtime=mtime)
        elif kind in {0, stat.S_IFREG}:
            bits = stat.S_IMODE(mode) or 0o644
            writer.file(name, content, mode=bits, mtime=mtime)
        else:
            raise SourceError(f"unsafe entry in {writer.what}: {name!r} is no file, nor a link")


def _zip_time(info: zipfile.ZipInfo) -> int:
    """Return an entry's time, taken as UTC; 0 where the entry holds no date."""
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))
    except ValueError:
        return 0


def local_path(url: str, base: Path) -> Path | None:
    """Return the path that a URL or path names on this host."""
    if "://" not in url:
        return (base / Path(url).expanduser()).absolute()
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Path(unquote(parts.path))
    return None


def fetch_archive(
    source: ArchiveSource, cache: Cache, *, base: Path, progress: Progress
) -> Fetched:
    """Fetch and unpack an archive.

    Raises `SourceError` if it cannot be had, has another digest, or is damaged or unsafe.
    """
    path = local_path(source.url, base)
    origin = redacted(source.url) if path is None else str(path)
    if path is None and urlsplit(source.url).scheme not in {"http", "https"}:
        raise UsageError(f"unknown kind of URL: {origin}; allowed: http, https, file, or a path")
    name = Path(unquote(urlsplit(origin).path if path is None else origin)).name or "archive"

    def make(tree: Path, scratch: Path) -> tuple[SourceRecord, str]:
        archive = scratch / "archive"
        if path is None:
            with new_client() as client:
                digest = download(client, source.url, archive, progress=progress)
        else:
            digest = _copy(path, archive)
        if digest != source.sha256:
            raise SourceError(
                f"{origin} has another digest: sha256 {digest}, wanted {source.sha256}",
                sought=(origin,),
                hint="the file was changed after the case was written, or damaged on its way",
            )
        top = unpack(archive, tree, what=origin)
        record = SourceRecord(kind=source.kind, name=name, version="", digest=digest, origin=origin)
        return record, top

    recipe = {"kind": source.kind, "sha256": source.sha256, "origin": origin}
    return keep(cache, recipe, make, label=f"fetch {name}", progress=progress)


def _copy(path: Path, target: Path) -> str:
    """Copy a file first and digest the copy, so that what was checked is what is unpacked."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise SourceError(
                f"not a file: {path}",
                sought=(str(path),),
                hint="a directory is a source of kind local",
            )
        with path.open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(
            f"cannot be read: {path}: {error.strerror}", sought=(str(path),)
        ) from error
    except OSError as error:
        raise HostError(f"cannot be read: {path}: {error.strerror}") from error
    if size > (free := free_bytes(target.parent)):
        raise HostError(
            f"no room for {path} ({size // 2**20} MiB): {free // 2**20} MiB are free in "
            f"{target.parent}",
            hint="make room or choose another --cache",
        )
    shutil.copyfile(path, target)
    return file_digest(target)
