"""Directories with whatever is in them."""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

__all__ = ["delete_tree", "tree_bytes"]

_ENTRY_BYTES = 512
"""What an entry takes beside its content in an archive; so many small files are large, too."""


def tree_bytes(tree: Path, *, without: Collection[Path] = (), enough: float = float("inf")) -> int:
    """Return about how much a copy of a directory takes.

    Parameters
    ----------
    tree : Path
        A directory; what cannot be read in it does not count.
    without : collection of Path
        Directories in it that do not count.
    enough : float
        Do not look on when it is more than this.

    Returns
    -------
    int
        Bytes; where that is more than `enough`, at least so many.
    """
    size, todo, skipped = 0, [str(tree)], set(map(str, without))
    while todo and size <= enough:
        with suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    size += _ENTRY_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        if entry.path not in skipped:
                            todo.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        size += entry.stat(follow_symlinks=False).st_size
                if size > enough:
                    break
    return size


def delete_tree(tree: Path) -> None:
    """Delete a directory with all that is in it, also where its modes keep its owner out.

    Parameters
    ----------
    tree : Path
        It may be gone; symbolic links in it are not followed.

    Raises
    ------
    OSError
        If it cannot be deleted.
    """
    if not tree.exists():
        return
    tree.chmod(0o700)
    for directory, names, _ in os.walk(tree):
        for path in (Path(directory, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(tree)
