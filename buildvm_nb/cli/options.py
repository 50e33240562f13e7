"""Commands whose options come in groups: a group is a dataclass, written once, used by many.

A command is a function. A parameter annotated with a dataclass takes all options of that group,
one with `Session` the call's session; the rest are the command's own. Every command takes the
global options as well, so that they may stand before or after its name.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeGuard, get_type_hints

import typer

from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.output import discard_output
from buildvm_nb.cli.session import Session

__all__ = ["Command", "GlobalOptions", "command", "new_group", "take_global_options"]


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

        Parameters
        ----------
        session : Session
            It is changed.
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

        Parameters
        ----------
        group : Typer
            It is changed.
        """
        lines = "\n".join(["\b", "Examples:", *(f"  {example}" for example in self.examples)])
        group.command(self.name, epilog=lines, context_settings=self.settings)(self.call)


def command(
    name: str, *, examples: tuple[str, ...], takes_words: bool = False
) -> Callable[[Callable[..., None]], Command]:
    """Turn a function into a sub-command; its docstring is the help text.

    Parameters
    ----------
    name : str
        What the user calls it.
    examples : tuple of str
        Command lines that work, shown by ``--help``.
    takes_words : bool
        Whether everything from the first argument on belongs to another command.

    Returns
    -------
    callable
        A decorator.
    """

    def decorate(function: Callable[..., None]) -> Command:
        settings = {"allow_interspersed_args": not takes_words}
        return Command(name=name, call=_expand(function), examples=examples, settings=settings)

    return decorate


def new_group(help_text: str, *, topmost: bool = False) -> typer.Typer:
    """Return an empty group of sub-commands.

    Help and usage errors are plain text: drawing them would take longer than all else that
    ``--help`` does.

    Parameters
    ----------
    help_text : str
        What the group is about.
    topmost : bool
        Whether it is the program itself, which installs shell completion.

    Returns
    -------
    Typer
        To be filled.
    """
    return typer.Typer(
        help=help_text,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=topmost,
    )


def take_global_options() -> Callable[..., None]:
    """Return the callback of the topmost group, which takes the global options.

    Returns
    -------
    callable
        For `Typer.callback`.
    """

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
