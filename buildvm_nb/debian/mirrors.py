"""Where Debian packages come from: the mirrors that the system's own apt uses.

No host name stands in this package. apt itself is asked for its configured sources, so that both
forms of its files, disabled entries and ``mirror+file:`` addresses are read as apt reads them.
Where apt knows no mirror of Debian, as on Ubuntu, mmdebstrap is asked which one it would take.

References
----------
sources.list(5); apt-get(8), ``indextargets``; mmdebstrap(1), "MIRROR" and ``--setup-hook``.
"""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.tools import find_tool, run_process, run_tool

__all__ = [
    "KEYRING",
    "KNOWN_SUITES",
    "MIRROR_HINT",
    "MIRROR_VARIABLE",
    "AptSource",
    "Mirrors",
    "acquire_settings",
    "check_suite",
    "find_mirrors",
    "host_mirrors",
    "sources_for",
    "without_password",
]

KNOWN_SUITES = (
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "forky",
    "sid",
)
"""Suites that are known to work; any other that the mirror serves works too."""

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
"""The only keys that are trusted (Debian package ``debian-archive-keyring``)."""

MIRROR_VARIABLE = "BUILDVM_DEBIAN_MIRROR"
"""Environment variable that names the mirror; it comes before whatever the system is set to."""

MIRROR_HINT = f"is the mirror in reach? try again later, or name another in {MIRROR_VARIABLE}"
"""What to do about a mirror that does not answer."""

_WITHOUT_UPDATES = frozenset({"sid", "unstable", "experimental"})
_SUITE_FORM = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_CODENAMES = re.compile(
    "(stretch|buster|bullseye|bookworm|trixie|forky|duke|sid|unstable|testing|(old)*stable)([-/]|$)"
)
_CARRIED = re.compile(
    "Acquire::(https?|Retries|ForceIPv[46]|Queue-Mode|Check-Valid-Until|Check-Date)(:| )"
)
_NETRC = (("netrc", "/etc/apt/auth.conf"), ("netrcparts", "/etc/apt/auth.conf.d"))
_DEFAULT_SUITE = "stable"
_SHOW_SOURCES = 'sed "s/^/source: /" "$1"/etc/apt/sources.list >&2; false'
"""A hook that ends mmdebstrap before it fetches anything."""
_SHOWN_SOURCE = re.compile(r"source: deb +(?:\[[^]]*\] +)?(\S+) +(\S+) +main\b")
_TARGETS = "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)"


@dataclass(frozen=True, kw_only=True)
class AptSource:
    """One line of a sources.list: a suite of a mirror."""

    uri: str
    suite: str

    def line(self, kind: str = "deb") -> str:
        """Write it as apt reads it.

        Parameters
        ----------
        kind : str
            ``deb`` or ``deb-src``.

        Returns
        -------
        str
            One line of the one-line style, amd64 only, signed by Debian's archive keys.
        """
        return f"{kind} [arch=amd64 signed-by={KEYRING}] {self.uri} {self.suite} main"

    def __str__(self) -> str:
        return f"{without_password(self.uri)} {self.suite}"


@dataclass(frozen=True, kw_only=True)
class Mirrors:
    """Addresses of the archive and, where there is one, of its security updates."""

    archive: str
    security: str | None = None
    is_default: bool = False
    """Whether neither the user nor apt named them: they are mmdebstrap's own default."""


def without_password(uri: str) -> str:
    """Return an address without the user and password in it, fit for records and messages.

    Parameters
    ----------
    uri : str
        A mirror's address.

    Returns
    -------
    str
        The same, without ``user:password@``.
    """
    return re.sub(r"//[^/@]*@", "//", uri)


def check_suite(suite: str) -> str:
    """Refuse what cannot be the name of a suite.

    Parameters
    ----------
    suite : str
        For example ``bookworm``.

    Returns
    -------
    str
        The same.

    Raises
    ------
    UsageError
        If the form is wrong; the message names the known suites.
    """
    if not _SUITE_FORM.fullmatch(suite):
        raise unknown_suite(suite)
    return suite


def unknown_suite(suite: str, *, where: str = "") -> UsageError:
    """Word the error for a suite that is not to be had.

    Parameters
    ----------
    suite : str
        What was asked for.
    where : str
        Mirror that does not serve it.

    Returns
    -------
    UsageError
        To be raised; it names the known suites, and near ones.
    """
    near = difflib.get_close_matches(suite, KNOWN_SUITES, n=3, cutoff=0.5)
    place = f" at {without_password(where)}" if where else ""
    return UsageError(
        f"unknown Debian suite{place}: {suite}; known: {', '.join(KNOWN_SUITES)}",
        hint=f"did you mean {' or '.join(near)}?" if near else "",
    )


