"""``buildvm diagnose``: when, on which CPU and on which kernel a case stops building."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.command import ExitStatus, Session, command, complete_case
from buildvm_nb.cli.describe import Narrator, describe_machine, show_finding, write_report
from buildvm_nb.cli.options import (
    DiagnosedMachineOptions,
    QuestionOptions,
    SourceOptions,
    WorkOptions,
    choose_case,
    limit_steps,
)
from buildvm_nb.cli.output import write_fields, write_json, write_line
from buildvm_nb.errors import SourceError, UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.outcome import Outcome
    from buildvm_nb.study.diagnose import Outlook

__all__ = ["diagnose", "judged_status"]


@command(
    "diagnose",
    examples=(
        "buildvm diagnose dulwich-0.20.23",
        "buildvm diagnose case.toml --axis date --from 2015 --to 2040 --resolution 1d",
        "buildvm diagnose cityhash-0.4.10 --axis cpu --cpus x86-64-by-year",
        "buildvm diagnose --local . --package python3 -- python3 -m unittest",
        "buildvm diagnose case.toml --good v1.0 --bad main --date 2024-01-01",
        "buildvm diagnose case.toml --markdown --jobs 4 > report.md",
        "buildvm diagnose case.toml --dry-run",
    ),
)
def diagnose(
    session: Session,
    source: SourceOptions,
    asked: QuestionOptions,
    machine: DiagnosedMachineOptions,
    work: WorkOptions,
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
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a report for a bug tracker.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be asked first and run nothing.")
    ] = False,
) -> None:
    """Find out at which date, CPU or kernel a case breaks.

    The case is run at its own date and today; then one axis after the other is varied until one
    explains what differs: dates to the second, CPUs down to the smallest set of features,
    kernels, cores or commits in their order. What is concluded is confirmed by repeated runs.

    Each outcome is told and recorded as it comes, and one that the catalog has is not run again,
    so a diagnosis that was interrupted goes on when it is started again. The finding is printed
    and recorded. The exit code is 0 whatever is found; 4 if a source cannot be had; 1 if nothing
    could be run, which says nothing about the case.
    """
    if markdown and session.as_json:
        raise UsageError("give either --json or --markdown")
    options = machine.machine()
    case, base = choose_case(
        source, words or [], options.overrides().get("image"), session.catalog_place
    )
    case = limit_steps(case, options.timeout_s())
    questions = asked.questions(session.cache())
    overrides = machine.overrides(case.image, questions)
    verdicts: set[str] = set()
    narrator = Narrator(tells_commits="commit" in questions.axes)

    def tell(outcome: "Outcome", is_known: bool) -> None:
        verdicts.add(outcome.verdict.value)
        session.note(narrator.describe(outcome, is_known=is_known))

    from buildvm_nb.study.diagnose import diagnose_case, look_ahead

    try:
        with session.studying(work, base, tell) as means:
            if dry_run:
                _show_outlook(session, look_ahead(case, questions, overrides, means))
                return
            session.note(questions.expected_runs())
            finding = diagnose_case(case, means, questions, overrides)
    except SourceError:
        session.trouble = ExitStatus.UNAVAILABLE
        raise
    named = [] if source.given() else [*(words or []), *_timeout_words(machine)]
    if session.as_json:
        write_json(finding.model_dump(mode="json"))
    elif markdown:
        write_line(write_report(finding, named=named, asked=_without_format(session)))
    else:
        show_finding(finding, named=named)
    if status := judged_status(verdicts):
        raise typer.Exit(status)


def judged_status(verdicts: Collection[str]) -> ExitStatus:
    """Choose what to exit with: trouble only where no run said anything about the case."""
    seen = set(verdicts)
    if seen - {"unavailable", "error"} or not seen:
        return ExitStatus.DONE
    return ExitStatus.UNAVAILABLE if seen == {"unavailable"} else ExitStatus.TROUBLE


def _show_outlook(session: Session, outlook: "Outlook") -> None:
    from buildvm_nb.model.instants import format_instant

    if session.as_json:
        write_json(outlook.document())
        return
    hints = f"{outlook.hints} dates in sources and packages"
    write_fields(
        [
            ("axes", ", ".join(axis.value for axis in outlook.axes)),
            ("first runs", "\n".join(describe_machine(one.machine) for one in outlook.orders)),
            ("dates", " to ".join(map(format_instant, outlook.dates or ()))),
            ("hints", "" if outlook.hints is None else hints),
        ]
    )


def _timeout_words(machine: DiagnosedMachineOptions) -> list[str]:
    return ["--timeout", machine.timeout] if machine.timeout else []


def _without_format(session: Session) -> list[str]:
    shown = {"--markdown", "--quiet", "-q", "--fresh"}
    return ["buildvm", *(word for word in session.argv if word not in shown)]
