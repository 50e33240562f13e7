"""From mmdebstrap's tar stream through the finishing pass into one squashfs file."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from buildvm_nb.errors import HostError
from buildvm_nb.host.progress import Task
from buildvm_nb.host.tools import find_tool
from buildvm_nb.image.bootstrap import Watcher, clean_environment
from buildvm_nb.image.finishing import FILE_TIME, FinishedRoot, finish
from buildvm_nb.image.process import owned_group

__all__ = ["COMPRESSION", "RootMaker"]

COMPRESSION = ("-comp", "lz4", "-Xhc")
"""Options of sqfstar. Unpacking by an emulated processor costs more than reading."""


@dataclass(frozen=True, kw_only=True)
class RootMaker:
    """Runs mmdebstrap, owned and watched."""

    subject: str
    """What is made, for messages."""
    hold: int
    """Descriptor of the lock that all programs hold."""
    scratch: Path
    """Directory for temporary files."""

    def extract(self, argv: list[str], task: Task) -> None:
        """Run a command that writes no archive.

        Parameters
        ----------
        argv : list of str
            Program and arguments.
        task : Task
            Told how far it is.

        Raises
        ------
        BuildVMError
            If it fails.
        """
        with self._running(argv, task, stdout=subprocess.DEVNULL):
            pass

    def pack(self, argv: list[str], target: Path, task: Task) -> FinishedRoot:
        """Run a command that prints a root file system as a tar archive, and pack that.

        Parameters
        ----------
        argv : list of str
            Program and arguments.
        target : Path
            The squashfs file.
        task : Task
            Told how far it is.

        Returns
        -------
        FinishedRoot
            What was seen on the way.

        Raises
        ------
        BuildVMError
            If it fails.
        """
        with self._running(argv, task, stdout=subprocess.PIPE) as process:
            finished = _squash(process, target)
        task.update(100, 100, "done")
        return finished

    @contextmanager
    def _running(
        self, argv: list[str], task: Task, *, stdout: int
    ) -> Iterator["subprocess.Popen[bytes]"]:
        watcher = Watcher(task)
        environment = clean_environment(self.scratch)
        trouble: HostError | None = None
        with owned_group(
            argv, hold=self.hold, listen=watcher.watch, env=environment, stdout=stdout
        ) as process:
            try:
                yield process
            except HostError as error:
                trouble = error  # its own words come second to mmdebstrap's
            process.wait()
        if trouble and isinstance(trouble.__cause__, BrokenPipeError):
            raise trouble  # the packer has ended, and mmdebstrap only for that
        if process.returncode != 0:
            raise watcher.error(self.subject, exit_status=process.returncode) from trouble
        if trouble:
            raise trouble


def _squash(source: "subprocess.Popen[bytes]", target: Path) -> FinishedRoot:
    # squashfs-tools 4.5 gives the root directory to whoever runs it, whatever -root-uid says
    as_root = [] if os.geteuid() == 0 else [find_tool("fakeroot")]
    argv = [
        *(*as_root, find_tool("sqfstar"), *COMPRESSION),
        *("-no-progress", "-quiet", "-exit-on-error", "-root-mode", "755"),
        *("-mkfs-time", str(FILE_TIME), "-all-time", str(FILE_TIME)),
        str(target),
    ]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as packer:
        if packer.stdin is None or packer.stderr is None or source.stdout is None:
            raise HostError("sqfstar or mmdebstrap was started without a pipe")
        try:
            finished = finish(source.stdout, packer.stdin)
            shutil.copyfileobj(source.stdout, _Nowhere())
            packer.stdin.close()
        except (OSError, tarfile.TarError) as error:
            source.stdout.close()
            with suppress(OSError):
                packer.stdin.close()
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None  # left then, tarfile writes what it still has
            said = packer.stderr.read().decode(errors="replace").strip()
            raise HostError(f"the image's stream broke off: {error}; {said[-500:]}") from error
        said = packer.stderr.read().decode(errors="replace").strip()
        if packer.wait() != 0:
            raise HostError(f"sqfstar exited with {packer.returncode}; it said:\n{said[-1000:]}")
    return finished


class _Nowhere:
    """Where the padding after an archive's end goes, so that its writer can finish."""

    def write(self, data: bytes) -> int:
        return len(data)
