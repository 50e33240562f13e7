"""The commands of ``buildvm``, put together."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from buildvm_nb.cli.command import Command, new_group, take_global_options

__all__ = ["app", "commands"]

_PURPOSE = """\
When, on which CPU and on which kernel does this software stop building?

Runs commands and builds cases in virtual machines whose date, CPU and kernel you choose.
"""

_PLAIN = {
    "doctor": ("Tell what this host can do and what is missing.", "host:doctor"),
    "run": ("Run a command in a virtual build machine.", "build:run"),
    "shell": ("Open a shell in a virtual build machine.", "build:shell"),
    "build": ("Build a case in a machine and record the outcome.", "build:build"),
    "environment": ("Tell where something was shown to build.", "build:environment"),
    "diagnose": ("Find out at which date, CPU or kernel a case breaks.", "diagnose:diagnose"),
    "sweep": ("Run a case over dates, CPUs, kernels, cores and commits.", "sweep:sweep"),
    "batch": ("Run a table of parameter sets through a notebook.", "sweep:batch"),
    "forecast": ("Tell which day breaks what in a project.", "forecast:forecast"),
    "scan": ("List what in a source tree carries dates or asks for a CPU.", "forecast:scan"),
    "report": ("Report what the catalog knows: what breaks when and where.", "catalog:report"),
    "cpus": ("List CPU models and when they went on sale.", "host:cpus"),
    "kernels": ("List the kernels that guests can run, and fetch them.", "host:kernels"),
}
"""Of each command of no group the first line of its help text, and where it is."""

_GROUPS = {
    "image": ("Root file systems that machines boot from.", "host:IMAGE_COMMANDS"),
    "cache": ("What was fetched and made, kept for the next time.", "host:CACHE_COMMANDS"),
    "case": ("Case files: what to build, and what a pass looks like.", "build:CASE_COMMANDS"),
    "machine": ("Named virtual build machines that stay.", "machine:MACHINE_COMMANDS"),
    "guix": (
        "Guix's virtual build machines: their secrets and their values.",
        "guix:GUIX_COMMANDS",
    ),
    "catalog": (
        "Outcomes: what was built, and what came of it. Curated cases: what is known.",
        "catalog:CATALOG_COMMANDS catalog:CARE_COMMANDS curated:CURATED_COMMANDS",
    ),
}
"""Of each group its help text, and where its commands are."""


def commands() -> dict[str, tuple[str, tuple[Command, ...]]]:
    """Return each group's help text and commands; the nameless one is ``buildvm`` itself."""
    plain = tuple(_found(place) for _, place in _PLAIN.values())
    return {"": (_PURPOSE, plain)} | {
        name: (text, _members(name)) for name, (text, _) in _GROUPS.items()
    }


def _found(place: str) -> Any:  # noqa: ANN401 - a command or several
    module, _, name = place.partition(":")
    return getattr(import_module(f"buildvm_nb.cli.{module}"), name)


def _members(group: str) -> tuple[Command, ...]:
    return sum((_found(place) for place in _GROUPS[group][1].split()), ())


# A call uses one command; importing and making all of them took half the time of `buildvm --help`.


class _Topmost(TyperGroup):
    """Makes a command of no group when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - click's, which typer hides
        return [*_PLAIN, *_GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        wanted = [cmd_name] if cmd_name in _PLAIN else _PLAIN  # a mistyped name is like any of them
        for name in () if cmd_name in _GROUPS else wanted:
            if name not in self.commands:
                single = new_group("")
                _found(_PLAIN[name][1]).add_to(single)
                self.commands[name] = get_command(single)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        table = (_PLAIN | _GROUPS).items()
        rows = [(name, text[: text.index(".") + 1]) for name, (text, _) in table]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Group(TyperGroup):
    """Makes its commands when it is asked for one."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        self._make()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        self._make()
        return super().get_command(ctx, cmd_name)

    def _make(self) -> None:
        if not self.commands and self.name:
            group = new_group("")
            for command in _members(self.name):
                command.add_to(group)
            self.commands = get_group(group).commands


def _make_app() -> typer.Typer:
    whole = new_group(_PURPOSE, topmost=True)
    whole.callback(help=_PURPOSE, cls=_Topmost)(take_global_options())
    for name, (text, _) in _GROUPS.items():
        whole.add_typer(new_group(text), name=name, cls=_Group)
    return whole


app = _make_app()
"""The whole program."""
