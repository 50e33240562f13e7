"""``buildvm run``, ``shell``, ``build``, ``environment`` and ``case``: one machine, one case."""

import json
import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from buildvm_nb.cli.command import Command, ExitStatus, Session, command, complete_case
from buildvm_nb.cli.options import (
    MachineOptions,
    SourceOptions,
    choose_case,
    choose_image,
    limit_steps,
    make_case,
)
from buildvm_nb.cli.output import (
    discard_output,
    printable,
    printable_lines,
    write_error,
    write_fields,
    write_json,
    write_line,
    write_new_file,
    write_table,
)
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case, Source
    from buildvm_nb.model.machine import ImageSpec, MachineSpec
    from buildvm_nb.model.outcome import Outcome
    from buildvm_nb.study.choice import Choice
    from buildvm_nb.vm import BuildMachine, CommandResult

__all__ = [
    "CASE_COMMANDS",
    "VERDICT_STATUS",
    "EnvironmentOption",
    "build",
    "chosen_overrides",
    "environment",
    "pass_on",
    "run",
    "shell",
]

# ``buildvm case``: case files, written, checked and described.


@command(
    "new",
    examples=(
        "buildvm case new my-project",
        "buildvm case new my-project --git . --commit HEAD --output my-project.toml",
        "buildvm case new requests-2.31 --pypi requests==2.31.0 --package python3",
    ),
)
def new(
    session: Session,
    source: SourceOptions,
    case_id: Annotated[
        str, typer.Argument(metavar="ID", help="Lower-case letters, digits and . _ + -")
    ],
    *,
    title: Annotated[str, typer.Option(metavar="TEXT", help="What it is about.")] = "",
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="debian:SUITE[,PACKAGE…]")
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Add a package; repeatable.")
    ] = None,
    run: Annotated[
        str, typer.Option(metavar="COMMAND", help="Shell text of the test step.")
    ] = "make check",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, where nothing is yet."),
    ] = None,
) -> None:
    """Write a commented case file to start from.

    Without --output it goes to standard output.
    """
    from buildvm_nb.catalog import new_case
    from buildvm_nb.model.machine import ImageSpec

    spec = choose_image(image, package, None)
    built = source.source(spec or ImageSpec()) if source.given() else None
    text = new_case(case_id, title=title, source=built, image=spec, run=run)
    if output is None:
        write_line(text.rstrip("\n"))
        return
    write_new_file(output, text)
    session.note(f"wrote {output}; next: buildvm case check {output}")


@command("check", examples=("buildvm case check dulwich-0.20.23", "buildvm case check *.toml"))
def check(
    session: Session,
    cases: Annotated[
        list[str],
        typer.Argument(
            metavar="CASE…", autocompletion=complete_case, help="Case files or ids of curated ones."
        ),
    ],
) -> None:
    """Check case files.

    Exits with 1 if one has errors. Each error names file, line and key.
    """
    from buildvm_nb.catalog import find_case_file, load_case

    results = []
    for name in cases:
        try:
            case = load_case(find_case_file(name))
            results.append({"file": name, "valid": True, "id": case.id, "message": ""})
        except UsageError as error:
            results.append({"file": name, "valid": False, "id": None, "message": str(error)})
    if session.as_json:
        write_json(results)
    else:
        for result in results:
            text = f"{result['file']}: valid" if result["valid"] else str(result["message"])
            for line in printable_lines(text):
                write_line(line)
    if not all(result["valid"] for result in results):
        raise typer.Exit(ExitStatus.TROUBLE)


@command("schema", examples=("buildvm case schema",))
def schema(session: Session) -> None:  # noqa: ARG001 - JSON in any case
    """Print the JSON schema of case files, with the meaning of each key."""
    from buildvm_nb.catalog import case_schema

    write_json(case_schema())


