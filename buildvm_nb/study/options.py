"""The options of machines and studies: what each is called, how it is read, what is allowed.

Commands, panels, batches and functions take the same options, some under names of their own; each
has its reader here alone.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.image import list_kernels
from buildvm_nb.model.finding import Axis
from buildvm_nb.model.instants import LATEST_CLOCK, format_instant, from_now, parse_instant
from buildvm_nb.model.machine import ImageSpec, MachineSpec
from buildvm_nb.study import axes
from buildvm_nb.study.questions import DEFAULT_AXES, Questions
from buildvm_nb.study.sweep import Grid
from buildvm_nb.vm import find_emulator

__all__ = [
    "OPTIONS",
    "read_duration",
    "read_grid",
    "read_option",
    "read_questions",
    "write_option",
]

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_COARSEST_S = 3650 * 86_400
_NAMED_AXES = ("date", "cpu", "kernel", "cores", "timezone", "commit")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option, whoever takes it."""

    word: str
    """On a command line."""
    label: str
    """In a panel."""
    read: Callable[[str], Any]
    """Reads its text; what is no text is written as such first."""
    axis: str = ""
    """The axis of a diagnosis without which it says nothing."""


def read_option(
    field: str, given: object, called: str = "", read: Callable[[str], Any] | None = None
) -> Any:  # noqa: ANN401 - its value
    """Read what somebody gave as an option.

    `given`: text; a value, or several, that could be written as such; None: nothing.
    `called`: the option's name where it was given; messages begin with it.
    `read`: in place of the option's own reader.
    """
    if given is None:
        return None
    try:
        return (read or OPTIONS[field].read)(write_option(given))
    except UsageError as error:
        named = re.sub(r"(?m)^[A-Z]\w+(\.\w+)+: ", "", error.message)
        raise UsageError(f"{called or field}: {named}", hint=error.hint) from error


def read_grid(
    given: Mapping[str, object], cache: Cache, *, names: Mapping[str, str] | None = None
) -> Grid:
    """Read the axes of a grid.

    `given`: by the name of a field of `Grid`; None, and a field that is not in it: nothing.
    `names`: what the fields are called where they were given.
    """
    readers: dict[str, Callable[[str], Any]] = {
        "cpus": lambda text: axes.parse_cpus(text, _known_models(cache, text)),
        "kernels": lambda text: axes.parse_kernels(text, _known_kernels(cache, text)),
    }
    values = {}
    for axis in Grid.model_fields:
        if (value := given.get(axis)) is not None:
            called = (names or {}).get(axis, axis)
            values[axis] = read_option(axis, value, called, readers.get(axis))
    return Grid.parse(values)


def read_questions(
    given: Mapping[str, object], cache: Cache, *, names: Mapping[str, str] | None = None
) -> Questions:
    """Read what somebody asks of a diagnosis.

    `given`: by the name of a field of `Questions`; None, and a field that is not in it: what is
    the diagnosis' own.
    `names`: what the fields are called where they were given.
    Raises `UsageError` if a text is invalid, or an option is about an axis that is not studied.
    """
    called = {field: (names or {}).get(field, field) for field in (*given, "axes", "good", "bad")}
    asked = {field: value for field, value in given.items() if value not in (None, "", ())}
    read = {
        field: read_option(field, value, called[field])
        for field, value in asked.items()
        if field not in {"cpus", "kernels", "cores", "use_hints"}
    }
    both = {"good", "bad"} <= read.keys()
    chosen = read["axes"] = read.get("axes") or ((Axis.COMMIT,) if both else DEFAULT_AXES)
    for field, value in asked.items():
        axis = OPTIONS[field].axis
        if axis and axis not in chosen and value is not True:  # that hints are used is no wish
            raise UsageError(f"{called[field]} says nothing without {called['axes']} {axis}")
    if Axis.COMMIT in chosen and not both:
        raise UsageError(
            f"{called['axes']} commit needs both ends: {called['good']} and {called['bad']}",
            hint="for example v1.0 and main; either may be the older one",
        )
    first, last = read.get("first"), read.get("last")
    if first and last and first >= last:
        told = f"{called['first']} {given['first']} {called['last']} {given['last']}"
        raise UsageError(f"the dates end before they begin: {told}")
    more = {name: values for name, values in read_grid(asked, cache, names=names) if values}
    hints = {"use_hints": asked["use_hints"]} if "use_hints" in asked else {}
    return Questions(**{**read, **more, **hints})


def read_duration(text: str, longest_s: int = _COARSEST_S, units: str = "smhd") -> int:
    """Read a time: a number of seconds, or with a unit.

    Returns: seconds, from 1 to `longest_s`.
    """
    match = re.fullmatch(rf"(\d{{1,9}})([{units}]?)", text)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 1 <= seconds <= longest_s:
        examples = ", ".join(f"{30 if unit == 's' else 1}{unit}" for unit in units)
        raise UsageError(
            f"not a time: {text!r}; allowed: 1, {examples}, from one second to "
            f"{longest_s // 86_400} days"
        )
    return seconds


