"""The steps of a case, run in a machine, and the verdict on each."""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from buildvm_nb.errors import HostError
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case, Limits, Step
from buildvm_nb.model.outcome import StepRecord, Verdict
from buildvm_nb.study.evidence import failing_lines, name_signal
from buildvm_nb.study.testcount import count_tests
from buildvm_nb.vm import BuildMachine, CommandResult

__all__ = [
    "STEP_LABEL",
    "STEP_MARK",
    "Judgement",
    "Log",
    "Printed",
    "judge_step",
    "log_header",
    "record_step",
    "run_steps",
]

STEP_MARK = "==> "
"""Begins the lines of a log that are ours."""

STEP_LABEL = "run step "
"""Begins the label of a step's progress; its name follows."""

Output = Callable[[str, bytes], None]
_MEMORY_WORDS = re.compile(
    r"\bMemoryError\b|cannot allocate memory|bad_alloc|memory exhausted|out of memory",
    re.IGNORECASE,
)
_SPACE_WORDS = "No space left on device"
_JUDGED_MIB = 256
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def log_header(step: Step) -> str:
    """Return what a log says before the output of a step.

    Parameters
    ----------
    step : Step
        Whose output follows.

    Returns
    -------
    str
        Its name and what it runs; each line begins with `STEP_MARK`.
    """
    command = step.run.strip().replace("\n", f"\n{STEP_MARK}")
    return f"{STEP_MARK}{step.name}: {command}\n"


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What a step has printed, as plain text: without colours, with plain line ends."""

    kept: str
    """Of very much only beginning and end."""
    whole: str | None
    """None: it is too much to be judged by its text."""
    size_bytes: int


class Log:
    """Everything that the steps print: of each its beginning and its end, up to a limit.

    What a step prints is judged as a whole, so what is cut out of the log waits in a nameless file.
    """

    def __init__(
        self,
        limit: int,
        output: Output | None = None,
        *,
        scratch: Path | None = None,
        judged: int = _JUDGED_MIB * 2**20,
    ) -> None:
        self._ended = bytearray()
        self._half = max(limit // 2, 1)
        self._judged = judged
        self._output = output
        self._scratch = scratch
        self._stack = ExitStack()
        self._spool: IO[bytes] | None = None
        self._reset("")

    @property
    def data(self) -> bytes:
        """All that is kept so far."""
        kept = self._kept()
        end = b"\n" if kept and not kept.endswith(b"\n") else b""
        return bytes(self._ended) + kept + end

    def begin(self, step: Step) -> None:
        """Start a step's part."""
        self._ended += log_header(step).encode()
        self._reset(step.name)

    def write(self, piece: bytes) -> None:
        """Take in what was printed, as it came."""
        self._seen += len(piece)
        room = self._half - len(self._head)
        self._head += piece[:room]
        self._tail += piece[room:] if room > 0 else piece
        try:
            self._keep_whole(piece)
        except OSError as error:
            raise HostError(
                f"cannot keep what a step prints: {error.strerror}", hint="make room for the cache"
            ) from error
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]
        if self._output:
            self._output(self._step, piece)

    def end(self) -> Printed:
        """Finish the step's part."""
        text = _plain(self._kept())
        whole: str | None = text
        if self._spool is not None:
            self._spool.seek(0)
            whole = _plain(self._spool.read()) if self._seen <= self._judged else None
        printed = Printed(kept=text, whole=whole, size_bytes=self._seen)
        self.close()
        return printed

    def close(self) -> None:
        """End a step's part that nobody judges; calling it twice does no harm."""
        self._ended = bytearray(self.data)
        self._reset("")

    def _kept(self) -> bytes:
        tail = self._tail[-self._half :]
        dropped = self._seen - len(self._head) - len(tail)
        note = f"\n{STEP_MARK}{dropped} bytes were printed here and dropped\n".encode()
        return bytes(self._head + (note if dropped else b"") + tail)

    def _keep_whole(self, piece: bytes) -> None:
        if self._spool is None and len(self._tail) > self._half:
            spool = TemporaryFile(dir=self._scratch)  # noqa: SIM115 - the stack closes it
            self._spool = self._stack.enter_context(spool)
            self._spool.write(self._head + self._tail)
        elif self._spool is not None and self._seen <= self._judged:
            self._spool.write(piece)

    def _reset(self, step: str) -> None:
        self._stack.close()
        self._step, self._seen = step, 0
        self._head, self._tail = bytearray(), bytearray()
        self._spool = None


