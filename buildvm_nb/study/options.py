"""The options of machines and studies: what each is called, how it is read, what it is about.

Commands, panels, batches and functions take the same options, some under names of their own; each
has its name, its reader and its words here alone. Help pages are made of this table, so that all
that reading takes is imported when something is read.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.host.cache import Cache
    from buildvm_nb.model.finding import Axis
    from buildvm_nb.model.machine import ImageSpec
    from buildvm_nb.study.questions import Questions
    from buildvm_nb.study.sweep import Grid

__all__ = [
    "OPTIONS",
    "Option",
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
    metavar: str = ""
    """What its value is, or which ones are allowed; empty: it has none."""
    about: str = ""
    """What it says, for help pages and panels."""
    left_out: str = ""
    """What holds where it is left out."""
    in_study: str = ""
    """What a help page says where a study makes more of it, or chooses it itself."""
    axis: str = ""
    """The axis of a diagnosis without which it says nothing."""

    @property
    def help(self) -> str:
        """What a help page says."""
        return f"{self.about} Left out: {self.left_out}.".lstrip() if self.left_out else self.about


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
    given: Mapping[str, object], cache: "Cache", *, names: Mapping[str, str] | None = None
) -> "Grid":
    """Read the axes of a grid.

    `given`: by the name of a field of `Grid`; None, and a field that is not in it: nothing.
    `names`: what the fields are called where they were given.
    """
    from buildvm_nb.study import axes
    from buildvm_nb.study.sweep import Grid

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
    given: Mapping[str, object], cache: "Cache", *, names: Mapping[str, str] | None = None
) -> "Questions":
    """Read what somebody asks of a diagnosis.

    `given`: by the name of a field of `Questions`; None, and a field that is not in it: what is
    the diagnosis' own.
    `names`: what the fields are called where they were given.
    Raises `UsageError` if a text is invalid, or an option is about an axis that is not studied.
    """
    from buildvm_nb.model.finding import Axis
    from buildvm_nb.study.questions import DEFAULT_AXES, Questions

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
        from buildvm_nb.model.instants import format_instant

        return format_instant(given)
    return ",".join(map(write_option, given)) if isinstance(given, Iterable) else str(given)


# The readers. They import what reading takes.


def _list(kind: str, **known: Any) -> Callable[[str], Any]:  # noqa: ANN401 - what may be named
    """Return the reader of an axis' values, as `buildvm_nb.study.axes` has it."""

    def read(text: str) -> Any:  # noqa: ANN401 - of that axis
        from buildvm_nb.study import axes

        return getattr(axes, f"parse_{kind}")(text, **known)

    return read


def _date(text: str) -> datetime:
    """Read one date: an instant, a year or a month."""
    dates: tuple[datetime, ...] = _list("dates")(text)
    if len(dates) != 1 or dates[0].microsecond:
        raise UsageError(f"not one date with a whole second: {text!r}")
    return dates[0]


def _clock(text: str) -> datetime:
    """Read what a guest's clock shows: an instant, or a distance from now."""
    from buildvm_nb.model.instants import LATEST_CLOCK, format_instant, from_now, parse_instant

    distant = from_now(text)
    return parse_instant(format_instant(distant) if distant else text, latest=LATEST_CLOCK)


