"""What a machine boots from: plain paths and facts, whoever made the files."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["BootFiles"]


@dataclass(frozen=True, kw_only=True)
class BootFiles:
    """The files that a guest boots from; they are only read."""

    kernel: Path
    """A kernel that QEMU boots directly: a bzImage, or an ELF with a PVH note."""
    kernel_release: str
    """What the guest's ``uname -r`` must say."""
    initramfs: Path
    """Our initramfs, not compressed, to which a machine's own settings are appended."""
    root: Path
    """The image: a squashfs."""
    kernel_parameters: tuple[str, ...] = ()
    """What the kernel is told beyond what every guest's kernel is."""
    image_digest: str = ""
    """SHA-256 of `root`."""
    kernel_digest: str = ""
    """Key of the kernel in the cache."""
