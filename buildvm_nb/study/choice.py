"""A chosen environment: where something builds, which finding says so, and all that in words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, Self

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from buildvm_nb.model.case import (
    ArchiveSource,
    Case,
    DebianBinarySource,
    DebianSource,
    GitSource,
    GuixSource,
    LocalSource,
    PyPISource,
    Source,
    WheelsSource,
    Window,
)
from buildvm_nb.model.display import card, describe_machine
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.instants import (
    EARLIEST,
    LATEST_CLOCK,
    Instant,
    format_instant,
    is_within,
    occurrences,
)
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.value import Value

__all__ = [
    "Basis",
    "Choice",
    "Mention",
    "Package",
    "Unproved",
    "common_windows",
    "holds",
    "nearest_inside",
    "package_of",
    "packages_of",
    "passes_at",
    "shown_windows",
]

# Packages: under which name and version people know what a case builds.


class Package(Value):
    """A package as findings are looked up by it."""

    name: str
    """As its index names it; a URL for a git repository."""
    version: str = ""
    """Version, tag or commit; empty: any."""
    kind: str = ""
    """``pypi``, ``git``, ``debian-source``, ``debian-binary`` or ``guix``; empty: any."""

    def is_same(self, other: "Package") -> bool:
        """Tell whether another one is this package, in whatever version.

        Returns: names are compared as PyPI does, so ``Foo_Bar`` is ``foo-bar``; one without a kind
        may be of any, and a git repository is then known by the last part of its URL, too.
        """
        if self.kind and other.kind:
            ours, theirs = (_ECOSYSTEMS.get(one.kind, one.kind) for one in (self, other))
            return ours == theirs and _plain(self.name) == _plain(other.name)
        return bool(_names(self.name) & _names(other.name))

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


_ECOSYSTEMS = {"debian-source": "deb", "debian-binary": "deb"}
"""Kinds of sources whose packages have another name for where they are from."""


def packages_of(case: Case) -> tuple[Package, ...]:
    """Return the packages by which a case is looked up.

    Returns: what the case says that it is about, then what its source is; one, both or none.
    """
    told = case.subject
    about = told and Package(kind=told.ecosystem, name=told.name, version=told.version)
    return tuple(one for one in (about, package_of(case.source)) if one)


def package_of(source: Source | None) -> Package | None:
    """Return the package that a source is.

    Returns: None where it has no name of its own: a local tree, an archive, none at all. Of wheels
    it is the first that is asked for.
    """
    match source:
        case PyPISource(name=name, version=version):
            return Package(kind="pypi", name=name, version=version)
        case WheelsSource(requirements=requirements):
            return _required(requirements[0])
        case DebianSource() | DebianBinarySource():
            # without a version it is whatever the suite has
            version = source.version or f"of {source.suite}"
            return Package(kind=source.kind, name=source.name, version=version)
        case GitSource(url=url, commit=commit):
            return Package(kind="git", name=url, version=commit or "")
        case GuixSource(packages=packages, commit=commit) if packages:
            name, _, version = packages[0].partition(":")[0].partition("@")
            return Package(kind="guix", name=name, version=version or commit or "")
        case LocalSource() | ArchiveSource() | GuixSource() | None:
            return None


def _required(requirement: str) -> Package | None:
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return None
    pins = [one.version for one in parsed.specifier if one.operator in {"==", "==="}]
    return Package(kind="pypi", name=parsed.name, version=pins[0] if pins else "")


def _names(name: str) -> set[str]:
    last = name.rstrip("/").removesuffix(".git").rpartition("/")[2]
    return {_plain(name), _plain(last)}


def _plain(name: str) -> str:
    return canonicalize_name(name)


# Windows of dates in which a case passes: their ends, what they have in common, a date inside.

_MARGIN = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_RULED = timedelta(days=400)
"""How far around a date a rule's days and hours are cut out of windows: more than a year."""


def shown_windows(finding: Finding, *near: datetime | None) -> tuple[Window, ...]:
    """Return the windows of a finding with ends: beyond the studied dates nothing is shown.

    `near`: aware. Of what fails by a recurring rule, only windows around these dates are told.
    Returns: in the finding's order.
    """
    first, last = finding.studied_from or EARLIEST, finding.studied_until or LATEST_CLOCK
    windows = tuple(
        Window(passes_from=one.passes_from or first, passes_until=one.passes_until or last)
        for one in (finding.windows or _whole(finding))
    )
    if not finding.recurs:
        return windows
    gaps = {gap for date in near if date for gap in _between(finding.recurs, date)}
    return common_windows(sorted(gaps, key=_begins), windows)


