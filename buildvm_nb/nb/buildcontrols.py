"""The buttons and fields of a build, and which of them can be used when."""

import ipywidgets as widgets

from buildvm_nb.nb.reproducing import FORMS

__all__ = ["BuildControls"]


class BuildControls:
    """Widgets without behaviour.

    Parameters
    ----------
    command : str
        What the command field has at first.
    """

    def __init__(self, command: str) -> None:
        self.command = widgets.Textarea(
            value=command,
            description="Command",
            placeholder="make check",
            tooltip="Shell text, run in the source's directory",
            layout=widgets.Layout(width="auto"),
        )
        self.boot = widgets.Button(
            description="Boot", icon="power-off", tooltip="Fetch the source and boot a machine"
        )
        self.run = widgets.Button(
            description="Run",
            icon="play",
            button_style="primary",
            tooltip="Run the case, in the machine that is up or in one booted for it",
        )
        self.cancel = widgets.Button(
            description="Cancel", icon="stop", tooltip="Stop at once, whatever it is doing"
        )
        self.shut_down = widgets.Button(
            description="Shut down", icon="times", tooltip="End the machine that is up"
        )
        self.record = widgets.Button(
            description="Record", icon="save", tooltip="Keep outcome and log in the catalog"
        )
        self.form = widgets.Dropdown(
            options=[*FORMS],
            description="Reproduce",
            tooltip="How to have this outcome again: as a command, a case file or papermill's call",
        )
        self.again = widgets.Textarea(
            description="as", tooltip="Copy this", layout=widgets.Layout(width="auto", height="6em")
        )
        self.write = widgets.Button(
            description="Write case file",
            icon="file",
            tooltip="Write the file that the command names; it then works in any terminal here",
            layout=widgets.Layout(width="auto"),
            disabled=True,
        )
        self.status, self.progress, self.verdict = (widgets.HTML() for _ in range(3))

    @property
    def above(self) -> list[widgets.Widget]:
        """What stands above the log, in order."""
        buttons = widgets.HBox([self.boot, self.run, self.cancel, self.shut_down])
        return [self.command, buttons, self.status, self.progress, self.verdict]

    @property
    def below(self) -> list[widgets.Widget]:
        """What stands below the log, in order."""
        return [widgets.HBox([self.record, self.form, self.write]), self.again]

    def enable(self, *, busy: bool, is_up: bool, has_outcome: bool) -> None:
        """Let be pressed what makes sense now.

        Parameters
        ----------
        busy : bool
            Something runs.
        is_up : bool
            A machine waits.
        has_outcome : bool
            There is something to record; what was recorded stays so.
        """
        self.boot.disabled = busy or is_up
        self.run.disabled = busy
        self.cancel.disabled = not busy
        self.shut_down.disabled = busy or not is_up
        if busy or not has_outcome:
            self.record.disabled = True
