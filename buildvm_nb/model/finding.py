"""What studies conclude: findings, forecasts, and the hints that may be their causes."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from math import log2
from typing import Any, Literal

from pydantic import Field

from buildvm_nb.model.case import Case, Window
from buildvm_nb.model.display import finding_html, forecast_html
from buildvm_nb.model.instants import Instant, now
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Verdict, new_id
from buildvm_nb.model.value import DOCUMENT_VERSION, Value

__all__ = [
    "VALIDITIES",
    "VALIDITY_BEGINS",
    "VALIDITY_ENDS",
    "Axis",
    "Boundary",
    "Change",
    "ChangeKind",
    "Count",
    "Finding",
    "FindingKind",
    "Forecast",
    "ForecastStatus",
    "Hint",
    "HintKind",
    "Look",
    "Reruns",
    "Support",
    "tell_repeats",
]

# A hint: something in a source tree that is worth probing first. A hint is never a verdict.


class HintKind(StrEnum):
    """What a hint was read from."""

    CERTIFICATE_BEGINS = "certificate-begins"
    CERTIFICATE_ENDS = "certificate-ends"
    CRL_BEGINS = "crl-begins"
    CRL_ENDS = "crl-ends"
    OPENPGP_KEY_BEGINS = "openpgp-key-begins"
    OPENPGP_KEY_ENDS = "openpgp-key-ends"
    OPENPGP_SIGNATURE_BEGINS = "openpgp-signature-begins"
    OPENPGP_SIGNATURE_ENDS = "openpgp-signature-ends"
    TOKEN_BEGINS = "token-begins"  # noqa: S105 - a kind of hint, not a secret
    TOKEN_ENDS = "token-ends"  # noqa: S105
    SSH_CERTIFICATE_BEGINS = "ssh-certificate-begins"
    SSH_CERTIFICATE_ENDS = "ssh-certificate-ends"
    DATE_CONSTANT = "date-constant"
    """A date written in source text or data."""
    EPOCH_CONSTANT = "epoch-constant"
    """Seconds (or milli-, micro-, nanoseconds) since 1970 written in source text or data."""
    OUTPUT_DATE = "output-date"
    """A date that a failing step printed."""
    ROLLOVER = "rollover"
    """A counter of time overflows, for example 2038-01-19T03:14:08Z."""
    CALENDAR = "calendar"
    """A turn of a year, month or day, 29 February, a change of daylight saving time."""
    CPU_TUNING = "cpu-tuning"
    """A compiler flag that fits code to the building machine, for example ``-march=native``."""
    CPU_DISPATCH = "cpu-dispatch"
    """Code that asks the CPU what it can."""
    KERNEL_VERSION = "kernel-version"
    """Code that reads the kernel's release."""


VALIDITY_BEGINS = frozenset(kind for kind in HintKind if kind.endswith("-begins"))
"""Kinds of hints on the first second at which something is valid."""
VALIDITY_ENDS = frozenset(kind for kind in HintKind if kind.endswith("-ends"))
"""Kinds of hints on the end of a validity: its last second, or the first one after it."""
VALIDITIES = VALIDITY_BEGINS | VALIDITY_ENDS


class Hint(Value):
    """One thing found."""

    kind: HintKind
    path: str = ""
    """Where, relative to what was scanned, ``a.tar!b/c.pem`` inside an archive; empty: generic."""
    line: int | None = None
    """Line, from 1, where the place is text."""
    instant: Instant | None = None
    """The instant as it is written there, as a whole second; None: it is about a CPU or a kernel.

    Whether the end of a validity is its last second or the first one after it is for probes to say.
    """
    condition: str = ""
    """What it is about where that is no instant: a CPU feature, a function that is called."""
    why: str
    """A sentence with names: whose certificate, which constant."""


# A forecast: what in a project stops passing in the years to come, and from which second on.


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

    def _repr_html_(self) -> str:
        return forecast_html(self)

    def breaks_by(self, last: datetime) -> tuple[Change, ...]:
        """Return what breaks up to an instant, or may do so.

        Returns: ordered by time; where a change is not exact, what may lie before `last` counts.
        """
        return tuple(
            change
            for change in self.changes
            if change.kind is not ChangeKind.HEALS and change.last_before < last
        )


_ALIKE = ("sound", "always-failing")
"""Kinds whose runs all ended alike."""
_RULE_OF_THREE = 3
"""Fewer runs bound nothing."""


