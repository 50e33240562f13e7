"""Values of Guix's virtual build machines, read from a configuration or a QEMU command line.

Nothing is evaluated but what is constant: sums, products and lists of literals.

References
----------
GNU Guix 1.5, ``gnu/services/virtualization.scm``; SRFI-19, ``make-date``.
"""

import difflib
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from buildvm_nb.errors import UsageError
from buildvm_nb.guix.machinefile import GUIX_DATE, SECRETS_PORT
from buildvm_nb.guix.sexp import Quoted, Symbol, read_forms, write_form
from buildvm_nb.model.instants import now
from buildvm_nb.model.machine import cpu_at

__all__ = [
    "ImportedMachine",
    "import_command_line",
    "import_configuration",
    "import_process",
    "without_secrets_port",
]

_RECORD, _SERVICE = Symbol("virtual-build-machine"), Symbol("virtual-build-machine-service-type")
_LIST, _DOT = Symbol("list"), Symbol(".")
_MAKE_DATE, _STRING_TO_DATE = Symbol("make-date"), Symbol("string->date")


def _power(base: int, exponent: int) -> int:
    if not 0 <= exponent <= 64:  # noqa: PLR2004 - no more bytes than there are
        raise ValueError(exponent)
    return int(base**exponent)


_QUOTE, _CONS = Symbol("quote"), Symbol("cons")
_ARITHMETIC: Mapping[str, Callable[..., int]] = {
    "*": lambda *numbers: math.prod(numbers),
    "+": lambda *numbers: sum(numbers),
    "-": lambda first, *others: first - sum(others) if others else -first,
    "quotient": lambda first, second: int(first / second),
    "expt": _power,
}
_GUIX_CPUS = (
    # gnu/services/virtualization.scm, as it works: its list is reversed and the first that is older
    # than the date wins, so Westmere, which is out of order, never does
    (2015, "Skylake-Client"),
    (2014, "Broadwell"),
    (2013, "Haswell"),
    (2012, "IvyBridge"),
    (2011, "SandyBridge"),
    (2008, "Nehalem"),
    (2006, "core2duo"),
)
_FIELD = 2
_NOT_TAKEN = {
    "image": "ours is a Debian image; set `image`, or `disk` to boot one of Guix System",
    "qemu": "ours is this host's; set `qemu`",
}


@dataclass(frozen=True, kw_only=True)
class ImportedMachine:
    """What was read: fields of a machine file, and what could not be taken over."""

    fields: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class _Reading:
    fields: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def import_configuration(text: str, *, file: str, name: str | None = None) -> ImportedMachine:
    """Read the ``virtual-build-machine`` of a Guix configuration.

    Returns: its values; what the form leaves out is left out here, too.
    Raises `UsageError` if there is none or more than one, or a value is computed; the message has
    the expression.
    """
    forms = read_forms(text)
    machines = [_read_machine(form, file) for form in _find(forms)]
    if not machines and not any(_SERVICE in form for form in _lists(forms)):
        raise UsageError(
            f"{file}: no virtual-build-machine in it",
            hint="name the file that has (service virtual-build-machine-service-type …)",
        )
    if not machines:
        reading = _Reading(fields={"name": "build-vm"})
        _tell_cpu(reading)
        return ImportedMachine(fields=reading.fields, notes=tuple(reading.notes))
    fitting = [one for one in machines if name in {None, one.fields.get("name", "build-vm")}]
    if len(fitting) != 1:
        names = ", ".join(str(one.fields.get("name", "build-vm")) for one in machines)
        raise UsageError(
            f"{file}: {len(fitting)} machines fit; there are {names}", hint="choose with --name"
        )
    return fitting[0]


def without_secrets_port(imported: ImportedMachine) -> ImportedMachine:
    """Leave out the port of the secret service, which our machines do not need."""
    ports = imported.fields.get("port_forwardings", ())
    kept = [port for port in ports if port["guest"] != SECRETS_PORT]
    if len(kept) == len(ports):
        return imported
    note = (
        "the port of the secret service is not forwarded: any local user could reach it, and our "
        "machines have a private channel (--secrets-port keeps it)"
    )
    return ImportedMachine(
        fields={**imported.fields, "port_forwardings": kept}, notes=(*imported.notes, note)
    )


