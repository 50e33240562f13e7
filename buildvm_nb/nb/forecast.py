"""Which day breaks what in a project, in a notebook."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from html import escape
from itertools import pairwise

import ipywidgets as widgets

from buildvm_nb.model.forecast import Forecast
from buildvm_nb.model.instants import format_instant, now
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.plaintext import clean
from buildvm_nb.nb.studying import StudyPanel, Tools, read_count
from buildvm_nb.nb.subject import Subject
from buildvm_nb.study.forecast import forecast
from buildvm_nb.study.schedule import parse_distance

__all__ = ["ForecastPanel"]

_SAYS_NOTHING = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})


class ForecastPanel(StudyPanel):
    """Tells which day breaks what: the list fills in while machines look at the years to come.

    Parameters
    ----------
    case, catalog, build, cache, base, jobs, machine, overrides, name
        As for `StudyPanel`; the project's own tests are the case.
    """

    @property
    def forecast(self) -> Forecast | None:
        """What was foretold; None: nothing yet."""
        if self.job is None or self.job.state != "done":
            return None
        told: Forecast = self.job.result
        return told

    def _questions(self) -> list[widgets.Widget]:
        self.until = widgets.Text(
            value="2040",
            description="Until",
            placeholder="2040, 2040-06-01, or a distance such as 10y",
            tooltip="The last day to look at: a date, a year, or a distance such as 10y",
            continuous_update=False,
        )
        self.budget = widgets.Text(
            description="Budget",
            placeholder="guest runs at most; no limit",
            tooltip="Guest runs at most; left empty: no limit",
            continuous_update=False,
        )
        return [widgets.HBox([self.until, self.budget])]

    def _asked(self) -> Sequence[widgets.Widget]:
        return (self.until, self.budget)

    def _span(self) -> tuple[datetime | None, datetime | None]:
        start = now().replace(microsecond=0)
        return start, parse_distance(self.until.value, start)

    def _varied(self) -> tuple[str, ...]:
        return ("date",)

    def _words(self, subject: Subject) -> list[str]:
        self._span()  # what is wrong with it is told
        budget = read_count(self.budget.value, "Budget")
        words = ["buildvm", "forecast", subject.word, "--until", self.until.value.strip()]
        return words if budget is None else [*words, "--budget", str(budget)]

    def _prepare(self, subject: Subject) -> Callable[[Tools, bool], Forecast]:
        _, until = self._span()
        budget = read_count(self.budget.value, "Budget")
        overrides = self.machine_fields

        def foretell(tools: Tools, is_fresh: bool) -> Forecast:  # noqa: FBT001 - a callback
            if until is None:
                raise AssertionError("unreachable")
            return forecast(
                subject.case,
                until=until,
                **tools,
                fresh=is_fresh,
                budget=budget,
                overrides=overrides,
            )

        return foretell

    def _tried(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in _turns(self.outcomes))
        found = lines or "<li>nothing yet</li>"
        return f'So far:<ul aria-live="polite" aria-label="changes so far">{found}</ul>'

    def _show(self, result: Forecast) -> str:
        self._list.value = ""
        return result._repr_html_()


def _turns(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Tell where the verdict changes, as closely as it is known so far."""
    said = [one for one in outcomes if one.verdict not in _SAYS_NOTHING]
    said.sort(key=lambda one: one.machine.date)
    for before, after in pairwise(said):
        if (before.verdict is Verdict.PASSED) is not (after.verdict is Verdict.PASSED):
            what = "breaks" if before.verdict is Verdict.PASSED else "passes again"
            ends = f"{format_instant(before.machine.date)} and {format_instant(after.machine.date)}"
            yield f"{what} between {ends}: {clean(after.reason.partition(chr(10))[0])}".rstrip(": ")
