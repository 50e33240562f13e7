"""What a report says, as plain values."""

from pydantic import Field

from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.model.instants import Instant
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.model.value import Value

__all__ = ["Cell", "Entry", "Matrix", "Report", "Spring"]


class Spring(Value):
    """One change along the date axis: the day on which something breaks, or heals."""

    finding: str
    """Id of the finding that has it."""
    case: str
    last_before: Instant
    at: Instant
    """First instant after the change that was seen."""
    before: Verdict
    after: Verdict
    is_exact: bool
    is_to_come: bool
    """Whether it lay in the future when the report was made."""
    cause: str = ""

    @property
    def breaks(self) -> bool:
        """Whether it is for the worse."""
        return self.after is not Verdict.PASSED


class Cell(Value):
    """Verdicts of the runs of one case in one year on one CPU."""

    verdicts: dict[Verdict, int]

    @property
    def kind(self) -> str:
        """``passed``, ``failed``, ``mixed`` or ``unknown``."""
        known = {
            verdict is Verdict.PASSED
            for verdict in self.verdicts
            if verdict not in {Verdict.ERROR, Verdict.UNAVAILABLE}
        }
        if len(known) == 1:
            return "passed" if known.pop() else "failed"
        return "mixed" if known else "unknown"

    def __str__(self) -> str:
        return ", ".join(f"{count} {verdict.value}" for verdict, count in self.verdicts.items())


class Matrix(Value):
    """Verdicts of one case over years and CPUs."""

    case: str
    cpus: tuple[str, ...]
    """Oldest first; models with features added or taken away are put together."""
    years: tuple[int, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    """A row for each year; None: nothing was run there."""


class Entry(Value):
    """A finding with what supports it."""

    id: str
    case: str
    title: str = ""
    package: str = ""
    kind: FindingKind
    axis: Axis | None
    summary: str
    recorded_at: Instant
    repeats: str = ""
    """How many runs confirm it, in words."""
    boundaries: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    """When, on which CPUs and kernels it passes, in words."""
    causes: tuple[str, ...] = ()
    environment: str = ""
    """A machine in which it was seen to pass."""
    failing_line: str = ""
    excerpt: str = ""
    """Lines of the log of a failing run, without escape sequences."""
    excerpt_of: str = ""
    """Id of that run's outcome."""
    support: tuple[str, ...] = ()
    """How many runs agreed on each side, and what was covered, in words."""
    assumptions: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    commands: dict[str, str] = Field(default={})
    """What each is for, and the command for a shell that reproduces it."""


class Report(Value):
    """What a catalog knows."""

    catalog: str
    """Path or URL."""
    made_at: Instant
    tool_version: str
    case: str | None = None
    """The case that it is limited to."""
    since: Instant | None = None
    """Nothing in it was recorded before."""
    kinds: dict[FindingKind, int]
    """How many findings of each kind."""
    verdicts: dict[Verdict, int]
    """How many outcomes with each verdict."""
    cases: int
    """How many cases they are of."""
    springs: tuple[Spring, ...]
    """Oldest first."""
    entries: tuple[Entry, ...]
    """Newest finding first."""
    matrices: tuple[Matrix, ...]
    findings_left_out: int = 0
    """Older findings that are counted and not shown."""
    is_outcome_limit_reached: bool = False
    """Whether only the newest outcomes are counted."""
