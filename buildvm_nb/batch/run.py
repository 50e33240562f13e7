"""Batches: every row of a plan through a notebook, on any executor, resumable, summed up."""

import ast
import csv
import importlib.util
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import Field

from buildvm_nb.catalog import Catalog, find_case, outcome_frame, write_csv
from buildvm_nb.catalog.schema import Column, Kind, TableSchema
from buildvm_nb.errors import BuildVMError, HostError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case, at_commit
from buildvm_nb.model.instants import format_instant, parse_instant
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import Value
from buildvm_nb.study import axes
from buildvm_nb.study.again import batch_notebook
from buildvm_nb.study.executors import Means, fit_jobs, open_executor
from buildvm_nb.study.options import OPTIONS, read_grid
from buildvm_nb.study.sweep import CellResult, sweep

if TYPE_CHECKING:
    from buildvm_nb.catalog.frames import Frame

__all__ = [
    "SUMMARY",
    "BatchParameters",
    "BatchResult",
    "HandOver",
    "PlanRow",
    "RowResult",
    "check_parameters",
    "read_outcomes",
    "read_plan",
    "run_batch",
    "run_parameters",
]

# The parameters of a batch notebook, guarded against whoever guessed their types.
#
# ``papermill -p commit 0012345`` puts the number 12345 into the notebook, ``-p commit 12e4567``
# infinity, and ``-y`` turns ``2021-05-01`` into a date. The digits that are lost cannot be had
# back, so what is not text is refused.
#
# References: papermill, ``papermill/cli.py``, ``_resolve_type``; YAML 1.1, "timestamp" and "int".

_MOST_JOBS = 1000
_INJECTED = "# Parameters\n"
"""How the cell begins that papermill puts in: ``papermill/translators.py``, ``codify``."""


class BatchParameters(Value):
    """What one notebook of a batch runs: all combinations of what is given."""

    case: str = Field(min_length=1)
    """A case file, or the id of a curated case."""
    repository: str = ""
    """URL or path of a git repository to build instead of the case's; it needs a commit."""
    commit: str = ""
    """Commit ids, tags or branches; empty: what the case says."""
    date: str = ""
    """Dates and ranges; empty: that of the source, else today's."""
    cpu: str = ""
    """CPU models; empty: the one that was current at the date."""
    kernel: str = ""
    """Kernels; empty: that of a machine."""
    jobs: int = Field(default=1, ge=1, le=_MOST_JOBS)
    """Guests side by side in this notebook."""
    catalog: str = ""
    """Where outcomes are recorded; empty: the user's own."""

    def texts(self) -> dict[str, str | None]:
        """Return what varies, as `buildvm_nb.study.options.read_grid` takes it.

        Returns
        -------
        dict
            None for what was left out.
        """
        varied = {name: axis for name, axis in _VARIED.items() if name != "commit"}  # see `cases`
        return {axis: getattr(self, name) or None for name, axis in varied.items()}

    def cases(self) -> tuple[Case, ...]:
        """Return the case, once for each commit.

        Returns
        -------
        tuple of Case
            At least one.

        Raises
        ------
        UsageError
            If the case or a commit is none.
        """
        case, _ = find_case(self.case, self.catalog or None)
        if not self.commit:
            return (case,)
        commits = axes.parse_commits(self.commit)
        return tuple(at_commit(case, commit, self.repository) for commit in commits)

    def digest(self) -> str:
        """Return the digest of what is asked: the parameters and what the case says.

        Returns
        -------
        str
            SHA-256. How many jobs there are and where outcomes go makes no difference.
        """
        cases = [case.build_digest() for case in self.cases()]
        asked = self.model_dump(mode="json", exclude={"case", "jobs", "catalog"})
        return _Asked(cases=tuple(cases), **asked).content_digest()

    def settled(self, day: str = "today") -> "BatchParameters":
        """Return them with ``today`` and ``now`` spelled out, so that they mean the same tomorrow.

        Parameters
        ----------
        day : str
            What today is; `parse_instant` reads it.

        Returns
        -------
        BatchParameters
            Changed in nothing else.
        """
        instants = {"today": parse_instant(day), "now": parse_instant("now")}

        def spell(match: re.Match[str]) -> str:
            return format_instant(instants[match[0]])

        return self.model_copy(update={"date": re.sub(r"\b(today|now)\b", spell, self.date)})


