"""Tar and zip archives by path or URL, with a digest that must match."""

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache, file_digest, free_bytes
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.case import ArchiveSource
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.download import download, new_client, redacted
from buildvm_nb.source.store import Fetched, keep
from buildvm_nb.source.unpack import unpack

__all__ = ["fetch_archive", "local_path"]


def local_path(url: str, base: Path) -> Path | None:
    """Return the path that a URL or path names on this host.

    Parameters
    ----------
    url : str
        URL or path.
    base : Path
        Where a relative path starts.

    Returns
    -------
    Path or None
        Absolute; None if it is a URL that leads elsewhere.
    """
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

    Parameters
    ----------
    source : ArchiveSource
        What is wanted.
    cache : Cache
        Where it is kept.
    base : Path
        Where a relative path starts.
    progress : Progress
        Shows the download.

    Returns
    -------
    Fetched
        The unpacked archive; its digest is that of the archive file.

    Raises
    ------
    UsageError
        If the URL is neither http, https nor file.
    SourceError
        If it cannot be had, has another digest, or is damaged or unsafe.
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
