"""A forecast: what in a project stops passing in the years to come, and from which second on."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from buildvm_nb.model.case import Case
from buildvm_nb.model.hint import Hint
from buildvm_nb.model.instants import Instant, now
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.model.value import Value

__all__ = ["Change", "ChangeKind", "Forecast", "ForecastStatus", "Look"]


class ChangeKind(StrEnum):
    """What a day does to a project."""

    BREAKS = "breaks"
    """What passed fails from then on."""
    HEALS = "heals"
    """What failed passes from then on."""
    FAILS_OTHERWISE = "fails-otherwise"
    """It failed before, and shows another reason now; the runner names no tests."""


class ForecastStatus(StrEnum):
    """What a forecast comes to."""

    SOUND = "sound"
    """Nothing was seen to break."""
    BREAKS = "breaks"
    """Something breaks."""
    FAILS_TODAY = "fails-today"
    """It fails already, so nothing can be foretold."""
    UNDETERMINED = "undetermined"
    """It does not always end alike, machines gave no verdict, or the budget ended too early."""


class Change(Value):
    """One change: after `last_before` and not after `first_after`."""

    kind: ChangeKind
    last_before: Instant
    first_after: Instant
    is_exact: bool
    """Whether both are neighbouring seconds, and were confirmed."""
    confirmed: int = 0
    """How many repeated runs on both sides agreed with it."""
    of_whole: bool
    """Whether the verdict of the whole changes; False: only which tests fail, while others do."""
    verdict: Verdict
    """Of the whole, from then on."""
    tests: tuple[str, ...] = ()
    """Names of the tests that begin or cease to fail, where the runner prints names."""
    failing_line: str = ""
    """The line of the log that shows the failure."""
    cause: Hint | None = None
    """What in the source ends, or begins, at just this second."""
    suspects: tuple[Hint, ...] = ()
    """What else ends at that second or, where it is not exact, in between."""
    outcome: str = ""
    """Id of the nearest outcome that shows it."""


class Look(Value):
    """One instant that was chosen to look at."""

    at: Instant
    why: str
    verdict: Verdict | None
    """None: nobody asked, because the budget had ended."""
    failed_tests: int = 0
    """How many tests are named as failed."""


class Forecast(Value):
    """What breaks in a project, and when."""

    schema_version: Literal[1] = 1
    case: Case
    machine: MachineSpec
    """Where it runs; its date is `start`."""
    start: Instant
    until: Instant
    status: ForecastStatus
    today: Verdict
    """What a run at `start` ended with."""
    today_line: str = ""
    """The line of the log that shows why, where it failed."""
    today_outcome: str
    """Id of that outcome."""
    changes: tuple[Change, ...] = ()
    """Ordered by time."""
    sound_until: Instant | None = None
    """Last second, up to `until`, before the first break; None: today fails, or none is told."""
    looks: tuple[Look, ...] = ()
    """The instants that were chosen beforehand; locating a change asked for more."""
    assumptions: tuple[str, ...] = ()
    """What was taken for granted, or left out."""
    unstable: tuple[str, ...] = ()
    """Tests that do not always end alike at the same instant."""
    is_exhausted: bool = False
    """Whether the budget ended before the questions did."""
    runs: int = 0
    """Guest runs that were made; answers that the catalog had do not count."""
    finding: str | None = None
    """Id of the finding in the catalog that says the same about the whole."""
    evidence: tuple[str, ...] = ()
    """Ids of all outcomes that it rests on."""
    study: str | None = None
    tool_version: str = ""
    made_at: Instant = Field(default_factory=now)

    def breaks_by(self, last: datetime) -> tuple[Change, ...]:
        """Return what breaks up to an instant, or may do so.

        Parameters
        ----------
        last : datetime
            Aware.

        Returns
        -------
        tuple of Change
            Ordered by time; where a change is not exact, what may lie before `last` counts.
        """
        return tuple(
            change
            for change in self.changes
            if change.kind is not ChangeKind.HEALS and change.last_before < last
        )
