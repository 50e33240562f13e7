"""An engine's process: started so that it cannot outlive us, watched until it ends.

The kernel kills it when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG), so it is
started from a thread that lives as long as this process does. Who died before the kernel was asked
is no longer its parent, which it checks before it becomes the engine.
"""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from buildvm_nb.errors import LaunchError
from buildvm_nb.host.tools import find_tool
from buildvm_nb.vm.console import Console

__all__ = ["OwnedProcess"]

_KILL_AFTER_S = 5.0
_IF_WE_LIVE = 'test "$PPID" = "$0" && exec "$@"'


@lru_cache
def _starter(pid: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a forked process needs its own
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine starter")


class OwnedProcess:
    """A running QEMU, or another program that runs a guest.

    Parameters
    ----------
    argv : list of str
        Its command line.
    name : str
        What messages call it.
    inherit : iterable of int
        File descriptors that it inherits.
    console : Console
        Gets what it writes to standard output: the guest's serial console.
    temporary : Path, optional
        Directory for its temporary files; None: the system's.

    Raises
    ------
    LaunchError
        If it cannot be started at all.
    """

    def __init__(
        self,
        argv: list[str],
        *,
        name: str = "QEMU",
        inherit: Iterable[int],
        console: Console,
        temporary: Path | None = None,
    ) -> None:
        self._console = console
        self._name = name
        checked = ["/bin/sh", "-c", _IF_WE_LIVE, str(os.getpid()), *argv]
        guarded = [find_tool("setpriv"), "--pdeathsig", "KILL", "--", *checked]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        start = _starter(os.getpid()).submit(
            subprocess.Popen,
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=tuple(inherit),
            cwd="/",
            env={**os.environ, "TMPDIR": str(temporary)} if temporary else None,
            start_new_session=True,
        )
        try:
            self._process: subprocess.Popen[bytes] = start.result()
        except OSError as error:
            self._errors.close()
            raise LaunchError(f"{name} cannot be started: {argv[0]}: {error.strerror}") from error
        except BaseException:
            self._errors.close()
            raise
        self._reader = threading.Thread(target=self._read, name="guest console", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def resident_bytes(self) -> int:
        """Return how much memory it occupies.

        Returns
        -------
        int
            Resident set size of the largest of its processes; 0 when it has ended.
        """
        pages = [_resident_pages(pid) for pid in (self.pid, *_descendants(self.pid))]
        return max(pages) * os.sysconf("SC_PAGE_SIZE")  # the guest's memory is in one of them

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end.

        Parameters
        ----------
        timeout_s : float
            Seconds of the host's monotonic clock.

        Returns
        -------
        bool
            Whether it has ended.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(timeout_s)
        return True

    def describe_end(self) -> str:
        """Say how it ended.

        Returns
        -------
        str
            A sentence with exit status or signal, and QEMU's own words.
        """
        code = self._process.poll()
        if code is None:
            return f"{self._name} is running"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        said = "" if self._errors.closed else self._words()
        return f"{self._name} {how}" + (f"; it said: {said}" if said else "")

    def kill(self) -> None:
        """End it at once, also from another thread; whoever waits for its guest sees it gone."""
        self._process.kill()

    def close(self) -> None:
        """End it: politely, then by force; calling it twice does no harm."""
        if self.is_running:
            self._process.terminate()
            if not self.wait(_KILL_AFTER_S):
                self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def _words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        kept = [line for line in lines if "TCG doesn't support requested feature" not in line]
        return "\n".join(kept)[-2000:]

    def _read(self) -> None:
        stream = self._process.stdout
        while stream and (data := os.read(stream.fileno(), 1 << 16)):
            self._console.feed(data)


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _descendants(pid: int) -> Iterator[int]:
    try:
        lists = [place.read_text() for place in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in " ".join(lists).split():
        yield int(child)
        yield from _descendants(int(child))
