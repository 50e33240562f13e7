"""A case: what to fetch, what to run, what a pass looks like, and what is claimed of it."""

import re
import shlex
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from buildvm_nb.errors import UsageError
from buildvm_nb.model.instants import Instant
from buildvm_nb.model.machine import ImageSpec, PackageName
from buildvm_nb.model.value import Digest, RelativePath, Value

__all__ = [
    "ArchiveSource",
    "Case",
    "Claim",
    "DebianBinarySource",
    "DebianSource",
    "Entry",
    "GitSource",
    "GuixSource",
    "Input",
    "Limits",
    "LocalSource",
    "Provenance",
    "PyPISource",
    "Source",
    "Step",
    "Subject",
    "WheelsSource",
    "Window",
    "at_commit",
    "guix_steps",
    "is_page",
    "one_step_case",
    "plain_name",
    "too_early",
]

# What is told about a case, and no build depends on: its claim, its origin, its catalog entry.

ClaimKind = Literal[
    "time-trap",
    "cpu-dependent",
    "kernel-dependent",
    "output-varies",
    "flaky",
    "always-failing",
    "sound",
]

EntryStatus = Literal["proposed", "verified", "withdrawn"]
"""``verified``: machines agreed, and a proof shows it; ``withdrawn``: kept, but not believed."""


def _check_page(text: str) -> str:
    if not is_page(text):
        message = "not a public page; allowed: a URL that begins with https:// or http://"
        raise ValueError(message)
    return text


def is_page(text: str) -> bool:
    """Tell whether a text is the URL of a page."""
    return re.fullmatch(r"https?://[^\s\x00-\x1f<>\"']+\.[^\s\x00-\x1f<>\"']+", text) is not None


Page = Annotated[str, AfterValidator(_check_page)]
"""The URL of a public page."""


class Subject(Value):
    """Which package a case is about, as the world names it."""

    ecosystem: str = Field(pattern=r"^[a-z][a-z0-9.+-]*$")
    """A type of package URLs: ``pypi``, ``deb``, ``npm``, ``cargo``, ``github``, ``generic``, …"""
    name: str = Field(min_length=1, pattern=r"^[^\s\x00]+$")
    """As that ecosystem names it; what comes before its last slash is a namespace."""
    version: str = Field(default="", pattern=r"^[^\s\x00]*$")
    """Empty: any, or not known."""

    @property
    def purl(self) -> str:
        """The package URL.

        References
        ----------
        https://github.com/package-url/purl-spec; for ``deb`` the namespace is ``debian``.
        """
        name = self.name
        if self.ecosystem == "pypi":
            name = name.lower().replace("_", "-")
        elif self.ecosystem == "github":
            name = name.lower()
        elif self.ecosystem == "deb" and "/" not in name:
            name = f"debian/{name.lower()}"
        path = "/".join(quote(part, safe=":") for part in name.split("/"))
        version = f"@{quote(self.version, safe=':')}" if self.version else ""
        return f"pkg:{self.ecosystem}/{path}{version}"

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


def plain_name(name: str) -> str:
    """Return what two spellings of one package's name have in common, as PEP 503 says.

    `name`: such as ``Foo_Bar``; of a path or URL the last part counts.
    """
    last = name.rstrip("/").removesuffix(".git").rpartition("/")[2]
    return re.sub(r"[-_.]+", "-", last).lower()


class Window(Value):
    """A stretch of the date axis in which the case passes."""

    passes_from: Instant | None = None
    """First second that passes; None: it passes from the beginning of the range on."""
    passes_until: Instant | None = None
    """Last second that passes; None: it passes to the end of the range."""


