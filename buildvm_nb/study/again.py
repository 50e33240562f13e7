"""The words of a command line that build a case in a machine like another one."""

import shlex

from buildvm_nb.catalog import curated_cases, load_case
from buildvm_nb.errors import BuildVMError
from buildvm_nb.model.case import Case
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import ImageSpec, MachineSpec

__all__ = ["build_command", "image_options", "is_curated", "machine_options"]


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
    words = ["--date", format_instant(machine.date), "--cpu", machine.cpu]
    words += ["--kernel", machine.kernel, "--accelerator", machine.accelerator.value]
    if machine.cpu_count != case.limits.cpu_count:
        words += ["--cpu-count", str(machine.cpu_count)]
    if machine.memory_mib != case.limits.memory_mib:
        words += ["--memory", str(machine.memory_mib)]
    if machine.network.value != "off":
        words += ["--network", machine.network.value]
    return words


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