class _Asked(Value):
    """What makes two parameter sets the same."""

    cases: tuple[str, ...]
    repository: str
    commit: str
    date: str
    cpu: str
    kernel: str


NAMES = tuple(BatchParameters.model_fields)
"""Names of the parameters."""

_TEXTS = tuple(name for name in NAMES if name != "jobs")

_VARIED = {"commit": "commits", "date": "dates", "cpu": "cpus", "kernel": "kernels"}
"""The axis of a grid that a parameter varies."""


def check_parameters(**given: object) -> BatchParameters:
    """Check what a notebook was given.

    Parameters
    ----------
    **given
        The parameters by name.

    Returns
    -------
    BatchParameters
        With the same text, to the letter.

    Raises
    ------
    UsageError
        If a parameter is unknown (also one that papermill put into the notebook), is not text any
        more, or is none of what is allowed; each is told by its name.
    """
    troubles = [*_find_strange(given), *find_troubles(given)]
    if troubles:
        lines = [f"{name}: {error.message}" for name, error in troubles]
        hints = dict.fromkeys(error.hint for _, error in troubles if error.hint)
        raise UsageError("\n".join(lines), hint="; ".join(hints))
    known = {name: value for name, value in given.items() if name in NAMES}
    return BatchParameters.parse({**known, "jobs": _jobs(given.get("jobs", 1))})


def find_troubles(given: dict[str, object]) -> list[tuple[str, BuildVMError]]:
    """Find out what is wrong with parameters.

    Returns: name of the parameter and what is wrong with it; empty: nothing is.
    """
    troubles: list[tuple[str, BuildVMError]] = [
        (name, UsageError(f"unknown parameter; allowed: {', '.join(NAMES)}"))
        for name in given
        if name not in NAMES
    ]
    for name in NAMES:
        value = given.get(name, "")
        try:
            if name == "jobs":
                _jobs(given.get("jobs", 1))
            else:
                _check_text(name, value, str(given.get("catalog") or ""))
        except BuildVMError as error:
            troubles.append((name, error))
    if not troubles:
        troubles += _find_contradictions(given)
    return troubles


def _check_text(name: str, value: object, catalog: str) -> None:
    if not isinstance(value, str):
        raise UsageError(
            f"no text any more, but the {type(value).__name__} {value}; allowed: text",
            hint=f"papermill -p and -y guess types and lose digits: write -r {name} VALUE",
        )
    if value != value.strip():
        raise UsageError(f"blanks around {value!r}; allowed: none")
    if name == "case" and not value:
        raise UsageError(
            "missing; allowed: a case file or the id of a curated case",
            hint="papermill batch.ipynb ran.ipynb -r case cityhash-0.4.10",
        )
    if name == "case":
        find_case(value, catalog or None)
    elif value and name in _VARIED:
        OPTIONS[_VARIED[name]].read(value)


def _find_strange(given: dict[str, object]) -> list[tuple[str, BuildVMError]]:
    """Find what papermill put in and nobody reads: the notebook would run its defaults."""
    return [
        (name, UsageError(f"unknown parameter; allowed: {', '.join(given)}", hint=_similar(name)))
        for name in _unread(given)
    ]


def _similar(name: str) -> str:
    near = get_close_matches(name, NAMES, 1)
    return f"did you mean {near[0]}?" if near else ""


def _unread(given: dict[str, object]) -> list[str]:
    """Return names that papermill's cell sets, no cell before it did, and nobody has handed on."""
    cells = _executed_cells()
    at = max((n for n, text in enumerate(cells) if text.startswith(_INJECTED)), default=None)
    if at is None:
        return []
    declared = {name for text in cells[:at] for name, _ in _assigned(text)}
    return [
        name
        for name, value in _assigned(cells[at])
        # `run_batch` gives all parameters to a notebook of somebody's own, which may know fewer
        if name not in declared and name not in given and (name not in NAMES or value != "")
    ]


