"""All panels together: what is picked in one is what the next one builds."""

from importlib import import_module
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from buildvm_nb.catalog import find_case
from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case
from buildvm_nb.nb.build import BuildPanel
from buildvm_nb.nb.commit import CommitPicker
from buildvm_nb.nb.machine import MachinePanel
from buildvm_nb.nb.panel import Panel, error_html
from buildvm_nb.nb.study import StudyPanel

__all__ = ["Lab", "lab"]

_MORE = {"Diagnose": "DiagnosisPanel", "Catalog": "CatalogBrowser", "Forecast": "ForecastPanel"}


class Lab(Panel):
    """The panels in tabs; `lab` makes it.

    Parameters
    ----------
    source : str or Case
        As for `CommitPicker`; or a case, the path of a case file, or the id of a curated case.
    case : Case or str, optional
        Build this case instead of picking a commit.
    command : str
        What is run in the source's directory.
    catalog : str or Path, optional
        Where outcomes are recorded; default: that of the user.
    cache : Cache, optional
        Keeps what is fetched; default: that of the user.
    name : str
        A newer one of the same name ends this one's machine.
    """

    def __init__(
        self,
        source: str | Case = "",
        *,
        case: Case | str | None = None,
        command: str = "",
        catalog: str | Path | None = None,
        cache: Cache | None = None,
        name: str = "",
    ) -> None:
        if case is None and (isinstance(source, Case) or _is_case(source, catalog)):
            source, case = "", source
        inner = f"lab {name}".strip()
        self._inner, self._cache, self._case = inner, cache, case
        self.picker = CommitPicker(str(source), cache=cache, name=inner)
        self.machine = MachinePanel(cache=cache, name=inner)
        self.build = BuildPanel(
            self.picker if case is None else case,
            self.machine,
            command=command,
            catalog=catalog,
            cache=cache,
            name=inner,
        )
        self.panels: dict[str, widgets.Widget] = {} if case else {"Commit": self.picker}
        self.panels |= {"Machine": self.machine, "Build": self.build}
        self._catalog = catalog
        self.tabs = widgets.Tab(
            children=[*self.panels.values(), *(widgets.VBox() for _ in _MORE)],
            titles=[*self.panels, *_MORE],
        )
        self._guide = widgets.HTML()
        self._next = widgets.Button(tooltip="Go there", layout=widgets.Layout(width="auto"))
        guiding = widgets.HBox([self._guide, self._next], layout=widgets.Layout(flex_flow="wrap"))
        super().__init__([guiding, self.tabs], name=name)
        traits = (self.picker, "date"), (self.machine, "commit_date")
        self._link = widgets.dlink(*traits)
        self.tabs.observe(self.guarded(self._opened), "selected_index")
        if case is not None:
            self.show_tab("Build")  # the case has all that it takes
        self._next.on_click(self.guarded(lambda _: self.show_tab(self.next_step[0])))
        for panel, trait in (
            *((self.picker, one) for one in ("busy", "commit")),
            *((self.build, one) for one in ("busy", "outcome")),
            (self.build.command_field, "value"),
            (self.tabs, "selected_index"),
        ):
            panel.observe(self.guarded(lambda _: self._show_guide()), trait)
        self._show_guide()

    @property
    def next_step(self) -> tuple[str, str]:
        """The tab that is next, and what is to be done there."""
        if self._case is None and self.picker.commit is None:
            if self.picker.busy:
                return "Commit", "wait until the history is read"
            has_list = bool(self.picker.rows)
            return "Commit", "choose a revision" if has_list else "say where the source is"
        if self._case is None and not self.build.command_field.value.strip():
            return "Build", "say which command is to be run"
        if self.build.outcome is None:
            waiting = "wait for the verdict" if self.build.busy else "boot a machine and run it"
            return "Build", f"{waiting}; Machine has date, CPU and kernel"
        return "Diagnose", "find out when, and on which machines, it fails"

    def _show_guide(self) -> None:
        title, what = self.next_step
        shown = self.tabs.titles[self.tabs.selected_index or 0]
        self._guide.value = f"Next: {what}." if title == shown else f"Next, in {title}: {what}."
        self._next.description = f"Next: {title}"
        self._next.layout.display = "none" if title == shown else ""

    def show_tab(self, title: str) -> widgets.Widget:
        """Show a tab.

        Parameters
        ----------
        title : str
            Its title.

        Returns
        -------
        Widget
            Its panel.
        """
        self.tabs.selected_index = self.tabs.titles.index(title)
        return self.panels.get(title)

    def end(self) -> None:
        """End what the panels have running."""
        super().end()
        for panel in self.panels.values():
            if isinstance(panel, Panel):
                panel.end()

    def _opened(self, change: dict[str, Any]) -> None:
        """Make a panel when it is looked at first: some read the whole catalog."""
        title = self.tabs.titles[change["new"]] if change["new"] is not None else ""
        if isinstance(shown := self.panels.get(title), StudyPanel):
            shown.look_again()
        if shown is not None or title not in _MORE:
            return
        try:
            panel = self._make(title)
        except Exception as error:  # noqa: BLE001 - shown in its place; the others go on
            panel = widgets.HTML(error_html(error))
        self.panels[title] = panel
        at = self.tabs.titles.index(title)
        children = [*self.tabs.children]
        children[at] = panel
        self.tabs.children = children

    def _make(self, title: str) -> widgets.Widget:
        kind = getattr(import_module("buildvm_nb.nb"), _MORE[title])
        if title == "Catalog":
            return kind(self._catalog, name=self._inner)
        return kind(
            self._case,
            catalog=self._catalog,
            cache=self._cache,
            build=self.build,
            machine=self.machine,
            name=self._inner,
        )


def _is_case(text: str, catalog: str | Path | None) -> bool:
    """Tell whether a text names a case rather than a source; a directory is a source."""
    path = Path(text).expanduser()
    if path.exists() or ":" in text or not text:
        return text.endswith(".toml") and path.is_file()
    try:
        find_case(text, catalog)
    except UsageError:
        return False
    return True


def lab(source: str | Case = "", **options: Any) -> Lab:  # noqa: ANN401 - as of Lab
    """Put all panels together.

    Parameters
    ----------
    source : str or Case
        URL or path of a git repository, ``pypi:NAME`` or ``debian:NAME``; or a case, the path of a
        case file, or the id of a curated case; empty: somebody will type it.
    **options
        As for `Lab`: ``case``, ``command``, ``catalog``, ``cache``, ``name``.

    Returns
    -------
    Lab
        To be shown as a cell's value.

    Examples
    --------
    >>> import buildvm_nb
    >>> buildvm_nb.lab("https://example.org/project.git", command="make check")  # doctest: +SKIP
    """
    return Lab(source, **options)
