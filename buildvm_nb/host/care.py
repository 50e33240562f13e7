"""What a cache holds, and what of it may go: the longest unused first, never what is in use."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import PARTIAL, RECORD, Cache
from buildvm_nb.model.instants import now

__all__ = ["Kept", "Pruned", "prune", "survey"]

_LOCKS = ".locks"
_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One entry of a cache, or what a killed maker left of one."""

    kind: str
    key: str
    size_bytes: int
    """What it occupies on the disk."""
    used_at: datetime
    """When it was made or asked for last."""
    is_partial: bool
    """Whether it was never finished, or is being made or removed now."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What came of a clean-up."""

    removed: tuple[Kept, ...]
    in_use: tuple[Kept, ...]
    """What would have gone if nobody used it."""
    left_bytes: int
    """Size of what is left of the kinds in question."""


def survey(cache: Cache, kinds: Collection[str] = ()) -> tuple[Kept, ...]:
    """List what a cache holds.

    Parameters
    ----------
    cache : Cache
        It is only read.
    kinds : collection of str
        Families of entries; none: all.

    Returns
    -------
    tuple of Kept
        The longest unused first.

    Raises
    ------
    UsageError
        If there is no such kind.
    """
    known = sorted(path.parent.name for path in cache.root.glob(f"*/{_LOCKS}"))
    if unknown := sorted(set(kinds) - set(known)):
        raise UsageError(
            f"the cache has no {', '.join(unknown)}; it has {', '.join(known) or 'nothing'}"
        )
    found = [each for kind in kinds or known for each in _kept(cache, kind)]
    return tuple(sorted(found, key=lambda each: (each.used_at, each.kind, each.key)))


def prune(
    cache: Cache,
    *,
    kinds: Collection[str] = (),
    unused_for: timedelta | None = None,
    most_bytes: int | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove what killed makers left, what was not used for long, and more until the rest fits.

    Everything can be made or fetched again, for as long as its origin gives it.

    Parameters
    ----------
    cache : Cache
        Entries that any process uses now stay.
    kinds : collection of str
        Families of entries; none: all.
    unused_for : timedelta, optional
        Entries that were not used for so long go.
    most_bytes : int, optional
        What the kinds in question may occupy in all.
    dry_run : bool
        Remove nothing, and only tell.

    Returns
    -------
    Pruned
        What went.

    Raises
    ------
    UsageError
        If there is no such kind.
    HostError
        If the cache cannot be written.
    """
    found = survey(cache, kinds)
    oldest = now() - unused_for if unused_for is not None else None
    left = sum(each.size_bytes for each in found)
    removed, in_use = [], []
    for each in _partial_first(found):
        is_too_old = oldest is not None and each.used_at <= oldest
        is_too_much = most_bytes is not None and left > most_bytes
        if not (each.is_partial or is_too_old or is_too_much):
            continue
        if cache.remove_unused(each.kind, each.key, partial=each.is_partial, dry_run=dry_run):
            removed.append(each)
            left -= each.size_bytes
        else:
            in_use.append(each)
    return Pruned(removed=tuple(removed), in_use=tuple(in_use), left_bytes=left)


def _partial_first(found: Sequence[Kept]) -> list[Kept]:
    return sorted(found, key=lambda each: not each.is_partial)


def _kept(cache: Cache, kind: str) -> Iterator[Kept]:
    for place in (cache.root / kind).iterdir():
        is_partial = place.name.startswith(".") and place.name.endswith(PARTIAL)
        if place.name.startswith(".") and not is_partial:
            continue
        yield Kept(
            kind=kind,
            key=place.name[1 : -len(PARTIAL)] if is_partial else place.name,
            size_bytes=_occupied(place),
            used_at=_used_at(place),
            is_partial=is_partial,
        )


def _used_at(place: Path) -> datetime:
    """Return when an entry was used last: its directory or its record is touched then."""
    times = [0.0]
    for path in (place, place / RECORD):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return datetime.fromtimestamp(max(times), UTC)


def _occupied(place: Path) -> int:
    """Return what a directory occupies; what vanishes meanwhile counts as nothing."""
    sizes = {}  # by inode: a source may hold one file under several names
    for directory, _, names in os.walk(place):
        for path in (Path(directory), *(Path(directory, name) for name in names)):
            with suppress(OSError):
                status = path.lstat()
                sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return sum(sizes.values())