def _executed_cells() -> list[str]:
    """Return the cells that were executed in this kernel; none outside of one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return [str(text) for text in shell.user_ns.get("In", ())] if shell else []


def _assigned(text: str) -> Iterator[tuple[str, object]]:
    """Iterate over the names that a cell sets at its top level, with values that are literal."""
    try:
        statements = ast.parse(text).body
    except SyntaxError:  # with IPython's own commands in it
        return
    for statement in statements:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            value = getattr(statement.value, "value", None)
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, value


def _find_contradictions(given: dict[str, object]) -> list[tuple[str, BuildVMError]]:
    texts = {name: str(given.get(name, "")) for name in _TEXTS}
    if texts["repository"] and not texts["commit"]:
        return [("commit", UsageError("missing; a repository needs one: an id, a tag, a branch"))]
    try:
        BatchParameters.parse(texts).cases()
    except BuildVMError as error:
        return [("repository", error)]
    return []


def _jobs(value: object) -> int:
    """Read a number; text with digits is one as well, as ``papermill -r`` gives it."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_number or isinstance(value, str) else ""
    count = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else 0
    if not 1 <= count <= _MOST_JOBS:
        raise UsageError(f"not a number of jobs: {value!r}; allowed: from 1 to {_MOST_JOBS}")
    return count


# What a batch notebook does, and how it hands its outcomes over to whoever executed it.

MIME = "application/vnd.buildvm.outcomes+json"
"""Under which a notebook's output holds outcomes."""

_SCHEMA = 1


@dataclass(frozen=True, repr=False)
class HandOver:
    """What came of a parameter set; a notebook that displays it has its outcomes within."""

    outcomes: tuple[Outcome, ...]
    """In the order of commits, dates, CPUs and kernels."""

    @property
    def frame(self) -> "Frame":
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
    names = {axis: name for name, axis in _VARIED.items()}
    grid = read_grid(parameters.texts(), cache, names=names)
    _, base = find_case(parameters.case, parameters.catalog or None)

    def tell_result(result: CellResult, far: str) -> None:
        if tell is not None:
            spec = result.outcome.machine
            verdict = result.outcome.verdict.value
            tell(f"{spec.date:%Y-%m-%d}, {spec.cpu}, {spec.kernel}: {verdict}; {far}")

    outcomes: list[Outcome] = []
    with Catalog(parameters.catalog or None) as catalog:
        for case in parameters.cases():
            means = Means(cache=cache, catalog=catalog, jobs=parameters.jobs, base=base)
            result = sweep(case, grid, means, on_result=tell_result)
            outcomes += result.outcomes
    return HandOver(tuple(outcomes))


