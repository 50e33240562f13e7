"""A disk image that boots by its own boot loader, as one of a foreign system does."""

import shutil
import struct
from pathlib import Path

import pytest

from buildvm_nb.host.cpio import CpioWriter
from buildvm_nb.host.process import run_tool
from buildvm_nb.image import fetch_kernel
from buildvm_nb.image.initramfs import build_initramfs

HERE = Path(__file__).parent
GRUB = Path("/usr/lib/grub/i386-pc")
SECTOR = 512
PARTITION = 2048
PARTITION_MIB = 48
LINUX = 0x83
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux")
GRUB_SCRIPT = """\
linux (hd0,msdos1)/vmlinuz console=ttyS0 panic=-1 no_timer_check
initrd (hd0,msdos1)/initramfs.cpio
boot
"""


def make_disk(work, cache):
    """Write a compressed qcow2 image: GRUB in its first sectors, kernel and initramfs in ext2."""
    missing = [name for name in ("grub-mkimage", "qemu-img") if not shutil.which(name)]
    if missing or not (GRUB / "boot.img").exists():
        pytest.skip("needs GRUB for BIOS and qemu-img (Debian: grub-pc-bin, qemu-utils)")
    kernel = fetch_kernel("debian:bookworm", cache)
    files = work / "files"
    files.mkdir()
    shutil.copyfile(kernel.vmlinuz, files / "vmlinuz")
    shutil.copyfile(build_initramfs(kernel, cache), files / "initramfs.cpio")
    with (files / "initramfs.cpio").open("ab") as stream:
        archive = CpioWriter(stream)
        archive.file("init", HERE / "init", 0o755)
        archive.file("etc/receive", HERE / "receive")
        archive.directory("etc/dropbear")
        archive.close()
    (work / "grub.cfg").write_text(GRUB_SCRIPT)
    make = ["grub-mkimage", "-O", "i386-pc", "-p", "/", "-c", work / "grub.cfg", "-o"]
    run_tool([*make, work / "core", *GRUB_MODULES])
    return assemble(work, files)


def assemble(work, files):
    raw, partition = work / "disk.raw", work / "partition"
    run_tool(["mke2fs", "-q", "-t", "ext2", "-d", files, partition, f"{PARTITION_MIB}M"])
    boot = bytearray((GRUB / "boot.img").read_bytes())
    sectors = PARTITION_MIB * 2**20 // SECTOR
    boot[446:510] = struct.pack("<B3sB3sII", 0x80, b"", LINUX, b"", PARTITION, sectors).ljust(
        64, b"\0"
    )
    core = (work / "core").read_bytes()
    assert len(core) < (PARTITION - 1) * SECTOR
    with raw.open("wb") as stream:
        stream.write(boot + core)
        stream.seek(PARTITION * SECTOR)
        stream.write(partition.read_bytes())
    run_tool(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, work / "disk.qcow2"])
    return work / "disk.qcow2"