class Axis(StrEnum):
    """What a study varies."""

    DATE = "date"
    CPU = "cpu"
    KERNEL = "kernel"
    CORES = "cores"
    TIMEZONE = "timezone"
    COMMIT = "commit"

    @property
    def field(self) -> str:
        """The field of a machine that it varies; empty where it varies the case."""
        return {"cores": "cpu_count", "timezone": "", "commit": ""}.get(self, self.value)


class FindingKind(StrEnum):
    """What a case turned out to be."""

    TIME_TRAP = "time-trap"
    CPU_DEPENDENT = "cpu-dependent"
    KERNEL_DEPENDENT = "kernel-dependent"
    CORES_DEPENDENT = "cores-dependent"
    COMMIT_DEPENDENT = "commit-dependent"
    OUTPUT_VARIES = "output-varies"
    FLAKY = "flaky"
    ALWAYS_FAILING = "always-failing"
    SOUND = "sound"
    UNDETERMINED = "undetermined"
    """The evidence does not suffice; the summary says why."""
    RECURRING = "recurring"
    """Fails on certain days or at certain hours, again and again: `Finding.recurs` says which."""
    TIMEZONE_DEPENDENT = "timezone-dependent"


class Boundary(Value):
    """Where verdicts change along an axis that has an order.

    On the date axis both ends are instants in ISO 8601, else names of kernels, numbers of cores or
    commit ids. The change lies after `last_before` and not after `first_after`. Time zones have no
    order: of these `first_after` names one that ends otherwise than `last_before`.
    """

    axis: Axis
    last_before: str
    first_after: str
    before: Verdict
    """Verdict up to `last_before`."""
    after: Verdict
    """Verdict from `first_after` on."""
    is_exact: bool
    """Whether nothing lies between both ends: neighbouring seconds, kernels or commits."""
    confirmed: int = 0
    """How many repeated runs on both sides agreed with it; none disagreed."""
    cause: Hint | None = None
    """What changes at exactly this instant, where something in the source says so."""


class Reruns(Value):
    """How often the same thing in the same environment gave which verdict."""

    machine: MachineSpec
    verdicts: dict[Verdict, int]


class Count(Value):
    """How many runs of a side ended as a finding says."""

    agreed: int = 0
    of: int = 0
    """All that gave a verdict."""

    def __str__(self) -> str:
        return f"{self.agreed} of {self.of}"

    @property
    def bound(self) -> float | None:
        """Share that chance may have of other ends, at most, at 95 %: the rule of three.

        None where any run did not agree, or where so few were made that it bounds nothing.
        """
        return 3 / self.of if self.agreed == self.of > _RULE_OF_THREE else None


class Support(Value):
    """What a finding rests on, in counts: never a chance that it holds."""

    passing: Count = Count()
    """Runs where it says that the case passes."""
    failing: Count = Count()
    """Runs where it says that it fails."""
    dates: int = 0
    """Different dates at which runs gave a verdict."""
    shortest_window_s: int | None = None
    """What comes and goes within less was not excluded; None: dates were not searched."""
    calendar: tuple[str, ...] = ()
    """Features of the calendar of which each value was met where it passes."""
    calendar_left: tuple[str, ...] = ()
    """Those that were not met, or not wholly."""
    cpus: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    engines: tuple[str, ...] = ()
    """What emulated or ran the guests."""
    crossed: str = ""
    """How a passing and a failing run ended on another CPU and kernel, with other cores."""

    @property
    def counts(self) -> str:
        """How many runs agreed on each side, and what that says about chance."""
        told = []
        sides = (("passed", "failures", self.passing), ("failed", "passes", self.failing))
        for verb, others, count in sides:
            if count.of:
                bound = count.bound
                chance = f" ({others} by chance: at most 1 in {1 / bound:.0f})" if bound else ""
                told.append(f"{verb} {count}{chance}")
        return "; ".join(told)

    @property
    def covered(self) -> str:
        """What was looked at."""
        told = [
            f"{self.dates} dates" if self.dates > 1 else "one date" if self.dates else "",
            _named("CPU", self.cpus),
            _named("kernel", self.kernels),
            _named("number of cores", tuple(map(str, self.cores))),
            f"seen on two engines: {' and '.join(self.engines)}" if len(self.engines) > 1 else "",
            self.crossed,
            ", ".join(self.calendar),
            f"not {' nor '.join(self.calendar_left)}" if self.calendar_left else "",
        ]
        return "; ".join(filter(None, told))


