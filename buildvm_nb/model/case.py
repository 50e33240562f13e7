"""A case: what to fetch, what to run and what a pass looks like."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from buildvm_nb.model.entry import Claim, Entry, Provenance, Subject
from buildvm_nb.model.guixsource import GuixSource, guix_steps
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
]

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
