"""What this host's pip is configured with: where packages are, and how to get there.

Which indexes there are is the host's configuration (``pip config``), never the case's and never
ours; where it names none, it is the default that the finder comes with.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from unearth import PackageFinder

from buildvm_nb.errors import HostError

__all__ = ["IndexSettings", "Place", "manylinux_platforms"]

_GLIBC_MINOR = 36
"""Of the oldest guest that Python wheels are unpacked for: Debian 12."""
_TRANSPORT = ("cert", "client-cert", "proxy", "timeout", "retries", "trusted-host", "cache-dir")


@dataclass(frozen=True, kw_only=True)
class Place:
    """An index, or a page or directory with links."""

    url: str
    is_index: bool

    @property
    def is_local(self) -> bool:
        """Whether it lies in this host's file system, where nothing has an upload time."""
        return self.url.startswith("file:") or "://" not in self.url


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """What pip is configured with, as far as it says where and how to look."""

    places: tuple[Place, ...]
    transport: dict[str, str]
    """How to connect: pip's option names and values."""

    @classmethod
    def of_this_host(cls) -> "IndexSettings":
        """Read pip's configuration: files and ``PIP_*`` variables.

        Returns
        -------
        IndexSettings
            At least one place.

        Raises
        ------
        HostError
            If pip is missing or its configuration cannot be read.
        """
        command = [sys.executable, "-m", "pip", "--no-input", "config", "list"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise HostError(f"pip's configuration cannot be read: {result.stderr.strip()[-500:]}")
        settings = _merged(result.stdout)
        places = [
            Place(url=str(Path(url).expanduser()) if url.startswith("~") else url, is_index=False)
            for url in settings.get("find-links", "").split()
        ]
        if settings.get("no-index", "").lower() not in {"1", "true", "yes", "on"}:
            default = PackageFinder().sources[0]["url"]
            urls = [
                settings.get("index-url", default),
                *settings.get("extra-index-url", "").split(),
            ]
            places[:0] = [Place(url=url, is_index=True) for url in urls]
        transport = {key: settings[key] for key in _TRANSPORT if key in settings}
        return cls(places=tuple(dict.fromkeys(places)), transport=transport)


def _merged(listing: str) -> dict[str, str]:
    """Return settings by name; commands' own sections beat the global one, variables beat both."""
    ranked: dict[str, tuple[int, str]] = {}
    ranks = {"global": 0, "install": 1, "download": 2, ":env:": 3}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        name = {"default-timeout": "timeout"}.get(name, name)
        if section in ranks and ranks[section] >= ranked.get(name, (0, ""))[0]:
            ranked[name] = (ranks[section], str(ast.literal_eval(value)))
    return {name: value for name, (_, value) in ranked.items()}


def manylinux_platforms() -> tuple[str, ...]:
    """Return the platform tags of wheels that the guests can load, best first.

    Returns
    -------
    tuple of str
        For x86-64.

    References
    ----------
    PEP 600, and PEP 513, 571, 599 for the older names.
    """
    numbered = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC_MINOR, 4, -1)]
    return (
        *numbered,
        "manylinux2014_x86_64",
        "manylinux2010_x86_64",
        "manylinux1_x86_64",
        "linux_x86_64",
    )
