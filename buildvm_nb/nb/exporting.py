"""Writing what is selected to files, in the background, and handing them out."""

from base64 import b64encode
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from buildvm_nb.nb.jobs import Job
from buildvm_nb.nb.panel import Panel

__all__ = ["ExportPanel"]

_LINKED = 2 * 1024 * 1024


class ExportPanel(Panel):
    """A file's name, and a button that writes it.

    Parameters
    ----------
    prepare : callable
        Called on the kernel's loop, where fields may be read; returns what writes the files in the
        background and returns their paths.
    name : str
        A newer panel of the same name ends what this one writes.
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