@command("list", examples=("buildvm case list", "buildvm case list --json"))
def list_(session: Session) -> None:
    """List the curated cases that come with buildvm."""
    from buildvm_nb.catalog import curated_cases, load_case

    cases = [(name, path, load_case(path)) for name, path in curated_cases().items()]
    if session.as_json:
        rows = [
            {
                "id": name,
                "title": case.title,
                "claim": case.claim.kind if case.claim else None,
                "status": case.entry.status if case.entry else None,
                "file": str(path),
            }
            for name, path, case in cases
        ]
        write_json(rows)
        return
    table = [
        (
            name,
            case.claim.kind if case.claim else "",
            case.entry.status if case.entry else "",
            case.title,
        )
        for name, _, case in cases
    ]
    write_table(("case", "claim", "status", "title"), table)


CASE_COMMANDS: tuple[Command, ...] = (new, check, schema, list_)


# ``buildvm environment``: where something was shown to build; and ``build --environment auto``.

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
    _show_choice(session, _ask(session, source, words or [], chosen))


def chosen_overrides(
    session: Session, wanted: str, case: "Case", base: Path, given: dict[str, Any]
) -> tuple["Case", dict[str, Any], tuple[str, ...]]:
    """Choose where a case is built, and say on standard error what was chosen and why.

    Returns: the case, with the time zone of its steps where one was chosen; all fields of
    `MachineSpec` that are not to follow from the case; ids of the findings that chose one of
    these, to be recorded with the outcome.
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
    return (choice.applied_to(case), *choice.beside(given))


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
    from buildvm_nb.study.choosing import environment as choose

    with session.catalog(existing=existing) as catalog:
        return choose(
            subject,
            version,
            catalog=catalog,
            cache=session.cache(),
            base=base,
            progress=session.progress(),
        )


def _show_choice(session: Session, choice: "Choice") -> None:
    if session.as_json:
        write_json(choice.document())
        return
    from buildvm_nb.cli.describe import describe_machine

    write_line(printable(choice.explanation))
    write_line()
    machine, finding = choice.environment, choice.because
    write_fields(
        [
            ("choose", choice.level if choice.is_shown else ""),
            ("basis", choice.basis.value),
            ("machine", describe_machine(machine) if machine else ""),
            ("time zone", choice.timezone),
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


# ``buildvm run`` and ``buildvm shell``: a machine for one command, or for a person.

_STDIN = 0
_MOST_BYTES = 200 * 10**6
"""More is copied into a guest only where the directory was named."""


@dataclass(frozen=True, kw_only=True)
class ShareOptions:
    """Which directory of the host the guest gets a copy of."""

    share: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Copy this directory into the guest, below /build. Left out: the current "
            "directory. What the guest changes does not come back.",
        ),
    ] = None
    no_share: Annotated[bool, typer.Option("--no-share", help="Copy nothing; /build is empty.")] = (
        False
    )

    def directory(self, cache: Path) -> Path | None:
        """Return the directory to share.

        Returns: absolute; None: nothing is shared.
        Raises `UsageError` if it is no directory, or all of the host; if it was not named, and is a
        home directory, holds one, or is large.
        """
        if self.no_share:
            if self.share:
                raise UsageError("--share and --no-share contradict each other")
            return None
        path = (self.share or Path()).resolve()
        if not path.is_dir():
            raise UsageError(f"--share: not a directory: {path}")
        if path == Path(path.anchor):
            raise UsageError(
                "the whole file system of this host would be copied into the guest",
                hint="change to another directory, or say --share DIR or --no-share",
            )
        if self.share is None:
            _refuse_unnamed(path, cache)
        return path


def _refuse_unnamed(path: Path, cache: Path) -> None:
    """Refuse to copy the current directory where nobody can have meant that."""
    from buildvm_nb.host.cache import tree_bytes

    home = Path.home().resolve()
    if path == home or path in home.parents:
        raise UsageError(
            f"the current directory {path} holds all of a home directory, which would be copied "
            "into the guest",
            hint=f"change to another directory, or say --share {path} or --no-share",
        )
    if tree_bytes(path, without=[cache.resolve()], enough=_MOST_BYTES) > _MOST_BYTES:
        raise UsageError(
            f"the current directory {path} holds more than {_MOST_BYTES // 10**6} MB, which "
            "would be copied into the guest",
            hint=f"say --share {path} if it is meant, --share DIR for a part of it, or --no-share",
        )


HoldOption = Annotated[
    bool,
    typer.Option(
        "--hold",
        help="Let the guest's clock stand still at the date while the command or the steps run, "
        "as studies do where a change is near; what waits for time to pass does not end then.",
    ),
]


@command(
    "run",
    takes_words=True,
    examples=(
        "buildvm run -- make check",
        "buildvm run --date 2019-05-01 --cpu Westmere -- make check",
        "buildvm run --no-share --kernel debian:bullseye -- uname -r",
        "buildvm run --package gcc --package make --timeout 10m -- sh -c 'make && ./test'",
        "buildvm run --date 2038-01-19T03:14:08Z --dry-run -- date",
    ),
)
def run(
    session: Session,
    machine: MachineOptions,
    sharing: ShareOptions,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND", help="Program and arguments.")],
    *,
    hold: HoldOption = False,
) -> None:
    """Run a command in a virtual build machine.

    It is what env(1) is, for date, CPU and kernel. The current directory is copied into the
    guest and the command runs there; what it changes does not come back. Its output is passed
    on as it comes, and so is its exit status: 128+N when it died of signal N, 124 when
    --timeout ended it. 125 says that the machine itself failed, 2 that the request was wrong.
    """
    session.trouble = ExitStatus.MACHINE
    spec, timeout_s = _faithful(machine), machine.timeout_s()
    share = sharing.directory(session.cache().root)
    if machine.dry_run:
        show_command_line(session, spec, share)
        return
    with _booted(session, spec, share) as guest:
        result = guest.run(
            words,
            cwd=share.name if share else "",
            timeout_s=timeout_s,
            clock=guest.spec.date if hold else None,
            held=hold,
            stdout=_passing_on(sys.stdout.buffer),
            stderr=_passing_on(sys.stderr.buffer),
            stdin=_standard_input(),
        )
    _tell_end(session, result)
    raise typer.Exit(result.status)


@command(
    "shell",
    examples=(
        "buildvm shell",
        "buildvm shell --date 2030-01-01 --cpu core2duo",
        "buildvm shell --no-share --image debian:trixie,gcc,make --memory 2G",
    ),
)
def shell(session: Session, machine: MachineOptions, sharing: ShareOptions) -> None:
    """Open a shell in a virtual build machine.

    The current directory is copied into the guest; what is changed there does not come back.
    The machine is gone when the shell ends, and its exit status is passed on.
    """
    session.trouble = ExitStatus.MACHINE
    if machine.timeout is not None:
        raise UsageError("--timeout says nothing for a shell")
    spec, share = _faithful(machine), sharing.directory(session.cache().root)
    if machine.dry_run:
        show_command_line(session, spec, share)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):  # asked before a machine is booted
        raise UsageError(
            "a shell needs a terminal on standard input and output",
            hint="for commands from a pipe or file: buildvm run -- sh",
        )
    with _booted(session, spec, share) as guest:
        status = guest.shell()
    raise typer.Exit(status)


def show_command_line(session: Session, spec: "MachineSpec", share: Path | None) -> None:
    """Print the QEMU command of a machine; nothing is started."""
    from buildvm_nb.study import dry_run

    argv = dry_run(spec, cache=session.cache(), share=share)
    if session.as_json:
        write_json(argv)
    else:
        write_line(shlex.join(argv))


def _faithful(machine: MachineOptions) -> "MachineSpec":
    """Return the machine asked for; a CPU that was asked for is enforced, not only shown."""
    from buildvm_nb.study import choose_faithful

    return choose_faithful(machine.spec(), cpu_matters=machine.cpu is not None)


@contextmanager
def _booted(session: Session, spec: "MachineSpec", share: Path | None) -> "Iterator[BuildMachine]":
    """Boot a machine, say on standard error what it is, and end it."""
    from buildvm_nb.model.instants import format_instant
    from buildvm_nb.study import open_machine

    progress = session.progress()
    guest = open_machine(
        spec, cache=session.cache(), progress=progress, share=share, on_note=session.note
    )
    with closing(guest):
        with progress.task(f"boot {guest.spec.cpu} at {format_instant(spec.date)}"):
            guest.boot()
        _tell_machine(session, guest)
        yield guest


def _tell_machine(session: Session, guest: "BuildMachine") -> None:
    from buildvm_nb.model.instants import format_instant

    found = guest.environment
    if session.as_json and not session.quiet:
        told = {"machine": guest.spec, "environment": found}
        write_error(json.dumps({key: value.model_dump(mode="json") for key, value in told.items()}))
    else:
        session.note(
            f"{format_instant(guest.spec.date)}, {found.cpu}, Linux {found.kernel_release}, "
            f"{found.accelerator} ({found.engine})"
        )
        if found.accelerator_reason:
            session.note(f"not KVM, as {found.accelerator_reason}")
        if lacking := found.cpu_features_lacking:
            session.note(f"of {found.cpu} the accelerator lacks {', '.join(lacking)}")


def _tell_end(session: Session, result: "CommandResult") -> None:
    """Say on standard error when a command ran by the guest's clock, and what the guest lacked."""
    from buildvm_nb.model.instants import format_instant

    started, ended = map(format_instant, (result.clock_started_at, result.clock_ended_at))
    if session.as_json and not session.quiet:
        told = {
            "exit_status": result.exit_status,
            "signal": result.signal,
            "timed_out": result.timed_out,
            "clock_started_at": started,
            "clock_ended_at": ended,
            "clock_drift_s": result.drift_s,
            "shortage": result.shortage,
        }
        write_error(json.dumps({"result": told}))
        return
    if result.drift_s is None:
        session.note(f"ran from {started} to {ended} by the guest's clock")
    else:
        second = format_instant(result.clock_started_at.replace(microsecond=0))
        strayed = f"it strayed by {result.drift_s:.2f} s at most"
        session.note(f"ran at {second}, the guest's clock held: {strayed}")
    if result.shortage:
        session.note(f"{result.shortage}: a failure says nothing about the command")


