"""The words of a command line that build a case in a machine like another one."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildvm_nb.catalog import curated_cases, load_case
from buildvm_nb.errors import BuildVMError, HostError, UsageError
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import ImageSpec, MachineSpec, Network
from buildvm_nb.study.options import OPTIONS, write_option
from buildvm_nb.study.questions import Questions

__all__ = [
    "batch_notebook",
    "build_command",
    "field_options",
    "image_options",
    "is_curated",
    "machine_options",
    "question_options",
    "settled",
    "uncurated",
]

_OPTIONS = {
    name: OPTIONS[name].word
    for name in ("date", "cpu", "kernel", "accelerator", "cpu_count", "memory_mib", "network")
}
_ASKED = (
    *("axes", "good", "bad", "first", "last", "resolution_s", "repeats", "effort", "budget"),
    *("cpus", "kernels", "cores"),
)
_IN_CASE = ("cpu_count", "memory_mib")


def build_command(case: Case, machine: MachineSpec, name: str) -> str:
    """Write the command that builds a case again."""
    words = ["buildvm", "build", name, *machine_options(case, machine)]
    if machine.image != case.image:
        words += image_options(machine.image)
    return shlex.join(words)


def machine_options(case: Case, machine: MachineSpec) -> list[str]:
    """Return the options that make ``buildvm build`` take a machine."""
    fields = {name: getattr(machine, name) for name in _OPTIONS}
    if machine.network is Network.OFF:
        del fields["network"]
    return field_options(case, fields)


def field_options(case: Case, fields: Mapping[str, Any]) -> list[str]:
    """Return the options that give a study's or a build's machines these fields.

    `fields`: fields of `MachineSpec`; those that are left out stay left out.
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
            words += [option, write_option(value)]
    is_other = "image" in given and spec.image != case.image
    return [*words, *(image_options(spec.image) if is_other else [])]


def question_options(asked: Questions) -> list[str]:
    """Return the options that make ``buildvm diagnose`` ask this."""
    words, usual = [] if asked.use_hints else [OPTIONS["use_hints"].word], Questions()
    for name in _ASKED:
        value = getattr(asked, name)
        if value != getattr(usual, name):
            values = value if name == "axes" else [write_option(value)]
            words += [word for one in values for word in (OPTIONS[name].word, str(one))]
    return words


def image_options(image: ImageSpec) -> list[str]:
    """Return the options that make ``buildvm build`` take an image."""
    return ["--image", str(image), *(["--mirror", image.mirror] if image.mirror else [])]


def is_curated(case: Case) -> bool:
    """Tell whether the curated catalog has a case as it is."""
    try:
        path = curated_cases().get(case.id)
        return path is not None and load_case(path).build_digest() == case.build_digest()
    except BuildVMError:
        return False


def uncurated(case: Case) -> Case:
    """Return a case that is not taken for a curated one: where it builds something else.

    Returns: under another id, where a curated case that builds something else has its own.
    """
    if case.id not in curated_cases() or is_curated(case):
        return case
    return case.model_copy(update={"id": f"{case.id}-own"})


def settled(case: Case, machine: MachineSpec) -> Case:
    """Return a case that says by itself in which image, and how big a machine, it was built."""
    sizes = {"memory_mib": machine.memory_mib, "cpu_count": machine.cpu_count}
    limits = case.limits.model_copy(update=sizes)
    return uncurated(case.model_copy(update={"image": machine.image, "limits": limits}))


def batch_notebook() -> Path:
    """Return the notebook that comes with buildvm-nb."""
    package = Path(__file__).parents[1]
    for place in (package / "_notebooks", package.parent / "notebooks"):
        if (place / "batch.ipynb").is_file():  # the first in a wheel, the second in a checkout
            return place / "batch.ipynb"
    raise HostError(
        f"batch.ipynb is not installed: sought in {package / '_notebooks'}",
        hint="install buildvm-nb again, or name a notebook of your own",
    )
