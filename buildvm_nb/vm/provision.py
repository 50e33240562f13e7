"""What a machine is given beside its description, and the files made for it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildvm_nb.errors import HostError, StateError
from buildvm_nb.host.tools import find_tool, run_tool
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.vm.boot import BootFiles
from buildvm_nb.vm.checkpoint import Checkpoint
from buildvm_nb.vm.command import MachineFiles
from buildvm_nb.vm.emulator import QEMU
from buildvm_nb.vm.keys import ChannelKeys
from buildvm_nb.vm.settings import write_initramfs
from buildvm_nb.vm.transfer import pack_inputs

__all__ = ["Provision", "lay_out", "lay_out_fork", "lay_out_copy"]

_UML_SCRATCH_MIB = 8192
"""Sparse: only what is written takes room."""


@dataclass(frozen=True, kw_only=True)
class Provision:
    """What a machine is given besides its description."""

    inputs: Mapping[str, Path] | None = None
    """Place below ``/build`` to a directory of the host; the guest gets copies."""
    on_note: Callable[[str], None] | None = None
    """Gets a sentence about each input file that could not be copied; None: that is an error."""
    built: Path | None = None
    """Instead of inputs: a build directory that `BuildMachine.export_built` wrote."""
    exports_mib: int = 1024
    """Room for artifacts."""
    scratch_mib: int | None = None
    """Size of a disk for all that is written in the guest; None: it is kept in memory."""
    processes: int = 2048
    """Processes and threads that commands may have, all together."""
    console_log: Path | None = None
    """A file that what the serial console says is written to as well."""
    qemu: str = QEMU
    """Program that runs the machine: a name on ``PATH``, or a path."""


def lay_out(
    place: Path,
    spec: MachineSpec,
    boot: BootFiles,
    provision: Provision,
    keys: ChannelKeys,
    *,
    cache_root: Path,
) -> MachineFiles:
    """Write the files that a machine needs to boot.

    Parameters
    ----------
    place : Path
        The machine's own directory.
    spec : MachineSpec
        The machine.
    boot : BootFiles
        What it boots from.
    provision : Provision
        What it is given.
    keys : ChannelKeys
        Its keys.
    cache_root : Path
        Left out of inputs that hold it.

    Returns
    -------
    MachineFiles
        All below `place`.

    Raises
    ------
    HostError
        If they cannot be written.
    """
    inputs = place / "inputs.squashfs" if provision.inputs else provision.built
    initramfs = place / "initramfs.cpio"
    try:
        if provision.inputs and inputs:
            pack_inputs(
                provision.inputs,
                inputs,
                newest=spec.date,
                without=cache_root,
                on_note=provision.on_note,
            )
        exports = _make_disk(place / "exports.tar", provision.exports_mib)
        scratch = None
        if (size_mib := _scratch_mib(spec, provision)) is not None:
            scratch = _make_disk(place / "scratch.ext4", size_mib)
            _format(scratch)
        files = {"inputs": inputs, "exports": exports, "scratch": scratch}
        disks = [name for name, path in files.items() if path]
        processes = provision.processes
        write_initramfs(initramfs, boot.initramfs, spec, keys, disks=disks, processes=processes)
    except OSError as error:
        raise _unwritable(error, place) from error
    return MachineFiles(initramfs=initramfs, inputs=inputs, exports=exports, scratch=scratch)


def lay_out_fork(place: Path, checkpoint: Checkpoint) -> MachineFiles:
    """Write the files that a fork does not share with its checkpoint.

    Parameters
    ----------
    place : Path
        The machine's own directory.
    checkpoint : Checkpoint
        What it is resumed from.

    Returns
    -------
    MachineFiles
        Of the fork.

    Raises
    ------
    HostError
        If they cannot be written.
    """
    try:
        exports = _make_disk(place / "exports.tar", checkpoint.exports_mib)
    except OSError as error:
        raise _unwritable(error, place) from error
    return MachineFiles(
        initramfs=checkpoint.initramfs,
        inputs=checkpoint.inputs,
        exports=exports,
        scratch=checkpoint.scratch,
        is_fork=True,
    )


def lay_out_copy(
    place: Path,
    spec: MachineSpec,
    boot: BootFiles,
    provision: Provision,
    keys: ChannelKeys,
    *,
    checkpoint: Checkpoint,
) -> MachineFiles:
    """Write the files of a fork that boots anew with a copy of a frozen machine's disk.

    Parameters
    ----------
    place, spec, boot, provision, keys
        As for `lay_out`.
    checkpoint : Checkpoint
        The frozen machine.

    Returns
    -------
    MachineFiles
        Of the fork.

    Raises
    ------
    HostError
        If they cannot be written.
    """
    initramfs = place / "initramfs.cpio"
    inputs, scratch = checkpoint.inputs, place / "scratch.ext4"
    if checkpoint.scratch is None:
        raise StateError(f"the checkpoint has no disk: {checkpoint.place}")
    try:
        run_tool(
            [find_tool("cp"), "--reflink=auto", "--sparse=always", checkpoint.scratch, scratch]
        )
        exports = _make_disk(place / "exports.tar", checkpoint.exports_mib)
        files = {"inputs": inputs, "exports": exports, "scratch": scratch}
        write_initramfs(
            initramfs,
            boot.initramfs,
            spec,
            keys,
            disks=[name for name, path in files.items() if path],
            processes=provision.processes,
            is_resumed=True,
        )
    except OSError as error:
        raise _unwritable(error, place) from error
    return MachineFiles(
        initramfs=initramfs, inputs=inputs, exports=exports, scratch=scratch, is_fork=True
    )


def _scratch_mib(spec: MachineSpec, provision: Provision) -> int | None:
    """Return the size of the scratch disk: user-mode Linux always has one, to be frozen."""
    if provision.scratch_mib is None and spec.accelerator is Accelerator.UML:
        return _UML_SCRATCH_MIB
    return provision.scratch_mib


def _make_disk(path: Path, size_mib: int) -> Path:
    with path.open("wb") as stream:
        os.truncate(stream.fileno(), size_mib * 2**20)
    return path


def _format(disk: Path) -> None:
    """Make an empty file system; a guest is never mended, so a journal would only cost time."""
    features = "^has_journal,^resize_inode"
    lazily = "lazy_itable_init=1,nodiscard,root_owner=0:0"
    run_tool(
        [find_tool("mke2fs"), "-q", "-t", "ext4", "-m", "0", "-O", features, "-E", lazily, disk]
    )


def _unwritable(error: OSError, place: Path) -> HostError:
    return HostError(
        f"cannot write the machine's files: {error.strerror}: {error.filename or place}",
        hint="make room, or choose another --cache",
    )
