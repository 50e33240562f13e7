"""The steps of a case, run in a machine, and the verdict on each."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.outcome import StepRecord, Verdict
from buildvm_nb.study.evidence import failing_lines, name_signal
from buildvm_nb.study.testcount import count_tests
from buildvm_nb.vm import BuildMachine, CommandResult

__all__ = ["STEP_LABEL", "STEP_MARK", "Judgement", "Log", "log_header", "run_steps"]

STEP_MARK = "==> "
"""Begins the lines of a log that are ours."""

STEP_LABEL = "run step "
"""Begins the label of a step's progress; its name follows."""

Output = Callable[[str, bytes], None]
_FULL_KIB = 1024
_NO_SPACE = "No space left on device"
_NO_MEMORY = re.compile(
    r"\bMemoryError\b|cannot allocate memory|bad_alloc|memory exhausted|out of memory allocating",
    re.IGNORECASE,
)
_DIED_OF_MEMORY = re.compile(r"^(?:MemoryError\b|  what\(\):  std::bad_alloc)", re.MULTILINE)
_LAST = 500
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


@dataclass
class Log:
    """Everything that the steps print, up to a limit for each."""

    limit: int
    """Bytes kept of each step."""
    output: Output | None = None
    """Gets everything, as it comes."""
    data: bytearray = field(default_factory=bytearray)
    _step: str = ""
    _start: int = 0
    seen: int = 0
    """Bytes that the present step has printed."""

    def begin(self, step: Step) -> None:
        """Start a step's part.

        Parameters
        ----------
        step : Step
            Whose output follows.
        """
        self.data += log_header(step).encode()
        self._step, self._start, self.seen = step.name, len(self.data), 0

    def write(self, piece: bytes) -> None:
        """Take in what was printed.

        Parameters
        ----------
        piece : bytes
            As it came.
        """
        room = max(self.limit - self.seen, 0)
        self.data += piece[:room]
        self.seen += len(piece)
        if self.output:
            self.output(self._step, piece)

    def end(self) -> str:
        """Finish the step's part.

        Returns
        -------
        str
            What was kept of it, as plain text: without colours, with plain line ends.
        """
        text = self.data[self._start :].decode(errors="replace")
        if self.seen > self.limit:
            note = f"\n{STEP_MARK}{self.seen - self.limit} more bytes were printed and dropped\n"
            self.data += note.encode()
        elif self.data and not self.data.endswith(b"\n"):
            self.data += b"\n"
        return _ESCAPES.sub("", text).replace("\r\n", "\n")


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
        text = log.end()
        verdict, reason = _judge(step, result, text, case)
        records.append(_record(step, result, verdict, reason, text, log.seen))
        if verdict is not Verdict.PASSED:
            crashed = verdict is Verdict.CRASHED
            kernel_log = machine.kernel_log() if crashed else ""
            return Judgement(
                verdict=verdict,
                reason=f"{step.name}: {reason}",
                evidence=failing_lines(text, kernel_log),
                steps=tuple(records),
                drift_s=drift_s,
            )
    return Judgement(verdict=Verdict.PASSED, steps=tuple(records), drift_s=drift_s)


def _judge(step: Step, result: CommandResult, text: str, case: Case) -> tuple[Verdict, str]:
    limit = step.timeout_s or case.limits.step_timeout_s
    if result.status and (result.free_kib < _FULL_KIB or _NO_SPACE in text):
        return Verdict.ERROR, (
            f"the guest's disk was full ({result.free_kib} KiB left), so its failure says nothing; "
            "raise memory_mib, or give it a scratch disk by disk_mib"
        )
    refused = _NO_MEMORY.search(failing_lines(text)) or _DIED_OF_MEMORY.search(text[-_LAST:])
    if result.status and not result.timed_out and refused:
        return (
            Verdict.ERROR,
            "the guest refused memory, so its failure says nothing; raise memory_mib",
        )
    if result.timed_out:
        return Verdict.TIMEOUT, f"did not end in {limit} s"
    if result.signal:
        return Verdict.CRASHED, f"died of {name_signal(result.signal)}"
    if result.exit_status:
        return Verdict.FAILED, f"exited with {result.exit_status}"
    return _judge_output(step, text)


def _judge_output(step: Step, text: str) -> tuple[Verdict, str]:
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


def _record(
    step: Step, result: CommandResult, verdict: Verdict, reason: str, text: str, size: int
) -> StepRecord:
    return StepRecord(
        name=step.name,
        verdict=verdict,
        reason=reason,
        exit_status=result.exit_status,
        signal=result.signal,
        clock_started_at=result.clock_started_at,
        clock_ended_at=result.clock_ended_at,
        duration_s=round(result.duration_s, 3),
        tests_run=count_tests(text),
        output_bytes=size,
    )