def _lists(form: Any) -> Iterator[list[Any]]:  # noqa: ANN401 - expressions are of any type
    """Iterate over all lists, also within quotes."""
    inner = form.form if isinstance(form, Quoted) else form
    if isinstance(inner, list):
        yield inner
        for part in inner:
            yield from _lists(part)


def _find(forms: list[Any]) -> Iterator[list[Any]]:
    for form in _lists(forms):
        if form and form[0] == _RECORD and all(isinstance(part, list) for part in form[1:]):
            yield form


def _read_machine(form: list[Any], file: str) -> ImportedMachine:
    reading = _Reading()
    for part in form[1:]:
        name = part[0] if part and isinstance(part[0], Symbol) else None
        key = name.name if name else ""
        if key in _NOT_TAKEN:
            reading.notes.append(f"not taken over: {_shown(part)}; {_NOT_TAKEN[key]}")
        elif key in _READERS:
            value = part[1] if len(part) == _FIELD else part[1:]
            _READERS[key](_folded(value), reading)
        else:
            known = [*_READERS, *_NOT_TAKEN]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"fields: {', '.join(known)}"
            raise UsageError(
                f"{file}: not a literal field of a virtual-build-machine: {_shown(part)}",
                hint="write its value in place" if key == "inherit" else hint,
            )
    _tell_cpu(reading)
    return ImportedMachine(fields=reading.fields, notes=tuple(reading.notes))


def _tell_cpu(reading: _Reading) -> None:
    """Tell where leaving the CPU to the date gives another one than in Guix."""
    date = reading.fields.get("date", GUIX_DATE)
    theirs = next((cpu for year, cpu in _GUIX_CPUS if date > datetime(year, 1, 1, tzinfo=UTC)), "")
    ours = cpu_at(date).name
    if "cpu" not in reading.fields and theirs != ours:
        reading.notes.append(
            f"no cpu is given, so it follows from the date: here {ours}, in Guix "
            f"{theirs or 'none before 2006'}" + (f'; cpu = "{theirs}" keeps it' if theirs else "")
        )


def _folded(form: Any) -> Any:  # noqa: ANN401 - expressions are of any type
    """Compute what is constant in a form: arithmetic on numbers, lists of literals."""
    if not isinstance(form, list) or not form:
        return form
    first, *rest = form[0], *map(_folded, form[1:])
    literal = _literal(first, rest)
    return [first, *rest] if literal is None else literal


def _literal(first: object, rest: list[Any]) -> Any:  # noqa: ANN401
    """Return the value of a call of constants; None: it is none."""
    if first == _QUOTE and len(rest) == 1:
        return Quoted(rest[0])
    if first == _LIST and not any(isinstance(part, Symbol | list) for part in rest):
        return Quoted([_inner(part) if isinstance(part, Quoted) else part for part in rest])
    if first == _CONS and [type(part) for part in rest] == [int, int]:
        return Quoted([rest[0], _DOT, rest[1]])
    compute = _ARITHMETIC.get(first.name) if isinstance(first, Symbol) else None
    if compute and rest and all(type(part) is int for part in rest):
        with suppress(TypeError, ArithmeticError, ValueError):
            return compute(*rest)
    return None


def _inner(form: object) -> Any:  # noqa: ANN401
    """Return what is quoted; None: nothing is."""
    return form.form if isinstance(form, Quoted) and form.mark in {"'", "`"} else None


def _computed(key: str, form: object, allowed: str) -> UsageError:
    return UsageError(
        f"{key} is no literal value: {_shown(form)}; allowed: {allowed}",
        hint="nothing is evaluated here: write the value in its place in a copy of the file",
    )


def _shown(form: object) -> str:
    text = write_form(form)
    return text if len(text) <= 200 else f"{text[:200]}…"  # noqa: PLR2004 - a line or two


def _name(form: Any, reading: _Reading) -> None:  # noqa: ANN401
    inner = _inner(form)
    if not isinstance(inner, Symbol):
        raise _computed("name", form, "a quoted symbol such as 'build-vm")
    reading.fields["name"] = inner.name