def passes_at(finding: Finding, date: datetime) -> bool:
    """Tell whether a case passes at a date, as a finding on dates says.

    Returns: whether it lies in a window, and not on a day or in an hour that fails by a rule.
    """
    if not holds(finding.windows or _whole(finding), date):
        return False
    return not (finding.recurs and is_within(finding.recurs, date))


def _whole(finding: Finding) -> tuple[Window, ...]:
    """Return the one window of what fails by a rule alone; a trap without windows has none."""
    has_edges = bool(finding.boundaries)
    return (Window(),) if finding.recurs and not has_edges else ()


def _begins(window: Window) -> datetime:
    return window.passes_from or EARLIEST


def _between(rule: str, date: datetime) -> list[Window]:
    """Return the windows between a rule's days or hours around a date, overlaps joined."""
    at, end = date - _RULED, date + _RULED
    gaps = []
    for first, after in occurrences(rule, at, end):
        if first > at:
            gaps.append(Window(passes_from=at, passes_until=first - _SECOND))
        at = max(at, after)
    if at < end:
        gaps.append(Window(passes_from=at, passes_until=end))
    return gaps


def holds(windows: Iterable[Window], date: datetime) -> bool:
    """Tell whether a date lies in one of the windows, their ends included."""
    spans = [(one.passes_from or EARLIEST, one.passes_until or LATEST_CLOCK) for one in windows]
    return any(first <= date <= last for first, last in spans)


def common_windows(ones: Sequence[Window], others: Sequence[Window]) -> tuple[Window, ...]:
    """Return the windows of the dates that lie in windows of both sides.

    Returns: None of them is empty; a window may be a single second.
    """
    spans = [
        (
            max(one.passes_from or EARLIEST, other.passes_from or EARLIEST),
            min(one.passes_until or LATEST_CLOCK, other.passes_until or LATEST_CLOCK),
        )
        for one in ones
        for other in others
    ]
    return tuple(
        Window(passes_from=first, passes_until=last) for first, last in spans if first <= last
    )


def nearest_inside(windows: Iterable[Window], wanted: datetime) -> datetime | None:
    """Return the date nearest to a wanted one that is not close to an end: the clock runs on.

    `wanted`: aware; taken as it is where it lies in a window and a margin before its end.
    Returns: a whole second; the margin is a day, or a quarter of a short window. None: no window.
    """
    dates = [_inside(window, wanted) for window in windows]
    return min(dates, key=lambda date: abs(date - wanted), default=None)


def _inside(window: Window, wanted: datetime) -> datetime:
    first, last = window.passes_from or EARLIEST, window.passes_until or LATEST_CLOCK
    margin = min(_MARGIN, (last - first) / 4)
    if first <= wanted <= last - margin:
        return wanted.replace(microsecond=0)
    nearest = min(max(wanted, first + margin), last - margin)
    return nearest.replace(microsecond=0)


_WORDS = {
    Axis.DATE: "the date",
    Axis.CPU: "the CPU",
    Axis.KERNEL: "the kernel",
    Axis.CORES: "the number of virtual CPUs",
    Axis.TIMEZONE: "the time zone",
}
_SAY_NOTHING = {
    FindingKind.FLAKY: "it is flaky",
    FindingKind.ALWAYS_FAILING: "it failed in every environment that was tried",
    FindingKind.COMMIT_DEPENDENT: "another commit builds, not another environment",
    FindingKind.UNDETERMINED: "the diagnosis could not tell",
}


_MOST_NAMED = 3


class Basis(StrEnum):
    """What a choice rests on."""

    OWN_FINDING = "own-finding"
    """A finding of the user's own catalog."""
    CURATED_FINDING = "curated-finding"
    """A verified finding of the curated catalog."""
    GUESS = "guess"
    """Nothing is known: the date of the source and a CPU of that date."""
    NONE = "none"
    """No environment is known: the finding shows none, or there is nothing to guess by."""


