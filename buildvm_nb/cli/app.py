"""The commands of ``buildvm``, put together."""

from collections.abc import Iterable

import typer

from buildvm_nb.cli.build import CASE_COMMANDS, build, environment, run, shell
from buildvm_nb.cli.catalog import CARE_COMMANDS, CATALOG_COMMANDS, report
from buildvm_nb.cli.command import Command, new_group, take_global_options
from buildvm_nb.cli.curated import CURATED_COMMANDS
from buildvm_nb.cli.diagnose import diagnose
from buildvm_nb.cli.forecast import forecast, scan
from buildvm_nb.cli.guix import GUIX_COMMANDS
from buildvm_nb.cli.host import CACHE_COMMANDS, IMAGE_COMMANDS, cpus, doctor, kernels
from buildvm_nb.cli.machine import MACHINE_COMMANDS
from buildvm_nb.cli.sweep import batch, sweep

__all__ = ["COMMANDS", "app"]

_PURPOSE = """\
When, on which CPU and on which kernel does this software stop building?

Runs commands and builds cases in virtual machines whose date, CPU and kernel you choose.
"""

_PLAIN = (
    doctor,
    run,
    shell,
    build,
    environment,
    diagnose,
    sweep,
    batch,
    forecast,
    scan,
    report,
    cpus,
    kernels,
)

COMMANDS: dict[str, tuple[str, tuple[Command, ...]]] = {
    "": (_PURPOSE, _PLAIN),
    "image": ("Root file systems that machines boot from.", IMAGE_COMMANDS),
    "cache": ("What was fetched and made, kept for the next time.", CACHE_COMMANDS),
    "case": ("Case files: what to build, and what a pass looks like.", CASE_COMMANDS),
    "machine": ("Named virtual build machines that stay.", MACHINE_COMMANDS),
    "guix": ("Guix's virtual build machines: their secrets and their values.", GUIX_COMMANDS),
    "catalog": (
        "Outcomes: what was built, and what came of it. Curated cases: what is known.",
        (*CATALOG_COMMANDS, *CARE_COMMANDS, *CURATED_COMMANDS),
    ),
}
"""Each group's name, help text and commands; the nameless one is ``buildvm`` itself."""


def _filled(group: typer.Typer, commands: Iterable[Command]) -> typer.Typer:
    for command in commands:
        command.add_to(group)
    return group


def _make_app() -> typer.Typer:
    help_text, commands = COMMANDS[""]
    whole = _filled(new_group(help_text, topmost=True), commands)
    whole.callback(help=help_text)(take_global_options())
    for name, (text, members) in COMMANDS.items():
        if name:
            whole.add_typer(_filled(new_group(text), members), name=name)
    return whole


app = _make_app()
"""The whole program."""
