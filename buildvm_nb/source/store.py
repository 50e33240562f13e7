"""What was fetched, and how it is kept: one cache entry for each source as it was asked for."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildvm_nb.errors import HostError, SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.tree import tree_stamp

__all__ = ["KIND", "Fetched", "Make", "keep"]

Make = Callable[[Path, Path], tuple[SourceRecord, str]]
"""Fills a tree, with a directory for scratch files beside it; returns record and top."""

KIND = "sources"
"""Family of cache entries."""

_FORMAT = 1
"""Counts up when the same recipe gives another tree than an older version of this code."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A source on this host, ready to be given to a machine.

    The tree is shared by all who ask for the same source: never write into it, never follow its
    symbolic links on the host. Permission bits are the source's own, so nothing on disk stops a
    careless writer; what was changed is noticed at the next fetch, and fetched anew.
    """

    record: SourceRecord
    tree: Path
    """Directory with the unpacked source."""
    top: str
    """Name of the directory inside `tree` where steps start by default; empty: `tree` itself."""


def keep(
    cache: Cache,
    recipe: dict[str, Any],
    make: Make,
    *,
    label: str,
    progress: Progress = SILENT,
) -> Fetched:
    """Return a source out of the cache, made now if it is not there or was touched.

    Parameters
    ----------
    cache : Cache
        Where it is kept.
    recipe : dict
        All that says which source it is, as plain JSON.
    make : callable
        Gets an empty directory for the tree and one for scratch files; returns record and top.
    label : str
        What is being fetched, for people.
    progress : Progress
        Shows it.

    Returns
    -------
    Fetched
        The source.
    """

    def build(work: Path) -> dict[str, Any]:
        tree, scratch = work / "tree", work / "scratch"
        for directory in (tree, scratch):
            directory.mkdir()
            directory.chmod(0o755)
        record, top = make(tree, scratch)
        shutil.rmtree(scratch)
        return {
            "record": record.model_dump(mode="json"),
            "top": top,
            "stamp": tree_stamp(tree),
        }

    whole_recipe = {"format": _FORMAT, **recipe}
    place = cache.entry(KIND, whole_recipe, build, label=label, progress=progress)
    if not _is_untouched(cache, place):
        cache.remove(KIND, place.name)
        place = cache.entry(KIND, whole_recipe, build, label=label, progress=progress)
    facts = cache.record(place)["facts"]
    return Fetched(
        record=SourceRecord.parse(facts["record"]), tree=place / "tree", top=facts["top"]
    )


def _is_untouched(cache: Cache, place: Path) -> bool:
    tree = place / "tree"
    try:
        return bool(tree.is_dir() and tree_stamp(tree) == cache.record(place)["facts"]["stamp"])
    except (SourceError, HostError, OSError, KeyError):
        return False
