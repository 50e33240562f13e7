"""Debian packages of any suite, checked by apt, without touching the system's own apt state."""

import difflib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile

from debian.deb822 import Deb822, PkgRelation

from buildvm_nb.errors import HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache, cache_key, file_digest
from buildvm_nb.host.process import find_tool, run_process, run_tool
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.instants import format_instant, now

__all__ = [
    "KEYRING",
    "MIRROR_HINT",
    "MIRROR_VARIABLE",
    "AptSource",
    "Mirrors",
    "PackageArchive",
    "acquire_settings",
    "check_suite",
    "complaints",
    "find_mirrors",
    "host_mirrors",
    "is_archives_answer",
    "sources_for",
    "unpack_deb",
    "without_password",
]

# Where Debian packages come from: the mirrors that the system's own apt uses.
#
# No host name stands in this package. apt itself is asked for its configured sources, so that both
# forms of its files, disabled entries and ``mirror+file:`` addresses are read as apt reads them.
# Where apt knows no mirror of Debian, as on Ubuntu, mmdebstrap is asked which one it would take.
#
# References: sources.list(5); apt-get(8), ``indextargets``; mmdebstrap(1), "MIRROR" and
# ``--setup-hook``.

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

        Returns: one line of the one-line style, amd64 only, signed by Debian's archive keys.
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
    """Return an address without the user and password in it, fit for records and messages."""
    return re.sub(r"//[^/@]*@", "//", uri)


def check_suite(suite: str) -> str:
    """Refuse what cannot be the name of a suite.

    `suite`: for example ``bookworm``.
    """
    if not _SUITE_FORM.fullmatch(suite):
        raise unknown_suite(suite)
    return suite


def unknown_suite(suite: str, *, where: str = "") -> UsageError:
    """Word the error for a suite that is not to be had."""
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

    `suite`: for example ``bookworm``.
    `mirror`: address; None: the system's.
    Returns: at least one; whether the mirror serves them is not known yet.
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

    Returns: lines of apt.conf(5), for an apt that does not read the system's own.
    """
    dump = run_tool(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"])
    lines = dump.decode(errors="replace").splitlines()
    kept = tuple(line for line in lines if _CARRIED.match(line) and not line.endswith(' "";'))
    netrc = [f'Dir::Etc::{name} "{path}";' for name, path in _NETRC if os.access(path, os.R_OK)]
    return (*kept, *netrc)


def host_mirrors() -> Mirrors:
    """Return the Debian mirrors that this host uses.

    Returns: from ``BUILDVM_DEBIAN_MIRROR`` if it is set, else from apt's configuration, else
    mmdebstrap's default.
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


# apt with a state of its own: the system's settings, but none of its lists, pins or hooks.
#
# What the administrator has set in ``/etc/apt/apt.conf.d`` (a proxy, time-outs, credentials) holds
# here too. Sources, pins, trusted keys and package lists are ours, and hooks that would clean the
# system's cache are cleared.
#
# References: apt.conf(5): a file given by ``--config-file`` is read after the system's.
# apt-secure(8): ``Check-Valid-Until``. apt-get(8), ``APT::Update::Error-Mode``.

_KIND = "apt"
_C_LOCALE = {"LC_ALL": "C", "LANGUAGE": "C"}
_HOOKS = ("Update::Pre-Invoke", "Update::Post-Invoke", "Update::Post-Invoke-Success")
_REFUSED = re.compile(r"The repository '\S+ (\S+) Release' (?:does not have|no longer has)")
_TROUBLE = re.compile(r"Failed to fetch \S+ +(?!404 |410 |File not found)|Could not resolve")
_ANSWER = re.compile(
    r"Failed to fetch \S+ +(404 |410 |File not found)|is not signed|public key is not available"
    r"|NO_PUBKEY|is expired|Release' (does not have|no longer has)|Unable to (find a source|locate)"
    r"|was not found|Can not find version"
)
_FULL = "No space left on device"
_DATED = """\
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
"""
_CONFIGURATION = """\
Dir::State "{root}/state";
Dir::State::lists "lists";
Dir::State::status "/dev/null";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Default-Release "";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Install-Recommends "false";
Acquire::AllowInsecureRepositories "false";
Acquire::GzipIndexes "false";
Acquire::Languages "none";
"""


def is_archives_answer(said: str) -> bool:
    """Tell whether apt failed at what the archive has and has not, and not at reaching it.

    Returns: False for refused connections, names that nobody knows, time-outs, and servers in
    trouble.
    """
    return bool(_ANSWER.search(said)) and not _TROUBLE.search(said)


