"""A frozen machine in a directory, from which any number of machines can be resumed.

All state of a guest is in its memory, so one file with that is a whole machine; what it was booted
from is only read. The directory holds the keys of its channel, so it is its user's alone.
"""

import errno
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from buildvm_nb.errors import StateError
from buildvm_nb.host.cache import file_digest
from buildvm_nb.model.machine import Environment
from buildvm_nb.vm.command import MachineFiles
from buildvm_nb.vm.keys import ChannelKeys

__all__ = ["Checkpoint"]

_FACTS = "machine.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a machine is resumed from."""

    place: Path
    environment: Environment
    """What was proven in the machine before it was frozen."""
    keys: ChannelKeys
    exports_mib: int
    """Size of its exports disk."""
    steps_run: int
    """Commands that have run in it; a fork counts on from there."""

    @property
    def state(self) -> Path:
        """The guest's memory and devices, as QEMU writes them."""
        return self.place / "state"

    def take(self, files: MachineFiles) -> None:
        """Take over the disks of a machine that has ended."""
        if files.inputs:
            shutil.copyfile(files.inputs, self.place / "inputs.squashfs")
        if files.scratch:
            shutil.move(files.scratch, self.place / "scratch.ext4")

    @property
    def initramfs(self) -> Path:
        """What it was booted with."""
        return self.place / "initramfs.cpio"

    @property
    def scratch(self) -> Path | None:
        """Its scratch disk, where it has one; forks write to copies."""
        path = self.place / "scratch.ext4"
        return path if path.exists() else None

    @property
    def inputs(self) -> Path | None:
        """Its inputs disk, where it has one."""
        path = self.place / "inputs.squashfs"
        return path if path.exists() else None

    def write(self) -> None:
        """Write down what is not in the other files; the last thing that makes it whole."""
        facts = {
            "environment": self.environment.model_dump(mode="json"),
            "keys": self.keys.to_text(),
            "exports_mib": self.exports_mib,
            "steps_run": self.steps_run,
            "state_digest": file_digest(self.state) if self.state.exists() else None,
            "scratch_digest": self.scratch and _disk_digest(self.scratch),
        }
        target = self.place / _FACTS
        target.touch(mode=0o600)
        target.write_text(json.dumps(facts))
        self.place.chmod(0o700)

    @classmethod
    def read(cls, place: Path) -> "Checkpoint":
        """Read a checkpoint and verify it.

        Parameters
        ----------
        place : Path
            Its directory.

        Returns
        -------
        Checkpoint
            Whole, as far as can be told without resuming it.

        Raises
        ------
        StateError
            If it is damaged or of another version.
        """
        try:
            facts = json.loads((place / _FACTS).read_text())
            checkpoint = cls(
                place=place,
                environment=Environment.model_validate(facts["environment"]),
                keys=ChannelKeys.from_text(facts["keys"]),
                exports_mib=facts["exports_mib"],
                steps_run=facts["steps_run"],
            )
            of_disk = facts["state_digest"] is None
            digest = None if of_disk else file_digest(checkpoint.state)
            scratch = checkpoint.scratch and _disk_digest(checkpoint.scratch)
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise StateError(f"the checkpoint cannot be read: {place}: {error}") from error
        if digest != facts["state_digest"]:
            raise StateError(
                f"the checkpoint is damaged: {checkpoint.state} has SHA-256 {digest}; "
                f"it was written with {facts['state_digest']}"
            )
        if scratch != facts["scratch_digest"]:
            raise StateError(f"the checkpoint's scratch disk is damaged or gone: {place}")
        os.utime(place)  # it is in use: evicted later than others
        return checkpoint


def _disk_digest(disk: Path) -> str:
    """Return the SHA-256 of what a sparse file holds, and of where: its holes would take long."""
    digest = hashlib.sha256()
    with disk.open("rb") as stream:
        end = 0
        while (start := _next_data(stream.fileno(), end)) is not None:
            end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
            digest.update(f"{start} {end}\n".encode())
            stream.seek(start)
            left = end - start
            while left and (piece := stream.read(min(1 << 20, left))):
                digest.update(piece)
                left -= len(piece)
    return digest.hexdigest()


def _next_data(descriptor: int, start: int) -> int | None:
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # there is none to the end
            return None
        raise
