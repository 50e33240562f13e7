"""What panels have in common: checked fields, shown errors, nothing left running."""

import functools
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets
from IPython.display import display

from buildvm_nb.errors import BuildVMError, UsageError
from buildvm_nb.nb.jobs import Job
from buildvm_nb.nb.ownership import release, take_over
from buildvm_nb.study.options import OPTIONS

__all__ = [
    "Field",
    "Panel",
    "error_html",
    "option_field",
]

# A field that somebody types in, and what is wrong with it right beside it.

_COMPLAINT = (
    "display:inline-block;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4;"
    "border-left:4px solid var(--jp-error-color1,#b3261e);padding-left:6px;"
    "color:var(--jp-content-font-color1,inherit)"
)  # the theme's text on the theme's ground: what is wrong is told by words and bar, not by red


def option_field(field: str, empty: str = "", **more: Any) -> widgets.Text:  # noqa: ANN401 - traits
    """Make a field that an option of the table is typed in.

    `empty`: what it shows while it is empty; default: what then holds.
    `more`: ``options`` that can be chosen, and how it is laid out.
    """
    option = OPTIONS[field]
    return (widgets.Combobox if "options" in more else widgets.Text)(
        description=option.label,
        placeholder=empty or option.left_out or "no limit",
        tooltip=option.help,
        continuous_update=False,
        **more,
    )


class Field:
    """One widget with a check; an empty one gives None: what follows from the rest."""

    def __init__(
        self, widget: widgets.Widget, read: Callable[[str], Any], on_change: Callable[[], None]
    ) -> None:
        self.widget = widget
        self._name = str(widget.description).lower()
        self._read = read
        self._complaint = widgets.HTML()
        self._note = widgets.HTML()
        self.box = widgets.HBox([widget, self._note, self._complaint])
        self._on_change = on_change
        widget.observe(self._changed, "value")

    @property
    def complaint(self) -> str:
        """What is wrong with what was typed, as HTML; empty: nothing."""
        return str(self._complaint.value)

    def note(self, html: str) -> None:
        """Say something beside the field."""
        self._note.value = html

    def value(self) -> Any:  # noqa: ANN401 - what the field's reader returns
        """Return what was typed."""
        text = str(self.widget.value).strip()
        try:
            return self._read(text) if text else None
        except UsageError as error:  # by the name that is seen
            named = re.sub(r"(?m)^[A-Z]\w+(\.\w+)+(?=: )", self._name, error.message)
            raise UsageError(named, hint=error.hint) from error

    def _changed(self, _change: object) -> None:
        try:
            self.value()
        except UsageError as error:
            hint = f" {escape(error.hint)}" if error.hint else ""
            self._complaint.value = (
                f'<span role="alert" style="{_COMPLAINT}">{escape(error.message)}{hint}</span>'
            )
        else:
            self._complaint.value = ""
        self._on_change()


_BOX = (
    "border:2px solid var(--jp-error-color1,#b3261e);border-radius:4px;"
    "padding:6px 10px;margin:4px 0;"
    "background:var(--jp-layout-color1,transparent);color:var(--jp-content-font-color1,inherit);"
    "white-space:pre-wrap;overflow-wrap:anywhere"
)
_STYLE = """<style>
.buildvm-panel .widget-hbox { flex-wrap: wrap; }
.buildvm-panel .widget-html, .buildvm-panel .widget-text, .buildvm-panel .widget-textarea,
.buildvm-panel .widget-combobox, .buildvm-panel .widget-dropdown, .buildvm-panel .widget-select,
.buildvm-panel.widget-box { max-width: 100%; box-sizing: border-box; }
.buildvm-panel .widget-hbox > .widget-html { flex-shrink: 1; }
.buildvm-panel .widget-html-content { white-space: normal; line-height: 1.5; }
</style>"""
"""A narrow page wraps rows in place of pushing their ends, where errors are told, out of sight."""
_AGAIN = """<style>
.jp-OutputArea:not(:has(.buildvm-panel:not(.jupyter-widgets-disconnected))) .buildvm-again {
    display: block;
}
</style><p class="buildvm-again" hidden>If no panels are here, or they do not answer, their kernel
has ended: run this cell again.</p>"""
"""Stands before panels whose kernel has ended: JupyterLab leaves them there without a word, and
after a reload says "model not found"."""


def error_html(error: BaseException) -> str:
    """Write an error for a page; whatever it says is shown, not obeyed.

    `error`: one of ours has a hint; of others the traceback is folded in.
    """
    if isinstance(error, BuildVMError):
        hint = f"\n<b>Hint:</b> {escape(error.hint)}" if error.hint else ""
        return f'<div role="alert" style="{_BOX}"><b>Error:</b> {escape(error.message)}{hint}</div>'
    told = escape("".join(traceback.format_exception(error)))
    what = escape(f"{type(error).__name__}: {error}")
    return (
        f'<div role="alert" style="{_BOX}"><b>Unexpected error:</b> {what}'
        f"<details><summary>Traceback</summary><pre>{told}</pre></details></div>"
    )


