"""Cases of kind ``guix``: their commands run on this host, which offloads, or in a machine.

Guix fetches and authenticates what it needs itself. On the host it does that today, and what is
built is built at the machine's date. In the machine all of it happens at that date, where today's
TLS certificates may not be valid yet.

That a derivation was built in the machine is proven there: its daemon keeps a log of each build.
What this host's Guix says of it ("offloading … to '127.0.0.1'") may be about another machine, and
what it builds itself (``--check``, sources, whatever could not be offloaded) is built today.

References
----------
Guix 1.5: ``guix/scripts/offload.scm`` (`transfer-and-offload`), ``nix/libstore/build.cc`` (nothing
is offloaded with ``--check``; ``openLogFile``), ``guix/build/download.scm``.
"""

import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO

from buildvm_nb.errors import GuestLost, HostError, StateError, UsageError
from buildvm_nb.host.process import find_tool
from buildvm_nb.model.case import Case, GuixSource, Limits, Step, too_early
from buildvm_nb.model.machine import Network
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.service.control import Record, Status
from buildvm_nb.service.places import Places, ssh_argv
from buildvm_nb.study.evidence import failing_lines
from buildvm_nb.study.run import Log, Output, Printed, Trial, finish, judge_step, record_step
from buildvm_nb.vm import CommandResult

__all__ = ["Where", "build_with_guix", "guix_commands"]

_DIRECTORY = "/build/guix-case"
_LARGEST_FILE = 2**20
_DERIVATION = re.compile(r"^(/gnu/store/[0-9a-z]{32}-[^\s']+\.drv)$", re.MULTILINE)
_FAILED_THERE = re.compile(
    r"derivation '(/gnu/store/[^']+\.drv)' offloaded to '127\.0\.0\.1' failed"
)
_OFFLOADED = re.compile(r"offloading '(/gnu/store/[^']+\.drv)' to '127\.0\.0\.1'")
_DONE = re.compile(r"done with offloaded '(/gnu/store/[^']+\.drv)'")
_LOW_ON_DISK = "may have been caused by lack of free disk space"
_GONE = re.compile(
    # only what a server, or a repository that was read, has answered
    r"\b(?:404|410)\b[^\n]*(?:Not Found|Gone)|HTTP/[\d.]+ (?:404|410)\b"
    r"|download failed[^\n]* (?:404|410)\b|object not found - no match for id"
    r"|[Uu]nknown (?:commit|revision)|reference '[^']*' not found"
)
_FACTS = """\
sed -n 's/^oom_kill /kills /p' /proc/vmstat
df -Pk /gnu/store | awk 'END { print "free " $4 }'
for log in %s; do stat -c 'log %%.Y %%n' /var/log/guix/drvs/$log* 2>/dev/null | head -n 1; done
date '+clock %%s.%%N'
"""
_ASK_TIMEOUT_S = 300.0
_LITTLE_KIB = 10 * 1024
"""As Guix itself says: less than this may have caused the failure."""
_KILL_GRACE_S = 10.0
_TICK_S = 0.01
"""A file's time is that of the kernel's last tick: a hundredth of a second ago at most."""
_PIECE = 1 << 16
_SSH_FAILED = 255
_SHELL_DIED = 128
_LAST_SIGNAL = 64


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

    Returns: name of the step, program and arguments. On the host they run in `base`.
    """
    return [(one.step.name, one.argv) for one in _commands(case, where, base, login)]


def _commands(case: Case, where: Where, base: Path, login: Sequence[str]) -> list[_Command]:
    if not isinstance(case.source, GuixSource):
        raise UsageError(f"the case {case.id} is not of kind guix", hint=f"buildvm build {case.id}")
    if where is Where.HOST:
        shell = ("/bin/sh", "-e", "-c")
        # to build again and compare is never offloaded: it would be built here, today
        steps = [step for step in case.steps if step.name != "test"]
        return [_Command(step=one, argv=(*shell, one.run), cwd=base) for one in steps]
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

    `status`: of the machine in which it is built; it must be ready and have Guix's daemon.
    `output`: gets the name of the step and what it prints, piece by piece.
    Returns: the outcome and the log. ``unavailable`` says that Guix of that commit, or what the
    packages need, cannot be had; ``error`` that nothing was built in the machine.
    Raises `UsageError` if the case is of another kind, or its files cannot be read.
    Raises `StateError` if the machine is not up, or has no daemon, or no way to the network where
    it needs one.
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
    guest = _Guest(status, places)
    outcome = Outcome(
        case=case,
        machine=record.machine.spec(),
        verdict=Verdict.PASSED,
        environment=record.environment,
        image_digest=record.image_digest,
        kernel_digest=record.kernel_digest,
    )
    derivations: tuple[str, ...] = ()
    with closing(log):
        for one in commands:
            try:
                outcome, printed = _after(outcome, one, where, log, guest, derivations)
            except GuestLost as error:
                changes = {"verdict": Verdict.ERROR, "reason": error.message}
                outcome = outcome.model_copy(update=changes)
                break
            if outcome.verdict is not Verdict.PASSED:
                break
            if one.step.name == "prepare":
                derivations = tuple(dict.fromkeys(_DERIVATION.findall(printed.kept)))
    return finish(Trial(outcome=outcome, log=log.data), began)


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a machine says of itself, at one moment."""

    clock_at: datetime
    oom_kills: int
    free_kib: int
    logs: Mapping[str, float]
    """Derivations that its daemon has ever begun to build, and when it last wrote of that."""


