"""A small writer of cpio archives in the "newc" form that the kernel unpacks as an initramfs.

It needs no privileges, not even for device nodes, and writes the same bytes for the same calls:
everything belongs to root and bears one time.

References
----------
Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["CpioWriter"]

_TRAILER = "TRAILER!!!"
_LARGEST = 2**32 - 1


class CpioWriter:
    """Writes one archive; parents of a name are added where the caller has not done so.

    `stream`: written from its present position on; not closed.
    `mtime`: time of every entry, in seconds since 1970.
    """

    def __init__(self, stream: BinaryIO, *, mtime: int = 0) -> None:
        self._stream = stream
        self._mtime = mtime
        self._inode = 0
        self._written = 0
        self._directories: set[str] = set()

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory; one that is there already is left as it is."""
        name = name.strip("/")
        if name and name not in self._directories:
            self._add_parents(name)
            self._directories.add(name)
            self._entry(name, stat.S_IFDIR | mode)

    def file(self, name: str, content: bytes | Path, mode: int = 0o644) -> None:
        """Add a regular file."""
        data = content.read_bytes() if isinstance(content, Path) else content
        self._add_parents(name)
        self._entry(name.strip("/"), stat.S_IFREG | mode, data)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add_parents(name)
        self._entry(name.strip("/"), stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, number: tuple[int, int], mode: int = 0o600) -> None:
        """Add a character device node."""
        self._add_parents(name)
        self._entry(name.strip("/"), stat.S_IFCHR | mode, device=number)

    def tree(self, root: Path, at: str = "") -> None:
        """Add all files, directories and links below a directory, sorted by name."""
        for path in sorted(root.iterdir()):
            name = f"{at}/{path.name}".strip("/")
            if path.is_symlink():
                self.symlink(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name)
                self.tree(path, name)
            elif path.is_file():
                self.file(name, path, 0o755 if path.stat().st_mode & 0o100 else 0o644)

    def close(self) -> None:
        """Write the end of the archive, padded so that another may follow."""
        self._inode = -1
        self._entry(_TRAILER, 0)
        self._pad(512)

    def _add_parents(self, name: str) -> None:
        parent = name.strip("/").rpartition("/")[0]
        if parent:
            self.directory(parent)

    def _entry(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        encoded = name.encode() + b"\0"
        if len(data) > _LARGEST:
            message = f"too large for a cpio archive: {name}: {len(data)} bytes"
            raise ValueError(message)
        self._inode += 1
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (
            self._inode,
            mode,
            0,  # user
            0,  # group
            links,
            self._mtime,
            len(data),
            0,  # device that holds the file
            0,
            *device,
            len(encoded),
            0,  # check sum, not used in this form
        )
        self._write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._pad(4)
        self._write(data)
        self._pad(4)

    def _pad(self, unit: int) -> None:
        self._write(b"\0" * (-self._written % unit))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._written += len(data)
