"""What the benchmarks share: medians of several runs, shown as a table with the aim beside them."""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from buildvm_nb.host.cache import Cache
from buildvm_nb.model.machine import MachineSpec

__all__ = ["CACHE", "Row", "machine_spec", "read_runs", "show"]

CACHE = Cache()


@dataclass(kw_only=True)
class Row:
    """One thing that was measured several times."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    aim: str = ""

    @property
    def median(self) -> float:
        """The middle one of the values."""
        return statistics.median(self.values)


def read_runs(purpose: str | None, default: int) -> int:
    """Return how often to measure, from the command line."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--runs", type=int, default=default, help="default: %(default)s")
    return max(1, parser.parse_args().runs)


def machine_spec(**fields: object) -> MachineSpec:
    """Return an emulated machine as users get it who ask for nothing else."""
    return MachineSpec.parse({"accelerator": "tcg", **fields})


def show(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """Print what was measured."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("median", "least", "most", "runs", "aim"):
        table.add_column(column, justify="right")
    for row in rows:
        shown = [_number(value) for value in (row.median, min(row.values), max(row.values))]
        table.add_row(row.name, f"{shown[0]} {row.unit}", *shown[1:], str(len(row.values)), row.aim)
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"  # noqa: PLR2004 - three digits do