def read_outcomes(notebook: Mapping[str, Any]) -> tuple[Outcome, ...]:
    """Return the outcomes that an executed notebook hands over.

    Returns: empty where it hands none over, or in a form that this version does not know.
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


# One notebook of a batch, executed by papermill wherever a worker is.

_START_S = 180
"""A kernel that starts beside emulated guests takes its time."""


class NotebookTask(Value):
    """What a worker executes."""

    notebook: str
    """Its JSON."""
    parameters: Mapping[str, Any]
    cache_root: str | None = None
    """This host's cache; None: the user's there."""


class Executed(Value):
    """What came of it."""

    notebook: str
    """With its outputs, as far as it came; empty where it did not begin."""
    problem: str = ""
    """What broke, in a line; empty: nothing did."""


def require_papermill() -> None:
    """Make sure that notebooks can be executed here."""
    missing = [name for name in ("papermill", "ipykernel") if not importlib.util.find_spec(name)]
    if missing:
        raise HostError(
            f"batches need {' and '.join(missing)}, which is not installed",
            hint="pip install 'buildvm-nb[notebook]'",
        )


def execute(task: NotebookTask) -> Executed:
    """Execute a notebook on this host."""
    try:
        require_papermill()
    except HostError as error:
        return Executed(notebook="", problem=error.message)
    if task.cache_root is not None:
        os.environ["BUILDVM_CACHE"] = task.cache_root  # the kernel inherits it
    with TemporaryDirectory(prefix="buildvm-batch-") as scratch:
        before, after = Path(scratch, "before.ipynb"), Path(scratch, "after.ipynb")
        before.write_text(task.notebook, encoding="utf-8")
        problem = _execute(before, after, dict(task.parameters))
        text = after.read_text(encoding="utf-8") if after.exists() else ""
    return Executed(notebook=text, problem=problem)


def _execute(before: Path, after: Path, parameters: dict[str, Any]) -> str:
    import papermill  # noqa: PLC0415 - an extra, and a second to import
    from traitlets.config import Config  # noqa: PLC0415 - comes with it

    # sockets in a directory of our own: TCP ports are open to everybody on this host, and two
    # kernels that start at the same time may choose the same ones
    sockets = after.with_name("kernel")
    config = Config({"KernelManager": {"transport": "ipc", "ip": str(sockets)}})
    try:
        papermill.execute_notebook(
            _literal(before),
            _literal(after),
            parameters,
            progress_bar=False,
            start_timeout=_START_S,
            config=config,
        )
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except Exception as error:  # noqa: BLE001 - a dead kernel, a full disk: this notebook's alone
        return f"{type(error).__name__}: {error}"
    return ""


def _literal(path: Path) -> str:
    """Write a path so that papermill, which takes it for a template, reads it as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


# A batch's plan: a CSV file with a parameter set in each row, read as text and nothing else.

_MOST_TROUBLES = 20


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One row of a plan."""

    number: int
    """As a spreadsheet counts: the header is row 1."""
    parameters: BatchParameters
    digest: str
    """Of what is asked."""


def read_plan(path: Path) -> tuple[PlanRow, ...]:
    """Read a plan.

    Parameters
    ----------
    path : Path
        CSV with commas, UTF-8, with a header of parameter names in any order; ``case`` must be
        among them. An empty cell is a parameter that is left out. The path of a case file is
        relative to the plan.

    Returns
    -------
    tuple of PlanRow
        In the order of the file; at least one.

    Raises
    ------
    UsageError
        If there is no such file, or rows are wrong: each is told by row, column, value and what is
        allowed.
    """
    header, rows = _cells(path)
    _check_header(header, path)
    plan: list[PlanRow] = []
    troubles: list[str] = []
    hints: dict[str, None] = {}
    first_with: dict[str, int] = {}
    for number, cells in rows:
        if len(cells) != len(header):
            troubles.append(f"row {number}: {len(cells)} cells; allowed: {len(header)}")
            continue
        given: dict[str, object] = {
            name: _located(name, cell, path)
            for name, cell in zip(header, cells, strict=True)
            if cell
        }
        found = find_troubles(given)
        troubles += [f"row {number}, column {name}: {error.message}" for name, error in found]
        hints |= dict.fromkeys(error.hint for _, error in found if error.hint)
        if found:
            continue
        parameters = check_parameters(**given).settled()
        digest = parameters.digest()
        if digest in first_with:
            troubles.append(f"row {number}: asks for the same as row {first_with[digest]}")
        first_with.setdefault(digest, number)
        plan.append(PlanRow(number=number, parameters=parameters, digest=digest))
    if troubles:
        more = len(troubles) - _MOST_TROUBLES
        troubles = troubles[:_MOST_TROUBLES] + ([f"and {more} more"] if more > 0 else [])
        raise UsageError("\n".join([f"{path}:", *troubles]), hint="; ".join(hints))
    if not plan:
        raise UsageError(f"{path}: no rows below the header; allowed: one for each notebook")
    return tuple(plan)


def _cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each row that is not empty with its number."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = list(enumerate(csv.reader(stream, strict=True), 1))
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not CSV in UTF-8: {error}") from error
    rows = [(number, [cell.strip() for cell in cells]) for number, cells in table if any(cells)]
    if not rows:
        raise UsageError(f"{path}: empty; allowed: a header with {', '.join(NAMES)}, then rows")
    return rows[0][1], rows[1:]


def _check_header(header: list[str], path: Path) -> None:
    for name in header:
        if name not in NAMES:
            near = get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else ""
            if ";" in name or "\t" in name:
                hint = "separate cells with commas"
            raise UsageError(
                f"{path}: unknown column: {name!r}; allowed: {', '.join(NAMES)}", hint=hint
            )
        if header.count(name) > 1:
            raise UsageError(f"{path}: column there twice: {name!r}")
    if "case" not in header:
        raise UsageError(f"{path}: no column 'case'; there are {', '.join(header)}")


def _located(name: str, cell: str, plan: Path) -> str:
    """Return a cell; the path of a file or directory beside the plan becomes absolute."""
    is_path = name == "repository" or (name == "case" and ("/" in cell or cell.endswith(".toml")))
    if is_path and "://" not in cell and (plan.parent / cell).exists():
        return str((plan.parent / cell).absolute())
    return cell


# What came of a batch: one summary over all its notebooks.


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


# Batches: every row of a plan through a notebook, on any executor, and gone on with after a break.
#
# Beside each other in the batch's directory are, for each row, ``CASE-DIGEST.ipynb`` (executed,
# with its outcomes within) and ``CASE-DIGEST.outcomes.csv``; ``….broken.ipynb`` is one that broke,
# kept until it has run through. ``summary.csv`` is over all of them.

OnRow = Callable[[RowResult], None]
"""Gets each row's result as it comes."""


