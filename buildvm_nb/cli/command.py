"""How a command is made: its options and what completes them, its session, its exit status."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard, get_type_hints

import typer

from buildvm_nb.cli.output import discard_output, printable, write_error
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog
    from buildvm_nb.cli.forecast import ForecastOptions
    from buildvm_nb.cli.options import WorkOptions
    from buildvm_nb.host.cache import Cache
    from buildvm_nb.host.progress import Progress
    from buildvm_nb.study.executors import Means, OnOutcome

__all__ = [
    "SIGNAL_BASE",
    "Command",
    "ExitStatus",
    "GlobalOptions",
    "Session",
    "command",
    "complete_axis",
    "complete_case",
    "complete_cpu",
    "complete_hint_kind",
    "complete_kernel",
    "complete_machine",
    "complete_verdict",
    "new_group",
    "take_global_options",
]

# What the shell offers after TAB; never an error, never a traceback.

_WITHOUT_DATE = (("max", "all that the accelerator can do"), ("qemu64", "least common features"))


def complete_cpu(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer CPU models."""
    from buildvm_nb.model.machine import CPU_MODELS

    dated = ((model.name, f"{model.since:%Y-%m} {model.product}") for model in CPU_MODELS)
    for name, meaning in (*dated, *_WITHOUT_DATE):
        if name.casefold().startswith(incomplete.casefold()):
            yield name, meaning