class Claim(Value):
    """What a diagnosis must find."""

    kind: ClaimKind
    passes_from: Instant | None = None
    """First instant at which the case passes."""
    passes_until: Instant | None = None
    """Last instant at which the case passes."""
    windows: tuple[Window, ...] = ()
    """All stretches in which it passes, in order, where there are several; instead of both above.

    None at all means that it passes within one stretch, which both above bound."""
    resolution_s: int = Field(default=1, ge=1, le=3650 * 86_400)
    """How exactly these instants are claimed; 86400: to the day."""
    passing_cpus: tuple[str, ...] = ()
    failing_cpus: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    """Smallest set of CPU features whose absence or presence flips the verdict."""
    passing_kernels: tuple[str, ...] = ()
    failing_kernels: tuple[str, ...] = ()
    axis: Literal["date", "cpu", "kernel", "cores"] | None = None
    """What the output varies with; None: it differs each time."""
    varying_files: tuple[str, ...] = ()
    """Artifacts whose content varies, although every run passes."""
    evidence: str = ""
    """The line of the log that shows it."""

    def stretches(self) -> tuple[Window, ...]:
        """Return the stretches of time in which the case passes.

        Returns: in the order in which they are written; one without ends where no instant is
        claimed.
        """
        if self.windows:
            return self.windows
        return (Window(passes_from=self.passes_from, passes_until=self.passes_until),)

    def instants(self) -> tuple[datetime, ...]:
        """Return every instant that is claimed.

        Returns: first and last seconds that pass, ascending.
        """
        ends = [end for one in self.stretches() for end in (one.passes_from, one.passes_until)]
        return tuple(sorted(end for end in ends if end is not None))


def _read_day(value: Any) -> date:  # noqa: ANN401 - pydantic hands over whatever it was given
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    shown = value.isoformat() if isinstance(value, date) else repr(value)
    message = f"not a day: {shown}; allowed: a date without a time, such as 2021-08-31"
    raise ValueError(message)


Day = Annotated[date, BeforeValidator(_read_day)]


class Provenance(Value):
    """Where this was reported, by whom, and under which licence the text stands."""

    url: str = ""
    """The public report; where there is none, the public home of what is built."""
    links: tuple[Page, ...] = ()
    """Further pages: the fix, other reports, a distribution's workaround."""
    reported_by: str = ""
    """A name or an account, as the report shows it."""
    reported_on: Day | None = None
    """The day of the report."""
    licence: str = ""


class Entry(Value):
    """What people need to know of an entry of the curated catalog."""

    status: EntryStatus = "proposed"
    description: str = ""
    """What goes wrong and why, in a few sentences of our own."""
    workaround: str = ""
    """How it can be built all the same."""
    withdrawn_because: str = ""
    """Why it is not believed any more."""


# Packages of Guix as they were at one commit of its channel, and the commands that build them.
#
# References: GNU Guix Reference Manual, "Invoking guix time-machine" and "Invoking guix build";
# Guix 1.5, ``guix/scripts/time-machine.scm``.

GuixPackage = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*(@[0-9][\w.+~-]*)?(:[a-z0-9_-]+)?$"),
]
"""``hello``, ``hello@2.10`` or ``gcc@10:lib``."""

GuixStep = tuple[Literal["prepare", "build", "test"], str]
"""Name of a step and what a shell runs for it."""

_TOO_EARLY = re.compile(r"cannot travel past commit \W(\w+)\W from ([\w ,]+)")


class GuixSource(Value):
    """Packages of Guix, or a manifest, at one commit of its channel."""

    kind: Literal["guix"] = "guix"
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Of Guix's own channel, in full: a shortened one, a tag or a branch may move."""
    channels: RelativePath | None = None
    """Instead: a file of channels, as `guix describe --format=channels` writes it, below the case
    file's directory; each channel with its commit."""
    packages: tuple[GuixPackage, ...] = ()
    manifest: RelativePath | None = None
    """Instead: a file below the case file's directory."""
    check: bool = True
    """Whether it is built once more and both results are compared. Only the Guix in the machine
    does: the host's would build it on the host, today."""
    authenticate: bool = True
    """Whether Guix checks who signed the commits."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.commit is None) == (self.channels is None):
            message = "give either commit or channels"
            raise ValueError(message)
        if bool(self.packages) == (self.manifest is not None):
            message = "give either packages or manifest"
            raise ValueError(message)
        return self


def guix_steps(source: GuixSource) -> tuple[GuixStep, ...]:
    """Compose the commands that build what a source names.

    What the packages need may be substituted, they themselves not. Of a manifest everything that
    has to be built is built. Grafts are left out: they are made where Guix is, not where it builds.

    Returns: steps by name: ``prepare`` has Guix of that commit, and what the packages need, and
    names the derivations; ``build`` builds; ``test`` builds again and compares.
    """
    travel = ["guix", "time-machine", "--no-channel-files"]
    travel += [f"--commit={source.commit}"] if source.commit else [f"--channels={source.channels}"]
    travel += [] if source.authenticate else ["--disable-authentication"]
    what = [f"--manifest={source.manifest}"] if source.manifest else [*source.packages]
    # `environment` is what the oldest commits have; later ones still do
    ready = ["describe"] if source.manifest else ["environment", *_names(source), "--", "true"]
    build = ["build", "--no-grafts", "--no-substitutes", *what]
    prepare = [[*travel, "--", *ready], [*travel, "--", *build, "--derivations"]]
    steps: list[GuixStep] = [
        ("prepare", "\n".join(map(shlex.join, prepare))),
        ("build", shlex.join([*travel, "--", *build])),
    ]
    if source.check:
        steps.append(("test", shlex.join([*travel, "--", *build, "--check"])))
    return tuple(steps)


def _names(source: GuixSource) -> list[str]:
    return sorted({package.partition(":")[0] for package in source.packages})


def too_early(said: str) -> str:
    """Explain that Guix cannot travel so far back."""
    found = _TOO_EARLY.search(said)
    if not found:
        return ""
    return (
        f"the commit is older than {found[1]}, the oldest that guix time-machine reaches: what it "
        "needs to run another Guix was ready with v1.0.0, of 2019-05-01; build older packages from "
        "a later commit that still has them, or from a git source"
    )


DistributionName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
]
"""A Python distribution's name (PEP 508)."""

