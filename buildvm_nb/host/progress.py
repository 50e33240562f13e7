"""Progress of long work: whoever works reports it, whoever faces the user shows it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Progress", "Silent", "Task"]


class Task(Protocol):
    """A piece of work under way."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far it is.

        Parameters
        ----------
        done : float
            Units done so far.
        total : float, optional
            Units in all, once known.
        note : str
            What is being done right now.
        """


class Progress(Protocol):
    """Shows work as it goes on."""

    def task(self, label: str) -> AbstractContextManager[Task]:
        """Announce a piece of work; leaving the context ends it.

        Parameters
        ----------
        label : str
            What is being done, for people.

        Returns
        -------
        context manager
            Yields a `Task`.
        """
        ...


class Silent:
    """Progress that nobody looks at."""

    @contextmanager
    def task(self, label: str) -> Iterator["Silent"]:  # noqa: ARG002 - nobody looks
        """Do nothing.

        Parameters
        ----------
        label : str
            Ignored.

        Yields
        ------
        Silent
            A task that shows nothing.
        """
        yield self

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Do nothing.

        Parameters
        ----------
        done, total, note
            Ignored.
        """


SILENT = Silent()
"""The default."""
