"""What came of a batch: one summary over all its notebooks."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.batch.plan import PlanRow
from buildvm_nb.catalog.columns import Column, Kind, TableSchema
from buildvm_nb.model.outcome import Outcome, Verdict

if TYPE_CHECKING:
    from buildvm_nb.catalog.frames import Frame

__all__ = ["SUMMARY", "BatchResult", "RowResult", "State"]


def _column(name: str, kind: Kind, meaning: str, *, optional: bool = True) -> Column:
    return Column(name=name, kind=kind, meaning=meaning, optional=optional)


SUMMARY = TableSchema(
    name="batch",
    columns=(
        _column("row", Kind.INTEGER, "row of the plan; its header is row 1", optional=False),
        _column("state", Kind.TEXT, "finished, known (from before) or broken", optional=False),
        _column("case", Kind.TEXT, "as the plan names it", optional=False),
        _column("repository", Kind.TEXT, "as the plan names it"),
        _column("commit", Kind.TEXT, "commit that was asked for"),
        _column("date", Kind.INSTANT, "what the guest's clock showed"),
        _column("cpu", Kind.TEXT, "CPU model"),
        _column("kernel", Kind.TEXT, "kernel"),
        _column("verdict", Kind.TEXT, "how the run ended; error: nothing is known", optional=False),
        _column("reason", Kind.TEXT, "why, in a sentence"),
        _column("outcome", Kind.TEXT, "id of the outcome in the catalog"),
        _column("notebook", Kind.TEXT, "file name of the executed notebook"),
    ),
    meaning="One row for each outcome of a batch, and one for each notebook that broke before any.",
)


class State(StrEnum):
    """How far a row of a plan is."""

    FINISHED = "finished"
    """It was executed now."""
    KNOWN = "known"
    """It was executed before."""
    BROKEN = "broken"
    """The machine, the kernel or the host broke: the next batch tries it again."""


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What came of one row of a plan."""

    row: PlanRow
    state: State
    outcomes: tuple[Outcome, ...] = ()
    problem: str = ""
    """What broke."""
    notebook: Path | None = None
    """The executed notebook; None: it did not begin."""

    def cells(self) -> Iterator[dict[str, Any]]:
        """Tell it as rows of the summary.

        Yields
        ------
        dict
            A value, or None, for each column of `SUMMARY`.
        """
        asked = self.row.parameters
        known: dict[str, Any] = dict.fromkeys(column.name for column in SUMMARY.columns)
        known |= {
            "row": self.row.number,
            "state": self.state.value,
            "case": asked.case,
            "repository": asked.repository or None,
            "commit": asked.commit or None,
            "notebook": self.notebook.name if self.notebook else None,
        }
        if not self.outcomes:
            yield known | {"verdict": Verdict.ERROR.value, "reason": self.problem}
        for one in self.outcomes:
            yield known | {
                "commit": getattr(one.case.source, "commit", None),
                "date": one.machine.date,
                "cpu": one.machine.cpu,
                "kernel": one.machine.kernel,
                "verdict": one.verdict.value,
                "reason": one.reason or None,
                "outcome": one.id,
            }


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What came of a batch."""

    out: Path
    """Directory of the executed notebooks, the outcomes and ``summary.csv``."""
    results: tuple[RowResult, ...]
    """One for each row of the plan, in its order."""

    @property
    def broken(self) -> tuple[RowResult, ...]:
        """Rows whose notebook could not be executed to its end."""
        return tuple(result for result in self.results if result.state is State.BROKEN)

    @property
    def summary(self) -> list[dict[str, Any]]:
        """The summary as rows: a value for each column of `SUMMARY`."""
        return [cells for result in self.results for cells in result.cells()]

    @property
    def frame(self) -> "Frame":
        """The summary as a table, with the columns and dtypes of ``SUMMARY.dtypes``."""
        from buildvm_nb.catalog.frames import make_frame  # noqa: PLC0415 - imports pandas

        return make_frame((list(cells.values()) for cells in self.summary), SUMMARY)
