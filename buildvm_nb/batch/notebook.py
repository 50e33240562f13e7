"""One notebook of a batch, executed by papermill wherever a worker is."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from buildvm_nb.errors import HostError
from buildvm_nb.model.value import Value

__all__ = ["Executed", "NotebookTask", "execute", "require_papermill"]

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
    """Make sure that notebooks can be executed here.

    Raises
    ------
    HostError
        If papermill or the kernel is not installed.
    """
    missing = [name for name in ("papermill", "ipykernel") if not importlib.util.find_spec(name)]
    if missing:
        raise HostError(
            f"batches need {' and '.join(missing)}, which is not installed",
            hint="pip install 'buildvm-nb[notebook]'",
        )


def execute(task: NotebookTask) -> Executed:
    """Execute a notebook on this host.

    Parameters
    ----------
    task : NotebookTask
        What to execute.

    Returns
    -------
    Executed
        The evidence, whatever happened: a notebook that breaks breaks alone.
    """
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
