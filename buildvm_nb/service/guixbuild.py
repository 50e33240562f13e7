"""Cases of kind ``guix``: their commands run on this host, which offloads, or in a machine.

Guix fetches and authenticates what it needs itself. On the host it does that today, and what is
built is built at the machine's date. In the machine all of it happens at that date, where today's
TLS certificates may not be valid yet.
"""

import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from buildvm_nb.errors import HostError, StateError, UsageError
from buildvm_nb.host.tools import find_tool
from buildvm_nb.model.case import Case, GuixSource, Step
from buildvm_nb.model.guixsource import too_early
from buildvm_nb.model.machine import Network
from buildvm_nb.model.outcome import Outcome, StepRecord, Verdict
from buildvm_nb.service.keys import ssh_argv
from buildvm_nb.service.places import Places
from buildvm_nb.service.record import Record, Status
from buildvm_nb.study.evidence import failing_lines
from buildvm_nb.study.recording import finish
from buildvm_nb.study.steps import Log, Output
from buildvm_nb.study.trial import Trial

__all__ = ["Where", "build_with_guix", "guix_commands"]

_DIRECTORY = "/build/guix-case"
_LARGEST_FILE = 2**20
_OFFLOADED = re.compile(r"offloading '/gnu/store/[^']+' to '127\.0\.0\.1'")
_KILL_GRACE_S = 10.0
_PIECE = 1 << 16


class Where(StrEnum):
    """Which Guix runs a case's commands."""

    HOST = "host"
    """This host's: it fetches today and sends what is to be built to the machine."""
    GUEST = "guest"
    """The machine's own."""


@dataclass(frozen=True, kw_only=True)
class _Command:
    step: Step
    argv: tuple[str, ...]
    cwd: Path | None


def guix_commands(
    case: Case, where: Where, base: Path, login: Sequence[str] = ("ssh", "MACHINE")
) -> list[tuple[str, tuple[str, ...]]]:
    """Tell what is run for a case, in order.

    Parameters
    ----------
    case : Case
        Of kind ``guix``.
    where : Where
        Which Guix runs it.
    base : Path
        The case file's directory.
    login : sequence of str
        Command that logs in to the machine.

    Returns
    -------
    list of (str, tuple of str)
        Name of the step, program and arguments. On the host they run in `base`.

    Raises
    ------
    UsageError
        If the case is of another kind.
    """
    return [(one.step.name, one.argv) for one in _commands(case, where, base, login)]


def _commands(case: Case, where: Where, base: Path, login: Sequence[str]) -> list[_Command]:
    if not isinstance(case.source, GuixSource):
        raise UsageError(f"the case {case.id} is not of kind guix", hint=f"buildvm build {case.id}")
    if where is Where.HOST:
        shell = ("/bin/sh", "-e", "-c")
        return [_Command(step=one, argv=(*shell, one.run), cwd=base) for one in case.steps]
    entered = f"mkdir -p {_DIRECTORY} && cd {_DIRECTORY} && "
    return [_Command(step=one, argv=(*login, entered + one.run), cwd=None) for one in case.steps]


def build_with_guix(
    case: Case,
    status: Status,
    where: Where,
    *,
    places: Places,
    base: Path = Path(),
    output: Output | None = None,
) -> Trial:
    """Build a case of kind ``guix`` and tell what came of it.

    Parameters
    ----------
    case : Case
        What to build.
    status : Status
        Of the machine in which it is built; it must be ready and have Guix's daemon.
    where : Where
        Which Guix runs the commands.
    places : Places
        Where the machine's state is.
    base : Path
        The case file's directory.
    output : callable, optional
        Gets the name of the step and what it prints, piece by piece.

    Returns
    -------
    Trial
        The outcome and the log. ``unavailable`` says that Guix of that commit, or what the packages
        need, cannot be had; ``error`` that nothing was built in the machine.

    Raises
    ------
    UsageError
        If the case is of another kind, or its files cannot be read.
    StateError
        If the machine is not up, or has no daemon, or no way to the network where it needs one.
    HostError
        If this host lacks a program.
    """
    record = _usable(status, where)
    login: list[str] = []
    if where is Where.GUEST:
        login = ssh_argv(places.state(status.name), status.name, status.ssh_port or 0)
    commands = _commands(case, where, base, login)
    if where is Where.HOST:
        find_tool("guix")
    else:
        _send_files(case, base, login)
    began = time.monotonic()
    log = Log(case.limits.log_mib * 2**20, output)
    outcome = Outcome(
        case=case,
        machine=record.machine.spec(),
        verdict=Verdict.PASSED,
        environment=record.environment,
        image_digest=record.image_digest,
        kernel_digest=record.kernel_digest,
    )
    for one in commands:
        outcome = _after(outcome, one, where, log)
        if outcome.verdict is not Verdict.PASSED:
            break
    return Trial(outcome=finish(outcome, (), began), log=log.data)


