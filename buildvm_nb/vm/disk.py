"""A machine that boots a disk image of somebody else's; nothing of ours is in its guest."""

import json
import socket
import stat
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from buildvm_nb.errors import GuestLost, StateError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm.accelerator import choose_accelerator
from buildvm_nb.vm.command import RTC_RANGE, BootFiles, clock, entropy, lines, network, processor
from buildvm_nb.vm.instance import Provision, account_for, scratch_directory
from buildvm_nb.vm.qemu import (
    Console,
    Emulator,
    Monitor,
    OwnedProcess,
    check_cpu,
    check_wishes,
    find_emulator,
)

__all__ = [
    "DiskImage",
    "DiskMachine",
    "disk_argv",
    "inspect_disk",
]

# Disk images that machines boot from: looked at before QEMU opens them.
#
# A qcow2 image can name other files of the host: the one that it is based on, and one that has its
# data. QEMU would open them, whatever they are. So an image that names any is refused, and QEMU is
# told what the format is instead of guessing it.
#
# References: QEMU, docs/interop/qcow2.txt.

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQI")
"""Magic, version, place and length of the base's name, cluster bits, size, encryption."""
_FEATURES = struct.Struct(">Q")
_FEATURES_AT = 72
_EXTERNAL_DATA = 1 << 2
_VERSIONS = (2, 3)
_SECTOR = 512
_BOOTABLE = b"\x55\xaa"
_SMALLEST, _LARGEST = 2**16, 2**44
_HINT = "make it with `guix system image -t qcow2`, or `qemu-img convert -O qcow2`"


@dataclass(frozen=True, kw_only=True)
class DiskImage:
    """A disk image that may be booted; it is only read."""

    path: Path
    format: str
    """``qcow2`` or ``raw``."""
    size_bytes: int
    """Of the disk that the guest sees."""


def inspect_disk(path: Path) -> DiskImage:
    """Look at a disk image.

    Parameters
    ----------
    path : Path
        A qcow2 image, or a raw one with a boot sector.

    Returns
    -------
    DiskImage
        Complete in itself.

    Raises
    ------
    UsageError
        If it is missing or no such image, is encrypted, or refers to other files of the host.
    """
    try:
        with path.open("rb") as stream:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UsageError(f"not a file: {path}; allowed: a disk image", hint=_HINT)
            is_qcow2 = stream.read(len(_MAGIC)) == _MAGIC
            stream.seek(0)
            kind = "qcow2" if is_qcow2 else "raw"
            size = _qcow2_size(stream, path) if is_qcow2 else _raw_size(stream, path)
    except OSError as error:
        raise UsageError(f"cannot read the disk image: {path}: {error.strerror}") from error
    if not _SMALLEST <= size <= _LARGEST:
        raise UsageError(
            f"no disk to boot from: {path} is a disk of {size} bytes; allowed: {_SMALLEST} to "
            f"{_LARGEST}"
        )
    return DiskImage(path=path.absolute(), format=kind, size_bytes=size)


def _qcow2_size(stream: BinaryIO, path: Path) -> int:
    header = stream.read(_FEATURES_AT + _FEATURES.size)
    if len(header) < _FEATURES_AT + _FEATURES.size:
        raise UsageError(f"the disk image is cut off: {path}", hint="copy it again")
    _, version, base_at, base_length, _, size, encryption = _HEADER.unpack_from(header)
    if version not in _VERSIONS:
        raise UsageError(f"unknown version of qcow2: {version} in {path}; allowed: 2, 3")
    # version 2 has no such field
    features = _FEATURES.unpack_from(header, _FEATURES_AT)[0] if version > _VERSIONS[0] else 0
    if base_at or features & _EXTERNAL_DATA:
        named = f" {_base(stream, base_at, base_length)}" if base_at else ""
        what = "is based on another file" if base_at else "has its data in another file"
        raise UsageError(
            f"the disk image {what}{named}: {path}; allowed: one that is complete in itself",
            hint="`qemu-img convert -O qcow2 OLD NEW` makes one of it, if you trust it",
        )
    if encryption:
        raise UsageError(f"the disk image is encrypted: {path}", hint="decrypt it first")
    return int(size)


def _base(stream: BinaryIO, at: int, length: int) -> str:
    stream.seek(min(at, _LARGEST))
    return repr(stream.read(min(length, 200)).decode(errors="replace"))


def _raw_size(stream: BinaryIO, path: Path) -> int:
    if stream.read(_SECTOR)[-len(_BOOTABLE) :] != _BOOTABLE:
        raise UsageError(
            f"neither a qcow2 image nor a raw one with a boot sector: {path}", hint=_HINT
        )
    return stream.seek(0, 2)


# From a machine with a disk of its own to QEMU's command line: a pure function.
#
# References: QEMU, qemu-system-x86_64(1) 7.2 and 10.0; qapi/block-core.json
# (``BlockdevOptionsQcow2``); target/i386/kvm/kvm.c (``kvmclock``).

_WITHOUT_HOST_TIME = ",-kvmclock"
"""KVM's own clock begins with the host's time, whatever the clock chip says."""


