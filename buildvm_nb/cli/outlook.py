"""What a diagnosis would ask first, without a guest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Never

from buildvm_nb.errors import SearchError
from buildvm_nb.model.finding import Axis, HintKind
from buildvm_nb.model.instants import format_instant
from buildvm_nb.study.dates import collect_hints
from buildvm_nb.study.diagnose import diagnose
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.questions import Questions

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case
    from buildvm_nb.study.executors import Means
    from buildvm_nb.study.laboratory import Order

__all__ = ["Outlook", "look_ahead"]


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a diagnosis would do."""

    axes: tuple[Axis, ...]
    orders: "tuple[Order, ...]"
    """Its first runs."""
    dates: tuple[datetime, datetime] | None
    """Beginning and end of the dates, where they are studied."""
    hints: int | None
    """Dates found in sources and packages; None: they are not looked for."""

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON.

        Returns: axes, the machines of the first runs, dates and the number of hints.
        """
        return {
            "axes": [axis.value for axis in self.axes],
            "machines": [order.machine.model_dump(mode="json") for order in self.orders],
            "dates": None if self.dates is None else [format_instant(at) for at in self.dates],
            "hints": self.hints,
        }


def look_ahead(
    case: "Case",
    questions: Questions,
    overrides: Mapping[str, Any],
    means: "Means",
) -> Outlook:
    """Work out what a diagnosis would ask first; sources are fetched for it."""
    lab = _ClosedLaboratory(case, means)
    orders = _first_orders(lab, questions, overrides)
    if Axis.DATE not in questions.axes:
        return Outlook(axes=questions.axes, orders=orders, dates=None, hints=None)
    own, today = orders[0].machine, orders[-1].machine
    first, last = questions.dates(own.date, today.date)
    hints = None
    if questions.use_hints:
        found = collect_hints(lab, own.image, first, last)
        hints = len({hint.instant for hint in found if hint.kind is not HintKind.CALENDAR})
    return Outlook(axes=questions.axes, orders=orders, dates=(first, last), hints=hints)


class _Asked(Exception):
    """The first question of a diagnosis: a way out of it, no error."""

    def __init__(self, orders: "Sequence[Order]") -> None:
        super().__init__()
        self.orders = tuple(orders)


class _ClosedLaboratory(Laboratory):
    """Runs nothing."""

    def run(self, orders: "Sequence[Order]") -> Never:
        """Stop the diagnosis at its question."""
        raise _Asked(orders)


def _first_orders(
    lab: Laboratory, questions: Questions, overrides: Mapping[str, Any]
) -> "tuple[Order, ...]":
    try:
        diagnose(lab, questions, overrides)
    except _Asked as asked:
        return asked.orders
    raise SearchError("the diagnosis ended without a question")