OneLine = Annotated[str, StringConstraints(pattern=r"^[^-\s\x00][^\s\x00]*$")]
"""A word that cannot be taken for an option of a host tool."""


class GitSource(Value):
    """A git repository at one commit. Give `commit`, or `before` for the newest one before it."""

    kind: Literal["git"] = "git"
    url: OneLine
    """URL or local path; the repository is only read."""
    commit: OneLine | None = None
    """Full or short commit id, tag or branch."""
    before: Instant | None = None
    """Take the newest commit, by committer date, strictly before this instant."""
    branch: OneLine | None = None
    """Branch for `before`; None: the default branch."""
    submodules: bool = True

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if (self.commit is None) == (self.before is None):
            message = "give either commit or before"
            raise ValueError(message)
        return self


class PyPISource(Value):
    """One distribution file from the Python package index, unpacked."""

    kind: Literal["pypi"] = "pypi"
    name: DistributionName
    version: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+!_-]*$")
    form: Literal["sdist", "wheel"] = "sdist"
    python: str = Field(default="3.11", pattern=r"^3\.\d+$")
    """The guest's Python, for which a wheel must fit."""
    sha256: Digest | None = None


class WheelsSource(Value):
    """Wheels with their dependencies, unpacked side by side as ``pip install --target`` does."""

    kind: Literal["wheels"] = "wheels"
    requirements: tuple[str, ...] = Field(min_length=1)
    """PEP 508 requirements; pin them for a case that others are to verify."""
    python: str = Field(default="3.11", pattern=r"^3\.\d+$")
    """The guest's Python."""
    as_of: Instant | None = None
    """Only consider files uploaded before this instant."""
    dependencies: bool = True

    @field_validator("requirements")
    @classmethod
    def _no_options(cls, requirements: tuple[str, ...]) -> tuple[str, ...]:
        for requirement in requirements:
            if not re.match(r"^[A-Za-z0-9]", requirement):
                message = f"not a requirement: {requirement!r}"
                raise ValueError(message)
        return requirements


class DebianSource(Value):
    """A Debian source package, unpacked with its patches applied."""

    kind: Literal["debian-source"] = "debian-source"
    name: PackageName
    version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.+:~-]+$")
    suite: str = Field(default="bookworm", pattern=r"^[a-z][a-z0-9-]*$")


class DebianBinarySource(Value):
    """The files of one Debian binary package, without its dependencies and scripts."""

    kind: Literal["debian-binary"] = "debian-binary"
    name: PackageName
    version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.+:~-]+$")
    suite: str = Field(default="bookworm", pattern=r"^[a-z][a-z0-9-]*$")


class LocalSource(Value):
    """A directory of this host, copied as it is."""

    kind: Literal["local"] = "local"
    path: str = Field(min_length=1)
    """Absolute, or relative to the case file."""


class ArchiveSource(Value):
    """A tar or zip archive with a known digest, by URL or path."""

    kind: Literal["archive"] = "archive"
    url: OneLine
    sha256: Digest


Source = Annotated[
    GitSource
    | PyPISource
    | WheelsSource
    | DebianSource
    | DebianBinarySource
    | LocalSource
    | ArchiveSource
    | GuixSource,
    Field(discriminator="kind"),
]


class Input(Value):
    """Something that the steps need beside the source, placed below the build directory."""

    path: RelativePath
    """Where it goes, relative to the build directory."""
    source: Source