def _count(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise UsageError(f"not a number: {text!r}; allowed: {least} and more")
    return int(text)


def _axes(text: str) -> "tuple[Axis, ...]":
    from buildvm_nb.model.finding import Axis

    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in _NAMED_AXES:
            allowed = ", ".join(_NAMED_AXES)
            raise UsageError(f"unknown axis: {name!r}; allowed: {allowed}")
    return tuple(Axis(name) for name in dict.fromkeys(names))


def _memory(text: str) -> int:
    if not re.fullmatch(r"\d+\s*(M|MiB|G|GiB)?", text):
        raise UsageError(f"not a size: {text!r}; allowed: 1024 (MiB), 512M or 2G")
    size: int = _of_machine("memory_mib", text)
    return size


def _kernel(text: str) -> str:
    if "/" in text:
        return str(Path(text).absolute())
    if text.startswith("debian:"):
        return str(_of_machine("kernel", text))
    raise UsageError(
        f"unknown kernel: {text!r}; allowed: debian:SUITE or a directory's path",
        hint=f"did you mean debian:{text}? `buildvm kernels` lists them",
    )


def _image(text: str) -> "ImageSpec":
    from buildvm_nb.model.machine import ImageSpec

    if ":" not in text:
        raise UsageError(
            f"not an image: {text!r}; allowed: debian:SUITE[,PACKAGE…]",
            hint=f"did you mean debian:{text}?",
        )
    return ImageSpec.parse(text)


def _of_machine(field: str, text: str) -> Any:  # noqa: ANN401 - a field of the machine
    from buildvm_nb.model.machine import MachineSpec

    return getattr(MachineSpec.parse({field: text}), field)


def _known_models(cache: "Cache", text: str) -> frozenset[str]:
    """Return QEMU's models; where none are asked for as a set, a host without QEMU will do."""
    from buildvm_nb.study.axes import CPU_SETS
    from buildvm_nb.vm import find_emulator

    if CPU_SETS.isdisjoint(part.strip() for part in text.split(",")):
        return frozenset()
    return find_emulator(cache.root).models


def _known_kernels(cache: "Cache", text: str) -> list[str]:
    """Return the names of kernels; where they are named, nobody has to be asked."""
    from buildvm_nb.image import list_kernels

    if "all" not in (part.strip() for part in text.split(",")):
        return []
    return [each.name for each in list_kernels(cache)]


# The table.

OPTIONS: dict[str, Option] = {
    # of a machine
    "date": Option(
        word="--date",
        label="Date",
        read=_clock,
        metavar="DATE",
        about="What the guest's clock shows: 2019-05-01 (midnight UTC), 2019-05-01T12:30:00Z, "
        "now, today, +16y or -2w from now (y, m, w, d).",
        left_out="the commit's date for a case that has one, else the present",
        in_study="Without --axis date: what all clocks show. Left out: the case's own date, and "
        "today.",
    ),
    "cpu": Option(
        word="--cpu",
        label="CPU",
        read=partial(_of_machine, "cpu"),
        metavar="MODEL",
        about="QEMU's CPU model, with features added or taken away: Westmere, Haswell,-avx2.",
        left_out="a model that was current at the date; see `buildvm cpus`",
        in_study="Begin with this CPU at all dates. Left out: that of the case's own date and "
        "today's.",
    ),
    "cpu_count": Option(
        word="--cpu-count",
        label="Cores",
        read=partial(_of_machine, "cpu_count"),
        metavar="N",
        about="Virtual CPUs.",
        left_out="1, whatever this host has: what needs several threads at once, or races, shows "
        "only with 2 or more",
        in_study="Virtual CPUs. Left out: the case's, else 1.",
    ),
    "memory_mib": Option(
        word="--memory",
        label="Memory",
        read=_memory,
        metavar="SIZE",
        about="Memory in MiB, or 2G.",
        left_out="1024",
        in_study="Memory of each guest: MiB, or 2G.",
    ),
    "kernel": Option(
        word="--kernel",
        label="Kernel",
        read=_kernel,
        metavar="NAME",
        about="debian:SUITE, or a directory with vmlinuz and modules/; see `buildvm kernels`.",
        left_out="debian:bookworm",
        in_study="Begin with this kernel. Left out: debian:bookworm.",
    ),
    "accelerator": Option(
        word="--accelerator",
        label="Accelerator",
        read=partial(_of_machine, "accelerator"),
        metavar="auto|kvm|tcg|uml",
        about="What executes the guest: KVM; QEMU's emulation, which enforces the CPU model; or "
        "user-mode Linux, fast without KVM, on the host's CPU (needs bubblewrap).",
        left_out="auto, KVM where it is proven to work, else emulation",
        in_study="Left out: auto; emulation where CPUs are given, else KVM where it works.",
    ),
    "image": Option(
        word="--image",
        label="Image",
        read=_image,
        metavar="IMAGE",
        about="Root file system: debian:SUITE, with packages debian:bookworm,gcc,make.",
        left_out="the case's, else debian:bookworm",
        in_study="debian:SUITE[,PACKAGE…].",
    ),
    "packages": Option(
        word="--package",
        label="Packages",
        read=str,
        metavar="NAME",
        about="Add a Debian package to the image; repeatable.",
    ),
    "mirror": Option(
        word="--mirror",
        label="Mirror",
        read=str,
        metavar="URL",
        about="Package mirror of the image, such as a dated archive.",
        in_study="Package mirror, such as a dated archive.",
    ),
    "network": Option(
        word="--network",
        label="Network",
        read=partial(_of_machine, "network"),
        metavar="off|restricted|user",
        about="What the guest reaches: nothing, only what is forwarded to it, or what this host "
        "reaches.",
        left_out="off",
        in_study="What the guest reaches. Left out: off.",
    ),
    "timeout": Option(
        word="--timeout",
        label="Timeout",
        read=partial(read_duration, longest_s=7 * 86_400, units="smh"),
        metavar="TIME",
        about="End a command or step after that time: 90, 90s, 10m, 2h.",
        in_study="End a step after that time: 90, 90s, 10m, 2h.",
    ),
    # of a grid; in a study that chooses what it compares, what else
    "dates": Option(
        word="--dates",
        label="Dates",
        read=_list("dates"),
        metavar="DATES",
        about="2018..2030/1Y, 2020-01-01..2021-01-01/1M, a list with commas, or both mixed; steps "
        "in Y, M, W, D, H.",
        left_out="the commit's date, else today",
    ),
    "cpus": Option(
        word="--cpus",
        label="CPUs",
        read=_list("cpus", known=()),
        metavar="MODELS",
        about="A list with commas; a part that begins with + or - changes the model before it: "
        "Westmere,Haswell,-cx16 are two. x86-64-by-year: one model per year; all: every model "
        "with a date.",
        left_out="the one current at the commit's date, for all dates",
        in_study="More CPUs to try: a list with commas, all, or x86-64-by-year, as `buildvm sweep` "
        "takes it.",
        axis="cpu",
    ),
    "kernels": Option(
        word="--kernels",
        label="Kernels",
        read=_list("kernels", known=()),
        metavar="NAMES",
        about="A list with commas, or all: see `buildvm kernels`.",
        in_study="Kernels to try beside the case's own, in place of one for each series of "
        "Debian's: a list with commas, or all.",
        axis="kernel",
    ),
    "cores": Option(
        word="--cores",
        label="Cores",
        read=_list("cores"),
        metavar="NUMBERS",
        about="Virtual CPUs: 1,2,4.",
        left_out="1",
        in_study="Virtual CPUs to try with --axis cores. Left out: 1,2,4.",
        axis="cores",
    ),
    "commits": Option(
        word="--commits",
        label="Commits",
        read=_list("commits"),
        metavar="COMMITS",
        about="Commits, tags or branches of the git source.",
    ),
    # of a diagnosis
    "axes": Option(
        word="--axis",
        label="Vary",
        read=_axes,
        metavar="|".join(_NAMED_AXES),
        about="What to vary; repeatable. They are tried in this order until one explains the case.",
        left_out="date, cpu, kernel, cores, and timezone where the log of a failing run speaks of "
        "it; commit where --good and --bad are given",
    ),
    "first": Option(
        word="--from",
        label="From",
        read=_date,
        metavar="DATE",
        about="Where the dates begin: 2015, 2015-06-01, 2015-06-01T12:00:00Z.",
        left_out="ten years before the case's own date",
        axis="date",
    ),
    "last": Option(
        word="--to",
        label="To",
        read=_date,
        metavar="DATE",
        about="Where they end.",
        left_out="July in fifteen years",
        axis="date",
    ),
    "resolution_s": Option(
        word="--resolution",
        label="Resolution",
        read=read_duration,
        metavar="TIME",
        about="How closely to find the dates of changes: 1, 30s, 1m, 1h, 1d.",
        left_out="to the second",
        axis="date",
    ),
    "repeats": Option(
        word="--repeats",
        label="Repeats",
        read=partial(_count, least=0),
        metavar="N",
        about="Confirming runs on each side.",
        left_out="2",
    ),
    "effort": Option(
        word="--effort",
        label="Effort",
        read=str,
        metavar="HOW",
        about="quick: what hints and three dates show; normal: every feature of the calendar once "
        "as well; thorough: each month around the case's own date.",
        left_out="normal",
    ),
    "budget": Option(
        word="--budget",
        label="Budget",
        read=partial(_count, least=1),
        metavar="N",
        about="Guest runs at most.",
    ),
    "use_hints": Option(
        word="--no-hints",
        label="Hints",
        read=str,
        about="Do not look for dates in sources, packages and logs.",
        axis="date",
    ),
    "good": Option(
        word="--good",
        label="Good",
        read=str,
        metavar="C",
        about="A commit, tag or branch that passes: one end of --axis commit.",
        axis="commit",
    ),
    "bad": Option(
        word="--bad",
        label="Bad",
        read=str,
        metavar="C",
        about="One that fails, older or newer: the other end.",
        axis="commit",
    ),
    # of a table in a catalog
    "since": Option(word="--since", label="Since", read=_date, metavar="DATE"),
    "until": Option(word="--until", label="Until", read=_date, metavar="DATE"),
}
"""By the name of the field that it sets."""
