"""What the benchmarks share: ratios to an aim or a peer, and whether aims were met.

Only ratios are printed: seconds and bytes of one machine say nothing about another.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from buildvm_nb.host.cache import Cache
from buildvm_nb.model.machine import MachineSpec

__all__ = ["CACHE", "Row", "machine_spec", "read_runs", "show"]

CACHE = Cache()
_MARGIN = 1.1
"""An aim that is missed by more than a tenth is missed."""


@dataclass(kw_only=True)
class Row:
    """One thing that was measured several times."""

    name: str
    unit: str
    """Empty: the values are ratios or counts."""
    values: list[float] = field(default_factory=list)
    aim: str = ""
    """``≤ 80`` or ``≥ 100``, in the unit."""

    @property
    def median(self) -> float:
        """The middle one of the values."""
        return statistics.median(self.values)

    @property
    def bound(self) -> float:
        """The number of the aim."""
        return float(re.sub(r"[^\d.]", "", self.aim))

    @property
    def is_missed(self) -> bool:
        """Whether the median misses the aim by more than a tenth."""
        if not self.aim:
            return False
        ratio = self.median / self.bound
        return ratio > _MARGIN if self.aim[0] in "≤<" else ratio < 1 / _MARGIN


def read_runs(purpose: str | None, default: int) -> int:
    """Return how often to measure, from the command line."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--runs", type=int, default=default, help="default: %(default)s")
    return max(1, parser.parse_args().runs)


def machine_spec(**fields: object) -> MachineSpec:
    """Return an emulated machine as users get it who ask for nothing else."""
    return MachineSpec.parse({"accelerator": "tcg", **fields})


def show(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """Print what was measured as ratios, and exit with 1 where an aim is missed.

    A row with a unit is told as a share of its aim or, without one, of the first row in that unit.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("median", "least", "most", "runs"):
        table.add_column(column, justify="right")
    table.add_column("ratio to")
    table.add_column("aim")
    for row in rows:
        whole, to = _base(row, rows)
        shown = [_number(value / whole) for value in (row.median, min(row.values), max(row.values))]
        aim = f"{row.aim} {row.unit}: {'MISSED' if row.is_missed else 'met'}" if row.aim else ""
        table.add_row(row.name, *shown, str(len(row.values)), to, aim)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    if missed := [row.name for row in rows if row.is_missed]:
        console.print(f"missed by more than a tenth: {', '.join(missed)}", highlight=False)
        sys.exit(1)


def _base(row: Row, rows: Sequence[Row]) -> tuple[float, str]:
    """Return what a row's values are divided by, and its name."""
    if not row.unit:
        return 1.0, ""
    if row.aim:
        return row.bound, "its aim"
    first = next(one for one in rows if one.unit == row.unit)
    return first.median, f"{first.name.strip()!r}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"  # noqa: PLR2004 - three digits do
