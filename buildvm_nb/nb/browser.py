"""Looking through a catalog in a notebook: filter, sort, drill down, export."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from buildvm_nb.catalog import Catalog
from buildvm_nb.catalog.browsing import Selection
from buildvm_nb.catalog.shelves import Tier
from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.nb.drilling import DetailPanel
from buildvm_nb.nb.exporting import ExportPanel
from buildvm_nb.nb.panel import Panel
from buildvm_nb.nb.reading import FINDINGS, OUTCOMES, CatalogReader, PageRequest
from buildvm_nb.nb.studying import read_date
from buildvm_nb.nb.tables import cell_text, table_html

if TYPE_CHECKING:
    from buildvm_nb.catalog.frames import Frame
    from buildvm_nb.nb.jobs import Job

__all__ = ["CatalogBrowser"]

_SIZE = 20
_ALL = "all tiers"
_OF_FINDINGS = {
    "tier": "tier",
    "case_id": "case",
    "package": "package",
    "kind": "kind",
    "axis": "axis",
    "first_after": "changes at",
    "summary": "summary",
    "recorded_at": "recorded",
}
_OF_OUTCOMES = {
    "recorded_at": "recorded",
    "case_id": "case",
    "verdict": "verdict",
    "date": "date",
    "cpu": "CPU",
    "kernel": "kernel",
    "reason": "why",
    "duration_s": "seconds",
}


class CatalogBrowser(Panel):
    """Shows findings and outcomes page by page; SQL filters and sorts, so that many are no matter.

    Pages are read in the background: the kernel stays free, and a newer request ends an older one.
    No machine and no QEMU is needed. Findings of the user's own, of the curated catalog and
    reported ones are told apart by their tier, and an export has one tier.

    Parameters
    ----------
    catalog : Catalog, str or Path, optional
        Default: that of the user. Where it cannot be opened, the other tiers are there.
    curated : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.
    name : str
        A newer browser of the same name ends what this one reads.
    """

    def __init__(
        self,
        catalog: Catalog | str | Path | None = None,
        *,
        curated: Path | None = None,
        name: str = "",
    ) -> None:
        self.reader = CatalogReader(catalog, curated)
        """Reads pages, in whatever thread."""
        self.frame: Frame | None = None
        """The page that is shown; None: it is being read, or nothing could be."""
        self._offset = 0
        self._total = 0
        self._is_writing = False
        self._is_new = True
        self.detail = DetailPanel(name)
        """What is behind the row that is opened."""
        self.exporting = ExportPanel(self._writer, name)
        """Writes what is selected."""
        self.target = self.exporting.target
        self._make_fields()
        super().__init__(
            [
                widgets.HBox([self.table, self.tier]),
                widgets.HBox([self.case, self.text]),
                widgets.HBox([self.only, self.axis]),
                widgets.HBox([self.since, self.until]),
                widgets.HBox([self.sort, self.descending]),
                widgets.HBox([self._back, self._forward, self._again, self._status]),
                self._page,
                self.row,
                self.detail,
                self.exporting,
            ],
            name=name,
        )
        self._connect()
        self.guarded(self._choose_table)()

    @property
    def catalog(self) -> Catalog | None:
        """What is looked through; None: it cannot be opened, or was not asked for yet."""
        return self.reader.catalog

    @property
    def html(self) -> str:
        """The page as it is shown."""
        return str(self._page.value)

    @property
    def status(self) -> str:
        """Which rows are shown, as HTML."""
        return str(self._status.value)

    @property
    def selection(self) -> Selection:
        """What the fields ask for.

        Raises
        ------
        UsageError
            If a date is none.
        """
        return Selection(
            case=self.case.value.strip(),
            text=self.text.value.strip(),
            only=(self.only.value,) if self.only.value else (),
            axis=(self.axis.value,) if self.axis.value and self.table.value == FINDINGS else (),
            since=read_date(self.since.value, "Since"),
            until=read_date(self.until.value, "Until"),
        )

    def refresh(self) -> None:
        """Read the page anew, in the background; `wait` waits for it, and `error` tells trouble.

        Raises
        ------
        UsageError
            If a field is wrong.
        """
        try:
            request = self._request()
        except UsageError:
            self.cancel()
            self.job, self.busy = None, False  # what it still reads is not to be shown
            self._show_nothing("nothing can be shown")
            raise
        self.frame = None
        self._list_rows()
        self._back.disabled = self._forward.disabled = True
        self._status.value = "loading …"
        self.begin(lambda _job: self.reader.page(request), on_end=partial(self._show_page, request))

    def open_row(self, number: int) -> None:
        """Show what is behind a row.

        Parameters
        ----------
        number : int
            From 1, as the table says.

        Raises
        ------
        UsageError
            If there is no such row.
        CatalogError
            If it cannot be read.
        """
        if self.frame is None or not 1 <= number <= len(self.frame):
            raise UsageError(f"no such row: {number}")
        row = self.frame.iloc[number - 1]
        self.detail.clear()
        if self.table.value == OUTCOMES:
            self.detail.show_outcome(self.reader.own(), row["id"])
            return
        shelf = self.reader.shelf(Tier(row["tier"]))
        self.detail.show(self.catalog, *shelf.open(row["id"]))

    def export(self) -> list[Path]:
        """Write all rows that the fields ask for to CSV files, one for each tier.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        UsageError
            If a field is wrong.
        CatalogError
            If something cannot be read or written.
        """
        return self._writer()()

    def close(self) -> None:
        """End what is read, and close the catalog if it was opened here."""
        self.detail.close()
        self.exporting.close()
        super().close()
        self.reader.close()

    def _make_fields(self) -> None:
        self.table = widgets.ToggleButtons(options=[FINDINGS, OUTCOMES], tooltip="What to show")
        self.tier = _dropdown("Tier", [(one.value, one.value) for one in Tier] + [(_ALL, _ALL)])
        self.case = _text("Case", "part of its id")
        self.text = _text("Text", "part of package, summary, reason, …")
        self.only = _dropdown("Kind", [("any", "")])
        self.axis = _dropdown("Axis", [("any", ""), *((one.value, one.value) for one in Axis)])
        self.since = _text("Since", "recorded on this day or later")
        self.until = _text("Until", "recorded before this day")
        self.sort = _dropdown("Sort by", [("recorded", "recorded_at")])
        self.descending = widgets.Checkbox(value=True, description="Greatest first", indent=False)
        self._back = widgets.Button(description="Previous", tooltip="The page before")
        self._forward = widgets.Button(description="Next", tooltip="The page after")
        self._again = widgets.Button(description="Refresh", tooltip="Read the catalog again")
        self._status = widgets.HTML()
        self._page = widgets.HTML()
        self.row = _dropdown("Open", [("none", 0)])

    def _connect(self) -> None:
        self.table.observe(self.guarded(self._choose_table), "value")
        for field in (
            *(self.tier, self.case, self.text, self.only, self.axis, self.since, self.until),
            *(self.sort, self.descending),
        ):
            field.observe(self.guarded(self._changed), "value")
        self._back.on_click(self.guarded(lambda _: self._turn(-_SIZE)))
        self._forward.on_click(self.guarded(lambda _: self._turn(_SIZE)))
        self._again.on_click(self.guarded(lambda _: self.refresh()))
        self.row.observe(self.guarded(self._opened), "value")

    def _choose_table(self, _change: object = None) -> None:
        is_findings = self.table.value == FINDINGS
        kinds: type[FindingKind | Verdict] = FindingKind if is_findings else Verdict
        columns = _OF_FINDINGS if is_findings else _OF_OUTCOMES
        self._is_writing = True
        try:
            self.only.description = "Kind" if is_findings else "Verdict"
            self.only.options = [("any", ""), *((one.value, one.value) for one in kinds)]
            self.sort.options = [(name, key) for key, name in columns.items() if key != "tier"]
            self.sort.value = "recorded_at"
            self.axis.disabled = self.tier.disabled = not is_findings
            self.target.value = "failures.csv" if is_findings else "outcomes.csv"
        finally:
            self._is_writing = False
        self._changed()

    def _changed(self, _change: object = None) -> None:
        if not self._is_writing:
            self._offset = 0
            self.refresh()

    def _turn(self, step: int) -> None:
        self._offset = max(0, self._offset + step)
        self.refresh()

    def _request(self) -> PageRequest:
        is_all = self.tier.value == _ALL
        return PageRequest(
            table=self.table.value,
            tiers=tuple(Tier) if is_all else (Tier(self.tier.value),),
            wanted=self.selection,
            sort=self.sort.value,
            descending=self.descending.value,
            offset=self._offset,
            size=_SIZE,
        )

    def _show_page(self, asked: PageRequest, job: "Job[Any]") -> None:
        if job.state != "done":
            self._show_nothing("nothing can be shown" if job.error else "not read: cancelled")
            return
        self._total, self.frame, counted = job.result
        is_empty_at_first = self._is_new and not self._total and asked.tiers == (Tier.OWN,)
        self._is_new = False
        if is_empty_at_first and asked.table == FINDINGS and asked.wanted == Selection():
            self.tier.value = Tier.CURATED.value  # nobody wants to begin with an empty page
            return
        shown = len(self.frame)
        first = asked.offset + 1 if shown else 0
        rows = f"{first} to {asked.offset + shown} of {self._total}" if shown else "nothing matches"
        self._status.value = f"{rows}{counted}"
        columns = _OF_FINDINGS if asked.table == FINDINGS else _OF_OUTCOMES
        self._page.value = table_html(self.frame, columns, f"{asked.table} of the catalog")
        self._back.disabled = asked.offset == 0
        self._forward.disabled = asked.offset + shown >= self._total
        self._list_rows()

    def _show_nothing(self, status: str) -> None:
        self.frame, self._total = None, 0
        self._page.value, self._status.value = "", status
        self._list_rows()

    def _writer(self) -> Callable[[], list[Path]]:
        """Return what writes the rows that the fields ask for now."""
        target = Path(self.target.value.strip() or "failures.csv").expanduser().absolute()
        return partial(self.reader.write, self._request(), target)

    def _list_rows(self) -> None:
        rows = [] if self.frame is None else self.frame.to_dict("records")
        self._is_writing = True
        try:
            self.row.options = [
                ("none", 0),
                *(
                    (f"{n}: {cell_text(row['case_id'])} {row.get('kind') or row['verdict']}", n)
                    for n, row in enumerate(rows, 1)
                ),
            ]
            self.row.value = 0
        finally:
            self._is_writing = False
        self.detail.clear()

    def _opened(self, change: dict[str, Any]) -> None:
        if change["new"] and not self._is_writing:
            self.open_row(change["new"])
            self.show_error(None)


def _text(name: str, placeholder: str) -> widgets.Text:
    return widgets.Text(
        description=name,
        placeholder=placeholder,
        tooltip=f"{name}: {placeholder}",
        continuous_update=False,
    )


def _dropdown(name: str, options: list[tuple[str, Any]]) -> widgets.Dropdown:
    return widgets.Dropdown(description=name, options=options, tooltip=name)
