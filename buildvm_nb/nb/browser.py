"""Looking through a catalog in a notebook: filter, sort, drill down, export."""

import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from buildvm_nb.catalog import Catalog
from buildvm_nb.catalog.query import Query
from buildvm_nb.catalog.shelves import (
    CuratedShelf,
    OwnShelf,
    ReportedShelf,
    Shelf,
    Tier,
    page_of_shelves,
)
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.display import outcome_html, verdict_sign
from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.model.value import clean
from buildvm_nb.nb.jobs import Job
from buildvm_nb.nb.log import LogView
from buildvm_nb.nb.panel import Panel
from buildvm_nb.nb.study import read_field

if TYPE_CHECKING:
    from buildvm_nb.catalog.frames import Frame

__all__ = [
    "CatalogBrowser",
]

# What is behind a row: the finding, the runs that prove it, and their logs.

_SHOWN = 1024 * 1024
_EVIDENCE = 200


class DetailPanel(Panel):
    """Shows one entry, the outcomes that prove it, and the log of the one that is chosen.

    However long a log is, a bounded part of it is read and held: its beginning at once, its end on
    request and in the background.

    `name`: a newer panel of the same name ends what this one reads.
    """

    def __init__(self, name: str = "") -> None:
        self._catalog: Catalog | None = None
        self._key = ""
        self._entry = widgets.HTML()
        self._evidence = widgets.Dropdown(
            description="Evidence", options=[], tooltip="The runs that prove it; choose one"
        )
        self._outcome = widgets.HTML()
        self._end = widgets.Button(
            description="Its end", tooltip="Read the log to its end, in the background"
        )
        self._stop = widgets.Button(description="Cancel", tooltip="Stop reading", disabled=True)
        self._note = widgets.HTML()
        self.log_view = LogView()
        """The log of the outcome."""
        self._log_box = widgets.VBox(
            [widgets.HBox([self._end, self._stop, self._note]), self.log_view]
        )
        super().__init__([self._entry, self._evidence, self._outcome, self._log_box], name=name)
        self._evidence.observe(self.guarded(self._chosen), "value")
        self._end.on_click(self.guarded(lambda _: self.read_end()))
        self._stop.on_click(self.guarded(lambda _: self.cancel()))
        self.clear()

    @property
    def html(self) -> str:
        """What is said about the entry and its outcome."""
        return f"{self._entry.value}{self._outcome.value}"

    @property
    def note(self) -> str:
        """How much of the log is shown, as HTML."""
        return str(self._note.value)

    def clear(self) -> None:
        """Show nothing."""
        self.cancel()
        self._entry.value = self._outcome.value = self._note.value = ""
        self._evidence.options = []
        self._show_parts()
        self.show_error(None)

    def show(self, catalog: "Catalog | None", html: str, evidence: tuple[str, ...]) -> None:
        """Show an entry.

        `evidence`: ids of outcomes; of very many the last ones can be chosen.
        """
        self.clear()
        self._catalog = catalog
        self._entry.value = html
        numbered = [(f"{number}: {key}", key) for number, key in enumerate(evidence, 1)]
        self._evidence.options = [("none", None), *numbered[-_EVIDENCE:]]
        self._show_parts()

    def show_outcome(self, catalog: "Catalog", key: str) -> None:
        """Show an outcome and the beginning of its log."""
        self.cancel()
        self.show_error(None)
        self._catalog = catalog
        self._key = key
        outcome = catalog.outcome(key)
        self._outcome.value = outcome_html(outcome)
        self.log_view.clear()
        self._note.value = "no log was kept"
        self._end.disabled = True
        if outcome.log_digest:
            self._read_beginning(catalog, outcome.log_digest)
        self._show_parts()

    def read_end(self) -> "Job[Any]":
        """Read the log to its end in the background, and show its last part."""
        catalog, key = self._catalog, self._key
        self._stop.disabled, self._end.disabled = False, True
        self._note.value = "reading …"

        def read(job: "Job[Any]") -> bytes:
            held: deque[bytes] = deque()
            size = 0
            with job.task("read the log") as task:
                for piece in catalog.log_pieces(key) if catalog else ():
                    held.append(piece)
                    size += len(piece)
                    while len(held) > 1 and sum(map(len, held)) - len(held[0]) >= _SHOWN:
                        held.popleft()
                    task.update(size)
            return b"".join(held)[-_SHOWN:]

        return self.begin(read, on_end=self._read)

    def _read(self, job: "Job[Any]") -> None:
        self._stop.disabled, self._end.disabled = True, False
        self._note.value = f"not read: {job.state}"
        if job.state == "done":
            self.log_view.clear()
            self.log_view.feed(job.result)
            self.log_view.flush()
            self._note.value = "the end of the log"

    def _read_beginning(self, catalog: "Catalog", digest: str) -> None:
        pieces = catalog.log_pieces(digest)
        head = next(pieces, b"")
        is_longer = len(head) >= _SHOWN and next(pieces, None) is not None
        self.log_view.feed(head[:_SHOWN])
        self.log_view.flush()
        self._end.disabled = not is_longer
        beginning = f"the first {_SHOWN // 1024} KiB of the log"
        self._note.value = beginning if is_longer else "the whole log"

    def _chosen(self, change: dict[str, Any]) -> None:
        if change["new"] is None or self._catalog is None:
            self._outcome.value = ""
            self._show_parts()
            return
        self.show_outcome(self._catalog, change["new"])

    def _show_parts(self) -> None:
        self._evidence.layout.display = "" if len(self._evidence.options) > 1 else "none"
        self._log_box.layout.display = "" if self._outcome.value else "none"