def run_batch(  # noqa: PLR0913 - all but the plan have defaults
    plan: Path | str,
    *,
    out: Path | str | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    notebook: Path | str | None = None,
    catalog: str = "",
    cache_root: Path | None = None,
    fresh: bool = False,
    progress: Progress = SILENT,
    on_row: OnRow = lambda _: None,
) -> BatchResult:
    """Run every row of a plan through a notebook.

    A row whose parameters were run through before, in the same directory, is not run again.
    Builds that fail are data. What breaks, breaks its own notebook only.

    Parameters
    ----------
    plan : Path or str
        A CSV file, see `buildvm_nb.batch.read_plan`.
    out : Path or str, optional
        Directory for what comes of it; by default the plan's name with ``-batch``, beside it.
    jobs : int, optional
        Notebooks side by side on this host; by default as many as there are cores and fit.
    scheduler : str, optional
        Address of a Dask scheduler to use instead.
    notebook : Path or str, optional
        A notebook of your own; by default the one that comes with buildvm-nb.
    catalog : str
        Where outcomes are recorded, for rows that do not say it; empty: the user's catalog.
    cache_root : Path, optional
        This host's cache; by default the user's.
    fresh : bool
        Run also what was run before. What the catalog has an answer for is not run again even so.
    progress : Progress
        Shows how far it is.
    on_row : callable
        Gets each result as it comes.

    Returns
    -------
    BatchResult
        One result for each row of the plan. ``summary.csv`` is written.

    Raises
    ------
    UsageError
        If the plan or another argument is wrong.
    HostError
        If papermill is not installed, or the directory cannot be written.
    """
    require_papermill()
    plan = Path(plan)
    rows = read_plan(plan)
    place = Path(out) if out is not None else plan.with_name(f"{plan.stem}-batch")
    template = Path(notebook) if notebook is not None else batch_notebook()
    text = _read_notebook(template)
    if scheduler is None:
        jobs = fit_jobs(jobs, max(map(_memory_mib, rows)))
    batch = _Batch(place, on_row)
    todo = [row for row in rows if fresh or not batch.knows(row)]
    root = None if scheduler or cache_root is None else str(cache_root.absolute())
    with (
        progress.task(f"batch {plan.name}, {len(rows)} notebooks") as task,
        open_executor(jobs, scheduler) as executor,
    ):
        running = {
            _submit(executor, row, text, catalog=catalog, cache_root=root): row for row in todo
        }
        task.update(len(rows) - len(todo), len(rows))
        for future in as_completed(running):
            batch.take(running[future], _result(future))
            task.update(len(batch.results), len(rows))
    result = BatchResult(out=place, results=tuple(batch.results[row.number] for row in rows))
    write_csv(result.frame, place / "summary.csv", SUMMARY)
    return result


