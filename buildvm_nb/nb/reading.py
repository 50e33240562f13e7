"""Reading pages of a catalog and of the tiers beside it, in whatever thread asks for them."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.catalog import Catalog
from buildvm_nb.catalog.browsing import Selection
from buildvm_nb.catalog.shelves import (
    CuratedShelf,
    OwnShelf,
    ReportedShelf,
    Shelf,
    Tier,
    page_of_shelves,
)
from buildvm_nb.errors import CatalogError

if TYPE_CHECKING:
    from buildvm_nb.catalog.frames import Frame

__all__ = ["FINDINGS", "OUTCOMES", "CatalogReader", "PageRequest"]

FINDINGS, OUTCOMES = "findings", "outcomes"


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """What the fields of a browser ask for at one moment: other threads do not read widgets."""

    table: str
    """`FINDINGS` or `OUTCOMES`."""
    tiers: tuple[Tier, ...]
    """Of findings."""
    wanted: Selection
    sort: str
    descending: bool
    offset: int
    size: int
    """Rows of the page."""


class CatalogReader:
    """Opens a catalog when it is first read; safe to use from several threads.

    Parameters
    ----------
    catalog : Catalog, str or Path, optional
        Default: that of the user. One that is handed in is not closed.
    curated : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.
    """

    def __init__(
        self, catalog: Catalog | str | Path | None = None, curated: Path | None = None
    ) -> None:
        self.catalog: Catalog | None = catalog if isinstance(catalog, Catalog) else None
        """What is read; None: it cannot be opened, or was not yet."""
        self._place = None if isinstance(catalog, Catalog) else catalog
        self._is_ours = not isinstance(catalog, Catalog)
        self._root = curated
        self._shelves: dict[Tier, Shelf] = {}
        self._opening = threading.Lock()

    def page(self, asked: PageRequest) -> "tuple[int, Frame, str]":
        """Read a page.

        Parameters
        ----------
        asked : PageRequest
            Which one.

        Returns
        -------
        int
            How many rows there are on all pages.
        Frame
            The page.
        str
            How many of them each tier has, in words; empty for outcomes.

        Raises
        ------
        CatalogError
            If the catalog cannot be read, for example because it was deleted.
        """
        order: dict[str, Any] = {"sort": asked.sort, "descending": asked.descending}
        order |= {"offset": asked.offset, "size": asked.size}
        if asked.table == OUTCOMES:
            own = self.own()
            page = own.page(OUTCOMES, asked.wanted, **order)
            return own.count(OUTCOMES, asked.wanted), page, ""
        shelves = [self.shelf(tier) for tier in asked.tiers]
        counts, page = page_of_shelves(shelves, asked.wanted, **order)
        told = ", ".join(f"{count} {tier}" for tier, count in counts.items())
        return sum(counts.values()), page, f": {told}"

    def write(self, asked: PageRequest, target: Path) -> list[Path]:
        """Write all rows of all pages to CSV files.

        Parameters
        ----------
        asked : PageRequest
            One of the pages.
        target : Path
            Of several tiers, each has a file whose name ends in that of the tier.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        CatalogError
            If something cannot be read or written.
        """
        if asked.table == OUTCOMES:
            self.own().export_selected(target, OUTCOMES, asked.wanted)
            return [target]
        made = []
        for tier in asked.tiers:
            alone = len(asked.tiers) == 1
            path = target if alone else target.with_stem(f"{target.stem}-{tier.value}")
            self.shelf(tier).export(asked.wanted, path)
            made.append(path)
        return made

    def own(self) -> Catalog:
        """Return the catalog; one that could not be opened is tried again.

        Returns
        -------
        Catalog
            It could be read just now.

        Raises
        ------
        CatalogError
            If it cannot be read.
        """
        with self._opening:
            if self.catalog is None:
                self.catalog = Catalog(self._place)
        try:
            next(self.catalog.answers(""), None)  # nothing that looks into it is cheaper
        except CatalogError as error:
            raise CatalogError(
                f"{error.message}; it may have been deleted or moved",
                hint="Refresh tries again; the other tiers are there all the same",
            ) from error
        return self.catalog

    def shelf(self, tier: Tier) -> Shelf:
        """Return what has the findings of a tier.

        Parameters
        ----------
        tier : Tier
            Any.

        Returns
        -------
        Shelf
            That of other tiers than the user's own is kept.

        Raises
        ------
        CatalogError
            If the user's own catalog cannot be read.
        """
        if tier is Tier.OWN:
            return OwnShelf(self.own())
        with self._opening:
            if tier not in self._shelves:
                is_curated = tier is Tier.CURATED
                self._shelves[tier] = (
                    CuratedShelf(self._root) if is_curated else ReportedShelf(self._root)
                )
            return self._shelves[tier]

    def close(self) -> None:
        """Close the catalog if it was opened here; closing twice is no error."""
        if self._is_ours and self.catalog is not None:
            self.catalog.close()