class Step(Value):
    """Commands that run in the guest as an unprivileged user, by ``/bin/sh -e``."""

    name: Literal["prepare", "build", "test"]
    """``prepare`` and ``build`` make the software; ``test`` is what a date or CPU may change."""
    run: str = Field(min_length=1)
    cwd: RelativePath | None = None
    """Relative to the build directory; None: the source's top directory."""
    env: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(
        default={}
    )
    expect: str | None = None
    """Regular expression that the output must match somewhere for the step to count as passed."""
    min_tests: int | None = Field(default=None, ge=1)
    """How many tests the runner must report as run for the step to count as passed."""
    timeout_s: int | None = Field(default=None, ge=1, le=7 * 86400)

    @field_validator("expect")
    @classmethod
    def _is_a_regex(cls, expect: str | None) -> str | None:
        if expect is not None:
            try:
                re.compile(expect)
            except re.error as error:
                message = f"not a regular expression: {error}"
                raise ValueError(message) from error
        return expect

    @field_validator("env")
    @classmethod
    def _no_nul(cls, env: dict[str, str]) -> dict[str, str]:
        if any("\0" in value for value in env.values()):
            message = "an environment variable cannot hold a NUL character"
            raise ValueError(message)
        return env


class Limits(Value):
    """What a run may use at most."""

    step_timeout_s: int = Field(default=600, ge=1, le=7 * 86400)
    """Per step, by the host's monotonic clock."""
    memory_mib: int = Field(default=1024, ge=192, le=1024 * 1024)
    disk_mib: int | None = Field(default=None, ge=16, le=1024 * 1024)
    """Of a scratch disk for what steps write; None: it is kept in memory, of which it may take
    three quarters."""
    cpu_count: int = Field(default=1, ge=1, le=255)
    processes: int = Field(default=2048, ge=16, le=1_000_000)
    """Processes and threads of all steps together."""
    log_mib: int = Field(default=64, ge=1, le=4096)
    """Output kept per step; what comes after is counted and dropped."""
    artifacts_mib: int = Field(default=1024, ge=1, le=1024 * 1024)


class Case(Value):
    """What to build: a source, an image, steps, limits."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._+-]{0,99}$")
    title: str = ""
    source: Source | None = None
    """None: what is under study comes with the image."""
    image: ImageSpec = ImageSpec()
    inputs: tuple[Input, ...] = Field(default=(), alias="input")
    steps: tuple[Step, ...] = Field(alias="step", min_length=1)
    """A case of kind ``guix`` may leave them out: they follow from its source."""
    artifacts: tuple[RelativePath, ...] = ()
    """Glob patterns relative to the build directory; what matches is digested."""
    limits: Limits = Limits()
    prepare_on: Literal["each", "once"] = "each"
    """Where prepare and build run when CPUs or kernels are compared: in each machine, or once, in
    the case's own, from which the build directory is carried over: for software that is built on
    one machine and run on another."""
    subject: Subject | None = None
    """Which package it is about, where its source does not say so; see `about`."""
    claim: Claim | None = None
    provenance: Provenance | None = None
    entry: Entry | None = None
    """What makes it an entry of the curated catalog."""

    model_config = Value.model_config | {"validate_by_name": True, "validate_by_alias": True}

    @model_validator(mode="before")
    @classmethod
    def _guix_gives_the_steps(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic hands over anything
        source = data.get("source") if isinstance(data, dict) else None
        if not isinstance(source, dict) or source.get("kind") != "guix" or data.get("step"):
            return data
        try:
            steps = guix_steps(GuixSource.model_validate(source))
        except ValidationError:  # the source itself says what is wrong with it
            steps = (("build", "guix build"),)
        return {**data, "step": tuple({"name": name, "run": run} for name, run in steps)}

    @model_validator(mode="after")
    def _one_step_of_each_name_in_order(self) -> Self:
        names = [step.name for step in self.steps]
        order = sorted(set(names), key=["prepare", "build", "test"].index)
        if names != order:
            message = f"steps must be prepare, build, test in this order, each once; got {names}"
            raise ValueError(message)
        return self

    @property
    def about(self) -> Subject | None:
        """The package that it is about: as it says itself, else as its source has it."""
        return self.subject or _subject_of(self.source)

    @property
    def timezone(self) -> str:
        """The value of ``TZ`` that its steps have: the first that one sets, else the guest's."""
        return next((step.env["TZ"] for step in self.steps if "TZ" in step.env), "UTC")

    def in_timezone(self, zone: str) -> Self:
        """Return the case with a value of ``TZ`` in each of its steps."""
        steps = [step.model_copy(update={"env": {**step.env, "TZ": zone}}) for step in self.steps]
        return self.model_copy(update={"steps": tuple(steps)})

    def build_digest(self) -> str:
        """Return the digest of all that a build depends on: not what is told about it.

        Returns
        -------
        str
            SHA-256, 64 hexadecimal digits.
        """
        told = dict.fromkeys(("id", "title", "subject", "claim", "provenance", "entry"), True)
        unsaid: dict[str, Any] = {}  # older digests know nothing of these fields
        if self.prepare_on == "each":
            unsaid["prepare_on"] = True
        if self.limits.disk_mib is None:
            unsaid["limits"] = {"disk_mib"}
        return self.content_digest(exclude=told | unsaid)


