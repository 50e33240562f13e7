"""Host programs that make an image, owned: they never outlive the process that wants the image.

Debian's installer runs dozens of programs below each other. All of them are put into one process
group, and a shell in that group waits on a pipe whose other end this process holds. When this
process closes it, or dies of SIGKILL and the kernel closes it, the whole group is ended, and so is
what left the group, as fakeroot's daemon does: it still has the group's own ``TMPDIR``. Until the
last of them is gone they hold a lock, so that the next builder does not start in their rubble.
"""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from typing import IO

from buildvm_nb.host.interruption import interruptible
from buildvm_nb.host.tools import find_tool

__all__ = ["alive_lock", "owned_group"]

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
    """Wait until nobody holds a lock, then hold it; programs that inherit it hold it too.

    Parameters
    ----------
    path : Path
        Its file, made if it is not there.

    Yields
    ------
    int
        File descriptor, to be passed to `owned_group`.
    """
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

    Parameters
    ----------
    argv : sequence of str
        Program and arguments; it reads nothing.
    hold : int
        Descriptor of a lock that all of them keep open.
    listen : callable
        Called in a thread of its own with what the program says on standard error.
    env : mapping
        All variables it has; ``TMPDIR`` is a directory that nothing else uses.
    stdout : int
        As for `subprocess.Popen`.

    Yields
    ------
    Popen
        Its process; it has the program's exit status.
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
