"""apt with a state of its own: the system's settings, but none of its lists, pins or hooks.

What the administrator has set in ``/etc/apt/apt.conf.d`` (a proxy, time-outs, credentials) holds
here too. Sources, pins, trusted keys and package lists are ours, and hooks that would clean the
system's cache are cleared.

References
----------
apt.conf(5): a file given by ``--config-file`` is read after the system's. apt-secure(8):
``Check-Valid-Until``. apt-get(8), ``APT::Update::Error-Mode``.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

from buildvm_nb.debian.mirrors import (
    KEYRING,
    MIRROR_VARIABLE,
    AptSource,
    unknown_suite,
    without_password,
)
from buildvm_nb.errors import HostError, SourceError, Unreachable
from buildvm_nb.host.cache import Cache, cache_key
from buildvm_nb.host.tools import find_tool, run_tool
from buildvm_nb.model.instants import format_instant, now

__all__ = ["PrivateApt", "complaints", "is_archives_answer"]

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

    Parameters
    ----------
    said : str
        apt's output.

    Returns
    -------
    bool
        False for refused connections, names that nobody knows, time-outs, and servers in trouble.
    """
    return bool(_ANSWER.search(said)) and not _TROUBLE.search(said)


class PrivateApt:
    """apt for some sources, in a directory of the cache; safe for processes side by side.

    Parameters
    ----------
    cache : Cache
        Holds the package lists.
    sources : sequence of AptSource
        What apt shall know; the first must be served, the others may be.
    kind : str
        ``deb`` for binary, ``deb-src`` for source packages.
    dated : bool
        Whether the mirror shows the past: then an expired ``Release`` file is in order.

    Raises
    ------
    HostError
        If apt or Debian's archive keys are missing on this host.
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

        Parameters
        ----------
        max_age : timedelta
            Older lists are fetched anew; if that fails they are used as they are.

        Raises
        ------
        UsageError
            If the mirror does not serve the suite.
        SourceError
            If there are no lists yet and the archive's are not signed, expired or incomplete.
        HostError
            If there are no lists yet and the mirror cannot be reached.
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
        """Run an apt program on the private state.

        Parameters
        ----------
        *argv : str
            ``apt-get`` or ``apt-cache`` and its arguments.
        cwd : Path, optional
            Directory to run in.

        Returns
        -------
        str
            What it printed.

        Raises
        ------
        HostError
            If it exits non-zero; the message has its words.
        """
        with self._cache.lock(_KIND, self._key):
            return self._run(*argv, cwd=cwd)

    def release_dates(self) -> dict[str, str]:
        """Return when the archive made the ``Release`` file of each source.

        Returns
        -------
        dict of str to str
            Suite to ISO 8601 instant; a suite without a readable date is left out.
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
    """Keep what apt itself calls an error.

    Parameters
    ----------
    said : str
        apt's output.

    Returns
    -------
    str
        Its error lines joined; all of it when there are none.
    """
    errors = re.findall(r"^E: (.+)$", said, re.MULTILINE)
    return without_password("; ".join(errors) or said.strip())
