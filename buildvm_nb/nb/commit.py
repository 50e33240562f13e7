"""Choosing a commit of a repository, or a version of a package, in a notebook."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import DebianSource, GitSource, PyPISource
from buildvm_nb.model.instants import format_instant, parse_instant
from buildvm_nb.nb.jobs import Job, TaskEvent, Throttled
from buildvm_nb.nb.panel import Panel
from buildvm_nb.source import Revision, list_revisions

__all__ = [
    "CommitPicker",
    "RevisionIndex",
]

# A history held ready for searching: hundreds of thousands of commits, answered as one types.

_SHORT = 12
_SHORTEST_ID = 4
_LABEL_LENGTH = 140
_OLDEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Window:
    """What is shown of the revisions that match."""

    rows: tuple[Revision, ...]
    total: int
    """How many match."""


class RevisionIndex:
    """Searches a history."""

    def __init__(self, revisions: Sequence[Revision]) -> None:
        self.revisions = tuple(revisions)
        self._texts = [_text(one) for one in self.revisions]

    def search(self, text: str, *, limit: int, around: datetime | None = None) -> Window:
        """Find revisions.

        `text`: words that must all be in id, subject, author, tags or date, whatever their case.
        `limit`: rows at most.
        """
        words = text.casefold().split()
        found: Sequence[int] = range(len(self.revisions))
        for word in words:
            found = [number for number in found if word in self._texts[number]]
        start = 0
        if around is not None:
            later = sum((self.revisions[n].dated_at or _OLDEST) > around for n in found)
            start = max(min(later - limit // 2, len(found) - limit), 0)
        rows = tuple(self.revisions[number] for number in found[start : start + limit])
        return Window(rows=rows, total=len(found))

    def find(self, name: str) -> Revision | None:
        """Return a revision by its name.

        `name`: a tag, a branch, a version, or an id or its beginning.
        Returns: None: there is none, or a beginning fits several ids.
        """
        named = [one for one in self.revisions if name in one.names or name == one.id]
        if not named and len(name) >= _SHORTEST_ID:
            named = [one for one in self.revisions if one.id.startswith(name)]
            return named[0] if len(named) == 1 else None
        return named[0] if named else None


def label(revision: Revision) -> str:
    """Return a revision in one line.

    Returns: date, id, tags, subject; characters that print nothing or turn the line around are
    replaced.
    """
    date = f"{revision.dated_at:%Y-%m-%d}" if revision.dated_at else "no date   "
    names = f"[{', '.join(revision.names[:3])}] " if revision.names else ""
    by = f"  ({revision.author})" if revision.author else ""
    line = f"{date}  {revision.id[:_SHORT]:<{_SHORT}}  {names}{revision.subject}{by}"
    line = line if len(line) <= _LABEL_LENGTH else f"{line[: _LABEL_LENGTH - 1]}…"
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line)


def _text(one: Revision) -> str:
    date = f"{one.dated_at:%Y-%m-%d}" if one.dated_at else ""
    return "\n".join((one.id, one.subject, one.author, *one.names, date)).casefold()


# Choosing a commit of a repository, or a version of a package.

_SHOWN = 200
_LISTED = 200_000
_TYPING_S = 0.25
_WIDE = widgets.Layout(width="auto", flex="1 1 auto")

Origin = GitSource | PyPISource | DebianSource


class CommitPicker(Panel):
    """Shows the history of a source; choosing from it sets `commit`, `date` and `source`.

    Parameters
    ----------
    source : str, GitSource, PyPISource or DebianSource
        URL or path of a git repository, ``pypi:NAME``, ``debian:NAME`` or ``debian:NAME/SUITE``.
        Its history is read in the background. Empty: somebody will type it.
    cache : Cache, optional
        Keeps what is fetched; default: that of the user.
    limit : int
        Commits listed at most, the newest.
    name : str
        A newer picker of the same name ends what this one is reading.
    """

    commit = traitlets.Unicode(None, allow_none=True, help="Id of the commit, or the version.")
    date = traitlets.Any(None, allow_none=True, help="Its date, an aware datetime.")

    def __init__(
        self,
        source: str | Origin = "",
        *,
        cache: Cache | None = None,
        limit: int = _LISTED,
        name: str = "",
    ) -> None:
        self._cache = cache
        self._limit = limit
        self._origin: Origin | None = None
        self._index = RevisionIndex(())
        self._is_writing = False
        self._instead = "no source yet: URL or path of a git repository, pypi:NAME, debian:NAME"
        self.rows: tuple[Revision, ...] = ()
        """The revisions that are shown."""
        self.revision: Revision | None = None
        """The one that was chosen."""
        self._make_widgets()
        super().__init__(
            [
                widgets.HBox([self._where, self._load, self._stop]),
                widgets.HBox([self._query, self._around]),
                self._status,
                self._list,
                self._details,
            ],
            name=name,
        )
        self._searching = Throttled(self.guarded(self._fill), _TYPING_S, at_once=False)
        self._load.on_click(self.guarded(self._typed))
        self._stop.on_click(self.guarded(lambda _: self.cancel()))
        self._where.observe(self.guarded(self._typed), "value")
        self._query.observe(lambda _: self._searching(), "value")
        self._around.observe(self.guarded(lambda _: self._fill()), "value")
        self._list.observe(self.guarded(self._chosen), "index")
        self._fill()
        if source:
            self.guarded(self.load)(source)

    @property
    def source(self) -> Origin | None:
        """What was chosen, for a case; None: nothing yet."""
        if self.revision is None or self._origin is None:
            return None
        if self.revision.source is not None:
            return self.revision.source
        return GitSource.parse({"url": self._url, "commit": self.revision.id})

    @property
    def status(self) -> str:
        """What is said about the list."""
        return str(self._status.value)

    def load(self, source: str | Origin) -> Job[Any]:
        """Read a history in the background.

        Parameters
        ----------
        source : str, GitSource, PyPISource or DebianSource
            As for the class.

        Returns
        -------
        Job
            Started; `wait` waits for it.

        Raises
        ------
        UsageError
            If it is none.
        """
        self._origin = _parse(source)
        with self._writing():
            self._where.value = _told(self._origin)
        self._choose(None)
        self._index, self.rows = RevisionIndex(()), ()
        self._instead = f"reading the history of {escape(_told(self._origin))} …"
        self._fill()
        self._stop.disabled = False
        origin = self._origin

        def read(job: Job[Any]) -> RevisionIndex:
            cache = self._cache or Cache()
            found = list_revisions(origin, cache=cache, limit=self._limit, progress=job)
            with job.task(f"index {len(found)} revisions"):
                return RevisionIndex(found)

        return self.begin(read, on_event=self._tell, on_end=self._loaded)

    def search(self, text: str, *, around: str | datetime | None = None) -> tuple[Revision, ...]:
        """Show what matches.

        Parameters
        ----------
        text : str
            Words that must all be in id, subject, author, tags or date.
        around : str or datetime, optional
            A date; those nearest to it are shown.

        Returns
        -------
        tuple of Revision
            What is shown, the newest first; `status` says how many match.

        Raises
        ------
        UsageError
            If the date is none.
        """
        instant = None if around is None else parse_instant(around)
        self.wait()
        self._query.value = text
        self._around.value = format_instant(instant) if instant else ""
        self._searching.flush()
        return self.rows

    def choose(self, name: str) -> Revision:
        """Choose a revision.

        Parameters
        ----------
        name : str
            A tag, a branch, a version, or a commit id or its beginning.

        Returns
        -------
        Revision
            The one.

        Raises
        ------
        UsageError
            If there is none, or more than one.
        """
        self.wait()
        revision = self._index.find(name)
        if revision is None:
            raise UsageError(
                f"no such revision, or more than one: {name!r}; allowed: a tag, branch or version, "
                f"or the beginning of an id, of the {len(self._index.revisions)} that are listed",
                hint="search for words of its subject, or raise limit= for a longer history",
            )
        self._choose(revision)
        self._fill()
        return revision

    @property
    def _url(self) -> str:
        url = self._origin.url if isinstance(self._origin, GitSource) else ""
        path = Path(url).expanduser()
        return str(path.resolve()) if "://" not in url and path.exists() else url

    def _make_widgets(self) -> None:
        self._where = widgets.Text(
            description="Source",
            placeholder="URL or path of a git repository, pypi:NAME, debian:NAME",
            tooltip="Enter reads its history",
            continuous_update=False,
            layout=_WIDE,
        )
        self._load = widgets.Button(description="Load", tooltip="Read the history again")
        self._stop = widgets.Button(
            description="Cancel", tooltip="Stop reading the history", disabled=True
        )
        self._query = widgets.Text(
            description="Search",
            placeholder="words of subject, author, tag or id",
            tooltip="All of these words must be there",
            layout=_WIDE,
        )
        self._around = widgets.Text(
            description="Around",
            placeholder="2019-05-01",
            tooltip="Show what is nearest to this date",
            continuous_update=False,
        )
        self._status = widgets.HTML()
        self._list = widgets.Select(
            description="Revision",
            rows=12,
            tooltip="Up and down keys choose",
            layout=_WIDE,
        )
        self._details = widgets.HTML()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Change fields without taking that for the user's doing."""
        self._is_writing = True
        try:
            yield
        finally:
            self._is_writing = False

    def _typed(self, _event: object) -> None:
        if self._is_writing or (self.busy and _parse(self._where.value) == self._origin):
            return
        self.load(self._where.value)

    def _tell(self, event: object) -> None:
        if isinstance(event, TaskEvent):
            self._instead = f"{escape(event.label)} … {escape(event.note)}"
            self._status.value = self._instead

    def _loaded(self, job: Job[Any]) -> None:
        self._stop.disabled = True
        if job.state == "done":
            self._index = job.result
            self._instead = (
                f"{escape(_told(self._origin))} has no revisions" if self._origin else ""
            )
        else:
            self._instead = f"history not read: {job.state}"
        self._fill()

    def _fill(self) -> None:
        text = self._around.value.strip()
        around = parse_instant(text) if text else None
        window = self._index.search(self._query.value, limit=_SHOWN, around=around)
        self.rows = window.rows
        chosen = [n for n, row in enumerate(self.rows) if row is self.revision]
        with self._writing():
            self._list.options = [label(row) for row in self.rows]
            self._list.index = chosen[0] if chosen else None
        listed = len(self._index.revisions)
        if not listed:
            self._status.value = self._instead
            return
        self._status.value = f"{window.total} of {listed} match" + (
            f"; {len(self.rows)} are shown" if len(self.rows) < window.total else ""
        )
        if listed >= self._limit:
            self._status.value += f"; the history is longer: the newest {listed} are listed"

    def _chosen(self, change: dict[str, Any]) -> None:
        if change["new"] is not None and not self._is_writing:
            self._choose(self.rows[change["new"]])

    def _choose(self, revision: Revision | None) -> None:
        self.revision = revision
        self._details.value = "" if revision is None else _details(revision)
        dated_at = revision.dated_at if revision else None
        with self.hold_trait_notifications():  # whoever sees one sees the other
            self.commit, self.date = (
                revision.id if revision else None,
                dated_at.replace(microsecond=0) if dated_at else None,
            )


