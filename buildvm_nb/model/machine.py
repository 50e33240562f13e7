"""Values that describe a virtual build machine: what is asked for, and what was proven in it."""

import re
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from buildvm_nb.errors import UsageError
from buildvm_nb.model.cpu import CPU_MODELS, CpuIdentity, cpu_at
from buildvm_nb.model.instants import (
    LATEST_CLOCK,
    Instant,
    now,
    parse_instant,
)
from buildvm_nb.model.value import Value

__all__ = [
    "Accelerator",
    "Environment",
    "ImageSpec",
    "KernelName",
    "MachineSpec",
    "Network",
    "PortForwarding",
    "kernel_age",
]

PackageName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?$")
]
"""A Debian package name (Debian Policy 5.6.1), with ``=version`` where it is pinned."""

KernelName = Annotated[str, StringConstraints(pattern=r"^(debian:[a-z0-9-]+|/.+)$")]
"""``debian:SUITE``, or the path of a directory that holds ``vmlinuz`` and ``modules/``."""


_SYSTEMS = frozenset({"x86_64-linux", "i686-linux"})
"""Guix's names of the systems that an x86-64 guest can build for."""


class Accelerator(StrEnum):
    """What executes the guest's instructions."""

    AUTO = "auto"
    """KVM where it is proven to work, else TCG."""
    KVM = "kvm"
    """The host's processor: fast, but it only hides features, it does not remove them."""
    TCG = "tcg"
    """QEMU's emulation: slow, and an instruction the model lacks raises SIGILL."""
    UML = "uml"
    """User-mode Linux, the kernel as a process: fast without KVM, on the CPU that the host has."""


class Network(StrEnum):
    """What the guest can reach."""

    OFF = "off"
    """No network card at all."""
    RESTRICTED = "restricted"
    """Port forwardings into the guest, nothing out of it."""
    USER = "user"
    """QEMU's user networking: the guest reaches what the host reaches."""


class PortForwarding(Value):
    """A TCP port of the host's loopback interface that leads into the guest."""

    host: int = Field(ge=1, le=65535)
    guest: int = Field(ge=1, le=65535)


_SUITES = ("buster", "bullseye", "bookworm", "bookworm-backports", "trixie", "forky", "sid")
"""Of Debian, in the order of their kernels: 4.19, 5.10, 6.1, 6.12, 6.12, …"""


def kernel_age(kernel: str) -> tuple[int, tuple[int, ...], str]:
    """Return what orders kernels by age.

    Parameters
    ----------
    kernel : str
        As asked for, such as ``debian:bookworm``, or as ``uname -r`` tells it.

    Returns
    -------
    tuple
        Debian's suites, then releases by their numbers, then what tells no age.
    """
    suite = kernel.removeprefix("debian:")
    if suite in _SUITES:
        return 0, (_SUITES.index(suite),), kernel
    release = re.match(r"\d+(\.\d+)+", kernel)
    if release:
        return 1, tuple(int(part) for part in release[0].split(".")), kernel
    return 2, (), kernel


class ImageSpec(Value):
    """A root file system and what is added to it.

    Accepts text: ``debian:bookworm`` or, with extra packages, ``debian:bookworm,gcc,make``.
    """

    base: str = Field(default="debian:bookworm", pattern=r"^[a-z]+:.+$")
    """``debian:SUITE``."""
    packages: tuple[PackageName, ...] = ()
    """Extra packages, with their dependencies but without recommended ones."""
    mirror: str | None = Field(default=None, pattern=r"^[a-z+]+:\S+$")
    """Package mirror, for example a dated archive; None: the one the system's apt uses."""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic hands over whatever it was given
        if isinstance(data, str):
            base, *packages = data.split(",")
            return {"base": base, "packages": tuple(packages)}
        return data

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        ordered = tuple(sorted(set(self.packages)))
        if ordered != self.packages:
            object.__setattr__(self, "packages", ordered)
        return self

    def __str__(self) -> str:
        return ",".join([self.base, *self.packages])


def _read_clock(value: object) -> datetime:
    try:
        return parse_instant(value, latest=LATEST_CLOCK)
    except UsageError as error:
        raise ValueError(error.message) from error


