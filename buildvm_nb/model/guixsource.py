"""Packages of Guix as they were at one commit of its channel, and the commands that build them.

References
----------
GNU Guix Reference Manual, "Invoking guix time-machine" and "Invoking guix build"; Guix 1.5,
``guix/scripts/time-machine.scm``.
"""

import re
import shlex
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from buildvm_nb.model.value import RelativePath, Value

__all__ = ["GuixSource", "GuixStep", "guix_steps", "too_early"]

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

    Parameters
    ----------
    source : GuixSource
        What is to be built.

    Returns
    -------
    tuple of (str, str)
        Steps by name: ``prepare`` has Guix of that commit, and what the packages need, and names
        the derivations; ``build`` builds; ``test`` builds again and compares.
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
    """Explain that Guix cannot travel so far back.

    Parameters
    ----------
    said : str
        What ``guix time-machine`` said.

    Returns
    -------
    str
        Empty where it did not say that.
    """
    found = _TOO_EARLY.search(said)
    if not found:
        return ""
    return (
        f"the commit is older than {found[1]}, the oldest that guix time-machine reaches: what it "
        "needs to run another Guix was ready with v1.0.0, of 2019-05-01; build older packages from "
        "a later commit that still has them, or from a git source"
    )
