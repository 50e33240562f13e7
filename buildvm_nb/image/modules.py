"""Kernel modules: found in a tree, unpacked, and put into an order in which they can be loaded.

Debian's packages have no ``modules.dep`` (it is made on installation), so the dependencies are
read from the modules themselves.

References
----------
modules.dep(5); Linux, include/linux/module.h (``MODULE_INFO``: ``depends``, ``softdep``).
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from buildvm_nb.errors import SourceError
from buildvm_nb.image.bzimage import decompress

__all__ = ["ModuleTree", "load_order", "module_needs"]

_FILE = re.compile(r"(?P<name>.+)\.ko(\.(xz|zst|gz))?")
_INFO = re.compile(rb"\0(depends|softdep)=([^\0]*)\0")


class ModuleTree:
    """The modules below a directory such as ``/lib/modules/RELEASE``.

    Parameters
    ----------
    root : Path
        The directory. A file ``modules.builtin`` anywhere in it says what the kernel has built
        in; without one, what is not there counts as built in.
    """

    def __init__(self, root: Path) -> None:
        self._paths: dict[str, Path] = {}
        self._built_in: set[str] | None = None
        for path in sorted(root.rglob("*")):
            if (match := _FILE.fullmatch(path.name)) and path.is_file():
                self._paths.setdefault(_normal(match["name"]), path)
            elif path.name == "modules.builtin":
                lines = path.read_text().split()
                self._built_in = {_normal(Path(line).name.removesuffix(".ko")) for line in lines}
        self._contents: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        """Return a module, unpacked.

        Parameters
        ----------
        name : str
            Its name, for example ``virtio_blk``.

        Returns
        -------
        bytes or None
            An ELF object; None when the kernel has it built in.

        Raises
        ------
        SourceError
            If it is neither there nor built in, or is damaged.
        """
        name = _normal(name)
        if name in self._contents:
            return self._contents[name]
        if path := self._paths.get(name):
            self._contents[name] = decompress(path.read_bytes())
            return self._contents[name]
        if self._built_in is None or name in self._built_in:
            return None
        raise SourceError(f"this kernel has no module {name}, nor is it built in")


def load_order(wanted: Iterable[str], read: Callable[[str], bytes | None]) -> tuple[str, ...]:
    """Put modules and all that they need into an order in which they can be loaded.

    Parameters
    ----------
    wanted : iterable of str
        Names of modules.
    read : callable
        Gives a module by name, None for one that is built in.

    Returns
    -------
    tuple of str
        Names with ``_`` for ``-``, each after what it needs; what is built in is left out.

    Raises
    ------
    SourceError
        If modules need each other in a circle.
    """
    done: dict[str, bool] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            raise SourceError(f"modules need each other: {' -> '.join([*path, name])}")
        if name in done:
            return
        content = read(name)
        if content is not None:
            path.append(name)
            for need in module_needs(content):
                visit(need)
            path.pop()
        done[name] = content is not None

    for name in wanted:
        visit(_normal(name))
    return tuple(name for name, is_module in done.items() if is_module)


def module_needs(content: bytes) -> tuple[str, ...]:
    """Return what a module needs loaded before it.

    Parameters
    ----------
    content : bytes
        The module, an ELF object.

    Returns
    -------
    tuple of str
        Names with ``_`` for ``-``: its ``depends``, then the ``pre`` of its ``softdep``.
    """
    needs: list[str] = []
    softly: list[str] = []
    for kind, value in _INFO.findall(content.replace(b"\0", b"\0\0")):
        text = value.decode(errors="replace")
        if kind == b"depends":
            needs += [name for name in text.split(",") if name]
        elif match := re.match(r"pre:(.*?)(post:|$)", text):
            softly += match[1].split()
    return tuple(dict.fromkeys(map(_normal, needs + softly)))


def _normal(name: str) -> str:
    return name.replace("-", "_")
