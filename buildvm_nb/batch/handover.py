"""What a batch notebook does, and how it hands its outcomes over to whoever executed it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from buildvm_nb.batch.parameters import BatchParameters
from buildvm_nb.catalog import Catalog, find_case_file, outcome_frame
from buildvm_nb.errors import BuildVMError, HostError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.gridtext import read_grid
from buildvm_nb.study.sweep import CellResult, sweep

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MIME", "HandOver", "read_outcomes", "run_parameters"]

MIME = "application/vnd.buildvm.outcomes+json"
"""Under which a notebook's output holds outcomes."""

_SCHEMA = 1


@dataclass(frozen=True, repr=False)
class HandOver:
    """What came of a parameter set; a notebook that displays it has its outcomes within."""

    outcomes: tuple[Outcome, ...]
    """In the order of commits, dates, CPUs and kernels."""

    @property
    def frame(self) -> "pd.DataFrame":
        """The outcomes as a table, with the columns of `Catalog.outcomes`."""
        return outcome_frame(self.outcomes)

    def check(self) -> None:
        """Make sure that every machine did its part; what builds came to does not matter.

        Raises
        ------
        HostError
            If one broke, so that nothing is known about its cell.
        """
        broken = [one for one in self.outcomes if one.verdict is Verdict.ERROR]
        if broken:
            raise HostError(
                f"{len(broken)} of {len(self.outcomes)} runs could not be made: {broken[0].reason}",
                hint="the same notebook tries them again, and only them",
            )

    def __repr__(self) -> str:
        counts = Counter(outcome.verdict.value for outcome in self.outcomes)
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        return f"{len(self.outcomes)} outcomes: {told}"

    def _repr_mimebundle_(self, **_asked: object) -> dict[str, Any]:
        outcomes = [outcome.model_dump(mode="json", by_alias=True) for outcome in self.outcomes]
        return {MIME: {"schema": _SCHEMA, "outcomes": outcomes}, "text/plain": repr(self)}


def run_parameters(
    parameters: BatchParameters, *, tell: Callable[[str], None] | None = None
) -> HandOver:
    """Run a case as parameters say; what the catalog has an answer for is not run again.

    Parameters
    ----------
    parameters : BatchParameters
        As `buildvm_nb.batch.check_parameters` returns them.
    tell : callable, optional
        Gets a line for each outcome: `print`, for example.

    Returns
    -------
    HandOver
        To be displayed, and then checked.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a package of an image or of a kernel cannot be had.
    HostError
        If this host lacks something.
    CatalogError
        If an outcome cannot be recorded.
    """
    cache = Cache()
    names = {"dates": "date", "cpus": "cpu", "kernels": "kernel"}
    grid = read_grid(parameters.texts(), cache, names=names)
    base = find_case_file(parameters.case).absolute().parent

    def tell_result(result: CellResult, far: str) -> None:
        if tell is not None:
            spec = result.outcome.machine
            verdict = result.outcome.verdict.value
            tell(f"{spec.date:%Y-%m-%d}, {spec.cpu}, {spec.kernel}: {verdict}; {far}")

    outcomes: list[Outcome] = []
    with Catalog(parameters.catalog or None) as catalog:
        for case in parameters.cases():
            result = sweep(
                case,
                grid,
                cache=cache,
                catalog=catalog,
                jobs=parameters.jobs,
                base=base,
                on_outcome=tell_result,
            )
            outcomes += result.outcomes
    return HandOver(tuple(outcomes))


def read_outcomes(notebook: Mapping[str, Any]) -> tuple[Outcome, ...]:
    """Return the outcomes that an executed notebook hands over.

    Parameters
    ----------
    notebook : mapping
        As nbformat 4 has it.

    Returns
    -------
    tuple of Outcome
        Empty where it hands none over, or in a form that this version does not know.
    """
    try:
        documents = [document for document in _documents(notebook) if document["schema"] == _SCHEMA]
        outcomes = documents[-1]["outcomes"] if documents else []
        return tuple(Outcome.parse(outcome) for outcome in outcomes)
    except (BuildVMError, LookupError, TypeError):
        return ()


def _documents(notebook: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if MIME in data:
                yield data[MIME]