def _passing_on(stream: IO[bytes]) -> Callable[[bytes], None]:
    def pass_on(data: bytes) -> None:
        try:
            stream.write(data)
            stream.flush()
        except BrokenPipeError:  # nobody reads any more: no trouble of the machine
            discard_output()
            raise typer.Exit(ExitStatus.PIPE_CLOSED) from None

    return pass_on


def _standard_input() -> BinaryIO | None:
    """Return standard input where it is a pipe or a file.

    It is opened without a buffer of its own: a thread that waits in a buffered read when the
    process ends holds a lock that Python's shutdown wants.
    """
    try:
        mode = Path(f"/dev/fd/{_STDIN}").stat().st_mode
    except OSError:
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return None
    return open(_STDIN, "rb", buffering=0, closefd=False)


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
    *,
    hold: HoldOption = False,
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
    case, base = choose_case(
        source, words or [], machine.overrides().get("image"), session.catalog_place
    )
    case, overrides = limit_steps(case, machine.timeout_s()), machine.overrides(case.image)
    chosen_by: tuple[str, ...] = ()
    if environment is not None:
        session.trouble = ExitStatus.TROUBLE
        case, overrides, chosen_by = chosen_overrides(session, environment, case, base, overrides)
        session.trouble = ExitStatus.MACHINE
    if machine.dry_run:
        _show_command_line(session, case, overrides, base)
        return
    from buildvm_nb.study import build_case
    from buildvm_nb.study.executors import Means

    def tell(outcome: "Outcome", _is_known: bool) -> None:
        _show(session, outcome, _again(session, machine, outcome))

    session.trouble = ExitStatus.TROUBLE  # what the machine does is a verdict
    with session.catalog() as catalog:
        means = Means(
            cache=session.cache(),
            catalog=catalog,
            base=base,
            progress=session.progress(),
            on_outcome=tell,
        )
        outcome = build_case(
            case,
            means,
            overrides,
            chosen_by=chosen_by,
            output=pass_on if follow else None,
            held=hold,
        )
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
    """Pass what a step prints on to standard error."""
    sys.stderr.buffer.write(data)
    sys.stderr.flush()


def _show(session: Session, outcome: "Outcome", again: str) -> None:
    if session.as_json:
        write_json(outcome.model_dump(mode="json"))
    else:
        from buildvm_nb.cli.describe import outcome_fields

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
