"""The options that describe a machine: one group, for every command that boots one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from buildvm_nb.cli.completion import complete_cpu, complete_kernel
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.machine import ImageSpec, MachineSpec
    from buildvm_nb.model.value import Value

__all__ = ["MachineOptions", "choose_image"]

_Parsed = TypeVar("_Parsed", bound="Value")
_OPTION_OF = {
    "base": "--image",
    "memory_mib": "--memory",
    "packages": "--package",
    "port_forwardings": "--forward",
}
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600}
_LONGEST_S = 7 * 86400


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What the user asked of a machine; None where he left it out."""

    date: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="What the guest's clock shows: 2019-05-01 (midnight UTC), 2019-05-01T12:30:00Z, "
            "now, today, +16y or -2w from now (y, m, w, d). Left out: the commit's date for a case "
            "that has one, else the present.",
        ),
    ] = None
    cpu: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=complete_cpu,
            help="QEMU's CPU model, with features added or taken away: Westmere, Haswell,-avx2. "
            "Left out: a model that was current at the date; see `buildvm cpus`.",
        ),
    ] = None
    cpu_count: Annotated[
        str | None, typer.Option(metavar="N", help="Virtual CPUs. Left out: 1.")
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory in MiB, or 2G. Left out: 1024."),
    ] = None
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_kernel,
            help="debian:SUITE, or a directory with vmlinuz and modules/; see `buildvm kernels`. "
            "Left out: debian:bookworm.",
        ),
    ] = None
    accelerator: Annotated[
        str | None,
        typer.Option(
            metavar="auto|kvm|tcg|uml",
            help="What executes the guest: KVM; QEMU's emulation, which enforces the CPU model; or "
            "user-mode Linux, fast without KVM, on the host's CPU (needs bubblewrap). Left out: "
            "auto, KVM where it is proven to work, else emulation.",
        ),
    ] = None
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Root file system: debian:SUITE, with packages debian:bookworm,gcc,make. "
            "Left out: the case's, else debian:bookworm.",
        ),
    ] = None
    package: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Add a Debian package to the image; repeatable."),
    ] = None
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Package mirror of the image, such as a dated archive."),
    ] = None
    network: Annotated[
        str | None,
        typer.Option(
            metavar="off|restricted|user",
            help="What the guest reaches: nothing, only what is forwarded to it, or what this "
            "host reaches. Left out: off.",
        ),
    ] = None
    forward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:GUEST",
            help="Lead a TCP port of this host's loopback interface into the guest; repeatable.",
        ),
    ] = None
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Host name of the guest.")] = None
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="End a command or step after that time: 90, 90s, 10m, 2h."
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the QEMU command and start nothing.")
    ] = False

    def overrides(self, image: "ImageSpec | None" = None) -> dict[str, Any]:
        """Return what was given, checked, as fields of a `MachineSpec`.

        Parameters
        ----------
        image : ImageSpec, optional
            What ``--package`` and ``--mirror`` add to where ``--image`` is left out; default:
            that of a machine.

        Returns
        -------
        dict
            Fields with valid values; what was left out is not in it.

        Raises
        ------
        UsageError
            If a value is none; the message names the option.
        """
        given = {
            "name": self.name,
            "image": choose_image(self.image, self.package, self.mirror, image),
            "date": _check_date(self.date),
            "cpu": self.cpu,
            "cpu_count": self.cpu_count,
            "memory_mib": _read_memory(self.memory),
            "kernel": _read_kernel(self.kernel),
            "accelerator": self.accelerator,
            "port_forwardings": tuple(map(_read_forwarding, self.forward or ())) or None,
            "network": self.network,
        }
        given = {field: value for field, value in given.items() if value is not None}
        from buildvm_nb.model.machine import MachineSpec

        spec = _parse(MachineSpec, given)
        return {field: getattr(spec, field) for field in given}

    def spec(self) -> "MachineSpec":
        """Return the machine that was asked for.

        Returns
        -------
        MachineSpec
            What was left out is filled in.

        Raises
        ------
        UsageError
            If a value is none; the message names the option.
        """
        from buildvm_nb.model.machine import MachineSpec

        return _parse(MachineSpec, self.overrides())

    def timeout_s(self) -> int | None:
        """Return the time limit.

        Returns
        -------
        int or None
            Seconds, from 1 to a week; None: none was given.

        Raises
        ------
        UsageError
            If it is no time.
        """
        if self.timeout is None:
            return None
        match = re.fullmatch(r"(\d{1,7})([smh]?)", self.timeout)
        seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
        if not 1 <= seconds <= _LONGEST_S:
            raise UsageError(
                f"--timeout: not a time: {self.timeout!r}; allowed: 90, 90s, 10m or 2h, from one "
                "second to a week"
            )
        return seconds


