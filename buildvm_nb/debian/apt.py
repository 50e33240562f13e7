"""The packages of one Debian suite: looked up, fetched and verified by apt, kept in the cache."""

import difflib
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from debian.deb822 import Deb822, PkgRelation

from buildvm_nb.debian.mirrors import MIRROR_HINT, AptSource, sources_for
from buildvm_nb.debian.private_apt import PrivateApt, complaints, is_archives_answer
from buildvm_nb.errors import HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache, cache_key, file_digest
from buildvm_nb.host.progress import SILENT, Progress

__all__ = ["PackageArchive"]

_FRESH = timedelta(days=1)
"""Package lists that are younger are used without asking the mirror."""
_FRESH_WHEN_MISSING = timedelta(minutes=10)
"""What is not in lists that are younger does not exist."""
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?")
_FETCHED = re.compile(r"^'[^']+' (\S+) \d+ SHA256:([0-9a-f]{64})$", re.MULTILINE)


class PackageArchive:
    """The packages of one suite, for amd64, as the mirror has them today.

    Parameters
    ----------
    suite : str
        For example ``bookworm``; with the system's mirrors, updates and security updates of a
        stable suite are part of it. A backports suite holds the backports alone.
    mirror : str, optional
        Address of another mirror, such as a dated archive, whose Release file may have expired;
        None: the system's.
    cache : Cache
        Keeps package lists and packages.
    progress : Progress
        Shows what is fetched.

    Raises
    ------
    UsageError
        If the name cannot be that of a suite.
    HostError
        If this host lacks apt, Debian's archive keys or a Debian mirror.
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

        Parameters
        ----------
        max_age : timedelta
            Older lists are fetched anew, if the mirror is in reach.

        Raises
        ------
        UsageError
            If the mirror does not serve the suite; the message names the known ones.
        SourceError
            If there are no lists yet and the archive cannot be verified.
        HostError
            If there are no lists yet and the mirror cannot be reached.
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
        """Return when the archive was made, as its signed Release files say.

        Returns
        -------
        dict of str to str
            Suite to ISO 8601 instant.
        """
        self.refresh()
        return self._binary.release_dates()

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a package that can be had.

        Parameters
        ----------
        name : str
            Binary package.

        Returns
        -------
        tuple of str
            Newest first; empty if there is no such package.

        Raises
        ------
        UsageError
            If it cannot be the name of a package.
        """
        self.refresh()
        _check_name(name)
        rows = self._binary.run("apt-cache", "madison", name).splitlines()
        return tuple(dict.fromkeys(row.split("|")[1].strip() for row in rows if "|" in row))

    def check(self, names: Sequence[str]) -> None:
        """Make sure that binary packages exist.

        Parameters
        ----------
        names : sequence of str
            ``name`` or ``name=version``.

        Raises
        ------
        UsageError
            If one cannot be the name of a package.
        SourceError
            If one does not exist; the message has near names or the versions that do.
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
        """Return the version of a package that apt would install.

        Parameters
        ----------
        name : str
            Binary package.

        Returns
        -------
        str
            Its version.

        Raises
        ------
        UsageError
            If it cannot be the name of a package.
        SourceError
            If there is none, with near names.
        """
        return str(self._fields(name)["Version"])

    def dependencies(self, name: str) -> tuple[str, ...]:
        """Return what the candidate of a package depends on.

        Parameters
        ----------
        name : str
            Binary package.

        Returns
        -------
        tuple of str
            Names in order, the first of alternatives, ``Pre-Depends`` first.

        Raises
        ------
        UsageError
            If it cannot be the name of a package.
        SourceError
            If there is no such package.
        """
        fields = self._fields(name)
        relations = []
        for field in ("Pre-Depends", "Depends"):
            if text := fields.get(field):
                relations += PkgRelation.parse_relations(text)
        return tuple(dict.fromkeys(alternatives[0]["name"] for alternatives in relations))

    def download(self, names: Sequence[str]) -> list[Path]:
        """Fetch binary packages, each verified against the signed package lists.

        Parameters
        ----------
        names : sequence of str
            ``name`` or ``name=version``.

        Returns
        -------
        list of Path
            A ``.deb`` file for each, in order; they stay in the cache.

        Raises
        ------
        UsageError
            If one cannot be the name of a package.
        SourceError
            If one does not exist or cannot be fetched.
        """
        self.check(names)
        return [self._fetch(self._binary, "debs", ("download", name))[0] for name in names]

    def download_source(self, name: str, version: str | None = None) -> Path:
        """Fetch a source package, verified against the signed source lists.

        Parameters
        ----------
        name : str
            Source package.
        version : str, optional
            None: the newest.

        Returns
        -------
        Path
            The ``.dsc`` file, with the files that it names beside it, in the cache.

        Raises
        ------
        UsageError
            If it cannot be the name or version of a package.
        SourceError
            If there is no such source package or version, or it cannot be fetched.
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
