"""A field that somebody types in, and what is wrong with it right beside it."""

import re
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from buildvm_nb.errors import UsageError

__all__ = ["Field"]

_COMPLAINT = (
    "display:inline-block;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4;"
    "border-left:4px solid var(--jp-error-color1,#b3261e);padding-left:6px;"
    "color:var(--jp-content-font-color1,inherit)"
)  # the theme's text on the theme's ground: what is wrong is told by words and bar, not by red


class Field:
    """One widget with a check; an empty one gives None: what follows from the rest.

    Parameters
    ----------
    widget : Widget
        Has a text as its value.
    read : callable
        Turns the text into a value, or raises `UsageError`.
    on_change : callable
        Called after each change.
    """

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
        """Say something beside the field.

        Parameters
        ----------
        html : str
            Escaped.
        """
        self._note.value = html

    def value(self) -> Any:  # noqa: ANN401 - what the field's reader returns
        """Return what was typed.

        Returns
        -------
        Any
            None where nothing was.

        Raises
        ------
        UsageError
            If it is wrong.
        """
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