class _Arrival:
    """Sends a panel's state again to each page that has just made it.

    A page that loads asks for the state of all widgets and then makes them, which takes longer the
    busier its host is; what changes in between is lost, as it drops messages to widgets it has not
    made yet. So something in the page has to say when it is ready: a link copies a trait of the
    panel to a widget that is not shown, and is made when the panel is, which is made when all that
    is in it is.

    Reference: ipywidgets, ``ManagerBase._loadFromKernel`` and ``DirectionalLinkModel``.
    """

    def __init__(self, panel: "Panel") -> None:
        self._panel = panel
        self._told = widgets.Label()
        self._link = widgets.jsdlink((panel, "_view_name"), (self._told, "value"))
        self._told.observe(self._arrived, "value")

    def _arrived(self, change: dict[str, Any]) -> None:
        if change["new"]:
            self._told.value = ""  # for the next page
            for widget in _parts(self._panel):
                widget.send_state()

    def close(self) -> None:
        self._told.unobserve_all()
        self._link.close()
        self._told.close()


def _parts(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    """List what a widget consists of, itself last; a panel in it sees to itself."""
    for value in widget.trait_values(sync=True).values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, widgets.Widget) and not isinstance(part, Panel):
                yield from _parts(part)
    yield widget


class Panel(widgets.VBox):
    """A box of widgets with a place for errors.

    Handlers that are wrapped by `guarded` never lose an exception: it is shown at the panel's end,
    until the next one of them succeeds.

    Parameters
    ----------
    children : sequence of Widget
        What is shown, in the order in which the Tab key visits it.
    name : str
        A newer panel of the same class and name ends what this one has running, as when a cell is
        run again.
    """

    busy = traitlets.Bool(default_value=False, help="Whether something runs.")
    error = traitlets.Any(default_value=None, allow_none=True, help="What is shown as an error.")

    def __init__(self, children: Sequence[widgets.Widget] = (), *, name: str = "") -> None:
        self.job: Job[Any] | None = None
        self._owner = f"{type(self).__name__} {name}".strip()
        self._trouble = widgets.HTML()
        style = widgets.HTML(_STYLE, layout=widgets.Layout(height="0", margin="0"))
        super().__init__([style, *children, self._trouble])
        self.add_class("buildvm-panel")
        self._arrival = _Arrival(self)
        take_over(self._owner, self.end)

    def _ipython_display_(self) -> None:
        """Show the panel, and what is to be done where it is gone after a restart."""
        for shown in ({"text/html": _AGAIN, "text/plain": ""}, self._repr_mimebundle_()):
            display(shown, raw=True)

    @property
    def error_html(self) -> str:
        """The error as it is shown; empty: none."""
        return str(self._trouble.value)

    def show_error(self, error: BaseException | None) -> None:
        """Show an error, or that there is none.

        Parameters
        ----------
        error : BaseException or None
            What went wrong.
        """
        self.error = error
        self._trouble.value = "" if error is None else error_html(error)

    def guarded(self, handler: Callable[..., object]) -> Callable[..., None]:
        """Make a function a handler whose errors are shown.

        Parameters
        ----------
        handler : callable
            Takes what the event brings.

        Returns
        -------
        callable
            For ``on_click``, ``observe`` and the like.
        """

        @functools.wraps(handler)
        def guard(*given: Any, **named: Any) -> None:  # noqa: ANN401 - the event decides
            try:
                handler(*given, **named)
            except Exception as error:  # noqa: BLE001 - all of them are shown
                self.show_error(error)

        return guard

    def begin(
        self,
        target: Callable[[Job[Any]], Any],
        *,
        on_event: Callable[[object], None] | None = None,
        on_end: Callable[[Job[Any]], None] | None = None,
    ) -> Job[Any]:
        """Start this panel's one job; `busy` holds until it is over, and its error is shown.

        Parameters
        ----------
        target : callable
            The work; it gets the job.
        on_event : callable, optional
            Gets what the work tells.
        on_end : callable, optional
            Gets the job when it is over, before `busy` ends.

        Returns
        -------
        Job
            Started. An older one of this panel is cancelled.
        """
        self.show_error(None)
        self.cancel()  # without waiting: the kernel stays free

        def finish(job: Job[Any]) -> None:
            if job is not self.job:
                return  # a newer one is at work
            if job.error is not None:
                self.show_error(job.error)
            if on_end:
                self.guarded(on_end)(job)
            self.busy = False

        self.busy = True
        self.job = Job(
            target,
            on_event=self.guarded(on_event) if on_event else None,
            on_end=finish,
        )
        return self.job.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until what runs is over; interrupting the kernel meanwhile cancels it.

        Parameters
        ----------
        timeout_s : float, optional
            Seconds; None: without a limit.

        Returns
        -------
        bool
            Whether it is over.
        """
        if self.job is None:
            return True
        try:
            return self.job.wait(timeout_s)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Ask what runs to stop; does nothing when nothing runs."""
        if self.job is not None:
            self.job.cancel()

    def end(self) -> None:
        """End what runs and wait for its end."""
        if self.job is not None:
            self.job.end()

    def close(self) -> None:
        """End what runs, and take the panel off the page."""
        if "_owner" not in self.__dict__:
            return  # its making failed
        self.end()
        release(self._owner, self.end)
        self._arrival.close()
        super().close()
