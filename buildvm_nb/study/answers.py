"""What the catalog knows already: verdicts that need not be asked for again."""

from typing import TYPE_CHECKING

from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.grid import Cell

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = ["find_answers"]

_NO_ANSWER = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})


def find_answers(cells: tuple[Cell, ...], catalog: "Catalog") -> dict[int, Outcome]:
    """Look up cells whose answer is known.

    Parameters
    ----------
    cells : tuple of Cell
        Of one case, as of `pin_cells`.
    catalog : Catalog
        Where to look.

    Returns
    -------
    dict of int to Outcome
        By the cell's index: the newest verdict on the same case in the same machine, with the
        same image, kernel and sources.

    Raises
    ------
    CatalogError
        If the catalog cannot be read.
    """
    wanted = {
        (cell.case.build_digest(), cell.machine, *_had(cell)): cell.index
        for cell in cells
        if cell.source_digests is not None
    }
    machines = {cell.machine for cell in cells}
    answers = {}
    for outcome in catalog.documents(case=cells[0].case.id):
        probing = outcome.probing
        if outcome.verdict in _NO_ANSWER or probing.held or probing.prepared_at is not None:
            continue
        if outcome.machine in machines:
            sources = tuple(record.digest for record in outcome.sources)
            had = (outcome.image_digest, outcome.kernel_digest, sources)
            index = wanted.get((outcome.case.build_digest(), outcome.machine, *had))
            if index is not None:
                answers[index] = outcome
    return answers


def _had(cell: Cell) -> tuple[str, str, tuple[str, ...] | None]:
    return cell.image_digest, cell.kernel_digest, cell.source_digests
