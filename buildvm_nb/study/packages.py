"""Packages: under which name and version people know what a case builds."""

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
)
from buildvm_nb.model.value import Value

__all__ = ["Package", "package_of", "packages_of"]


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

        Parameters
        ----------
        other : Package
            Any.

        Returns
        -------
        bool
            Names are compared as PyPI does, so ``Foo_Bar`` is ``foo-bar``; one without a kind
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

    Parameters
    ----------
    case : Case
        Any.

    Returns
    -------
    tuple of Package
        What the case says that it is about, then what its source is; one, both or none.
    """
    told = case.subject
    about = told and Package(kind=told.ecosystem, name=told.name, version=told.version)
    return tuple(one for one in (about, package_of(case.source)) if one)


def package_of(source: Source | None) -> Package | None:
    """Return the package that a source is.

    Parameters
    ----------
    source : Source or None
        Of a case.

    Returns
    -------
    Package or None
        None where it has no name of its own: a local tree, an archive, none at all. Of
        wheels it is the first that is asked for.
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
