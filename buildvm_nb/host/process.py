"""Host programs: found, run without a shell, interruptible, never outliving who wants them.

Debian's installer runs dozens of programs below each other. All of them are put into one process
group, and a shell in that group waits on a pipe whose other end this process holds. When this
process closes it, or dies of SIGKILL and the kernel closes it, the whole group is ended, and so is
what left the group, as fakeroot's daemon does: it still has the group's own ``TMPDIR``. Until the
last of them is gone they hold a lock, so that the next builder does not start in their rubble.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from threading import Thread
from typing import IO

from buildvm_nb.errors import HostError

__all__ = [
    "DEBIAN_PACKAGES",
    "Interrupted",
    "Interruption",
    "alive_lock",
    "check_interruption",
    "find_tool",
    "interruptible",
    "is_interrupted",
    "owned_group",
    "run_process",
    "run_tool",
]

# Stopping from another thread what a thread does: between two pieces of work, or while it waits.
#
# Python cannot stop a thread. But a thread of ours either works, and asks now and then whether it
# is still wanted, or waits for a process: a fetch, an installer, QEMU. Ending that process wakes
# it.


class Interrupted(BaseException):
    """The work of this thread is no longer wanted.

    It is no `Exception`, as `KeyboardInterrupt` is none: nobody may take it for a failure.
    """


class Interruption:
    """A request to stop; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[object, Callable[[], None]] = {}
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """Whether it was requested."""
        return self._is_set

    def request(self) -> None:
        """Ask for the work to stop, and end what it waits for right now."""
        with self._lock:
            self._is_set = True
            ends = [*self._ends.values()]
        for end in ends:
            with suppress(OSError):  # it ended by itself
                end()

    @contextmanager
    def covering(self) -> Iterator[None]:
        """Make this thread's work the one that is stopped."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def check(self) -> None:
        """Stop here if it was requested."""
        if self._is_set:
            raise Interrupted

    @contextmanager
    def waiting(self, end: Callable[[], None]) -> Iterator[None]:
        """Have something ended on request."""
        key = object()
        with self._lock:
            self.check()
            self._ends[key] = end
        try:
            yield
        except Exception as error:
            if self._is_set:
                raise Interrupted from error
            raise
        finally:
            with self._lock:
                del self._ends[key]
        self.check()


_current: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


def is_covered() -> bool:
    """Tell whether this thread's work can be stopped from another one."""
    return _current.get() is not None


def is_interrupted() -> bool:
    """Tell whether this thread's work is no longer wanted."""
    interruption = _current.get()
    return interruption is not None and interruption.is_set


def check_interruption() -> None:
    """Stop here if this thread's work is no longer wanted."""
    if interruption := _current.get():
        interruption.check()


@contextmanager
def interruptible(end: Callable[[], None]) -> Iterator[None]:
    """Wait for something that can be ended from another thread.

    `end`: ends it, so that the wait is over; called from another thread, also when it has ended.
    """
    interruption = _current.get()
    if interruption is None:
        yield
        return
    with interruption.waiting(end):
        yield


# Host programs: found, run without a shell, and reported clearly when missing or failing.

DEBIAN_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "fakechroot": "fakechroot",
    "fakeroot": "fakeroot",
    "sqfstar": "squashfs-tools",
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "dpkg-deb": "dpkg",
    "dpkg-source": "dpkg-dev",
    "git": "git",
    "setpriv": "util-linux",
    "bwrap": "bubblewrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "xz": "xz-utils",
    "zstd": "zstd",
    "lz4": "lz4",
    "cp": "coreutils",
}
"""Debian package of each host program that is used."""

_TAIL = 2000


def find_tool(name: str) -> str:
    """Return the path of a host program.

    Raises `HostError` if it is not on ``PATH`` nor in the directories of system programs.
    """
    system = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    if path := shutil.which(name, path=system):
        return path
    package = DEBIAN_PACKAGES.get(name, name)
    raise HostError(
        f"program not found on this host: {name}",
        hint=f"on Debian or Ubuntu: sudo apt-get install --no-install-recommends {package}",
    )


def run_process(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.PIPE,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; with all that it starts it is ended where that is requested.

    `env`: all its variables; None: the process's own.
    """
    is_group = is_covered()  # else Ctrl-C of the terminal ends it
    with subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        process_group=0 if is_group else None,
    ) as process:
        try:
            with interruptible(lambda: _end_group(process)):
                said, complained = process.communicate()
        except BaseException:
            if is_group:  # interrupted before anybody could end it, perhaps
                _end_group(process, signal.SIGKILL)
            else:
                process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def _end_group(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


def run_tool(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.PIPE,
) -> bytes:
    """Run a host program to its end and return what it printed.

    Returns: standard output; empty when it went to a file.
    Raises `HostError` if the program is missing or exits non-zero; the message has the end of its
    output.
    """
    program = find_tool(str(argv[0]))
    result = run_process(
        [program, *map(str, argv[1:])],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
    )
    if result.returncode != 0:
        said = (result.stderr or result.stdout or b"").decode(errors="replace").strip()[-_TAIL:]
        shown = " ".join(map(str, argv))[:300]
        raise HostError(f"{shown}\nexited with {result.returncode}; it said:\n{said}")
    return result.stdout or b""


_KEEPER = """\
exec 3<&0 </dev/null
(
  trap '' HUP # mmdebstrap sends it to its group when it fails
  read -r _ <&3
  trap '' TERM
  kill -TERM -$$
  sleep 2
  for left in $(grep -lszxF "TMPDIR=$TMPDIR" /proc/[0-9]*/environ); do
    left=${left#/proc/}
    kill -TERM "${left%/environ}"
  done
  kill -KILL -$$
) >/dev/null 2>&1 &
keeper=$!
exec 3<&-
"$@" &
wait $!
status=$?
kill -KILL $keeper 2>/dev/null
exit $status
"""

_LOWEST_DESCRIPTOR = 64


@cache
def _apart() -> tuple[str, ...]:
    """Return what puts a program into a mount name space of its own, where root may have one.

    What an installer has mounted in a root file system goes with its last process: were it killed
    and left there, its removal would reach into the host's own /dev.
    """
    words = ("unshare", "--mount", "--propagation=private", "--")
    if (
        os.geteuid()
        or subprocess.run([*words, "true"], check=False, capture_output=True).returncode
    ):
        return ()
    return words


@contextmanager
def alive_lock(path: Path) -> Iterator[int]:
    """Wait until nobody holds a lock, then hold it; programs that inherit it hold it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        # above what the shell in between uses for itself
        descriptor = fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def owned_group(
    argv: Sequence[str],
    *,
    hold: int,
    listen: Callable[[IO[bytes]], None],
    env: Mapping[str, str],
    stdout: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a host program with all that it starts; leaving the context ends what still runs.

    `listen`: called in a thread of its own with what the program says on standard error.
    `env`: all variables it has; ``TMPDIR`` is a directory that nothing else uses.
    """
    with subprocess.Popen(
        [*_apart(), "/bin/sh", "-c", _KEEPER, "keeper", find_tool(argv[0]), *argv[1:]],
        env=env,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        pass_fds=[hold],
        start_new_session=True,
    ) as process:
        listener = Thread(target=listen, args=[process.stderr], daemon=True)
        listener.start()
        try:
            with interruptible(lambda: _let_go(process)):
                yield process
        finally:
            _let_go(process)
            process.wait()
            listener.join()


def _let_go(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