# Writing what is selected to files, in the background, and handing them out.

_LINKED = 2 * 1024 * 1024


class ExportPanel(Panel):
    """A file's name, and a button that writes it.

    `prepare`: called on the kernel's loop, where fields may be read; returns what writes the files
    in the background and returns their paths.
    `name`: a newer panel of the same name ends what this one writes.
    """

    def __init__(self, prepare: Callable[[], Callable[[], list[Path]]], name: str = "") -> None:
        self._prepare = prepare
        self.target = widgets.Text(
            description="File",
            placeholder="failures.csv",
            tooltip="File: failures.csv",
            continuous_update=False,
        )
        """Where to write."""
        self._export = widgets.Button(
            description="Export CSV", tooltip="Write all rows that the fields ask for"
        )
        self._exported = widgets.HTML()
        box = widgets.HBox([self.target, self._export, self._exported])
        super().__init__([box], name=name)
        self._export.on_click(self.guarded(lambda _: self._start()))

    @property
    def html(self) -> str:
        """What was written, as HTML."""
        return str(self._exported.value)

    def _start(self) -> None:
        self._exported.value = ""
        write = self._prepare()
        self._exported.value, self._export.disabled = "writing …", True
        self.begin(lambda _job: write(), on_end=self._written)

    def _written(self, job: Job[Any]) -> None:
        self._export.disabled = False
        is_done = job.state == "done"
        self._exported.value = (
            "<br>".join(map(_link, job.result)) if is_done else f"not written: {job.state}"
        )


def _link(path: Path) -> str:
    """Name a file that was written, and hand out a small one, wherever the browser is."""
    name = escape(str(path))
    if path.stat().st_size > _LINKED:
        return f"wrote {name}"
    data = b64encode(path.read_bytes()).decode()
    there = f'href="data:text/csv;base64,{data}" download="{escape(path.name)}"'
    return f"wrote {name} (<a {there}>download</a>)"


# Reading pages of a catalog and of the tiers beside it, in whatever thread asks for them.

FINDINGS, OUTCOMES = "findings", "outcomes"


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """What the fields of a browser ask for at one moment: other threads do not read widgets."""

    tiers: tuple[Tier, ...]
    """Of findings."""
    wanted: Query
    sort: str
    descending: bool
    offset: int
    size: int
    """Rows of the page."""


