"""What a case needs in a machine: its sources, fetched once for any number of runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.vm import Provision

if TYPE_CHECKING:
    from buildvm_nb.source import Fetched

__all__ = ["Inputs", "gather"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The sources of a case on this host."""

    fetched: "tuple[Fetched, ...]"
    """The case's source first, where it has one, then its inputs."""
    main: "Fetched | None"
    """The case's source."""
    provision: Provision
    """What a machine gets of them."""

    @property
    def top(self) -> str:
        """The source's top directory, relative to the build directory; steps start there."""
        return self.main.top if self.main else ""


def gather(case: Case, *, cache: Cache, base: Path = Path(), progress: Progress = SILENT) -> Inputs:
    """Fetch all sources of a case.

    Parameters
    ----------
    case : Case
        Whose sources.
    cache : Cache
        Keeps them.
    base : Path
        Directory that relative paths of the case are below.
    progress : Progress
        Shows what is fetched.

    Returns
    -------
    Inputs
        In the cache.

    Raises
    ------
    SourceError
        If one of them cannot be had.
    HostError
        If this host lacks a program or space.
    """
    from buildvm_nb.source import fetch  # noqa: PLC0415 - 0.1 s that running a command can do without

    wanted = [case.source] if case.source else []
    wanted += [entry.source for entry in case.inputs]
    fetched = tuple(fetch(source, cache, base=base, progress=progress) for source in wanted)
    main = fetched[0] if case.source else None
    trees = {"": main.tree} if main else {}
    others = fetched[1:] if main else fetched
    trees |= {entry.path: one.tree for entry, one in zip(case.inputs, others, strict=True)}
    provision = Provision(
        inputs=trees or None,
        exports_mib=case.limits.artifacts_mib,
        scratch_mib=case.limits.disk_mib,
        processes=case.limits.processes,
    )
    return Inputs(fetched=fetched, main=main, provision=provision)
