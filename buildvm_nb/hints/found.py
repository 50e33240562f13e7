"""What a look at some bytes gives, before it becomes a hint with path and line."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from buildvm_nb.model.hint import HintKind

__all__ = ["Found", "Report"]

Report = Callable[[int, str], None]
"""Takes the offset of what could not be read, and why."""


class Found(NamedTuple):
    """One thing found."""

    kind: HintKind
    why: str
    instant: datetime | None = None
    condition: str = ""
    offset: int = 0
    """Where it begins in the bytes that were looked at."""

    def at(self, offset: int) -> "Found":
        """Return the same, found somewhere else.

        Parameters
        ----------
        offset : int
            Where.

        Returns
        -------
        Found
            A copy.
        """
        return self._replace(offset=offset)
