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
        same image, kernel, sources and QEMU.

    Raises
    ------
    CatalogError
        If the catalog cannot be read.
    """
    wanted = {
        (cell.case.build_digest(), cell.machine): cell
        for cell in cells
        if cell.source_digests is not None
    }
    answers = {}
    for outcome in catalog.documents(case=cells[0].case.id):
        probing = outcome.probing
        if outcome.verdict in _NO_ANSWER or probing.held or probing.prepared_at is not None:
            continue
        cell = wanted.get((outcome.case.build_digest(), outcome.machine))
        if cell is not None and cell.engine and not cell.basis.difference(outcome):
            answers[cell.index] = outcome
    return answers
