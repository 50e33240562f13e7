"""What is behind a row: the finding, the runs that prove it, and their logs."""

from collections import deque
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from buildvm_nb.model.display import outcome_html
from buildvm_nb.nb.logview import LogView
from buildvm_nb.nb.panel import Panel

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog
    from buildvm_nb.nb.jobs import Job

__all__ = ["DetailPanel"]

_SHOWN = 1024 * 1024
_EVIDENCE = 200


class DetailPanel(Panel):
    """Shows one entry, the outcomes that prove it, and the log of the one that is chosen.

    However long a log is, a bounded part of it is read and held: its beginning at once, its end on
    request and in the background.

    Parameters
    ----------
    name : str
        A newer panel of the same name ends what this one reads.
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

        Parameters
        ----------
        catalog : Catalog or None
            Has the evidence.
        html : str
            The entry, escaped.
        evidence : tuple of str
            Ids of outcomes; of very many the last ones can be chosen.
        """
        self.clear()
        self._catalog = catalog
        self._entry.value = html
        numbered = [(f"{number}: {key}", key) for number, key in enumerate(evidence, 1)]
        self._evidence.options = [("none", None), *numbered[-_EVIDENCE:]]
        self._show_parts()

    def show_outcome(self, catalog: "Catalog", key: str) -> None:
        """Show an outcome and the beginning of its log.

        Parameters
        ----------
        catalog : Catalog
            Has it.
        key : str
            Its id.

        Raises
        ------
        UsageError
            If there is none.
        CatalogError
            If the catalog or the log cannot be read.
        """
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
        """Read the log to its end in the background, and show its last part.

        Returns
        -------
        Job
            Started; `wait` waits for it.
        """
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