def write_option(given: object) -> str:
    """Write a value as people would."""
    if isinstance(given, str):
        return given
    if isinstance(given, datetime):
        return format_instant(given)
    return ",".join(map(write_option, given)) if isinstance(given, Iterable) else str(given)


def _date(text: str) -> datetime:
    """Read one date: an instant, a year or a month."""
    dates = axes.parse_dates(text)
    if len(dates) != 1 or dates[0].microsecond:
        raise UsageError(f"not one date with a whole second: {text!r}")
    return dates[0]


def _clock(text: str) -> datetime:
    """Read what a guest's clock shows: an instant, or a distance from now."""
    distant = from_now(text)
    return parse_instant(format_instant(distant) if distant else text, latest=LATEST_CLOCK)


def _count(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise UsageError(f"not a number: {text!r}; allowed: {least} and more")
    return int(text)


def _axes(text: str) -> tuple[Axis, ...]:
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in _NAMED_AXES:
            allowed = ", ".join(_NAMED_AXES)
            raise UsageError(f"unknown axis: {name!r}; allowed: {allowed}")
    return tuple(Axis(name) for name in dict.fromkeys(names))


def _memory(text: str) -> int:
    if not re.fullmatch(r"\d+\s*(M|MiB|G|GiB)?", text):
        raise UsageError(f"not a size: {text!r}; allowed: 1024 (MiB), 512M or 2G")
    return MachineSpec.parse({"memory_mib": text}).memory_mib


def _kernel(text: str) -> str:
    if "/" in text:
        return str(Path(text).absolute())
    if text.startswith("debian:"):
        return MachineSpec.parse({"kernel": text}).kernel
    raise UsageError(
        f"unknown kernel: {text!r}; allowed: debian:SUITE or a directory's path",
        hint=f"did you mean debian:{text}? `buildvm kernels` lists them",
    )


def _image(text: str) -> ImageSpec:
    if ":" not in text:
        raise UsageError(
            f"not an image: {text!r}; allowed: debian:SUITE[,PACKAGE…]",
            hint=f"did you mean debian:{text}?",
        )
    return ImageSpec.parse(text)


def _of_machine(field: str, text: str) -> Any:  # noqa: ANN401 - a field of the machine
    return getattr(MachineSpec.parse({field: text}), field)


def _option(word: str, label: str, read: Callable[[str], Any], axis: str = "") -> Option:
    return Option(word=word, label=label, read=read, axis=axis)


OPTIONS: dict[str, Option] = {
    # of a machine
    "date": _option("--date", "Date", _clock),
    "cpu": _option("--cpu", "CPU", partial(_of_machine, "cpu")),
    "kernel": _option("--kernel", "Kernel", _kernel),
    "accelerator": _option("--accelerator", "Accelerator", partial(_of_machine, "accelerator")),
    "cpu_count": _option("--cpu-count", "Cores", partial(_of_machine, "cpu_count")),
    "memory_mib": _option("--memory", "Memory", _memory),
    "network": _option("--network", "Network", partial(_of_machine, "network")),
    "image": _option("--image", "Image", _image),
    # of a grid
    "dates": _option("--dates", "Dates", axes.parse_dates),
    "cpus": _option("--cpus", "CPUs", partial(axes.parse_cpus, known=()), "cpu"),
    "kernels": _option("--kernels", "Kernels", partial(axes.parse_kernels, known=()), "kernel"),
    "cores": _option("--cores", "Cores", axes.parse_cores, "cores"),
    "commits": _option("--commits", "Commits", axes.parse_commits),
    # of a diagnosis
    "axes": _option("--axis", "Vary", _axes),
    "first": _option("--from", "From", _date, "date"),
    "last": _option("--to", "To", _date, "date"),
    "resolution_s": _option("--resolution", "Resolution", read_duration, "date"),
    "repeats": _option("--repeats", "Repeats", partial(_count, least=0)),
    "effort": _option("--effort", "Effort", str),
    "budget": _option("--budget", "Budget", partial(_count, least=1)),
    "use_hints": _option("--no-hints", "Hints", str, "date"),
    "good": _option("--good", "Good", str, "commit"),
    "bad": _option("--bad", "Bad", str, "commit"),
    # of a table in a catalog
    "since": _option("--since", "Since", _date),
    "until": _option("--until", "Until", _date),
}
"""By the name of the field that it sets."""


def _known_models(cache: Cache, text: str) -> frozenset[str]:
    """Return QEMU's models; where none are asked for as a set, a host without QEMU will do."""
    if axes.CPU_SETS.isdisjoint(part.strip() for part in text.split(",")):
        return frozenset()
    return find_emulator(cache.root).models


def _known_kernels(cache: Cache, text: str) -> list[str]:
    """Return the names of kernels; where they are named, nobody has to be asked."""
    if "all" not in (part.strip() for part in text.split(",")):
        return []
    return [each.name for each in list_kernels(cache)]
