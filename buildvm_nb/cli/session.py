"""One call of ``buildvm``: its global options, and the doors to cache, catalog and progress."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.output import printable, write_error
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog
    from buildvm_nb.host.cache import Cache
    from buildvm_nb.host.progress import Progress

__all__ = ["Session"]


@dataclass(kw_only=True)
class Session:
    """What holds for the whole call; commands get it, `buildvm_nb.cli.entry.main` reads it last."""

    argv: tuple[str, ...] = ()
    """The arguments, as the user wrote them."""
    cache_root: Path | None = None
    catalog_place: str | None = None
    as_json: bool = False
    quiet: bool = False
    trouble: ExitStatus = ExitStatus.TROUBLE
    """What to exit with when our machinery fails; commands that pass a status through differ."""

    def cache(self) -> "Cache":
        """Open the cache.

        Returns
        -------
        Cache
            That of ``--cache``, ``$BUILDVM_CACHE`` or the user.
        """
        from buildvm_nb.host.cache import Cache

        return Cache(self.cache_root)

    def catalog(self, *, existing: bool = False) -> "Catalog":
        """Open the catalog.

        Parameters
        ----------
        existing : bool
            Whether a file that ``--catalog`` names must be there: a reader that makes an empty
            one would hide a mistyped name.

        Returns
        -------
        Catalog
            That of ``--catalog``, ``$BUILDVM_CATALOG`` or the user; the caller closes it.

        Raises
        ------
        UsageError
            If it has to be there and is not.
        """
        place = self.catalog_place
        if existing and place and "://" not in place and not Path(place).exists():
            raise UsageError(
                f"no such catalog: {place}", hint="`buildvm build --catalog FILE …` makes one"
            )
        from buildvm_nb.catalog import Catalog

        return Catalog(place, tell=self.warn)

    @contextmanager
    def telling_catalog(self) -> "Iterator[tuple[Catalog, str]]":
        """Open the catalog for a reader, or the curated findings where it is empty, and say so.

        Yields
        ------
        Catalog
            With something in it, as far as there is anything.
        str
            What it is, for people.

        Raises
        ------
        UsageError
            If ``--catalog`` names one that is not there.
        """
        with ExitStack() as stack:
            own = stack.enter_context(self.catalog(existing=True))
            if any(own.counts().values()):
                yield own, own.name
                return
            from buildvm_nb.catalog.shelves import curated_catalog

            self.note(
                f"your catalog is empty: {own.name}; what follows is of the curated catalog that "
                "comes with buildvm"
            )
            yield stack.enter_context(curated_catalog()), "curated catalog of buildvm"

    def progress(self) -> "Progress":
        """Return what shows progress on standard error.

        Returns
        -------
        Progress
            Bars on a terminal, lines elsewhere, nothing with ``--quiet``.
        """
        from buildvm_nb.host.progress import SILENT

        if self.quiet:
            return SILENT
        from buildvm_nb.cli.progress import LineProgress, TerminalProgress

        on_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        return TerminalProgress() if on_terminal else LineProgress()

    @contextmanager
    def resumable(
        self, kept: str = "what has ended is recorded", *, scheduler: str | None = None
    ) -> Iterator[None]:
        """Tell who stops long work, by Ctrl-C or SIGTERM, how to go on with it.

        Parameters
        ----------
        kept : str
            What is not lost.
        scheduler : str, optional
            Address of the Dask scheduler whose workers do the work.

        Yields
        ------
        None
            While it is done.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.note(f"{kept}; the same command goes on from there")
            if scheduler is not None:
                self.note("workers finish the runs that they are at")
            raise

    def warn(self, text: str) -> None:
        """Tell what nobody should miss in one line on standard error, also with ``--quiet``.

        Parameters
        ----------
        text : str
            What to tell; control characters are shown, not sent.
        """
        write_error(f"buildvm: warning: {printable(text)}")

    def settle(self) -> None:
        """Write out what is buffered, before another program takes the place of this process."""
        sys.stdout.flush()
        sys.stderr.flush()

    def note(self, text: str) -> None:
        """Tell something in one line on standard error, unless ``--quiet``.

        Parameters
        ----------
        text : str
            What to tell; control characters are shown, not sent.
        """
        if not self.quiet:
            write_error(f"buildvm: {printable(text)}")
