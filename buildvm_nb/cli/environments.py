"""``buildvm environment``: where something was shown to build; and ``build --environment auto``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.case_options import SourceOptions, make_case
from buildvm_nb.cli.completion import complete_case
from buildvm_nb.cli.finding_summary import describe_machine
from buildvm_nb.cli.machine_options import choose_image
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import printable, write_fields, write_json, write_line
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case, Source
    from buildvm_nb.model.machine import ImageSpec
    from buildvm_nb.study.choice import Choice

__all__ = ["EnvironmentOption", "chosen_overrides", "environment"]

_MOST_WORDS = 2

EnvironmentOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto",
        help="Build in the environment in which findings show that it builds. Left out: at the "
        "date of its source, on a CPU of that date.",
    ),
]


@command(
    "environment",
    examples=(
        "buildvm environment dulwich-0.20.23",
        "buildvm environment case.toml --json",
        "buildvm environment requests-toolbelt 0.9.1",
        "buildvm environment --pypi six==1.16.0",
        "buildvm environment --local . --package python3 -- python3 -m unittest",
    ),
)
def environment(
    session: Session,
    source: SourceOptions,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CASE|PACKAGE [VERSION]",
            autocompletion=complete_case,
            help="A case file, the id of a curated case, or a package and its version; with a "
            "source option instead of it, the command that makes it a case, if any.",
        ),
    ] = None,
    package: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of a case made from options; as of `buildvm build`."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Of a case made from options; as of `buildvm build`."),
    ] = None,
) -> None:
    """Tell where something was shown to build.

    The findings of your catalog and the verified ones of the curated catalog are consulted, and
    the least unusual environment is chosen in which it was seen to pass: no machine at all, a
    date, a CPU, a kernel, or several of these. Where nothing is known, the date of the source and
    a CPU of that date are named as a guess. Nothing is run. The exit code is 0 whatever is known.
    """
    chosen = choose_image(image, package, None)
    _show(session, _ask(session, source, words or [], chosen))


def chosen_overrides(
    session: Session, wanted: str, case: "Case", base: Path, given: dict[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Choose where a case is built, and say on standard error what was chosen and why.

    Parameters
    ----------
    session : Session
        Of the call.
    wanted : str
        What the user gave as ``--environment``.
    case : Case
        What is to be built.
    base : Path
        Directory that its relative paths are below.
    given : dict
        Fields of `MachineSpec` that the user gave; they take precedence.

    Returns
    -------
    dict
        All fields of `MachineSpec` that are not to follow from the case.
    tuple of str
        Ids of the findings that chose one of these, to be recorded with the outcome.

    Raises
    ------
    UsageError
        If `wanted` is anything but ``auto``.
    """
    if wanted != "auto":
        raise UsageError(
            f"--environment: unknown: {wanted!r}; allowed: auto",
            hint="--date, --cpu and --kernel choose an environment of your own",
        )
    choice = _advise(session, case, None, base, existing=False)
    session.note(choice.explanation)
    if see := choice.see():
        session.note(f"see `{see}`")
    chosen = choice.overrides()
    for field in sorted(set(chosen) & set(given)):
        if _plain(chosen[field]) != _plain(given[field]):
            option = f"--{field.replace('_', '-')}"
            session.note(
                f"{option} {_plain(given[field])} takes precedence over {_plain(chosen[field])}"
            )
    return choice.beside(given)


def _ask(
    session: Session, source: SourceOptions, words: list[str], image: "ImageSpec | None"
) -> "Choice":
    from buildvm_nb.model.machine import ImageSpec

    if source.given() is not None:
        image = image or ImageSpec()
        made = make_case(source, words, image) if words else source.source(image)
        return _advise(session, made, None, Path.cwd())
    if not 1 <= len(words) <= _MOST_WORDS:
        raise UsageError(
            f"a case, or a package and its version; got {len(words)} words",
            hint="for example `buildvm environment requests-toolbelt 0.9.1`",
        )
    return _advise(session, words[0], next(iter(words[1:]), None), None)


def _advise(
    session: Session,
    subject: "Case | Source | str",
    version: str | None,
    base: Path | None,
    *,
    existing: bool = True,
) -> "Choice":
    from buildvm_nb.study.advice import environment as choose

    with session.catalog(existing=existing) as catalog:
        return choose(
            subject,
            version,
            catalog=catalog,
            cache=session.cache(),
            base=base,
            progress=session.progress(),
        )


def _show(session: Session, choice: "Choice") -> None:
    if session.as_json:
        write_json(choice.document())
        return
    write_line(printable(choice.explanation))
    write_line()
    machine, finding = choice.environment, choice.because
    write_fields(
        [
            ("choose", choice.level if choice.is_shown else ""),
            ("basis", choice.basis.value),
            ("machine", describe_machine(machine) if machine else ""),
            ("finding", finding.id if finding else ""),
            ("evidence", f"{len(choice.evidence)} outcomes" if finding else ""),
            ("see", choice.see()),
            ("met as well", "\n".join(map(str, choice.also))),
            ("clashing", "\n".join(map(str, choice.conflict))),
            ("not followed", "\n".join(map(str, choice.against))),
            ("other versions", "\n".join(map(str, choice.other_versions))),
            ("not proved here", "\n".join(map(str, choice.unproved))),
        ]
    )


def _plain(value: object) -> str:
    from datetime import datetime

    from buildvm_nb.model.instants import format_instant

    return format_instant(value) if isinstance(value, datetime) else str(value)
