"""A history held ready for searching: hundreds of thousands of commits, answered as one types."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from buildvm_nb.source import Revision

__all__ = ["RevisionIndex", "Window", "label"]

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
    """Searches a history.

    Parameters
    ----------
    revisions : sequence of Revision
        The newest first.
    """

    def __init__(self, revisions: Sequence[Revision]) -> None:
        self.revisions = tuple(revisions)
        self._texts = [_text(one) for one in self.revisions]

    def search(self, text: str, *, limit: int, around: datetime | None = None) -> Window:
        """Find revisions.

        Parameters
        ----------
        text : str
            Words that must all be in id, subject, author, tags or date, whatever their case.
        limit : int
            Rows at most.
        around : datetime, optional
            Show those nearest to this date instead of the newest ones.

        Returns
        -------
        Window
            Its rows are the newest first.
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

        Parameters
        ----------
        name : str
            A tag, a branch, a version, or an id or its beginning.

        Returns
        -------
        Revision or None
            None: there is none, or a beginning fits several ids.
        """
        named = [one for one in self.revisions if name in one.names or name == one.id]
        if not named and len(name) >= _SHORTEST_ID:
            named = [one for one in self.revisions if one.id.startswith(name)]
            return named[0] if len(named) == 1 else None
        return named[0] if named else None


def label(revision: Revision) -> str:
    """Return a revision in one line.

    Parameters
    ----------
    revision : Revision
        Any.

    Returns
    -------
    str
        Date, id, tags, subject; characters that print nothing or turn the line around are
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
