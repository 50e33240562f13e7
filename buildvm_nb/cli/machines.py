"""``buildvm run`` and ``buildvm shell``: a machine for one command, or for a person."""

import json
import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, BinaryIO

import typer

from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.machine_options import MachineOptions
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import discard_output, write_error, write_json, write_line
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.machine import MachineSpec
    from buildvm_nb.vm import BuildMachine, CommandResult

__all__ = ["run", "shell", "show_command_line"]

_STDIN = 0
_MOST_BYTES = 200 * 10**6
"""More is copied into a guest only where the directory was named."""


@dataclass(frozen=True, kw_only=True)
class ShareOptions:
    """Which directory of the host the guest gets a copy of."""

    share: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Copy this directory into the guest, below /build. Left out: the current "
            "directory. What the guest changes does not come back.",
        ),
    ] = None
    no_share: Annotated[bool, typer.Option("--no-share", help="Copy nothing; /build is empty.")] = (
        False
    )

    def directory(self, cache: Path) -> Path | None:
        """Return the directory to share.

        Parameters
        ----------
        cache : Path
            Is not copied, so its size does not count.

        Returns
        -------
        Path or None
            Absolute; None: nothing is shared.

        Raises
        ------
        UsageError
            If it is no directory, or all of the host; if it was not named, and is a home
            directory, holds one, or is large.
        """
        if self.no_share:
            if self.share:
                raise UsageError("--share and --no-share contradict each other")
            return None
        path = (self.share or Path()).resolve()
        if not path.is_dir():
            raise UsageError(f"--share: not a directory: {path}")
        if path == Path(path.anchor):
            raise UsageError(
                "the whole file system of this host would be copied into the guest",
                hint="change to another directory, or say --share DIR or --no-share",
            )
        if self.share is None:
            _refuse_unnamed(path, cache)
        return path


def _refuse_unnamed(path: Path, cache: Path) -> None:
    """Refuse to copy the current directory where nobody can have meant that."""
    from buildvm_nb.host.trees import tree_bytes

    home = Path.home().resolve()
    if path == home or path in home.parents:
        raise UsageError(
            f"the current directory {path} holds all of a home directory, which would be copied "
            "into the guest",
            hint=f"change to another directory, or say --share {path} or --no-share",
        )
    if tree_bytes(path, without=[cache.resolve()], enough=_MOST_BYTES) > _MOST_BYTES:
        raise UsageError(
            f"the current directory {path} holds more than {_MOST_BYTES // 10**6} MB, which "
            "would be copied into the guest",
            hint=f"say --share {path} if it is meant, --share DIR for a part of it, or --no-share",
        )


@command(
    "run",
    takes_words=True,
    examples=(
        "buildvm run -- make check",
        "buildvm run --date 2019-05-01 --cpu Westmere -- make check",
        "buildvm run --no-share --kernel debian:bullseye -- uname -r",
        "buildvm run --package gcc --package make --timeout 10m -- sh -c 'make && ./test'",
        "buildvm run --date 2038-01-19T03:14:08Z --dry-run -- date",
    ),
)
def run(
    session: Session,
    machine: MachineOptions,
    sharing: ShareOptions,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND", help="Program and arguments.")],
) -> None:
    """Run a command in a virtual build machine.

    It is what env(1) is, for date, CPU and kernel. The current directory is copied into the
    guest and the command runs there; what it changes does not come back. Its output is passed
    on as it comes, and so is its exit status: 128+N when it died of signal N, 124 when
    --timeout ended it. 125 says that the machine itself failed, 2 that the request was wrong.
    """
    session.trouble = ExitStatus.MACHINE
    spec, timeout_s = _faithful(machine), machine.timeout_s()
    share = sharing.directory(session.cache().root)
    if machine.dry_run:
        show_command_line(session, spec, share)
        return
    with _booted(session, spec, share) as guest:
        result = guest.run(
            words,
            cwd=share.name if share else "",
            timeout_s=timeout_s,
            stdout=_passing_on(sys.stdout.buffer),
            stderr=_passing_on(sys.stderr.buffer),
            stdin=_standard_input(),
        )
    _tell_end(session, result)
    raise typer.Exit(result.status)