def _plain(data: bytes) -> str:
    return _ESCAPES.sub("", data.decode(errors="replace")).replace("\r\n", "\n")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What came of running the steps."""

    verdict: Verdict
    reason: str = ""
    evidence: str = ""
    steps: tuple[StepRecord, ...] = ()
    drift_s: float | None = None
    """How far a held clock strayed at most."""


def run_steps(  # noqa: PLR0913 - half of it has defaults
    machine: BuildMachine,
    case: Case,
    top: str,
    log: Log,
    *,
    steps: Sequence[Step] | None = None,
    held: bool = False,
    progress: Progress = SILENT,
) -> Judgement:
    """Run a case's steps until one does not pass.

    Parameters
    ----------
    machine : BuildMachine
        Up, with the case's inputs.
    case : Case
        Whose steps.
    top : str
        The source's top directory, relative to the build directory; steps start there.
    log : Log
        Gets their output.
    steps : sequence of Step, optional
        Only these; by default all.
    held : bool
        Hold the guest's clock at the machine's date while they run.
    progress : Progress
        Shows which step runs.

    Returns
    -------
    Judgement
        Of the whole.

    Raises
    ------
    MachineError
        If the machine fails.
    """
    records: list[StepRecord] = []
    drift_s: float | None = None
    for number, step in enumerate(case.steps if steps is None else steps):
        log.begin(step)
        with progress.task(f"{STEP_LABEL}{step.name}"):
            result = machine.run(
                step.run,
                cwd=top if step.cwd is None else step.cwd,
                env=step.env,
                timeout_s=step.timeout_s or case.limits.step_timeout_s,
                clock=machine.spec.date if held or number == 0 else None,
                held=held,
                stdout=log.write,
                merged=True,
            )
        if result.drift_s is not None:
            drift_s = max(result.drift_s, drift_s or 0.0)
        printed = log.end()
        verdict, reason = judge_step(step, result, printed, case.limits)
        records.append(record_step(step, result, verdict, reason, printed))
        if verdict is not Verdict.PASSED:
            crashed = verdict is Verdict.CRASHED
            kernel_log = machine.kernel_log() if crashed else ""
            return Judgement(
                verdict=verdict,
                reason=f"{step.name}: {reason}",
                evidence=failing_lines(printed.kept, kernel_log),
                steps=tuple(records),
                drift_s=drift_s,
            )
    return Judgement(verdict=Verdict.PASSED, steps=tuple(records), drift_s=drift_s)


def judge_step(
    step: Step, result: CommandResult, printed: Printed, limits: Limits
) -> tuple[Verdict, str]:
    """Judge a step by how it ended; only what the guest's kernel counted makes it an error."""
    if result.status and result.shortage:
        return Verdict.ERROR, (
            f"{result.shortage}, so its failure says nothing; "
            "raise memory_mib, or give it a scratch disk by disk_mib"
        )
    if result.timed_out:
        limit = step.timeout_s or limits.step_timeout_s
        return Verdict.TIMEOUT, f"did not end in {limit} s"
    note = _note_on_words(result, printed.kept, limits)
    if result.signal:
        who = f" ({result.victim})" if result.victim else ""
        return Verdict.CRASHED, f"died of {name_signal(result.signal)}{who}{note}"
    if result.exit_status:
        return Verdict.FAILED, f"exited with {result.exit_status}{note}"
    return _judge_output(step, printed)


def _note_on_words(result: CommandResult, text: str, limits: Limits) -> str:
    """Return what a person should know of words about memory and space: they prove nothing."""
    evidence = failing_lines(text)
    if _SPACE_WORDS in evidence:
        return f" (of the guest's own disks at least {result.free_kib} KiB were free all the time)"
    if _MEMORY_WORDS.search(evidence):
        return (
            f" (the guest has {limits.memory_mib} MiB, and its kernel killed nothing for "
            "lack of memory: if that is too little, raise memory_mib)"
        )
    return ""


def _judge_output(step: Step, printed: Printed) -> tuple[Verdict, str]:
    has_rule = step.expect is not None or step.min_tests is not None
    text = printed.whole
    if text is None and has_rule:
        return Verdict.ERROR, (
            f"exited with 0, but printed {printed.size_bytes} bytes: its output is judged up to "
            f"{_JUDGED_MIB} MiB only; let it print less"
        )
    if text is None:
        return Verdict.PASSED, ""
    if step.expect is not None and not re.search(step.expect, text, re.MULTILINE):
        return Verdict.FAILED, f"exited with 0, but its output lacks {step.expect!r}"
    if step.min_tests is not None:
        count = count_tests(text)
        if count is None or count < step.min_tests:
            ran = "an unknown number of" if count is None else str(count)
            tests = "test" if count == 1 else "tests"
            reason = f"exited with 0, but ran {ran} {tests}; at least {step.min_tests} must run"
            return Verdict.FAILED, reason
    return Verdict.PASSED, ""


def record_step(
    step: Step, result: CommandResult, verdict: Verdict, reason: str, printed: Printed
) -> StepRecord:
    """Write down how a step ended."""
    return StepRecord(
        name=step.name,
        verdict=verdict,
        reason=reason,
        exit_status=result.exit_status,
        signal=result.signal,
        clock_started_at=result.clock_started_at,
        clock_ended_at=result.clock_ended_at,
        duration_s=round(result.duration_s, 3),
        tests_run=None if printed.whole is None else count_tests(printed.whole),
        output_bytes=printed.size_bytes,
    )
