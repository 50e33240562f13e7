"""The words of a command line that build a case in a machine like another one."""

import shlex
from collections.abc import Mapping
from typing import Any

from buildvm_nb.catalog import curated_cases, load_case
from buildvm_nb.errors import BuildVMError, UsageError
from buildvm_nb.model.case import Case
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import ImageSpec, MachineSpec, Network

__all__ = ["build_command", "field_options", "image_options", "is_curated", "machine_options"]

_OPTIONS = {
    "date": "--date",
    "cpu": "--cpu",
    "kernel": "--kernel",
    "accelerator": "--accelerator",
    "cpu_count": "--cpu-count",
    "memory_mib": "--memory",
    "network": "--network",
}
_IN_CASE = ("cpu_count", "memory_mib")


def build_command(case: Case, machine: MachineSpec) -> str:
    """Write the command that builds a case again.

    Parameters
    ----------
    case : Case
        Any; one that is not curated is taken to be in a case file of its id.
    machine : MachineSpec
        Where.

    Returns
    -------
    str
        For a shell.
    """
    name = case.id if is_curated(case) else f"{case.id}.toml"
    words = ["buildvm", "build", name, *machine_options(case, machine)]
    if machine.image != case.image:
        words += image_options(machine.image)
    return shlex.join(words)


def machine_options(case: Case, machine: MachineSpec) -> list[str]:
    """Return the options that make ``buildvm build`` take a machine.

    Parameters
    ----------
    case : Case
        What it says itself needs no option.
    machine : MachineSpec
        The machine; its image has options of its own.

    Returns
    -------
    list of str
        Words.
    """
    fields = {name: getattr(machine, name) for name in _OPTIONS}
    if machine.network is Network.OFF:
        del fields["network"]
    return field_options(case, fields)


def field_options(case: Case, fields: Mapping[str, Any]) -> list[str]:
    """Return the options that give a study's or a build's machines these fields.

    Parameters
    ----------
    case : Case
        What it says itself needs no option.
    fields : mapping
        Fields of `MachineSpec`; those that are left out stay left out.

    Returns
    -------
    list of str
        Words.

    Raises
    ------
    UsageError
        If a field is wrong, or no option gives it.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    spec = MachineSpec.parse(given)
    if strange := sorted(given.keys() - {*_OPTIONS, "image"}):
        raise UsageError(
            f"no option gives {', '.join(strange)}; allowed: {', '.join(_OPTIONS)}, image"
        )
    words = []
    for name, option in _OPTIONS.items():
        value = getattr(spec, name)
        if name in given and not (name in _IN_CASE and value == getattr(case.limits, name)):
            words += [option, format_instant(value) if name == "date" else str(value)]
    is_other = "image" in given and spec.image != case.image
    return [*words, *(image_options(spec.image) if is_other else [])]


def image_options(image: ImageSpec) -> list[str]:
    """Return the options that make ``buildvm build`` take an image.

    Parameters
    ----------
    image : ImageSpec
        The image.

    Returns
    -------
    list of str
        Words.
    """
    return ["--image", str(image), *(["--mirror", image.mirror] if image.mirror else [])]


def is_curated(case: Case) -> bool:
    """Tell whether the curated catalog has a case as it is.

    Parameters
    ----------
    case : Case
        Any.

    Returns
    -------
    bool
        False also if the one of its id builds something else.
    """
    try:
        path = curated_cases().get(case.id)
        return path is not None and load_case(path).build_digest() == case.build_digest()
    except BuildVMError:
        return False