def sources_for(suite: str, mirror: str | None = None) -> tuple[AptSource, ...]:
    """Return the sources of a suite, the suite itself first.

    A stable suite comes with its ``-updates`` and ``-security`` where the system's mirrors are
    used. A given mirror, such as a dated archive, is used for the suite alone: what it shows is
    then fixed by the mirror's date.

    Parameters
    ----------
    suite : str
        For example ``bookworm``.
    mirror : str, optional
        Address; None: the system's.

    Returns
    -------
    tuple of AptSource
        At least one; whether the mirror serves them is not known yet.

    Raises
    ------
    UsageError
        If the name cannot be that of a suite.
    HostError
        If this host's apt has no Debian mirror.
    """
    check_suite(suite)
    if mirror:
        return (AptSource(uri=mirror, suite=suite),)
    mirrors = host_mirrors()
    sources = [AptSource(uri=mirrors.archive, suite=suite)]
    if "-" not in suite and suite not in _WITHOUT_UPDATES:
        sources.append(AptSource(uri=mirrors.archive, suite=f"{suite}-updates"))
        if mirrors.security:
            sources.append(AptSource(uri=mirrors.security, suite=f"{suite}-security"))
    return tuple(sources)


def acquire_settings() -> tuple[str, ...]:
    """Return how the system's apt fetches: its proxy, time-outs, retries, credentials.

    Returns
    -------
    tuple of str
        Lines of apt.conf(5), for an apt that does not read the system's own.

    Raises
    ------
    HostError
        If apt is missing.
    """
    dump = run_tool(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"])
    lines = dump.decode(errors="replace").splitlines()
    kept = tuple(line for line in lines if _CARRIED.match(line) and not line.endswith(' "";'))
    netrc = [f'Dir::Etc::{name} "{path}";' for name, path in _NETRC if os.access(path, os.R_OK)]
    return (*kept, *netrc)


def host_mirrors() -> Mirrors:
    """Return the Debian mirrors that this host uses.

    Returns
    -------
    Mirrors
        From ``BUILDVM_DEBIAN_MIRROR`` if it is set, else from apt's configuration, else
        mmdebstrap's default.

    Raises
    ------
    HostError
        If none of them names a Debian mirror.
    """
    if given := os.environ.get(MIRROR_VARIABLE):
        if not re.fullmatch(r"[a-z+]+:[^\s\[\]]+", given):
            raise HostError(f"not a mirror's address in {MIRROR_VARIABLE}: {given!r}")
        return Mirrors(archive=given)
    listing = run_tool(["apt-get", "indextargets", "--no-release-info", "--format", _TARGETS])
    return find_mirrors(listing.decode(errors="replace")) or _default_mirrors()


@lru_cache(maxsize=1)
def _default_mirrors() -> Mirrors:
    """Ask mmdebstrap for the mirrors that it takes when none is given; nothing is fetched."""
    hint = f"name one: export {MIRROR_VARIABLE}=ADDRESS-OF-A-DEBIAN-MIRROR"
    try:
        program = find_tool("mmdebstrap")
    except HostError as error:
        message = "this host's apt configuration names no Debian mirror, and mmdebstrap is missing"
        raise HostError(message, hint=f"{hint}; or {error.hint}") from error
    # chrootless: of all modes the one that any user may use and that needs no other program; newer
    # ones warn root of what it might install, which here is nothing
    options = (
        *("--mode=chrootless", "--skip=check/chrootless", "--format=null"),
        f"--setup-hook={_SHOW_SOURCES}",
    )
    result = run_process([program, *options, _DEFAULT_SUITE, "-"])
    said = result.stderr.decode(errors="replace")
    listing = "\n".join(
        f"Packages {uri} {suite} main" for uri, suite in _SHOWN_SOURCE.findall(said)
    )
    if found := find_mirrors(listing):
        return replace(found, is_default=True)
    shown = "\n".join(said.strip().splitlines()[-3:])
    message = f"neither this host's apt nor mmdebstrap names a Debian mirror; mmdebstrap:\n{shown}"
    raise HostError(message, hint=hint)


def find_mirrors(listing: str) -> Mirrors | None:
    """Find Debian's own mirrors among apt's index targets.

    Other publishers use Debian's code names as suites too, so the address must say Debian as
    well: ``…/debian``, ``…/debian-security``, or a list of mirrors named so.

    Parameters
    ----------
    listing : str
        Lines of creator, address, suite and component.

    Returns
    -------
    Mirrors or None
        None when no line is Debian's.
    """
    archive = security = None
    for uri, suite in _debian_targets(listing):
        if suite.endswith(("-security", "/updates")):
            security = security or uri
        else:
            archive = archive or uri
    return Mirrors(archive=archive, security=security) if archive else None


def _debian_targets(listing: str) -> Iterator[tuple[str, str]]:
    for line in listing.splitlines():
        fields = line.split(" ")
        if len(fields) != 4 or fields[0] not in {"Packages", "Sources"} or fields[3] != "main":  # noqa: PLR2004 - the four of _TARGETS
            continue
        uri, suite = fields[1].rstrip("/"), fields[2]
        if _CODENAMES.match(suite) and uri.rpartition("/")[2].startswith("debian"):
            yield uri, suite