class Mention(Value):
    """A finding that is named beside the one that decided."""

    id: str
    case: str
    """Id of its case."""
    package: str = ""
    """Name and version."""
    kind: FindingKind
    summary: str
    recorded_at: Instant
    is_curated: bool

    @classmethod
    def of(cls, finding: Finding, *, is_curated: bool) -> Self:
        """Mention a finding."""
        return cls(
            id=finding.id,
            case=finding.case.id,
            package=str(next(iter(packages_of(finding.case)), "")),
            kind=finding.kind,
            summary=finding.summary,
            recorded_at=finding.recorded_at,
            is_curated=is_curated,
        )

    def __str__(self) -> str:
        whose = "curated" if self.is_curated else "your own"
        about = self.package or self.case
        return f"{self.id} ({whose}, on {about}, {self.kind.value}: {self.summary})"


class Unproved(Value):
    """A problem of the package that was told of, and that no machine of ours has shown."""

    id: str
    tier: Literal["proposed", "reported"]
    package: str
    """Name and versions, as they are told."""
    kind: str
    told: str
    """What is told, in a sentence."""
    url: str = ""

    def __str__(self) -> str:
        return (
            f"{self.id} ({self.tier}, not proved here, on {self.package}, {self.kind}: {self.told})"
        )


class Choice(Value):
    """Where something builds, as far as that is known."""

    basis: Basis
    subject: str
    """What was asked about: a case's id, or a package and its version."""
    axes: tuple[Axis, ...] = ()
    """What has to be chosen, as this host itself would not do; none: no machine is needed."""
    environment: MachineSpec | None = None
    """A machine in which it builds; of a guess, in which it may; None: none is known."""
    timezone: str = ""
    """Value of ``TZ`` with which its steps were seen to pass; empty: no finding asks for one."""
    because: Finding | None = None
    """The finding that decided."""
    is_curated: bool = False
    """Whether that finding is of the curated catalog."""
    is_same_case: bool = True
    """Whether that finding is on this very case, and not on another of the package and version."""
    also: tuple[Mention, ...] = ()
    """Findings that exclude other environments, and not this one."""
    is_combined: bool = False
    """Whether findings were put together: each saw its part pass, and no run all of it at once."""
    conflict: tuple[Mention, ...] = ()
    """The fewest findings that no environment is what all of them ask for."""
    against: tuple[Mention, ...] = ()
    """Findings on the same that say something else and were not followed."""
    other_versions: tuple[Mention, ...] = ()
    """Findings on other versions of the package: worth a look, never followed."""
    unproved: tuple[Unproved, ...] = ()
    """What was proposed or reported of the package and is not proved here; never followed."""

    @property
    def is_shown(self) -> bool:
        """Whether findings show that it builds there."""
        return self.basis in {Basis.OWN_FINDING, Basis.CURATED_FINDING}

    @property
    def evidence(self) -> tuple[str, ...]:
        """Ids of the outcomes that prove the finding."""
        return self.because.evidence if self.because else ()

    @property
    def chosen_by(self) -> tuple[str, ...]:
        """Ids of the findings that chose the environment, the one that decided first."""
        if not self.is_shown or self.because is None:
            return ()
        return (self.because.id, *(one.id for one in self.also))

    @property
    def level(self) -> str:
        """How much has to be chosen: ``nothing``, ``date``, ``date+cpu``, …, ``unknown``."""
        if not self.is_shown:
            return "unknown"
        return "+".join(axis.value for axis in self.axes) or "nothing"

    @property
    def explanation(self) -> str:
        """The choice in a few sentences."""
        said = [self._conclusion(), *self._source(), *self._beside(), *self._dissent()]
        return " ".join(said)

    def overrides(self) -> dict[str, Any]:
        """Return what a machine has to be given so that it is the chosen one.

        Returns
        -------
        dict
            Fields of `MachineSpec`; none where nothing is known, as what a machine is by default
            is the guess.
        """
        machine = self.environment
        if machine is None or not self.is_shown:
            return {}
        fields = {
            "date": machine.date,
            "cpu": machine.cpu,
            "kernel": machine.kernel,
            "accelerator": machine.accelerator,
        }
        return fields | ({"cpu_count": machine.cpu_count} if Axis.CORES in self.axes else {})

    def beside(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Put the choice beside what a user gave, which takes precedence.

        Parameters
        ----------
        given : mapping
            Fields of `MachineSpec`.

        Returns
        -------
        dict
            All fields of `MachineSpec` that are not to follow from the case.
        tuple of str
            Ids of the findings that chose one of these, to be recorded with the outcome.
        """
        chosen = self.overrides()
        return chosen | dict(given), self.chosen_by if set(chosen) - set(given) else ()

    def applied_to(self, case: Case) -> Case:
        """Give a case what of the choice is no part of a machine: the time zone of its steps.

        Parameters
        ----------
        case : Case
            What is built.

        Returns
        -------
        Case
            The same where no time zone has to be chosen.
        """
        return case.in_timezone(self.timezone) if self.timezone else case

    def document(self) -> dict[str, Any]:
        """Return the choice as plain JSON, with what follows from it.

        Returns
        -------
        dict
            All fields, and ``level``, ``evidence`` and ``explanation``.
        """
        known = self.model_dump(mode="json")
        derived = {"evidence": list(self.evidence), "explanation": self.explanation}
        return {"level": self.level, **known, **derived}

    def see(self) -> str:
        """Return the command that shows the evidence of the finding, or makes it again.

        Returns
        -------
        str
            For a shell; empty where no finding decided.
        """
        if self.because is None:
            return ""
        if self.is_curated:
            return f"buildvm diagnose {self.because.case.id}"
        return f"buildvm catalog show {self.because.id}"

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Tell what was chosen and why; the finding itself would fill a screen."""
        yield "subject", self.subject
        yield "level", self.level
        yield "basis", self.basis.value
        yield "environment", describe_machine(self.environment) or None
        yield "because", self.because and self.because.id

    def _repr_html_(self) -> str:
        return card(
            f"Where {self.subject} builds",
            [
                ("has to be chosen", self.level),
                ("environment", describe_machine(self.environment)),
                ("time zone", self.timezone),
                ("image", self.environment and self.environment.image),
                ("rests on", self.basis.value),
                ("explanation", self.explanation),
                ("see", self.see()),
            ],
        )

    def _conclusion(self) -> str:
        machine = self.environment
        if self.basis is Basis.NONE and self.because is not None:
            why = _SAY_NOTHING.get(self.because.kind, "it was never seen to pass")
            return f"No environment is known in which {self.subject} builds: {why}."
        if self.conflict:
            return f"No environment is known in which {self.subject} builds: findings clash."
        if machine is None:
            known = "Nothing is proved" if self.unproved else "Nothing is known"
            return f"{known} about {self.subject}; its source would tell a date to guess by."
        where = f"{format_instant(machine.date)}, {machine.cpu}, kernel {machine.kernel}"
        if self.basis is Basis.GUESS:
            dated = "the date of its source" if self.axes else "today, as no source tells a date"
            guess = f"{where} is a guess ({dated}), not a finding"
            known = "Nothing is proved" if self.unproved else "Nothing is known"
            return f"{known} about {self.subject}: {guess}."
        if self.timezone:
            where += f", with TZ={self.timezone}"
        if not self.axes:
            why = "it passes today, and no finding asks for another CPU or kernel than this host's"
            return f"{self.subject} needs no machine: {why}."
        names = [_WORDS[axis] for axis in self.axes]
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        verb = "have" if len(names) > 1 else "has"
        passes = "each of these findings passes" if self.is_combined else "it passes"
        return f"For {self.subject} {listed} {verb} to be chosen; {passes} at {where}."

    def _source(self) -> list[str]:
        finding = self.because
        if finding is None:
            return []
        whose = "the curated catalog" if self.is_curated else "your catalog"
        other = "" if self.is_same_case else f", on another case of it, {finding.case.id}"
        told = f"{finding.kind.value}: {finding.summary}".rstrip(".")
        return [f"Finding {finding.id} of {whose}{other} says so ({told})."]

    def _beside(self) -> list[str]:
        said = [f"Finding {one} is met as well." for one in self.also]
        if self.is_combined:
            said.append("Each saw its own part pass; no run had all of it at once.")
        clashing = [f"Finding {one} leaves nothing that suits the others." for one in self.conflict]
        return said + clashing

    def _dissent(self) -> list[str]:
        said = [f"Not followed: finding {one}." for one in self.against]
        if self.other_versions:
            names = "; ".join(map(str, self.other_versions[:3]))
            said.append(f"Findings on other versions are not applied: {names}.")
        if self.unproved:
            names = "; ".join(map(str, self.unproved[:_MOST_NAMED]))
            more = len(self.unproved) - _MOST_NAMED
            others = f"; and {more} more" if more > 0 else ""
            said.append(f"Told of, and not proved here: {names}{others}.")
        return said
