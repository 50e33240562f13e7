"""``buildvm build``: one case, one machine, one recorded outcome."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.case_options import SourceOptions, choose_case, limit_steps
from buildvm_nb.cli.completion import complete_case
from buildvm_nb.cli.environments import EnvironmentOption, chosen_overrides
from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.machine_options import MachineOptions
from buildvm_nb.cli.machines import show_command_line
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import write_fields, write_json
from buildvm_nb.cli.session import Session
from buildvm_nb.cli.summary import outcome_fields

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case
    from buildvm_nb.model.outcome import Outcome

__all__ = ["VERDICT_STATUS", "build", "pass_on"]

VERDICT_STATUS = {
    "passed": ExitStatus.DONE,
    "failed": ExitStatus.NOT_PASSED,
    "crashed": ExitStatus.NOT_PASSED,
    "timeout": ExitStatus.NOT_PASSED,
    "unavailable": ExitStatus.UNAVAILABLE,
    "error": ExitStatus.MACHINE,
}
"""How a command ends whose result is a verdict."""


@command(
    "build",
    examples=(
        "buildvm build dulwich-0.20.23",
        "buildvm build case.toml --date 2031-01-01 --cpu Westmere",
        "buildvm build dulwich-0.20.23 --environment auto",
        "buildvm build --pypi six==1.16.0 --package python3 -- python3 -c 'import six'",
        "buildvm build --git . --commit HEAD --package gcc --package make -- make check",
        "buildvm build --git . --before 2020-01-01 --package make -- 'make && make check'",
        "buildvm build --local . --package python3 -- python3 -m unittest",
    ),
)
def build(
    session: Session,
    source: SourceOptions,
    machine: MachineOptions,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CASE|COMMAND",
            autocompletion=complete_case,
            help="A case file or the id of a curated case; with a source option instead of it, "
            "the command to run in the source's directory: one word is shell text, several are "
            "a program and its arguments.",
        ),
    ] = None,
    environment: EnvironmentOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Pass the steps' output on to standard error.")
    ] = False,
) -> None:
    """Build a case in a machine and record the outcome.

    The verdict is the result: 0 says passed; 3 that the case failed, crashed or ran out of
    time; 4 that its source cannot be had; 125 that the machine or this host broke, which says
    nothing about the case; 1 and 2 are trouble with the tool or the request.

    With --environment auto, findings say at which date, on which CPU and kernel it is built, and
    the outcome names them; what is given beside it takes precedence. See `buildvm environment`.
    """
    session.trouble = ExitStatus.MACHINE
    case, base = choose_case(source, words or [], machine.overrides().get("image"))
    case, overrides = limit_steps(case, machine.timeout_s()), machine.overrides(case.image)
    chosen_by: tuple[str, ...] = ()
    if environment is not None:
        session.trouble = ExitStatus.TROUBLE
        overrides, chosen_by = chosen_overrides(session, environment, case, base, overrides)
        session.trouble = ExitStatus.MACHINE
    if machine.dry_run:
        _show_command_line(session, case, overrides, base)
        return
    from buildvm_nb.study import run_case

    session.trouble = ExitStatus.TROUBLE
    with session.catalog() as catalog:
        session.trouble = ExitStatus.MACHINE
        trial = run_case(
            case,
            overrides,
            cache=session.cache(),
            base=base,
            progress=session.progress(),
            output=pass_on if follow else None,
        )
        outcome = trial.outcome.model_copy(update={"chosen_by": chosen_by})
        session.trouble = ExitStatus.TROUBLE
        try:
            outcome = catalog.record(outcome, trial.log)
        finally:  # the evidence first, also when it cannot be recorded
            _show(session, outcome, _again(session, machine, outcome))
    raise typer.Exit(VERDICT_STATUS[outcome.verdict.value])


def _show_command_line(
    session: Session, case: "Case", overrides: dict[str, Any], base: Path
) -> None:
    """Print the QEMU command; the source is fetched, as its date is that of the machine."""
    from buildvm_nb.source import fetch
    from buildvm_nb.study import machine_for

    fetched = None
    if case.source is not None:
        fetched = fetch(case.source, session.cache(), base=base, progress=session.progress())
    spec = machine_for(case, overrides, fetched)
    show_command_line(session, spec, fetched.tree if fetched else None)


def pass_on(_step: str, data: bytes) -> None:
    """Pass what a step prints on to standard error.

    Parameters
    ----------
    _step : str
        Its name.
    data : bytes
        As it came.
    """
    sys.stderr.buffer.write(data)
    sys.stderr.flush()


def _show(session: Session, outcome: "Outcome", again: str) -> None:
    if session.as_json:
        write_json(outcome.model_dump(mode="json"))
    else:
        write_fields([*outcome_fields(outcome, session.catalog_place), ("again", again)])


def _again(session: Session, machine: MachineOptions, outcome: "Outcome") -> str:
    """Write the command that asks for the same again, with what followed by itself spelled out."""
    spec, argv = outcome.machine, list(session.argv)
    end = argv.index("--") if "--" in argv else len(argv)
    from buildvm_nb.model.instants import format_instant

    pins = {
        "--date": (machine.date in {None, "now", "today"}, format_instant(spec.date)),
        "--cpu": (machine.cpu is None, spec.cpu),
        "--kernel": (machine.kernel is None, spec.kernel),
        "--accelerator": (
            machine.accelerator in {None, "auto"} and outcome.environment is not None,
            spec.accelerator.value,
        ),
    }
    pinned = [word for name, (free, value) in pins.items() if free for word in (name, value)]
    asked = argv[:end]
    for name in (*pinned[::2], "--environment"):  # "--date today" makes room for that day
        while name in asked:
            del asked[asked.index(name) : asked.index(name) + 2]
    asked = [word for word in asked if not word.startswith("--environment=")]
    return shlex.join(["buildvm", *asked, *pinned, *argv[end:]])