def _usable(status: Status, where: Where) -> Record:
    record = status.record
    if not status.is_alive or record is None:
        raise StateError(
            f"the machine {status.name} is {status.phase}",
            hint=f"buildvm machine start {status.name}",
        )
    if not record.machine.offload or status.ssh_port is None:
        raise StateError(
            f"the machine {status.name} has no daemon of Guix",
            hint='say in its file: offload = true, image = "debian:sid,guix"',
        )
    if where is Where.GUEST and record.machine.network is not Network.USER:
        raise StateError(
            f"the machine {status.name} does not reach the network, from which its Guix fetches",
            hint='say network = "user" in its file, or let the host fetch: --in host',
        )
    return record


def _send_files(case: Case, base: Path, login: Sequence[str]) -> None:
    source = case.source
    assert isinstance(source, GuixSource)  # noqa: S101 - `_commands` has seen to it
    for name in filter(None, (source.manifest, source.channels)):
        target = f"{_DIRECTORY}/{name}"
        script = f"mkdir -p {shlex.quote(str(Path(target).parent))} && cat >{shlex.quote(target)}"
        try:
            content = (base / name).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {base / name}: {error.strerror}") from error
        if len(content) > _LARGEST_FILE:
            raise UsageError(f"too large: {base / name}; allowed: {_LARGEST_FILE} bytes")
        done = subprocess.run([*login, script], input=content, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise HostError(f"cannot send {name} to the machine: {said}")


def _after(outcome: Outcome, command: _Command, where: Where, log: Log) -> Outcome:
    """Run a command and tell the outcome as it is then."""
    step = command.step
    log.begin(step)
    began = time.monotonic()
    status = _run(command, step.timeout_s or outcome.case.limits.step_timeout_s, log)
    printed = log.end()
    said = printed.kept
    verdict, reason = _judge(step, status, said, where)
    record = StepRecord(
        name=step.name,
        verdict=verdict,
        reason=reason,
        exit_status=status,
        duration_s=round(time.monotonic() - began, 3),
        output_bytes=printed.size_bytes,
    )
    passed = verdict is Verdict.PASSED
    return outcome.model_copy(
        update={
            "steps": (*outcome.steps, record),
            "verdict": verdict,
            "reason": reason,
            "evidence": "" if passed else failing_lines(said),
            "failing_step": None if passed else step.name,
        }
    )


def _judge(step: Step, status: int | None, said: str, where: Where) -> tuple[Verdict, str]:
    if status is None:
        return Verdict.TIMEOUT, f"{step.name} did not end in its time"
    if status:
        return _judge_failure(step, status, said)
    if step.name == "build" and where is Where.HOST and not _OFFLOADED.search(said):
        return Verdict.ERROR, (
            "nothing was built in the machine: it was built before, or Guix found another place; "
            "see `buildvm guix machines --install`, and `guix gc --delete` of the result"
        )
    return Verdict.PASSED, ""


def _judge_failure(step: Step, status: int, said: str) -> tuple[Verdict, str]:
    if explained := too_early(said):
        return Verdict.UNAVAILABLE, explained
    if step.name == "prepare":
        what = "Guix of that commit, or what the packages need, cannot be had"
        return Verdict.UNAVAILABLE, f"{what}: status {status}"
    if step.name == "test":
        return Verdict.FAILED, f"built again, the result is another, or none: status {status}"
    return Verdict.FAILED, f"{step.name} exited with {status}"


def _run(command: _Command, timeout_s: float, log: Log) -> int | None:
    """Run a command to its end and pass on what it prints; None: its time was over."""
    process = subprocess.Popen(
        command.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=command.cwd,
        start_new_session=True,
    )
    with process:
        assert process.stdout  # noqa: S101 - a pipe was asked for
        reader = threading.Thread(target=_pump, args=(process.stdout, log), daemon=True)
        reader.start()
        try:
            reader.join(timeout_s)
            timed_out = reader.is_alive()
        finally:
            if reader.is_alive():
                _end(process)
                reader.join(_KILL_GRACE_S)
        status = process.wait()
    return None if timed_out else status


def _pump(source: IO[bytes], log: Log) -> None:
    while data := os.read(source.fileno(), _PIECE):
        log.write(data)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_GRACE_S)
            return