def _cpu(form: Any, reading: _Reading) -> None:  # noqa: ANN401
    if type(form) is not str:
        raise _computed("cpu", form, 'a text such as "Haswell"')
    reading.fields["cpu"] = form


def _number(key: str, target: str) -> Callable[[Any, _Reading], None]:
    def read(form: Any, reading: _Reading) -> None:  # noqa: ANN401
        if type(form) is not int:
            raise _computed(key, form, "a number")
        reading.fields[target] = form

    return read


def _auto_start(form: Any, reading: _Reading) -> None:  # noqa: ANN401
    if type(form) is not bool:
        raise _computed("auto-start?", form, "#t or #f")
    reading.fields["auto_start"] = form


def _systems(form: Any, reading: _Reading) -> None:  # noqa: ANN401
    inner = _inner(form)
    names = inner if isinstance(inner, list) else [None]
    if not all(type(name) is str for name in names):
        raise _computed("systems", form, '\'("x86_64-linux")')
    reading.fields["systems"] = tuple(names)


def _ports(form: Any, reading: _Reading) -> None:  # noqa: ANN401
    pairs = _inner(form)
    ports = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        match pair:
            case [int() as host, dot, int() as guest] if dot == _DOT:
                ports.append({"host": host, "guest": guest})
            case _:
                raise _computed("port-forwardings", form, "'((11022 . 22))")
    reading.fields["port_forwardings"] = ports


def _date(form: Any, reading: _Reading) -> None:  # noqa: ANN401
    try:
        match form:
            case [first, *numbers] if first == _MAKE_DATE:
                date = _made_date(*numbers)
            case [first, str() as text, str() as pattern] if first == _STRING_TO_DATE:
                date = datetime.strptime(text, pattern.replace("~", "%")).replace(tzinfo=UTC)
            case _:
                raise _computed("date", form, "(make-date 0 0 0 0 1 1 2020 0)")
    except (TypeError, ValueError, OverflowError) as error:
        raise _computed("date", form, "(make-date 0 0 0 0 1 1 2020 0)") from error
    if date.utcoffset():
        reading.notes.append(
            f"the date is {date.astimezone(UTC).isoformat()}: Guix gives QEMU the time of day "
            "without its zone, so that its machine was off by that"
        )
    reading.fields["date"] = date


def _made_date(  # noqa: PLR0913, PLR0917 - SRFI-19's order
    nanosecond: int, second: int, minute: int, hour: int, day: int, month: int, year: int, zone: int
) -> datetime:
    if nanosecond:
        message = "a machine's date is a whole second"
        raise ValueError(message)
    offset = timezone(timedelta(seconds=zone))
    return datetime(year, month, day, hour, minute, second, tzinfo=offset)


_READERS: Mapping[str, Callable[[Any, _Reading], None]] = {
    "name": _name,
    "cpu": _cpu,
    "cpu-count": _number("cpu-count", "cpu_count"),
    "memory-size": _number("memory-size", "memory_mib"),
    "date": _date,
    "port-forwardings": _ports,
    "systems": _systems,
    "auto-start?": _auto_start,
}


# A QEMU command line, as of a running build machine, read back into a machine's values.
#
# References: QEMU 7.2, qemu-system-x86_64(1): ``-cpu``, ``-smp``, ``-m``, ``-rtc``, ``-nic``,
# ``-netdev``.

_MIB = {"": 1, "M": 1, "G": 1024}
_FORWARDING = re.compile(r"hostfwd=tcp:([\w.:\[\]]*):(\d+)-[\w.]*:(\d+)")