class Finding(Value):
    """What a diagnosis concluded."""

    id: str = Field(default_factory=new_id)
    case: Case
    kind: FindingKind
    axis: Axis | None = None
    """The axis that explains it; None: none does."""
    summary: str
    """The conclusion in one sentence."""
    boundaries: tuple[Boundary, ...] = ()
    """In the order of their axis."""
    windows: tuple[Window, ...] = ()
    """On the date axis: when it passes, within the range that was studied."""
    recurs: str = ""
    """Recurring rule (RFC 5545) of the dates at which it fails, where one was seen."""
    studied_from: Instant | None = None
    studied_until: Instant | None = None
    """The range of the date axis that was studied."""
    passing_cpus: tuple[str, ...] = ()
    failing_cpus: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    """Smallest set of CPU features found whose removal from a model flips the verdict."""
    features_base: str = ""
    """That model."""
    features_needed: tuple[str, ...] = ()
    """Smallest set of CPU features found whose addition to a failing model makes it pass."""
    features_harmful: tuple[str, ...] = ()
    """Smallest set of CPU features found whose addition to `features_base` makes it fail."""
    passing_kernels: tuple[str, ...] = ()
    failing_kernels: tuple[str, ...] = ()
    varying_files: tuple[str, ...] = ()
    """Artifacts whose content differs along the axis although every run passed."""
    difference: str = ""
    """The first difference of such a file."""
    environment: MachineSpec | None = None
    """The least unusual machine in which the case was seen to pass; None: none was found."""
    failing_line: str = ""
    """The line of the log that shows the failure."""
    reruns: tuple[Reruns, ...] = ()
    """Repetitions that disagreed."""
    support: Support | None = None
    """What it rests on; None: an older buildvm-nb wrote it, or nobody counted."""
    confidence: float = Field(default=0.0, ge=0, le=1)
    """A count of confirming runs, n, written as 1 - 0.5**n: not a chance of anything, and shown to
    nobody. See `support` and `repeats`."""
    assumptions: tuple[str, ...] = ()
    """What was taken for granted, for example that no window is shorter than the scan's step."""
    evidence: tuple[str, ...] = ()
    """Ids of the outcomes that prove it, in the order of their runs."""
    runs: int = 0
    """Guest runs that were made for it; answers that were there already do not count."""
    supersedes: str | None = None
    """Id of the earlier finding on the same case that this one replaces."""
    study: str | None = None
    tool_version: str = ""
    recorded_at: Instant = Field(default_factory=now)
    document_version: str = Field(default=DOCUMENT_VERSION, pattern=r"^[0-9]{1,9}\.[0-9]{1,9}$")
    """Of its JSON; see `buildvm_nb.model.value`."""

    @property
    def repeats(self) -> str:
        """How many runs confirm it, in words; empty where runs disagree."""
        confirmed = [boundary.confirmed for boundary in self.boundaries]
        return tell_repeats(self.kind, self.confidence, confirmed)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Tell what tells findings apart: all of it would fill a screen."""
        yield "id", self.id
        yield "case", self.case.id
        yield "kind", self.kind.value
        yield "axis", self.axis and self.axis.value
        yield "summary", self.summary

    def _repr_html_(self) -> str:
        return finding_html(self)


def _named(what: str, names: Sequence[str]) -> str:
    if len(names) > 1:
        plural = "numbers of cores" if what.startswith("number") else f"{what}s"
        return f"{plural} {', '.join(names)}"
    return f"{what} {names[0]}" if names else ""


def tell_repeats(kind: str, confidence: float, confirmed: Sequence[int] = ()) -> str:
    """Tell how many runs confirm a finding.

    For example ``6 confirming runs``; empty for a flaky case, whose runs disagree.
    """
    if kind == FindingKind.FLAKY:
        return ""
    count = min(confirmed) if confirmed else round(-log2(max(1 - confidence, 2.0**-53)))
    if kind in _ALIKE:
        return f"{count + 1} runs, all alike" if count else "one run"
    more = " or more" if len(set(confirmed)) > 1 else ""
    each = " at each boundary" if len(confirmed) > 1 else ""
    runs = "run" if count == 1 and not more else "runs"
    return f"{count}{more} confirming {runs}{each}" if count or more else "no confirming run"
