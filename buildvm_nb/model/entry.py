"""What is told about a case, and no build depends on: its claim, its origin, its catalog entry."""

import re
from datetime import date, datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field

from buildvm_nb.model.instants import Instant
from buildvm_nb.model.value import Value

__all__ = [
    "Claim",
    "ClaimKind",
    "Entry",
    "EntryStatus",
    "Page",
    "Provenance",
    "Subject",
    "Window",
    "is_page",
    "plain_name",
]

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
    """Tell whether a text is the URL of a page.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    bool
        Without asking the network.
    """
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

    Parameters
    ----------
    name : str
        Such as ``Foo_Bar``; of a path or URL the last part counts.

    Returns
    -------
    str
        Such as ``foo-bar``.
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

        Returns
        -------
        tuple of Window
            In the order in which they are written; one without ends where no instant is claimed.
        """
        if self.windows:
            return self.windows
        return (Window(passes_from=self.passes_from, passes_until=self.passes_until),)

    def instants(self) -> tuple[datetime, ...]:
        """Return every instant that is claimed.

        Returns
        -------
        tuple of datetime
            First and last seconds that pass, ascending.
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