def import_process(pid: int) -> ImportedMachine:
    """Read the command line of a running QEMU."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError as error:
        raise UsageError(f"no such process: {pid}") from error
    return import_command_line(words[:-1])


def import_command_line(words: str | Sequence[str]) -> ImportedMachine:
    """Read a QEMU command line.

    Raises `UsageError` if it is none, or a value in it is not understood.
    """
    try:
        argv = shlex.split(words) if isinstance(words, str) else list(words)
    except ValueError as error:
        raise UsageError(f"not a command line: {error}: {words!r:.200}") from error
    at = next((i for i, word in enumerate(argv) if "qemu" in Path(word).name), None)
    if at is None:
        raise UsageError(f"not a QEMU command line: {shlex.join(argv)[:200]!r}")
    options = list(_options(argv[at + 1 :]))
    notes: list[str] = []
    fields: dict[str, Any] = {"cpu": "qemu64", "cpu_count": 1}
    fields["port_forwardings"] = [
        port for _, value in options for port in _option_ports(value, notes)
    ]
    fields["date"] = now().replace(microsecond=0)
    for option, value in options:
        _take(option, value, fields)
        if option in _OPTIONS_NOT_TAKEN:
            given = f" {value}" if value else ""
            notes.append(f"not taken over: -{option}{given}; {_OPTIONS_NOT_TAKEN[option]}")
    return ImportedMachine(fields=fields, notes=tuple(notes))


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in pairwise([*argv, "-"]):
        if word.startswith("-"):
            yield word.lstrip("-"), "" if following.startswith("-") else following


def _take(option: str, value: str, fields: dict[str, Any]) -> None:
    if option in _OPTION_READERS:
        key, read = _OPTION_READERS[option]
        fields[key] = read(value)
    elif option == "rtc":
        fields["date"] = _option_date(value) or fields["date"]
    elif option in _ACCELERATED and (match := re.search(r"\b(kvm|tcg)\b", value)):
        fields["accelerator"] = match[1]


def _option_name(value: str) -> str:
    name = re.split("[,=]", value.removeprefix("guest="))[0]
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name) or "build-vm"


def _count(value: str) -> int:
    match = re.match(r"(?:cpus=)?(\d+)", value) or re.search(r",cpus=(\d+)", value)
    if not match:
        raise UsageError(f"-smp is not understood: {value!r}; allowed: 4 or cpus=4")
    return int(match[1])


def _memory(value: str) -> int:
    match = re.match(r"(?:size=)?(\d+)([MG]?)(?:i?B)?(?:,|$)", value, re.IGNORECASE)
    if not match:
        raise UsageError(f"-m is not understood: {value!r}; allowed: 2048, 2048M, 2G")
    return int(match[1]) * _MIB[match[2].upper()]


def _option_date(value: str) -> datetime | None:
    """Read the start of the clock; None: the present."""
    base = re.search(r"(?:^|,)base=([^,]*)", value)
    if base is None or base[1] in {"utc", "localtime"}:
        return None
    try:
        date = datetime.fromisoformat(base[1])
    except ValueError as error:
        raise UsageError(f"-rtc is not understood: {value!r}; allowed: base=2020-01-01") from error
    return date.replace(tzinfo=UTC)


def _option_ports(value: str, notes: list[str]) -> Iterator[dict[str, int]]:
    for address, host, guest in _FORWARDING.findall(value):
        if address not in {"127.0.0.1", "localhost"}:
            notes.append(
                f"port {host} was open on {address or 'every address of the host'}; ours is on "
                "the loopback interface only"
            )
        yield {"host": int(host), "guest": int(guest)}


_OF_A_DISK = "set `disk` to boot a disk image, or `image` and `kernel` for one of ours"
_OPTIONS_NOT_TAKEN = {
    "kernel": "set `kernel`; ours boots an image of Debian",
    "initrd": "ours has its own",
    "append": "ours has its own",
    "drive": _OF_A_DISK,
    "hda": _OF_A_DISK,
    "cdrom": _OF_A_DISK,
    "blockdev": _OF_A_DISK,
    "virtfs": "directories are given to `buildvm run --share`",
    "bios": "ours boots without one, a `disk` by SeaBIOS",
}
_ACCELERATED = {"accel", "machine", "M"}
_OPTION_READERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "cpu": ("cpu", str),
    "smp": ("cpu_count", _count),
    "m": ("memory_mib", _memory),
    "name": ("name", _option_name),
    "enable-kvm": ("accelerator", lambda _: "kvm"),
}
