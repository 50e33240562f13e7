"""An outcome: one case run once on one machine, with the evidence."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, JsonValue
from ulid import ULID

from buildvm_nb.model.case import Case
from buildvm_nb.model.display import outcome_html
from buildvm_nb.model.instants import Instant, format_instant, now
from buildvm_nb.model.machine import Environment, MachineSpec
from buildvm_nb.model.value import DOCUMENT_VERSION, Digest, Value

__all__ = ["Artifact", "Outcome", "Probing", "SourceRecord", "StepRecord", "Verdict", "new_id"]


class Verdict(StrEnum):
    """How a run ended."""

    PASSED = "passed"
    """Every step exited with zero and met what it expects."""
    FAILED = "failed"
    """A step exited non-zero, or its output is not what a pass looks like."""
    CRASHED = "crashed"
    """A step died of a signal, for example SIGILL."""
    TIMEOUT = "timeout"
    """A step did not end in its time."""
    UNAVAILABLE = "unavailable"
    """The source or an input cannot be had."""
    ERROR = "error"
    """Our machinery or the host broke: says nothing about the case."""


def new_id() -> str:
    """Return a new identifier that sorts by the time it was made."""
    return str(ULID())


class SourceRecord(Value):
    """What a source turned out to be when it was fetched."""

    kind: str
    name: str
    """Repository, package or path."""
    version: str
    """Commit id or package version; empty where there is none."""
    digest: Digest
    """SHA-256 of the tree (or of the file it was unpacked from), so that it can be compared."""
    dated_at: Instant | None = None
    """Commit or upload date, where the source tells one."""
    origin: str = ""
    """Where it was had from."""


class StepRecord(Value):
    """One step as it ran."""

    name: Literal["prepare", "build", "test", "run"]
    verdict: Verdict
    reason: str = ""
    """Why the verdict is what it is, in a sentence, where the exit status does not say it."""
    exit_status: int | None = None
    signal: int | None = None
    clock_started_at: Instant | None = None
    """The guest's clock when the step started."""
    clock_ended_at: Instant | None = None
    """The guest's clock when the step ended."""
    duration_s: float
    """By the host's monotonic clock."""
    tests_run: int | None = None
    """How many tests the runner says it ran; None: it does not say."""
    output_bytes: int = 0


class Artifact(Value):
    """A file that a run left behind."""

    path: str
    size_bytes: int
    digest: Digest


class Probing(Value):
    """How a run differs from a plain one, in which all steps run one after the other."""

    prepared_at: Instant | None = None
    """Guest's clock at which prepare and build ran, where the test ran in a fork; None: no fork."""
    prepared_on: MachineSpec | None = None
    """Machine in which prepare and build ran, where the build directory was carried over."""
    held: bool = False
    """Whether the guest's clock was held at the machine's date while the test ran."""
    drift_s: float | None = None
    """How far a held clock strayed from the beginning of its second, at most."""
    attempt: int = Field(default=0, ge=0)
    """Which repetition of the same run in the same environment this is."""


class Outcome(Value):
    """One case run once on one machine."""

    id: str = Field(default_factory=new_id)
    case: Case
    machine: MachineSpec
    verdict: Verdict
    reason: str = ""
    """Why, in a sentence: the failing step and how it ended, or what broke."""
    evidence: str = ""
    """The line or lines of the log, console or error that show it."""
    failing_step: str | None = None
    steps: tuple[StepRecord, ...] = ()
    sources: tuple[SourceRecord, ...] = ()
    environment: Environment | None = None
    """None: no machine came up."""
    image_digest: str = ""
    kernel_digest: str = ""
    log_digest: str = ""
    """SHA-256 of the log's text; the catalog keeps it."""
    artifacts: tuple[Artifact, ...] = ()
    duration_s: float = 0.0
    """From the request to the verdict, by the host's monotonic clock."""
    host: dict[str, JsonValue] = Field(default={})
    """Facts of the host: its CPU, kernel, core count."""
    tool_version: str = ""
    recorded_at: Instant = Field(default_factory=now)
    """By the host's clock."""
    study: str | None = None
    """Identifier of the study that this run belongs to."""
    probing: Probing = Probing()
    """How it was run."""
    chosen_by: tuple[str, ...] = ()
    """Ids of the findings that chose its machine, the one that decided first; empty: none did."""
    document_version: str = Field(default=DOCUMENT_VERSION, pattern=r"^[0-9]{1,9}\.[0-9]{1,9}$")
    """Of its JSON; see `buildvm_nb.model.value`."""

    @property
    def why(self) -> str:
        """The first line of the reason; empty: there is none."""
        return self.reason.partition("\n")[0]

    @property
    def told(self) -> str:
        """Verdict and why, in a line: ``failed (test: exited with 1)``."""
        return f"{self.verdict.value} ({self.why})" if self.why else self.verdict.value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Tell what tells outcomes apart: all of it would fill a screen."""
        yield "id", self.id
        yield "case", self.case.id
        yield "verdict", self.verdict.value
        yield "date", format_instant(self.machine.date)
        yield "cpu", self.machine.cpu
        yield "kernel", self.machine.kernel

    def _repr_html_(self) -> str:
        return outcome_html(self)