class CatalogReader:
    """Opens a catalog when it is first read; safe to use from several threads.

    `catalog`: default: that of the user. One that is handed in is not closed.
    `curated`: a curated catalog; default: the one that comes with buildvm-nb.
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

        Returns: how many of them each tier has, in words; empty for outcomes.
        Raises `CatalogError` if the catalog cannot be read, for example because it was deleted.
        """
        order: dict[str, Any] = {"sort": asked.sort, "descending": asked.descending}
        order |= {"offset": asked.offset, "size": asked.size}
        if asked.wanted.table == OUTCOMES:
            own = self.own()
            page = own.page(asked.wanted, **order)
            return own.count(asked.wanted), page, ""
        shelves = [self.shelf(tier) for tier in asked.tiers]
        counts, page = page_of_shelves(shelves, asked.wanted, **order)
        told = ", ".join(f"{count} {tier}" for tier, count in counts.items())
        return sum(counts.values()), page, f": {told}"

    def write(self, asked: PageRequest, target: Path) -> list[Path]:
        """Write all rows of all pages to CSV files.

        `target`: of several tiers, each has a file whose name ends in that of the tier.
        """
        if asked.wanted.table == OUTCOMES:
            self.own().export(target, asked.wanted, form="csv")
            return [target]
        made = []
        for tier in asked.tiers:
            alone = len(asked.tiers) == 1
            path = target if alone else target.with_stem(f"{target.stem}-{tier.value}")
            self.shelf(tier).export(asked.wanted, path)
            made.append(path)
        return made

    def own(self) -> Catalog:
        """Return the catalog; one that could not be opened is tried again."""
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
        """Return what has the findings of a tier."""
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


# Frames as HTML tables that a screen reader can walk through; all text is escaped.

_LONGEST = 160


def table_html(frame: "Frame", columns: Mapping[str, str], caption: str) -> str:
    """Write rows as a table.

    `frame`: of a catalog; each row gets its number, from 1.
    """
    head = "".join(
        f'<th scope="col" style="text-align:left">{escape(n)}</th>' for n in columns.values()
    )
    rows = frame[list(columns)].astype(object).where(frame[list(columns)].notna(), None)
    body = "".join(
        f'<tr><th scope="row">{number}</th>{"".join(_cell(n, row[n]) for n in columns)}</tr>'
        for number, row in enumerate(rows.to_dict("records"), 1)
    )
    return (
        f'<div style="overflow-x:auto"><table><caption style="text-align:left">{escape(caption)}'
        f'</caption><thead><tr><th scope="col">#</th>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def cell_text(value: Any) -> str:  # noqa: ANN401 - whatever a frame has
    """Write a value of a frame."""
    if value is None:
        return ""
    text = format_instant(value.to_pydatetime()) if hasattr(value, "to_pydatetime") else str(value)
    shown = clean(text.partition("\n")[0])
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _cell(name: str, value: Any) -> str:  # noqa: ANN401 - whatever a frame has
    text = cell_text(value)
    shown = verdict_sign(text) if name == "verdict" else text
    return f'<td style="text-align:left">{escape(shown)}</td>'


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
    def selection(self) -> Query:
        """What the fields ask for.

        Raises
        ------
        UsageError
            If a date is none.
        """
        table = self.table.value
        return Query(
            table=table,
            case_part=self.case.value.strip(),
            text=self.text.value.strip(),
            only=self.only.value or None,
            axis=(self.axis.value or None) if table == FINDINGS else None,
            since=read_field("since", self.since),
            until=read_field("until", self.until),
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
        if is_empty_at_first and asked.wanted == Query(table=FINDINGS):
            self.tier.value = Tier.CURATED.value  # nobody wants to begin with an empty page
            return
        shown = len(self.frame)
        first = asked.offset + 1 if shown else 0
        rows = f"{first} to {asked.offset + shown} of {self._total}" if shown else "nothing matches"
        self._status.value = f"{rows}{counted}"
        columns = _OF_FINDINGS if asked.wanted.table == FINDINGS else _OF_OUTCOMES
        self._page.value = table_html(self.frame, columns, f"{asked.wanted.table} of the catalog")
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
