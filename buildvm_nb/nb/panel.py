"""What panels have in common: they show their errors, and leave nothing running."""

import functools
import traceback
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets
from IPython.display import display

from buildvm_nb.errors import BuildVMError
from buildvm_nb.nb.jobs import Job
from buildvm_nb.nb.ownership import release, take_over

__all__ = ["Panel", "error_html"]

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

    Parameters
    ----------
    error : BaseException
        One of ours has a hint; of others the traceback is folded in.

    Returns
    -------
    str
        HTML.
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
        super().close()
