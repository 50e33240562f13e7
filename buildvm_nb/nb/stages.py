"""How far a build is, by step, with the time left."""

import time
from collections.abc import Mapping
from html import escape

from buildvm_nb.model.case import Case
from buildvm_nb.nb.jobs import TaskEvent
from buildvm_nb.study.steps import STEP_LABEL

__all__ = ["Stages"]


class Stages:
    """Follows the pieces of work of a build.

    Parameters
    ----------
    case : Case
        What is built.
    took_s : mapping of str to float
        Seconds that its steps took before, where that is known.
    """

    def __init__(self, case: Case, took_s: Mapping[str, float]) -> None:
        self._limits = {
            step.name: step.timeout_s or case.limits.step_timeout_s for step in case.steps
        }
        self._took_s = took_s
        self._under_way: list[TaskEvent] = []
        self._ended: list[tuple[str, float]] = []

    def follow(self, event: TaskEvent) -> None:
        """Take note of a piece of work.

        Parameters
        ----------
        event : TaskEvent
            It began, came further or ended.
        """
        if event.is_over:
            if event in self._under_way:
                self._under_way.remove(event)
                self._ended.append((event.label, time.monotonic() - event.started_s))
        elif event not in self._under_way:
            self._under_way.append(event)

    def html(self) -> str:
        """Tell what has been done, what is being done and how long it will take.

        Returns
        -------
        str
            A list, as HTML.
        """
        done = [f"<li>{escape(label)}: {s:.1f} s</li>" for label, s in self._ended]
        now = [f"<li><b>{escape(one.label)}</b> {self._left(one)}</li>" for one in self._under_way]
        begun = {label for label, _ in self._ended} | {one.label for one in self._under_way}
        to_come = [
            f"<li>{escape(STEP_LABEL + name)}: to come</li>"
            for name in self._limits
            if STEP_LABEL + name not in begun
        ]
        return f"<ul>{''.join([*done, *now, *to_come])}</ul>"

    def _left(self, one: TaskEvent) -> str:
        ran_s = time.monotonic() - one.started_s
        told = f"for {ran_s:.0f} s"
        step = one.label.removeprefix(STEP_LABEL)
        if one.left_s is not None:
            told += f", about {one.left_s:.0f} s left"
        elif step in self._took_s:
            told += f", about {max(self._took_s[step] - ran_s, 0):.0f} s left as it took before"
        elif step in self._limits:
            told += f", at most {max(self._limits[step] - ran_s, 0):.0f} s left"
        return f"{told} {escape(one.note)}"