class _Batch:
    """The directory of a batch, and what came of its rows so far."""

    def __init__(self, out: Path, on_row: OnRow) -> None:
        self.out = out
        self.results: dict[int, RowResult] = {}
        self._tell = on_row
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot make the directory {out}: {error.strerror}") from error

    def knows(self, row: PlanRow) -> bool:
        """Take what is there of a row; tell whether anything is."""
        path = self._path(row)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            is_same = document["metadata"]["buildvm"]["digest"] == row.digest
            outcomes = read_outcomes(document) if is_same else ()
        except (OSError, ValueError, LookupError, TypeError):
            return False
        if not _is_answered(outcomes):
            return False
        self._keep(RowResult(row=row, state=State.KNOWN, outcomes=outcomes, notebook=path))
        return True

    def take(self, row: PlanRow, executed: Executed) -> None:
        """Write down what came of a row."""
        path, broken = self._path(row), self._path(row, ".broken")
        problem = executed.problem
        document: dict[str, Any] = {}
        outcomes: tuple[Outcome, ...] = ()
        if executed.notebook:
            document = json.loads(executed.notebook)
            document["metadata"]["buildvm"] = {
                "digest": row.digest,
                "parameters": row.parameters.model_dump(mode="json"),
                "tool_version": version("buildvm-nb"),
            }
            outcomes = read_outcomes(document)
        if not problem and not _is_answered(outcomes):
            problem = "the notebook hands no outcomes over: display what run_parameters returns"
        if problem:
            written = self._write(broken, document) if document else None
            state = State.BROKEN
        else:
            written, state = self._write(path, document), State.FINISHED
            write_csv(outcome_frame(outcomes), path.with_suffix(".outcomes.csv"))
            broken.unlink(missing_ok=True)
        self._keep(
            RowResult(row=row, state=state, outcomes=outcomes, problem=problem, notebook=written)
        )

    def _keep(self, result: RowResult) -> None:
        self.results[result.row.number] = result
        self._tell(result)

    def _path(self, row: PlanRow, mark: str = "") -> Path:
        name = row.parameters.cases()[0].id
        return self.out / f"{name}-{row.digest[:12]}{mark}.ipynb"

    def _write(self, path: Path, document: dict[str, Any]) -> Path:
        beside = path.with_name(f".{path.name}.partial")
        try:
            beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            raise HostError(f"cannot write {path}: {error.strerror}") from error
        finally:
            beside.unlink(missing_ok=True)
        return path


def _read_notebook(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        cells = json.loads(text)["cells"]
        is_tagged = any("parameters" in cell["metadata"].get("tags", ()) for cell in cells)
    except OSError as error:
        raise UsageError(f"cannot read the notebook {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"not a notebook of format 4: {path}") from error
    if not is_tagged:
        raise UsageError(f"no cell of {path} is tagged 'parameters'; allowed: one that is")
    return text


def _memory_mib(row: PlanRow) -> int:
    needs = max(case.limits.memory_mib for case in row.parameters.cases())
    return needs * row.parameters.jobs


def _submit(
    executor: Executor, row: PlanRow, text: str, *, catalog: str, cache_root: str | None
) -> "Future[Executed]":
    parameters = row.parameters.model_dump(mode="json")
    parameters["catalog"] = parameters["catalog"] or catalog
    task = NotebookTask(notebook=text, parameters=parameters, cache_root=cache_root)
    return executor.submit(execute, task)


def _result(future: "Future[Executed]") -> Executed:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - a worker that breaks in whatever way ran nothing
        return Executed(notebook="", problem=f"the worker broke: {type(error).__name__}: {error}")


def _is_answered(outcomes: tuple[Outcome, ...]) -> bool:
    return bool(outcomes) and all(one.verdict is not Verdict.ERROR for one in outcomes)