def choose_image(
    text: str | None,
    packages: Sequence[str] | None,
    mirror: str | None,
    base: "ImageSpec | None" = None,
) -> "ImageSpec | None":
    """Return the image that options describe.

    Parameters
    ----------
    text : str, optional
        ``--image``: ``debian:SUITE[,PACKAGE…]``.
    packages : sequence of str, optional
        ``--package``: what is added.
    mirror : str, optional
        ``--mirror``.
    base : ImageSpec, optional
        What is added to where `text` is left out; default: that of a machine.

    Returns
    -------
    ImageSpec or None
        None: nothing was given.

    Raises
    ------
    UsageError
        If a value is none; the message names the option.
    """
    if text is None and not packages and mirror is None:
        return None
    from buildvm_nb.model.machine import ImageSpec

    chosen = base or ImageSpec()
    if text is not None:
        if ":" not in text:
            raise UsageError(
                f"--image: not an image: {text!r}; allowed: debian:SUITE[,PACKAGE…]",
                hint=f"did you mean debian:{text}?",
            )
        chosen = _parse(ImageSpec, text)
    fields = {
        "base": chosen.base,
        "packages": (*chosen.packages, *(packages or ())),
        "mirror": mirror or chosen.mirror,
    }
    return _parse(ImageSpec, fields)


def _parse(kind: type[_Parsed], data: object) -> _Parsed:
    """Parse a value; messages name the options instead of the fields."""
    try:
        return kind.parse(data)
    except UsageError as error:

        def rename(match: re.Match[str]) -> str:
            field = match[1]
            return _OPTION_OF.get(field, f"--{field.replace('_', '-')}")

        message = re.sub(rf"(?m)^{kind.__name__}\.(\w+)(\.\d+)?", rename, error.message)
        raise UsageError(message, hint=error.hint) from error


def _check_date(text: str | None) -> str | None:
    if text is not None:
        from buildvm_nb.model.instants import (
            LATEST_CLOCK,
            format_instant,
            from_now,
            parse_instant,
        )

        try:
            if distant := from_now(text):
                text = format_instant(distant)
            parse_instant(text, latest=LATEST_CLOCK)
        except UsageError as error:
            raise UsageError(f"--date: {error.message}", hint=error.hint) from error
    return text


def _read_memory(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"\d+\s*(M|MiB|G|GiB)?", text):
        raise UsageError(f"--memory: not a size: {text!r}; allowed: 1024 (MiB), 512M or 2G")
    return text


def _read_kernel(text: str | None) -> str | None:
    if text is None or text.startswith("debian:"):
        return text
    if "/" in text:
        return str(Path(text).absolute())
    raise UsageError(
        f"--kernel: unknown kernel: {text!r}; allowed: debian:SUITE or a directory's path",
        hint=f"did you mean debian:{text}? `buildvm kernels` lists them",
    )


def _read_forwarding(text: str) -> dict[str, int]:
    match = re.fullmatch(r"(\d{1,5}):(\d{1,5})", text)
    if not match:
        raise UsageError(
            f"--forward: not two ports: {text!r}; allowed: HOST:GUEST, for example 8080:80"
        )
    return {"host": int(match[1]), "guest": int(match[2])}