def complete_kernel(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer kernels."""
    from buildvm_nb.errors import BuildVMError
    from buildvm_nb.host.cache import Cache
    from buildvm_nb.image import list_kernels

    try:
        kernels = list_kernels(Cache())
    except BuildVMError:
        return
    for kernel in kernels:
        if kernel.name.startswith(incomplete):
            yield kernel.name, kernel.release


def complete_case(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the curated cases; the shell itself offers files."""
    from buildvm_nb.catalog import curated_cases
    from buildvm_nb.errors import BuildVMError

    try:
        cases = curated_cases()
    except BuildVMError:
        return
    for name in cases:
        if name.startswith(incomplete):
            yield name, ""


def complete_machine(incomplete: str) -> Iterable[str]:
    """Offer machines that have a file or were started."""
    from buildvm_nb.service import Places, known_machines

    yield from (name for name in known_machines(Places.of_user()) if name.startswith(incomplete))


def complete_verdict(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer verdicts."""
    from buildvm_nb.model.outcome import Verdict

    return _beginning(incomplete, Verdict)


def complete_hint_kind(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer kinds of hints."""
    from buildvm_nb.model.finding import HintKind

    return _beginning(incomplete, HintKind)


def complete_axis(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the axes that a diagnosis can vary."""
    from buildvm_nb.model.finding import Axis

    return _beginning(incomplete, Axis)


def _beginning(incomplete: str, names: Iterable[str]) -> Iterable[tuple[str, str]]:
    return [(str(name), "") for name in names if name.startswith(incomplete)]


# Exit statuses, in one place.

SIGNAL_BASE = 128
"""Added to a signal's number, as shells do."""


class ExitStatus(IntEnum):
    """What ``buildvm`` tells its caller.

    ``buildvm run`` passes the guest command's own status through, so that `TIMED_OUT` and
    `MACHINE` follow what timeout(1) and container tools do.
    """

    DONE = 0
    """Done; for ``build``: the case passed."""
    TROUBLE = 1
    """The tool failed."""
    USAGE = 2
    """The request itself is wrong."""
    NOT_PASSED = 3
    """``build``: the case failed, crashed or ran out of time; ``catalog verify``: the evidence does
    not suffice for a claim."""
    NOT_RUNNING = 3
    """``machine status``: the machine is not running, as systemctl says it."""
    UNAVAILABLE = 4
    """``build``, ``diagnose``, ``catalog verify``: the source or an input cannot be had."""
    FAILS_TODAY = 5
    """``forecast``: the tests fail today, so there is nothing to foretell."""
    TIMED_OUT = 124
    """``run``: the command was ended at ``--timeout``."""
    MACHINE = 125
    """``run``, ``shell``, ``build``, ``catalog verify``: the machine or the host broke."""
    INTERRUPTED = 130
    """Ctrl-C."""
    PIPE_CLOSED = 141
    """Whoever read standard output has gone."""


# One call of ``buildvm``: its global options, and the doors to cache, catalog and progress.


@dataclass(kw_only=True)
class Session:
    """What holds for the whole call; commands get it, `buildvm_nb.cli.entry.main` reads it last."""

    argv: tuple[str, ...] = ()
    """The arguments, as the user wrote them."""
    cache_root: Path | None = None
    catalog_place: str | None = None
    as_json: bool = False
    quiet: bool = False
    trouble: ExitStatus = ExitStatus.TROUBLE
    """What to exit with when our machinery fails; commands that pass a status through differ."""

    def cache(self) -> "Cache":
        """Open the cache."""
        from buildvm_nb.host.cache import Cache

        return Cache(self.cache_root)

    def catalog(self, *, existing: bool = False) -> "Catalog":
        """Open the catalog.

        `existing`: whether a file that ``--catalog`` names must be there: a reader that makes an
        empty one would hide a mistyped name.
        Returns: that of ``--catalog``, ``$BUILDVM_CATALOG`` or the user; the caller closes it.
        """
        place = self.catalog_place
        if existing and place and "://" not in place and not Path(place).exists():
            raise UsageError(
                f"no such catalog: {place}", hint="`buildvm build --catalog FILE …` makes one"
            )
        from buildvm_nb.catalog import Catalog

        return Catalog(place, tell=self.warn)

    @contextmanager
    def telling_catalog(self) -> "Iterator[tuple[Catalog, str]]":
        """Open the catalog for a reader, or the curated findings where it is empty, and say so."""
        with ExitStack() as stack:
            own = stack.enter_context(self.catalog(existing=True))
            if any(own.counts().values()):
                yield own, own.name
                return
            from buildvm_nb.catalog.shelves import curated_catalog

            self.note(
                f"your catalog is empty: {own.name}; what follows is of the curated catalog that "
                "comes with buildvm"
            )
            yield stack.enter_context(curated_catalog()), "curated catalog of buildvm"

    def progress(self) -> "Progress":
        """Return what shows progress on standard error."""
        from buildvm_nb.host.progress import SILENT

        if self.quiet:
            return SILENT
        from buildvm_nb.cli.output import LineProgress, TerminalProgress

        on_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        return TerminalProgress() if on_terminal else LineProgress()

    @contextmanager
    def resumable(
        self, kept: str = "what has ended is recorded", *, scheduler: str | None = None
    ) -> Iterator[None]:
        """Tell who stops long work, by Ctrl-C or SIGTERM, how to go on with it."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.note(f"{kept}; the same command goes on from there")
            if scheduler is not None:
                self.note("workers finish the runs that they are at")
            raise

    @contextmanager
    def studying(
        self,
        work: "WorkOptions | ForecastOptions",
        base: Path,
        on_outcome: "OnOutcome | None" = None,
    ) -> "Iterator[Means]":
        """Lend what a study works with, and tell who stops it how to go on."""
        from buildvm_nb.study.executors import Means

        with self.catalog() as catalog, self.resumable(scheduler=work.scheduler):
            yield Means(
                cache=self.cache(),
                catalog=catalog,
                jobs=work.jobs,
                scheduler=work.scheduler,
                base=base,
                progress=self.progress(),
                on_outcome=on_outcome,
                fresh=work.fresh,
            )

    def warn(self, text: str) -> None:
        """Tell what nobody should miss in one line on standard error, also with ``--quiet``."""
        write_error(f"buildvm: warning: {printable(text)}")

    def settle(self) -> None:
        """Write out what is buffered, before another program takes the place of this process."""
        sys.stdout.flush()
        sys.stderr.flush()

    def note(self, text: str) -> None:
        """Tell something in one line on standard error, unless ``--quiet``."""
        if not self.quiet:
            write_error(f"buildvm: {printable(text)}")


# Commands whose options come in groups: a group is a dataclass, written once, used by many.
#
# A command is a function. A parameter annotated with a dataclass takes all options of that group,
# one with `Session` the call's session; the rest are the command's own. Every command takes the
# global options as well, so that they may stand before or after its name.


@dataclass(frozen=True, kw_only=True)
class GlobalOptions:
    """Options that every command takes."""

    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep images, kernels and sources here [BUILDVM_CACHE]."),
    ] = None
    catalog: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="Keep outcomes in this catalog [BUILDVM_CATALOG]."),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON; errors too.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no notes.")] = (
        False
    )

    def tell(self, session: Session) -> None:
        """Put what was given into the session; what was not given stays as it is.

        `session`: it is changed.
        """
        session.cache_root = self.cache or session.cache_root
        session.catalog_place = self.catalog or session.catalog_place
        session.as_json = self.json or session.as_json
        session.quiet = self.quiet or session.quiet


@dataclass(frozen=True, kw_only=True)
class Command:
    """A sub-command, ready to be added to a group."""

    name: str
    call: Callable[..., None]
    examples: tuple[str, ...]
    settings: dict[str, Any]

    def add_to(self, group: typer.Typer) -> None:
        """Make it a sub-command of a group.

        `group`: it is changed.
        """
        lines = "\n".join(["\b", "Examples:", *(f"  {example}" for example in self.examples)])
        group.command(self.name, epilog=lines, context_settings=self.settings)(self.call)


def command(
    name: str, *, examples: tuple[str, ...], takes_words: bool = False
) -> Callable[[Callable[..., None]], Command]:
    """Turn a function into a sub-command; its docstring is the help text."""

    def decorate(function: Callable[..., None]) -> Command:
        settings = {"allow_interspersed_args": not takes_words}
        return Command(name=name, call=_expand(function), examples=examples, settings=settings)

    return decorate


def new_group(help_text: str, *, topmost: bool = False) -> typer.Typer:
    """Return an empty group of sub-commands.

    Help and usage errors are plain text: drawing them would take longer than all else that
    ``--help`` does.
    """
    return typer.Typer(
        help=help_text,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=topmost,
    )


def take_global_options() -> Callable[..., None]:
    """Return the callback of the topmost group, which takes the global options."""

    def nothing() -> None: ...

    return _expand(nothing)


def _expand(function: Callable[..., None]) -> Callable[..., None]:
    """Write out a function's groups of options in a signature that typer understands."""
    own = inspect.signature(function).parameters.values()
    groups: dict[str, type[Any]] = {p.name: p.annotation for p in own if _is_group(p.annotation)}
    plain = [p for p in own if p.name not in groups and p.annotation is not Session]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in plain]
    for group in (*groups.values(), GlobalOptions):
        parameters += _parameters(group)
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    def call(*, context: typer.Context, **values: Any) -> None:  # noqa: ANN401 - typer's values
        session = context.ensure_object(Session)
        _pick(GlobalOptions, values).tell(session)
        arguments: dict[str, Any] = {name: _pick(group, values) for name, group in groups.items()}
        arguments |= {p.name: values[p.name] for p in plain}
        arguments |= {p.name: session for p in own if p.annotation is Session}
        try:
            function(**arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
            raise typer.Exit(ExitStatus.PIPE_CLOSED) from None

    call.__doc__ = function.__doc__
    call.__signature__ = inspect.Signature([*parameters, context])  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in (*parameters, context)}
    return call


def _is_group(annotation: object) -> TypeGuard[type[Any]]:
    return dataclasses.is_dataclass(annotation) and annotation is not Session


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def _pick(group: type[Any], values: dict[str, Any]) -> Any:  # noqa: ANN401 - an instance of it
    return group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
