"""How an outcome is had again: as a command, a case file or papermill's parameters."""

import shlex
from collections.abc import Callable

from buildvm_nb.catalog import dump_case
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.study.again import build_command, is_curated

__all__ = ["FORMS"]


def _command(outcome: Outcome) -> str:
    command = build_command(outcome.case, outcome.machine)
    if is_curated(outcome.case):
        return command
    return f"# {outcome.case.id}.toml: see the case file\n{command}"


def _case_file(outcome: Outcome) -> str:
    return dump_case(outcome.case)


def _papermill(outcome: Outcome) -> str:
    spec, case = outcome.machine, outcome.case
    told = {
        "case": case.id if is_curated(case) else f"{case.id}.toml",
        "date": format_instant(spec.date),
        "cpu": spec.cpu,
        "kernel": spec.kernel,
    }
    words = [word for name, value in told.items() for word in ("-r", name, value)]
    return shlex.join(["papermill", "batch.ipynb", "ran.ipynb", *words])


FORMS: dict[str, Callable[[Outcome], str]] = {
    "command": _command,
    "case file": _case_file,
    "papermill": _papermill,
}
"""What writes each form."""