@command(
    "shell",
    examples=(
        "buildvm shell",
        "buildvm shell --date 2030-01-01 --cpu core2duo",
        "buildvm shell --no-share --image debian:trixie,gcc,make --memory 2G",
    ),
)
def shell(session: Session, machine: MachineOptions, sharing: ShareOptions) -> None:
    """Open a shell in a virtual build machine.

    The current directory is copied into the guest; what is changed there does not come back.
    The machine is gone when the shell ends, and its exit status is passed on.
    """
    session.trouble = ExitStatus.MACHINE
    if machine.timeout is not None:
        raise UsageError("--timeout says nothing for a shell")
    spec, share = _faithful(machine), sharing.directory(session.cache().root)
    if machine.dry_run:
        show_command_line(session, spec, share)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):  # asked before a machine is booted
        raise UsageError(
            "a shell needs a terminal on standard input and output",
            hint="for commands from a pipe or file: buildvm run -- sh",
        )
    with _booted(session, spec, share) as guest:
        status = guest.shell()
    raise typer.Exit(status)


def show_command_line(session: Session, spec: "MachineSpec", share: Path | None) -> None:
    """Print the QEMU command of a machine; nothing is started.

    Parameters
    ----------
    session : Session
        Says how to print.
    spec : MachineSpec
        The machine.
    share : Path, optional
        Directory that would be copied into it.
    """
    from buildvm_nb.study import dry_run

    argv = dry_run(spec, cache=session.cache(), share=share)
    if session.as_json:
        write_json(argv)
    else:
        write_line(shlex.join(argv))


def _faithful(machine: MachineOptions) -> "MachineSpec":
    """Return the machine asked for; a CPU that was asked for is enforced, not only shown."""
    from buildvm_nb.study import choose_faithful

    return choose_faithful(machine.spec(), cpu_matters=machine.cpu is not None)


@contextmanager
def _booted(session: Session, spec: "MachineSpec", share: Path | None) -> "Iterator[BuildMachine]":
    """Boot a machine, say on standard error what it is, and end it."""
    from buildvm_nb.model.instants import format_instant
    from buildvm_nb.study import open_machine

    progress = session.progress()
    guest = open_machine(
        spec, cache=session.cache(), progress=progress, share=share, on_note=session.note
    )
    with closing(guest):
        with progress.task(f"boot {guest.spec.cpu} at {format_instant(spec.date)}"):
            guest.boot()
        _tell_machine(session, guest)
        yield guest


def _tell_machine(session: Session, guest: "BuildMachine") -> None:
    from buildvm_nb.model.instants import format_instant

    found = guest.environment
    if session.as_json and not session.quiet:
        told = {"machine": guest.spec, "environment": found}
        write_error(json.dumps({key: value.model_dump(mode="json") for key, value in told.items()}))
    else:
        session.note(
            f"{format_instant(guest.spec.date)}, {found.cpu}, Linux {found.kernel_release}, "
            f"{found.accelerator} ({found.engine})"
        )
        if found.accelerator_reason:
            session.note(f"not KVM, as {found.accelerator_reason}")
        if lacking := found.cpu_features_lacking:
            session.note(f"of {found.cpu} the accelerator lacks {', '.join(lacking)}")


def _tell_end(session: Session, result: "CommandResult") -> None:
    """Say on standard error when a command ran by the guest's clock, and what the guest lacked."""
    from buildvm_nb.model.instants import format_instant

    started, ended = map(format_instant, (result.clock_started_at, result.clock_ended_at))
    if session.as_json and not session.quiet:
        told = {
            "exit_status": result.exit_status,
            "signal": result.signal,
            "timed_out": result.timed_out,
            "clock_started_at": started,
            "clock_ended_at": ended,
            "shortage": result.shortage,
        }
        write_error(json.dumps({"result": told}))
        return
    session.note(f"ran from {started} to {ended} by the guest's clock")
    if result.shortage:
        session.note(f"{result.shortage}: a failure says nothing about the command")


def _passing_on(stream: IO[bytes]) -> Callable[[bytes], None]:
    def pass_on(data: bytes) -> None:
        try:
            stream.write(data)
            stream.flush()
        except BrokenPipeError:  # nobody reads any more: no trouble of the machine
            discard_output()
            raise typer.Exit(ExitStatus.PIPE_CLOSED) from None

    return pass_on


def _standard_input() -> BinaryIO | None:
    """Return standard input where it is a pipe or a file.

    It is opened without a buffer of its own: a thread that waits in a buffered read when the
    process ends holds a lock that Python's shutdown wants.
    """
    try:
        mode = Path(f"/dev/fd/{_STDIN}").stat().st_mode
    except OSError:
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return None
    return open(_STDIN, "rb", buffering=0, closefd=False)