class _Guest:
    """The machine, asked through its SSH server: no other one can answer with its key."""

    def __init__(self, status: Status, places: Places) -> None:
        self._name = status.name
        place = places.state(status.name)
        self._login = ssh_argv(place, status.name, status.ssh_port or 0)

    def facts(self, derivations: Iterable[str] = ()) -> _Facts:
        """Ask; derivations are those whose logs are looked for."""
        logs = {_log_of(one): one for one in derivations}
        script = _FACTS % " ".join(map(shlex.quote, logs))
        try:
            done = subprocess.run(
                [*self._login, script],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ASK_TIMEOUT_S,
                check=False,
            )
            lines = [line.split() for line in done.stdout.decode(errors="replace").splitlines()]
            said = {words[0]: words[1] for words in lines if words[0] != "log"}
            found = [(words[2], float(words[1])) for words in lines if words[0] == "log"]
            return _Facts(
                clock_at=datetime.fromtimestamp(float(said["clock"]), UTC),
                oom_kills=int(said["kills"]),
                free_kib=int(said["free"]),
                logs={drv: at for path, at in found for log, drv in logs.items() if log in path},
            )
        except (subprocess.TimeoutExpired, LookupError, ValueError, OverflowError) as error:
            raise GuestLost(
                f"the machine {self._name} does not say what it is",
                hint=f"buildvm machine restart {self._name}",
            ) from error


def _log_of(derivation: str) -> str:
    """Return where Guix's daemon keeps the log of a build, below its directory of logs."""
    name = derivation.rpartition("/")[2]
    return f"{name[:2]}/{name[2:]}"


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


def _after(
    outcome: Outcome,
    command: _Command,
    where: Where,
    log: Log,
    guest: _Guest,
    derivations: tuple[str, ...],
) -> tuple[Outcome, Printed]:
    """Run a command; return the outcome as it is then, and what was said."""
    step = command.step
    log.begin(step)
    began = time.monotonic()
    before = guest.facts(derivations)
    status = _run(command, step.timeout_s or outcome.case.limits.step_timeout_s, log)
    printed = log.end()
    after = guest.facts((*derivations, *_OFFLOADED.findall(printed.kept)))
    result = _result(status, where, before, after, printed, time.monotonic() - began)
    memory = {"memory_mib": outcome.machine.memory_mib}  # the machine is one of its own
    limits = outcome.case.limits.model_copy(update=memory)
    run = _Run(step, result, printed, where, derivations, before, after, limits)
    verdict, reason = _judge(run)
    passed = verdict is Verdict.PASSED
    changes: dict[str, object] = {
        "steps": (*outcome.steps, record_step(step, result, verdict, reason, printed)),
        "verdict": verdict,
        "reason": reason,
        "evidence": "" if passed else failing_lines(printed.kept),
        "failing_step": None if passed else step.name,
    }
    if step.name == "build":  # a machine that has been up for weeks is at another date by now
        date = before.clock_at.replace(microsecond=0)
        changes["machine"] = outcome.machine.model_copy(update={"date": date})
    return outcome.model_copy(update=changes), printed


def _result(
    status: int | None,
    where: Where,
    before: _Facts,
    after: _Facts,
    printed: Printed,
    duration_s: float,
) -> CommandResult:
    """Tell of a command what a machine tells of its own; the status None: its time was over."""
    shortage = ""
    if kills := after.oom_kills - before.oom_kills:
        shortage = f"the machine killed {kills} processes for lack of memory"
    elif after.free_kib < _LITTLE_KIB or _LOW_ON_DISK in printed.kept:
        shortage = f"the machine's store was full ({after.free_kib} KiB left)"
    # a shell of the machine says so what its last command died of; ssh itself says 255
    died = where is Where.GUEST and status is not None and 0 < status - _SHELL_DIED <= _LAST_SIGNAL
    return CommandResult(
        exit_status=None if died else status,
        signal=status - _SHELL_DIED if died and status else None,
        timed_out=status is None,
        clock_started_at=before.clock_at,
        clock_ended_at=after.clock_at,
        duration_s=duration_s,
        free_kib=min(before.free_kib, after.free_kib),
        shortage=shortage,
    )


