"""Finding out when, on which CPU and on which kernel a case stops building, in a notebook."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import ipywidgets as widgets

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.nb.studying import StudyPanel, Tools, read_count, read_date
from buildvm_nb.nb.subject import Subject
from buildvm_nb.study.findings import diagnose_case
from buildvm_nb.study.questions import DEFAULT_AXES, Questions

__all__ = ["DiagnosisPanel"]

_AXES = (Axis.DATE, Axis.CPU, Axis.KERNEL, Axis.CORES)
_REPEATS = 2


class DiagnosisPanel(StudyPanel):
    """Diagnoses a case: Start asks machines, and each answer goes onto the line of dates.

    Parameters
    ----------
    case, catalog, build, cache, base, jobs, machine, overrides, name
        As for `StudyPanel`.
    """

    @property
    def finding(self) -> Finding | None:
        """What was concluded; None: nothing yet."""
        if self.job is None or self.job.state != "done":
            return None
        found: Finding = self.job.result
        return found

    @property
    def questions(self) -> Questions:
        """What the fields ask.

        Raises
        ------
        UsageError
            If a field is wrong.
        """
        axes = tuple(axis for axis, box in self.axes.items() if box.value)
        if not axes:
            raise UsageError("no axis is chosen; allowed: one or more of date, cpu, kernel, cores")
        first, last = self._span()
        if first and last and first >= last:
            raise UsageError(f"the dates end before they begin: {self.first.value}")
        repeats = read_count(self.repeats.value, "Repeats", 0)
        return Questions(
            axes=axes,
            first=first,
            last=last,
            repeats=_REPEATS if repeats is None else repeats,
            budget=read_count(self.budget.value, "Budget"),
        )

    def _questions(self) -> list[widgets.Widget]:
        self.axes = {
            axis: widgets.Checkbox(
                value=axis in DEFAULT_AXES,
                description=axis.value,
                indent=False,
                tooltip=f"Vary the {axis.value}",
                layout=widgets.Layout(width="auto"),
            )
            for axis in _AXES
        }
        """What is varied, by axis."""
        self.first = _field("From", "ten years before its own date")
        self.last = _field("To", "July in fifteen years")
        self.repeats = _field("Repeats", f"{_REPEATS} confirming runs on each side")
        self.budget = _field("Budget", "guest runs at most; no limit")
        return [
            widgets.HBox([widgets.Label("Vary"), *self.axes.values()]),
            widgets.HBox([self.first, self.last]),
            widgets.HBox([self.repeats, self.budget]),
        ]

    def _asked(self) -> Sequence[widgets.Widget]:
        return (*self.axes.values(), self.first, self.last, self.repeats, self.budget)

    def _span(self) -> tuple[datetime | None, datetime | None]:
        return read_date(self.first.value, "From"), read_date(self.last.value, "To")

    def _varied(self) -> tuple[str, ...]:
        return ("date",) if self.axes[Axis.DATE].value else ()

    def _words(self, subject: Subject) -> list[str]:
        asked = self.questions
        words = ["buildvm", "diagnose", subject.word]
        if asked.axes != DEFAULT_AXES:
            words += [word for axis in asked.axes for word in ("--axis", axis.value)]
        if Axis.DATE in asked.axes:
            for option, date in (("--from", asked.first), ("--to", asked.last)):
                words += [option, format_instant(date)] if date else []
        words += [] if asked.repeats == _REPEATS else ["--repeats", str(asked.repeats)]
        return words if asked.budget is None else [*words, "--budget", str(asked.budget)]

    def _prepare(self, subject: Subject) -> Callable[[Tools, bool], Finding]:
        asked, overrides = self.questions, self.machine_fields

        def diagnose(tools: Tools, is_fresh: bool) -> Finding:  # noqa: FBT001 - a callback
            return diagnose_case(subject.case, asked, overrides, **tools, fresh=is_fresh)

        return diagnose

    def _show(self, result: Finding) -> str:
        return result._repr_html_()

    def _draw(self, outcomes: Sequence[Outcome], result: Any = None) -> str:  # noqa: ANN401
        if result is None:
            return super()._draw(outcomes)
        from buildvm_nb.plots import date_line, feature_lattice  # noqa: PLC0415 - half a second

        if result.axis is Axis.CPU:
            return feature_lattice(result, outcomes).to_html(result.summary)
        return date_line(result, outcomes, span=self._studied).to_html(result.summary)


def _field(name: str, default: str) -> widgets.Text:
    return widgets.Text(
        description=name,
        placeholder=default,
        tooltip=f"{name}; left empty: {default}",
        continuous_update=False,
    )
