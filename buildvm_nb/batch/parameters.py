"""The parameters of a batch notebook, guarded against whoever guessed their types.

``papermill -p commit 0012345`` puts the number 12345 into the notebook, ``-p commit 12e4567``
infinity, and ``-y`` turns ``2021-05-01`` into a date. The digits that are lost cannot be had back,
so what is not text is refused.

References
----------
papermill, ``papermill/cli.py``, ``_resolve_type``; YAML 1.1, "timestamp" and "int".
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches

from pydantic import Field

from buildvm_nb.catalog import find_case_file, load_case
from buildvm_nb.errors import BuildVMError, UsageError
from buildvm_nb.model.case import Case
from buildvm_nb.model.instants import format_instant, parse_instant
from buildvm_nb.model.value import Value
from buildvm_nb.quick import at_commit
from buildvm_nb.study import axes

__all__ = ["NAMES", "BatchParameters", "check_parameters", "find_troubles"]

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
        """Return what varies, as `buildvm_nb.study.gridtext.read_grid` takes it.

        Returns
        -------
        dict
            None for what was left out.
        """
        given = {"dates": self.date, "cpus": self.cpu, "kernels": self.kernel}
        return {name: text or None for name, text in given.items()}

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
        case = load_case(find_case_file(self.case))
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

_READERS: dict[str, Callable[[str], object]] = {
    "case": lambda text: load_case(find_case_file(text)),
    "commit": axes.parse_commits,
    "date": axes.parse_dates,
    "cpu": lambda text: axes.parse_cpus(text, ()),
    "kernel": lambda text: axes.parse_kernels(text, ()),
}


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

    Parameters
    ----------
    given : dict
        The parameters by name.

    Returns
    -------
    list of tuple of str and BuildVMError
        Name of the parameter and what is wrong with it; empty: nothing is.
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
                _check_text(name, value)
        except BuildVMError as error:
            troubles.append((name, error))
    if not troubles:
        troubles += _find_contradictions(given)
    return troubles


def _check_text(name: str, value: object) -> None:
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
    if value and name in _READERS:
        _READERS[name](value)


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