class PrivateApt:
    """apt for some sources, in a directory of the cache; safe for processes side by side.

    `sources`: what apt shall know; the first must be served, the others may be.
    `dated`: whether the mirror shows the past: then an expired ``Release`` file is in order.
    """

    def __init__(
        self, cache: Cache, sources: Sequence[AptSource], *, kind: str = "deb", dated: bool
    ) -> None:
        find_tool("apt-get")
        if not Path(KEYRING).exists():
            raise HostError(
                f"Debian's archive keys are missing on this host: {KEYRING}",
                hint="install the package debian-archive-keyring",
            )
        self.sources = tuple(sources)
        self._wanted = self.sources
        self._kind = kind
        self._cache = cache
        self._key = cache_key({"lines": [source.line(kind) for source in sources], "dated": dated})
        self._root = cache.path(_KIND, self._key)
        self._stamp = self._root / "updated.json"
        self._settings = _CONFIGURATION.format(root=self._root) + (_DATED if dated else "")
        self.trouble: SourceError | Unreachable | None = None
        """Why the lists are older than was asked for."""

    def ensure(self, max_age: timedelta) -> None:
        """Have package lists, not older than asked if the mirror can be reached.

        `max_age`: older lists are fetched anew; if that fails they are used as they are.
        Raises `SourceError` if there are no lists yet and the archive's are not signed, expired or
        incomplete.
        Raises `HostError` if there are no lists yet and the mirror cannot be reached.
        """
        with self._cache.lock(_KIND, self._key):
            self._cache.hold(_KIND, self._key)
            age = self._age()
            if age is not None and (age < max_age or self.trouble):
                return
            try:
                self._update()
            except (SourceError, Unreachable) as error:
                if age is None:
                    raise
                self.trouble = error

    def run(self, *argv: str, cwd: Path | None = None) -> str:
        """Run an apt program on the private state."""
        with self._cache.lock(_KIND, self._key):
            return self._run(*argv, cwd=cwd)

    def release_dates(self) -> dict[str, str]:
        """Return when the archive made the ``Release`` file of each source.

        Returns: suite to ISO 8601 instant; a suite without a readable date is left out.
        """
        dates = {}
        for source in self.sources:
            for path in self._root.glob(f"state/lists/*_dists_{source.suite}_*Release"):
                text = path.read_text(errors="replace")
                if match := re.search(r"^Date: (.+)$", text, re.MULTILINE):
                    dates[source.suite] = format_instant(parsedate_to_datetime(match[1]))
        return dates

    def _run(self, *argv: str, cwd: Path | None = None) -> str:
        tool, *arguments = argv
        command = [tool, f"--config-file={self._root / 'apt.conf'}", *arguments]
        try:
            return run_tool(command, env=_C_LOCALE, cwd=cwd).decode(errors="replace")
        except HostError as error:
            if _FULL in error.message:
                raise self._cache.unwritable(_FULL, self._root) from error
            raise

    def _age(self) -> timedelta | None:
        """Return how old the lists are, and take up what the mirror served then."""
        try:
            served = json.loads(self._stamp.read_bytes())
            fetched_at = datetime.fromtimestamp(self._stamp.stat().st_mtime, UTC)
        except (OSError, ValueError):
            return None
        self.sources = tuple(AptSource(uri=uri, suite=suite) for uri, suite in served)
        return now() - fetched_at

    def _update(self) -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        clear = "".join(f"#clear APT::{hook};\n" for hook in _HOOKS)
        (self._root / "apt.conf").write_text(clear + self._settings)
        self.sources = self._wanted
        while refused := self._try_update():
            self.sources = tuple(s for s in self.sources if s.suite not in refused)
        self._stamp.write_text(json.dumps([[s.uri, s.suite] for s in self.sources]))

    def _try_update(self) -> set[str]:
        """Fetch the lists; return the suites that the mirror does not serve."""
        lines = "".join(f"{source.line(self._kind)}\n" for source in self.sources)
        (self._root / "sources.list").write_text(lines)
        main = self.sources[0]
        try:
            self._run("apt-get", "update", "-q")
        except HostError as error:
            if error.hint:  # it is this host's own: no program, no room
                raise
            refused = set(_REFUSED.findall(error.message)) & {s.suite for s in self.sources}
            if main.suite in refused:
                raise unknown_suite(main.suite, where=main.uri) from error
            if refused:
                return refused
            message = f"package lists of Debian {main.suite} cannot be fetched: " + complaints(
                error.message
            )
            hint = f"is {without_password(main.uri)} in reach? {MIRROR_VARIABLE} can name another"
            if is_archives_answer(error.message):
                sought = tuple(map(str, self.sources))
                raise SourceError(message, sought=sought, hint=hint) from error
            raise Unreachable(message, hint=hint) from error
        return set()


