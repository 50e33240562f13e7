"""The door: runs a command line, catches errors once, and returns the exit status."""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import FrameType

from buildvm_nb.cli.command import SIGNAL_BASE, ExitStatus, Session
from buildvm_nb.cli.output import printable_lines, settle_output, write_error
from buildvm_nb.errors import BuildVMError, HostError, MachineError, SourceError, UsageError

__all__ = ["main"]

_EVIDENCE_LINES = 20
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``buildvm``.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default: those of the process.

    Returns
    -------
    int
        The exit status, see `buildvm_nb.cli.command.ExitStatus`.
    """
    words = tuple(sys.argv[1:] if argv is None else argv)
    session = Session(argv=words)
    with _ended_in_order():
        try:
            return _run(words, session)
        except SystemExit as ending:
            return ending.code if isinstance(ending.code, int) else ExitStatus.TROUBLE
        except KeyboardInterrupt:
            write_error("buildvm: interrupted")
            return ExitStatus.INTERRUPTED
        except BuildVMError as error:
            _report(error, session)
            return ExitStatus.USAGE if isinstance(error, UsageError) else session.trouble
        except OSError as error:  # the host's: a full disk, a forbidden file
            told = HostError(str(error), hint="BUILDVM_DEBUG=1 shows where it happened")
            told.__cause__ = error
            _report(told, session)
            settle_output()
            return session.trouble
        except Exception as error:  # noqa: BLE001 - a bug must not look like a guest's status 1
            write_error("".join(traceback.format_exception(error)).rstrip())
            write_error("buildvm: this is a bug in buildvm-nb; please report it with the above")
            return session.trouble


def _run(words: tuple[str, ...], session: Session) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _program()(args=list(words), prog_name="buildvm", obj=session)
    return ExitStatus.DONE


@cache
def _program() -> Callable[..., object]:
    """Make all commands once in this process: it takes longer than many a command does."""
    from typer.main import get_command

    from buildvm_nb.cli.app import app

    return get_command(app).main


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, so that machines and files are cleared away."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's interface
        sys.exit(SIGNAL_BASE + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(error: BuildVMError, session: Session) -> None:
    if os.environ.get("BUILDVM_DEBUG"):
        write_error("".join(traceback.format_exception(error)).rstrip())
    evidence = error.evidence if isinstance(error, MachineError) else ""
    sought = error.sought if isinstance(error, SourceError) else ()
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    if session.as_json:
        told = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        more = {"evidence": evidence, "sought": list(sought), "notes": notes}
        write_error(json.dumps({"error": {**told, **{k: v for k, v in more.items() if v}}}))
        return
    lines = [f"buildvm: {error.message}"]
    lines += [f"sought in: {', '.join(sought)}"] if sought else []
    lines += [f"  {line}" for line in evidence.rstrip().splitlines()[-_EVIDENCE_LINES:]]
    lines += [*notes, *([f"Hint: {error.hint}"] if error.hint else [])]
    for line in printable_lines("\n".join(lines)):
        write_error(line)
