"""A QEMU command line, as of a running build machine, read back into a machine's values.

References
----------
QEMU 7.2, qemu-system-x86_64(1): ``-cpu``, ``-smp``, ``-m``, ``-rtc``, ``-nic``, ``-netdev``.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from buildvm_nb.errors import UsageError
from buildvm_nb.guix.importing import ImportedMachine
from buildvm_nb.model.instants import now

__all__ = ["import_command_line", "import_process"]

_MIB = {"": 1, "M": 1, "G": 1024}
_FORWARDING = re.compile(r"hostfwd=tcp:([\w.:\[\]]*):(\d+)-[\w.]*:(\d+)")


def import_process(pid: int) -> ImportedMachine:
    """Read the command line of a running QEMU.

    Parameters
    ----------
    pid : int
        Its process number.

    Returns
    -------
    ImportedMachine
        Its values.

    Raises
    ------
    UsageError
        If there is no such process, or it is no QEMU.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError as error:
        raise UsageError(f"no such process: {pid}") from error
    return import_command_line(words[:-1])


def import_command_line(words: str | Sequence[str]) -> ImportedMachine:
    """Read a QEMU command line.

    Parameters
    ----------
    words : str or sequence of str
        As a shell takes it, or split already.

    Returns
    -------
    ImportedMachine
        CPU, number of CPUs, memory, date, forwarded ports, accelerator.

    Raises
    ------
    UsageError
        If it is none, or a value in it is not understood.
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
    fields["port_forwardings"] = [port for _, value in options for port in _ports(value, notes)]
    fields["date"] = now().replace(microsecond=0)
    for option, value in options:
        _take(option, value, fields)
        if option in _NOT_TAKEN:
            given = f" {value}" if value else ""
            notes.append(f"not taken over: -{option}{given}; {_NOT_TAKEN[option]}")
    return ImportedMachine(fields=fields, notes=tuple(notes))


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in pairwise([*argv, "-"]):
        if word.startswith("-"):
            yield word.lstrip("-"), "" if following.startswith("-") else following


def _take(option: str, value: str, fields: dict[str, Any]) -> None:
    if option in _READERS:
        key, read = _READERS[option]
        fields[key] = read(value)
    elif option == "rtc":
        fields["date"] = _date(value) or fields["date"]
    elif option in _ACCELERATED and (match := re.search(r"\b(kvm|tcg)\b", value)):
        fields["accelerator"] = match[1]


def _name(value: str) -> str:
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


def _date(value: str) -> datetime | None:
    """Read the start of the clock; None: the present."""
    base = re.search(r"(?:^|,)base=([^,]*)", value)
    if base is None or base[1] in {"utc", "localtime"}:
        return None
    try:
        date = datetime.fromisoformat(base[1])
    except ValueError as error:
        raise UsageError(f"-rtc is not understood: {value!r}; allowed: base=2020-01-01") from error
    return date.replace(tzinfo=UTC)


def _ports(value: str, notes: list[str]) -> Iterator[dict[str, int]]:
    for address, host, guest in _FORWARDING.findall(value):
        if address not in {"127.0.0.1", "localhost"}:
            notes.append(
                f"port {host} was open on {address or 'every address of the host'}; ours is on "
                "the loopback interface only"
            )
        yield {"host": int(host), "guest": int(guest)}


_OF_A_DISK = "set `disk` to boot a disk image, or `image` and `kernel` for one of ours"
_NOT_TAKEN = {
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
_READERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "cpu": ("cpu", str),
    "smp": ("cpu_count", _count),
    "m": ("memory_mib", _memory),
    "name": ("name", _name),
    "enable-kvm": ("accelerator", lambda _: "kvm"),
}