def disk_argv(emulator: Emulator, spec: MachineSpec, disk: DiskImage, *, monitor: int) -> list[str]:
    """Write the command line that boots a disk by its own boot loader, as a PC's BIOS does.

    The image is opened for reading only; what the guest writes goes to a nameless file in the
    directory for temporary files, and is gone with QEMU.

    Parameters
    ----------
    emulator : Emulator
        The QEMU that will run.
    spec : MachineSpec
        CPU, accelerator, date, memory, network and ports; image and kernel say nothing here.
    disk : DiskImage
        What is booted.
    monitor : int
        Descriptor of a connected socket that QEMU inherits.

    Returns
    -------
    list of str
        Program and arguments.
    """
    vendor = emulator.vendor_of(spec.cpu)
    argv = processor(emulator.path, spec, vendor, without=_WITHOUT_HOST_TIME)
    argv += clock(spec.date) + lines(monitor)
    # boot loaders may want a screen to write to; nobody sees it
    argv += ["-device", "VGA"]
    argv += ["-drive", f"if=none,id=disk,werror=report,rerror=report,snapshot=on,{_drive(disk)}"]
    argv += ["-device", "virtio-blk-pci,drive=disk,bootindex=0"]
    return argv + entropy() + network(spec)


def _drive(disk: DiskImage) -> str:
    """Write a drive with its format, and without any base whatever its header says by now."""
    node: dict[str, object] = {
        "driver": disk.format,
        "file": {"driver": "file", "filename": str(disk.path)},
    }
    if disk.format == "qcow2":
        node["backing"] = None
    return "file=json:" + json.dumps(node).replace(",", ",,")


# A machine that boots a disk image of somebody else's; nothing of ours is in its guest.
#
# So what is set from outside (date, CPU, memory) is what QEMU was told, and nobody has read it
# back.


class DiskMachine:
    """A machine with a disk image; `boot` starts it, `close` ends it, the image stays as it is.

    Parameters
    ----------
    spec : MachineSpec
        What is asked for; image and kernel say nothing here.
    disk : DiskImage
        What it boots.
    cache : Cache
        Where what the guest writes is kept while it lives.
    provision : Provision
        Its QEMU and the log of its console count.
    boot : BootFiles, optional
        A kernel of ours to prove KVM with; None: KVM is not offered here, or not wanted.

    Raises
    ------
    UsageError
        If QEMU knows no such CPU, or the clock chip cannot hold the date.
    HostError
        If this host lacks QEMU, or KVM where it was asked for.
    """

    def __init__(
        self,
        spec: MachineSpec,
        disk: DiskImage,
        *,
        cache: Cache,
        provision: Provision,
        boot: BootFiles | None = None,
    ) -> None:
        first, end = RTC_RANGE
        if not first <= spec.date < end:
            raise UsageError(
                f"a disk cannot be booted at {format_instant(spec.date)}: its system takes the "
                f"date from the clock chip; allowed: {format_instant(first)} until before "
                f"{format_instant(end)}",
                hint="machines with `image` have their clock set from within, to any date",
            )
        self.emulator = find_emulator(cache.root, provision.qemu)
        memo = cache.root / "kvm.json"
        accelerator = choose_accelerator(spec.accelerator, self.emulator, boot, memo)
        cpu = check_cpu(spec.cpu, self.emulator)
        self.spec = spec.model_copy(update={"cpu": cpu, "accelerator": accelerator})
        self.disk = disk
        self._cache, self._provision = cache, provision
        self._console: Console | None = None
        self._process: OwnedProcess | None = None
        self._stack = ExitStack()

    @property
    def console_text(self) -> str:
        """What the serial console said."""
        return self._console.text if self._console else ""

    @property
    def pid(self) -> int:
        """Process number of QEMU."""
        return self._running().pid

    def boot(self) -> None:
        """Start QEMU; what the guest does then is not known here.

        Raises
        ------
        LaunchError
            If QEMU does not start.
        GuestLost
            If it ends at once.
        HostError
            If the CPU lacks a feature that was asked for by name, or the machine's directory or
            the console's log cannot be written.
        StateError
            If it was started before.
        """
        if self._process:
            raise StateError("the machine was started already")
        try:
            self._launch()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Make sure that the machine still runs.

        Raises
        ------
        GuestLost
            If it has ended; with what it said last.
        """
        process = self._running()
        if not process.is_running and self._trouble:
            raise GuestLost(self._trouble)
        if not process.is_running and self._console:
            raise account_for(GuestLost("the guest is gone"), process, self._console)

    def close(self) -> None:
        """End guest and QEMU; calling it twice does no harm."""
        self._stack.close()

    def _give_up(self, trouble: str) -> None:
        """End a guest that can prove nothing any more."""
        self._trouble = trouble
        if self._process:
            self._process.kill()

    def _running(self) -> OwnedProcess:
        if self._process is None:
            raise StateError("the machine was not started", hint="call boot() first")
        return self._process

    def _launch(self) -> None:
        place = self._stack.enter_context(scratch_directory(self._cache.root / "machines"))
        self._console = console = Console(self._provision.console_log)
        self._stack.callback(console.close)
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        with theirs:
            argv = disk_argv(self.emulator, self.spec, self.disk, monitor=theirs.fileno())
            inherit = [theirs.fileno()]
            process = OwnedProcess(argv, inherit=inherit, console=console, temporary=place)
        self._process = process
        self._stack.callback(process.close)
        try:
            monitor = Monitor(ours, on_trouble=self._give_up)
            self._stack.callback(monitor.close)
            _, lacking = monitor.cpu_features(self.spec.cpu, self.emulator.features)
        except GuestLost as error:
            raise account_for(error, process, console) from error
        check_wishes(self.spec, lacking, self.emulator)