def _parse(source: str | Origin) -> Origin:
    if not isinstance(source, str):
        return source
    text = source.strip()
    kind, _, name = text.partition(":")
    match kind:
        case "pypi":
            return PyPISource.parse({"name": name, "version": "0"})
        case "debian":
            package, _, suite = name.partition("/")
            return DebianSource.parse({"name": package} | ({"suite": suite} if suite else {}))
    if not text:
        raise UsageError(
            "no source; allowed: URL or path of a git repository, pypi:NAME, debian:NAME"
        )
    return GitSource.parse({"url": text, "commit": "HEAD"})


def _told(origin: Origin) -> str:
    match origin:
        case GitSource():
            return origin.url
        case PyPISource():
            return f"pypi:{origin.name}"
        case DebianSource():
            return f"debian:{origin.name}/{origin.suite}"


def _details(revision: Revision) -> str:
    told = {
        "id": revision.id,
        "date": format_instant(revision.dated_at) if revision.dated_at else "none that can be set",
        "author date": format_instant(revision.authored_at) if revision.authored_at else "",
        "author": revision.author,
        "tags and branches": ", ".join(revision.names),
        "subject": revision.subject,
    }
    rows = (
        f"<tr><td><b>{name}</b></td><td>{escape(value)}</td></tr>"
        for name, value in told.items()
        if value
    )
    return f"<table>{''.join(rows)}</table>"