def _read_memory(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)\s*(M|MiB|G|GiB)", value)):
        return int(match[1]) * (1024 if match[2].startswith("G") else 1)
    return value


class MachineSpec(Value):
    """A virtual build machine as asked for; what is left out follows from the date.

    The fields are those of Guix's ``virtual-build-machine`` record, with the kernel, the
    accelerator and the network beside them. An omitted date is the present second, an omitted
    CPU a model that was current at the date.

    References
    ----------
    GNU Guix, ``gnu/services/virtualization.scm``, record ``<virtual-build-machine>``.
    """

    name: str = Field(default="build-vm", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    image: ImageSpec = ImageSpec()
    date: Annotated[Instant, BeforeValidator(_read_clock)]
    cpu: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*(,[+-]?[\w.-]+(=[\w.-]+)?)*$")
    """A QEMU model, features added or taken away: ``Haswell``, ``Haswell,-cx16``."""
    cpu_count: int = Field(default=1, ge=1, le=255)
    memory_mib: Annotated[int, BeforeValidator(_read_memory)] = Field(
        default=1024, ge=192, le=1024 * 1024
    )
    kernel: KernelName = "debian:bookworm"
    accelerator: Accelerator = Accelerator.AUTO
    port_forwardings: tuple[PortForwarding, ...] = ()
    systems: tuple[str, ...] = ("x86_64-linux",)
    auto_start: bool = False
    network: Network = Network.OFF

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic hands over whatever it was given
        if not isinstance(data, dict):
            return data
        given = {key: value for key, value in data.items() if value is not None}
        given.setdefault("date", now().replace(microsecond=0))
        if given.get("accelerator") == Accelerator.UML:
            given.setdefault("cpu", "host")
        with suppress(ValueError):  # the field itself says what is wrong with it
            given.setdefault("cpu", cpu_at(_read_clock(given["date"])).name)
        given.setdefault("cpu", CPU_MODELS[0].name)
        return given

    @field_validator("systems")
    @classmethod
    def _can_be_run(cls, systems: tuple[str, ...]) -> tuple[str, ...]:
        if not systems or set(systems) - _SYSTEMS:
            message = f"unknown systems; allowed: {', '.join(sorted(_SYSTEMS))}"
            raise ValueError(message)
        return systems

    @field_validator("date")
    @classmethod
    def _is_a_whole_second(cls, date: datetime) -> datetime:
        if date.microsecond:
            message = "a machine's date is a whole second"
            raise ValueError(message)
        return date

    @model_validator(mode="after")
    def _forwardings_need_a_card(self) -> Self:
        if self.port_forwardings and self.network is Network.OFF:
            object.__setattr__(self, "network", Network.RESTRICTED)
        return self

    @model_validator(mode="after")
    def _has_what_the_engine_gives(self) -> Self:
        if self.accelerator is Accelerator.UML:
            wanted = {"cpu": "host", "cpu_count": 1, "network": Network.OFF}
            for name, value in wanted.items():
                if (given := getattr(self, name)) != value:
                    message = f"user-mode Linux has {name} {value}; got {given}"
                    raise ValueError(message)
        return self


class Environment(Value):
    """What was really there when a step ran: read from QEMU and in the guest, not assumed."""

    cpu: str
    """CPU model and feature changes as given to QEMU."""
    cpu_features: tuple[str, ...]
    """QEMU's names of the features that the guest's CPU really has, sorted."""
    cpu_features_lacking: tuple[str, ...] = ()
    """Features of the model that the accelerator cannot give, sorted."""
    cpu_flags: tuple[str, ...]
    """``flags`` of the guest's ``/proc/cpuinfo``, sorted."""
    cpu_identity: CpuIdentity | None = None
    """What the CPU said in the guest that it is; None: an older version did not ask."""
    cpu_count: int
    kernel_release: str
    """The guest's ``uname -r``."""
    accelerator: Accelerator
    accelerator_reason: str = ""
    """Why KVM was not used although it runs guests here; empty: there is nothing to say."""
    engine: str
    """Name and version of what ran the guest, for example ``qemu 7.2.22``."""