def complaints(said: str) -> str:
    """Keep what apt itself calls an error."""
    errors = re.findall(r"^E: (.+)$", said, re.MULTILINE)
    return without_password("; ".join(errors) or said.strip())


# The packages of one Debian suite: looked up, fetched and verified by apt, kept in the cache.

_FRESH = timedelta(days=1)
"""Package lists that are younger are used without asking the mirror."""
_FRESH_WHEN_MISSING = timedelta(minutes=10)
"""What is not in lists that are younger does not exist."""
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?")
_FETCHED = re.compile(r"^'[^']+' (\S+) \d+ SHA256:([0-9a-f]{64})$", re.MULTILINE)


class PackageArchive:
    """The packages of one suite, for amd64, as the mirror has them today.

    `suite`: for example ``bookworm``; with the system's mirrors, updates and security updates of a
    stable suite are part of it. A backports suite holds the backports alone.
    `mirror`: address of another mirror, such as a dated archive, whose Release file may have
    expired; None: the system's.
    Raises `HostError` if this host lacks apt, Debian's archive keys or a Debian mirror.
    """

    def __init__(
        self, suite: str, mirror: str | None = None, *, cache: Cache, progress: Progress = SILENT
    ) -> None:
        self.suite = suite
        self.mirror = mirror
        self._cache = cache
        self._progress = progress
        wanted = sources_for(suite, mirror)
        self._binary = PrivateApt(cache, wanted, dated=mirror is not None)
        self._source = PrivateApt(cache, wanted, kind="deb-src", dated=mirror is not None)

    def refresh(self, *, max_age: timedelta = _FRESH) -> None:
        """Have package lists of a certain freshness; every other method has them of one day.

        Raises `UsageError` if the mirror does not serve the suite; the message names the known
        ones.
        Raises `SourceError` if there are no lists yet and the archive cannot be verified.
        Raises `HostError` if there are no lists yet and the mirror cannot be reached.
        """
        self._binary.ensure(max_age)

    @property
    def sources(self) -> tuple[AptSource, ...]:
        """What the mirrors serve of this suite; known for sure after `refresh`."""
        return self._binary.sources

    @property
    def sought(self) -> tuple[str, ...]:
        """Where packages are sought, for messages."""
        return tuple(map(str, self.sources))

    def release_dates(self) -> dict[str, str]:
        """Return when the archive was made, as its signed Release files say."""
        self.refresh()
        return self._binary.release_dates()

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a package that can be had.

        Returns: newest first; empty if there is no such package.
        """
        self.refresh()
        _check_name(name)
        rows = self._binary.run("apt-cache", "madison", name).splitlines()
        return tuple(dict.fromkeys(row.split("|")[1].strip() for row in rows if "|" in row))

    def check(self, names: Sequence[str]) -> None:
        """Make sure that binary packages exist.

        Raises `SourceError` if one does not exist; the message has near names or the versions that
        do.
        """
        for wanted in names:
            name, _, version = wanted.partition("=")
            found = self.versions(name)
            if not found or (version and version not in found):
                self.refresh(max_age=_FRESH_WHEN_MISSING)
                found = self.versions(name)
            if self._binary.trouble and (not found or (version and version not in found)):
                raise self._binary.trouble  # newer lists might have it
            if not found:
                raise self._missing(name)
            if version and version not in found:
                raise SourceError(
                    f"no version {version} of Debian package {name} in {self.suite}; "
                    f"there is {', '.join(found)}",
                    sought=self.sought,
                )

    def candidate(self, name: str) -> str:
        """Return the version of a package that apt would install."""
        return str(self._fields(name)["Version"])

    def dependencies(self, name: str) -> tuple[str, ...]:
        """Return what the candidate of a package depends on.

        Returns: names in order, the first of alternatives, ``Pre-Depends`` first.
        """
        fields = self._fields(name)
        relations = []
        for field in ("Pre-Depends", "Depends"):
            if text := fields.get(field):
                relations += PkgRelation.parse_relations(text)
        return tuple(dict.fromkeys(alternatives[0]["name"] for alternatives in relations))

    def download(self, names: Sequence[str]) -> list[Path]:
        """Fetch binary packages, each verified against the signed package lists.

        Returns: a ``.deb`` file for each, in order; they stay in the cache.
        """
        self.check(names)
        return [self._fetch(self._binary, "debs", ("download", name))[0] for name in names]

    def download_source(self, name: str, version: str | None = None) -> Path:
        """Fetch a source package, verified against the signed source lists.

        `version`: None: the newest.
        Returns: the ``.dsc`` file, with the files that it names beside it, in the cache.
        Raises `SourceError` if there is no such source package or version, or it cannot be fetched.
        """
        wanted = _check_name(f"{name}={version}" if version else name)
        command = ("source", "--only-source", "--download-only", wanted)
        self._source.ensure(_FRESH)
        paths = self._fetch(self._source, "debian-sources", command)
        return next(path for path in paths if path.suffix == ".dsc")

    def _fetch(self, apt: PrivateApt, kind: str, command: tuple[str, ...]) -> list[Path]:
        try:
            return self._fetch_once(apt, kind, command)
        except SourceError:
            # a mirror drops superseded files: newer lists name what it has now
            apt.ensure(_FRESH_WHEN_MISSING)
            if apt.trouble:
                raise apt.trouble from None
            return self._fetch_once(apt, kind, command)

    def _fetch_once(self, apt: PrivateApt, kind: str, command: tuple[str, ...]) -> list[Path]:
        wanted = command[-1]

        def get(*options: str, cwd: Path | None = None) -> str:
            try:
                return apt.run("apt-get", "-q", *options, *command, cwd=cwd)
            except HostError as error:
                if error.hint:  # it is this host's own: no program, no room
                    raise
                message = f"Debian package {wanted} of {self.suite} cannot be fetched: " + (
                    complaints(error.message)
                )
                if is_archives_answer(error.message):
                    raise SourceError(message, sought=self.sought) from error
                raise Unreachable(message, hint=MIRROR_HINT) from error

        files = dict(_FETCHED.findall(get("--print-uris")))
        recipe = {"files": files}
        self._drop_damaged(kind, recipe)
        label = f"fetch {wanted} of {self.suite}"
        place = self._cache.entry(
            kind, recipe, lambda work: {"said": get(cwd=work)}, label=label, progress=self._progress
        )
        # apt writes an epoch's colon as it is in the file name of a source, as %3a in a binary's
        return [place / name for name in files]

    def _drop_damaged(self, kind: str, recipe: dict[str, dict[str, str]]) -> None:
        key = cache_key(recipe)
        place = self._cache.path(kind, key)
        for name, digest in recipe["files"].items():
            path = place / name
            if path.exists() and file_digest(path) != digest:
                self._cache.remove(kind, key)

    def _fields(self, name: str) -> Deb822:
        self.check([name])
        shown = self._binary.run("apt-cache", "show", "--no-all-versions", name.partition("=")[0])
        return Deb822(shown)

    def _missing(self, name: str) -> SourceError:
        names = self._binary.run("apt-cache", "pkgnames").split()
        alike = [known for known in names if known[:2] == name[:2]]
        near = difflib.get_close_matches(name, alike or names, n=3, cutoff=0.7)
        return SourceError(
            f"no Debian package {name} in {self.suite}",
            sought=self.sought,
            hint=f"did you mean {' or '.join(near)}?" if near else "",
        )


def _check_name(wanted: str) -> str:
    if not _PACKAGE.fullmatch(wanted):
        raise UsageError(f"not the name of a Debian package: {wanted!r}")
    return wanted


# The files of a Debian package.

_PERMISSIONS = 0o777


def unpack_deb(deb: Path, into: Path) -> None:
    """Unpack a package's files; none of its scripts runs.

    What would run as its owner does not: nothing of ours needs it, and a service that is confined
    may not make such files.

    Raises `HostError` if dpkg-deb is missing, the file is damaged, or a file cannot be written.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryFile(dir=into) as plain:
            run_tool(["dpkg-deb", "--fsys-tarfile", deb], stdout=plain)
            plain.seek(0)
            with tarfile.open(fileobj=plain, mode="r:") as archive:
                # it is a verified package of Debian, and its links lead where they are to
                archive.extraction_filter = lambda member, _path: member
                archive.extractall(into, members=_plain_members(archive))  # noqa: S202 - see above
    except (tarfile.TarError, OSError) as error:
        raise HostError(f"cannot unpack {deb.name}: {error}") from error


def _plain_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        member.mode &= _PERMISSIONS
        yield member