def _subject_of(source: Source | None) -> Subject | None:
    """Name the package that a source is; None: it is none that the world knows by a name."""
    match source:
        case PyPISource(name=name, version=version):
            return Subject(ecosystem="pypi", name=name, version=version)
        case WheelsSource(requirements=requirements):
            pinned = _PINNED.match(requirements[0])
            return pinned and Subject(
                ecosystem="pypi", name=pinned["name"], version=pinned["version"] or ""
            )
        case (
            DebianSource(name=name, version=version)
            | DebianBinarySource(name=name, version=version)
        ):
            return Subject(ecosystem="deb", name=name, version=version or "")
        case GitSource(url=url, commit=commit):
            on_github = _ON_GITHUB.search(url)
            name = on_github[1] if on_github else url
            name = name.rstrip("/").removesuffix(".git")
            if not on_github:
                name = name.replace(":", "/").rpartition("/")[2]
            kind = "github" if on_github else "generic"
            return Subject(ecosystem=kind, name=name, version=commit or "") if name else None
        case GuixSource(packages=packages) if packages:
            name, _, version = packages[0].partition(":")[0].partition("@")
            return Subject(ecosystem="guix", name=name, version=version)
    return None


_PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*(?:===?\s*(?P<version>[^\s,;*]+)\s*(?:;.*)?$)?"
)
"""A requirement, and its version where that is pinned (PEP 508)."""
_ON_GITHUB = re.compile(r"github\.com[/:]([^/\s]+/[^/\s?#]+)")


# A case made of a source and one command, for those who write no case file.

_LONGEST_ID = 100
_SHORT_COMMIT = 12


def one_step_case(source: Source, run: str, image: ImageSpec) -> Case:
    """Make a case of one step."""
    step = {"name": "test", "run": run}
    return Case.parse({"id": _case_id(source), "source": source, "image": image, "steps": [step]})


def at_commit(case: Case, commit: str, repository: str = "") -> Case:
    """Return a case with its source at another commit, or from another repository.

    `repository`: URL or path; empty: that of the case.
    Raises `UsageError` if the case has no repository and none is given, or a value is invalid.
    """
    source = case.source if isinstance(case.source, GitSource) else None
    if not repository and source is None:
        kind = case.source.kind if case.source else "none"
        raise UsageError(
            f"commit {commit!r} of what? the source of case {case.id} is {kind}; allowed: git",
            hint='give the repository, too: --git URL, or a [source] with kind = "git"',
        )
    submodules = source.submodules if source else True
    url = repository or (source.url if source else "")
    fields = {"url": url, "commit": commit, "submodules": submodules}
    return case.model_copy(update={"source": GitSource.parse(fields)})


def _case_id(source: Source) -> str:
    """Derive an id that people recognise from a source."""
    plain = source.model_dump(mode="json")
    name = str(plain.get("name") or plain.get("url") or plain.get("path"))
    name = name.rstrip("/").removesuffix(".git").removesuffix("/").rpartition("/")[2]
    version = plain.get("version") or plain.get("commit") or ""
    if re.fullmatch(r"[0-9a-f]{40}", version):
        version = version[:_SHORT_COMMIT]
    if plain.get("before"):
        version = f"before-{plain['before'][:10]}"
    text = "-".join(part for part in (name, version) if part).lower()
    slug = re.sub(r"[^a-z0-9._+-]+", "-", text).strip("-._+")
    return slug[:_LONGEST_ID] or str(plain["kind"])