@dataclass(frozen=True)
class _Run:
    """A step as it ran."""

    step: Step
    result: CommandResult
    printed: Printed
    where: Where
    derivations: tuple[str, ...]
    """Of what the case names; empty: not known yet."""
    before: _Facts
    after: _Facts
    limits: Limits

    @property
    def said(self) -> str:
        """What was printed, of very much beginning and end."""
        return self.printed.kept

    @property
    def built_there(self) -> frozenset[str]:
        """Derivations that the machine has worked on in this step."""
        begun = self.before.clock_at.timestamp() - _TICK_S
        return frozenset(one for one, at in self.after.logs.items() if at >= begun)


def _judge(run: _Run) -> tuple[Verdict, str]:
    """Judge as any case is judged, and then by what only Guix and its daemon know."""
    status = run.result.status
    if status and (explained := too_early(run.said)):
        return Verdict.UNAVAILABLE, explained
    plain = judge_step(run.step, run.result, run.printed, run.limits)
    if plain[0] is Verdict.ERROR:
        return plain
    if run.step.name == "prepare":
        return _judge_prepare(run)
    if status == 0:
        return _judge_passed(run, plain)
    return _judge_guest(run, plain) if run.where is Where.GUEST else _judge_host(run)


def _judge_prepare(run: _Run) -> tuple[Verdict, str]:
    if run.result.status == 0 and _DERIVATION.search(run.said):
        return Verdict.PASSED, ""
    if run.result.status == 0:
        return Verdict.ERROR, "Guix does not name the derivation of what is to be built"
    if gone := _GONE.search(run.said):
        return Verdict.UNAVAILABLE, f"Guix of that commit, or what the packages need: {gone[0]}"
    ended = "did not end in its time" if run.result.timed_out else f"status {run.result.status}"
    return (
        Verdict.ERROR,
        f"Guix of that commit, or what the packages need, could not be had: {ended}",
    )


def _judge_passed(run: _Run, plain: tuple[Verdict, str]) -> tuple[Verdict, str]:
    """Believe in a success only where the machine has just built what was asked for."""
    is_there = run.where is Where.GUEST
    done = run.built_there if is_there else run.built_there & set(_DONE.findall(run.said))
    missing = ", ".join(one for one in run.derivations if one not in done)
    if is_there and missing and run.step.name == "build":
        return Verdict.ERROR, f"not built now, as it was there already: {missing}"
    if missing and not is_there:
        return Verdict.ERROR, (
            f"not built in the machine: {missing}; it was built before (`guix gc "
            "--delete` of the result), or Guix found another place (`buildvm guix machines`)"
        )
    return plain


def _judge_host(run: _Run) -> tuple[Verdict, str]:
    """Judge what this host's Guix could not do: it may have failed here, or there."""
    failed = [one for one in _FAILED_THERE.findall(run.said) if one in run.built_there]
    if failed:
        return Verdict.FAILED, f"built in the machine, {failed[-1]} failed"
    if run.result.timed_out:
        begun = set(_OFFLOADED.findall(run.said)) - set(_DONE.findall(run.said))
        if late := sorted(begun & run.built_there):
            return Verdict.TIMEOUT, f"built in the machine, {late[0]} did not end in its time"
        return Verdict.ERROR, "its time was over, but nothing was being built in the machine"
    reason = (
        f"guix ended with status {run.result.status}, but no derivation failed in the machine: "
        "what failed, failed on this host, today"
    )
    return _gone(run) or (Verdict.ERROR, reason)


def _judge_guest(run: _Run, plain: tuple[Verdict, str]) -> tuple[Verdict, str]:
    """Judge what the machine's own Guix could not do."""
    status = run.result.exit_status
    if run.result.timed_out:
        return plain
    if status == _SSH_FAILED:
        return Verdict.ERROR, "the way into the machine broke"
    if not run.built_there:
        reason = f"guix {plain[1]} before it built what was asked for"
        return _gone(run) or (Verdict.ERROR, reason)
    if run.step.name == "test" and plain[0] is Verdict.FAILED:
        return Verdict.FAILED, f"built again, the result is another, or none: status {status}"
    return plain


def _gone(run: _Run) -> tuple[Verdict, str] | None:
    """Return a verdict where a server answered that it does not have a source."""
    gone = _GONE.search(run.said)
    return (Verdict.UNAVAILABLE, f"a source cannot be had: {gone[0]}") if gone else None


def _run(command: _Command, timeout_s: float, log: Log) -> int | None:
    """Run a command to its end and pass on what it prints; None: its time was over."""
    process = subprocess.Popen(
        command.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=command.cwd,
        # Guix's own words are looked for; its daemon speaks to each client in its language
        env={**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "C"},
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
