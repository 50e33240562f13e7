"""How an outcome is had again: as a command, a case file or papermill's parameters."""

import shlex
from collections.abc import Callable
from pathlib import Path

from buildvm_nb.catalog import dump_case
from buildvm_nb.model.case import Case
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.nb.subject import read_subject
from buildvm_nb.study.again import batch_notebook, build_command, settled

__all__ = ["FORMS", "case_of"]


def case_of(form: str, outcome: Outcome) -> Case:
    """Return the case that a form names: a batch knows of a machine only date, CPU and kernel.

    Parameters
    ----------
    form : str
        One of `FORMS`.
    outcome : Outcome
        What is to be had again.

    Returns
    -------
    Case
        What was built, with its machine's image and size where they are not told elsewhere.
    """
    return settled(outcome.case, outcome.machine) if form == "papermill" else outcome.case


def _command(outcome: Outcome, base: Path) -> str:
    return build_command(outcome.case, outcome.machine, read_subject(outcome.case, base).word)


def _case_file(outcome: Outcome, _base: Path) -> str:
    return dump_case(outcome.case)


def _papermill(outcome: Outcome, base: Path) -> str:
    spec = outcome.machine
    told = {
        "case": read_subject(case_of("papermill", outcome), base).word,
        "date": format_instant(spec.date),
        "cpu": spec.cpu,
        "kernel": spec.kernel,
    }
    words = [word for name, value in told.items() for word in ("-r", name, value)]
    return shlex.join(["papermill", str(batch_notebook()), "ran.ipynb", *words])


FORMS: dict[str, Callable[[Outcome, Path], str]] = {
    "command": _command,
    "case file": _case_file,
    "papermill": _papermill,
}
"""What writes each form, by the directory that the case's relative paths are below."""
