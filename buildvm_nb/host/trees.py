"""Directories with whatever is in them."""

import os
import shutil
from pathlib import Path

__all__ = ["delete_tree"]


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
