"""Virtual build machines: what is asked for, what was proven, and which CPU fits which date."""

import difflib
import re
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from buildvm_nb.errors import UsageError
from buildvm_nb.model.instants import LATEST_CLOCK, Instant, now, parse_instant
from buildvm_nb.model.value import Value

__all__ = [
    "CPU_MODELS",
    "OLDEST_QEMU",
    "Accelerator",
    "CpuIdentity",
    "CpuModel",
    "Environment",
    "ImageSpec",
    "KernelName",
    "MachineSpec",
    "Network",
    "PortForwarding",
    "Vendor",
    "cpu_age",
    "cpu_at",
    "find_model",
    "instruction_sets",
    "kernel_age",
]

# CPU models by date: the processor that a machine bought on that day could have had.
#
# The table names QEMU's models with the day on which the first processor of that kind went on sale.
# It is sorted, covers Intel and AMD, and names only models whose feature set QEMU knows.

OLDEST_QEMU = (7, 2)
"""The oldest QEMU that is supported; a default CPU is one that this version already has."""


class Vendor(StrEnum):
    """Who made the processor."""

    INTEL = "Intel"
    AMD = "AMD"


class CpuIdentity(Value):
    """What a processor says that it is: what programs that choose code by model ask for."""

    vendor: str
    """As CPUID leaf 0 says it: ``GenuineIntel``, ``AuthenticAMD``."""
    family: int
    model: int
    """Number of the model within its family."""
    stepping: int
    name: str
    """``model name`` of ``/proc/cpuinfo``, each run of spaces made one."""

    def __str__(self) -> str:
        numbers = f"family {self.family}, model {self.model}, stepping {self.stepping}"
        return f"{self.vendor}, {numbers}, {self.name!r}"


@dataclass(frozen=True, kw_only=True)
class CpuModel:
    """A QEMU CPU model and when the processor it stands for went on sale."""

    name: str
    """QEMU's name."""
    vendor: Vendor
    since: datetime
    """Aware, UTC: first day of sale of the first processor of this kind."""
    product: str
    """That processor."""
    qemu: tuple[int, int] = OLDEST_QEMU
    """Oldest QEMU version that has the model, where it is newer than `OLDEST_QEMU`."""
    source: str
    """Page of the English Wikipedia where the day of sale is documented."""


def _model(row: str) -> CpuModel:
    name, vendor, day, qemu, product, source = (part.strip() for part in row.split("|"))
    major, minor = qemu.split(".")
    return CpuModel(
        name=name,
        vendor=Vendor(vendor),
        since=datetime.fromisoformat(f"{day}T00:00:00Z").astimezone(UTC),
        product=product,
        qemu=max(OLDEST_QEMU, (int(major), int(minor))),
        source=source,
    )


CPU_MODELS = tuple(
    sorted(
        map(
            _model,
            """\
Opteron_G1         |AMD  |2003-04-22|7.2 |Opteron 240 (SledgeHammer)|Opteron
core2duo           |Intel|2006-07-27|7.2 |Core 2 Duo (Conroe, Merom)|Intel_Core_2
Opteron_G2         |AMD  |2006-08-15|7.2 |Opteron 2200 (Santa Rosa)|Opteron
Opteron_G3         |AMD  |2007-09-10|7.2 |Opteron 2300 (Barcelona)|AMD_10h
Penryn             |Intel|2007-11-11|7.2 |Core 2 Extreme QX9650|Penryn_(microarchitecture)
Nehalem            |Intel|2008-11-17|7.2 |Core i7-920 (Bloomfield)|Nehalem_(microarchitecture)
Westmere           |Intel|2010-01-07|7.2 |Core i5-661 (Clarkdale)|Westmere_(microarchitecture)
SandyBridge        |Intel|2011-01-09|7.2 |Core i7-2600K|Sandy_Bridge
Opteron_G4         |AMD  |2011-11-14|7.2 |Opteron 6200 (Bulldozer)|Bulldozer_(microarchitecture)
IvyBridge          |Intel|2012-04-29|7.2 |Core i7-3770K|Ivy_Bridge_(microarchitecture)
Opteron_G5         |AMD  |2012-11-05|7.2 |Opteron 6300 (Piledriver)|Piledriver_(microarchitecture)
Haswell            |Intel|2013-06-04|7.2 |Core i7-4770K|Haswell_(microarchitecture)
Broadwell          |Intel|2014-10-27|7.2 |Core M-5Y70|Broadwell_(microarchitecture)
Skylake-Client     |Intel|2015-08-05|7.2 |Core i7-6700K|Skylake_(microarchitecture)
EPYC               |AMD  |2017-06-20|7.2 |EPYC 7601 (Naples)|Epyc
Skylake-Server     |Intel|2017-07-11|7.2 |Xeon Platinum 8180|Skylake_(microarchitecture)
Cascadelake-Server |Intel|2019-04-02|7.2 |Xeon Platinum 8280|Cascade_Lake
EPYC-Rome          |AMD  |2019-08-07|7.2 |EPYC 7742 (Rome)|Epyc
EPYC-Milan         |AMD  |2021-03-15|7.2 |EPYC 7763 (Milan)|Epyc
Icelake-Server     |Intel|2021-04-06|7.2 |Xeon Platinum 8380|Ice_Lake_(microprocessor)
EPYC-Genoa         |AMD  |2022-11-10|8.1 |EPYC 9654 (Genoa)|Epyc
SapphireRapids     |Intel|2023-01-10|8.0 |Xeon Platinum 8490H|Sapphire_Rapids
SierraForest       |Intel|2024-06-04|9.1 |Xeon 6780E|Sierra_Forest
GraniteRapids      |Intel|2024-09-24|8.2 |Xeon 6980P|Granite_Rapids
EPYC-Turin         |AMD  |2024-10-10|10.1|EPYC 9755 (Turin)|Epyc\
""".splitlines(),
        ),
        key=lambda model: model.since,
    )
)
"""All models with a date, oldest first."""


_INSTRUCTION_SETS: dict[str, frozenset[str]] = {}
for _line in """\
kvm64: pni cx16
Opteron_G1: pni
Opteron_G2: pni cx16 lahf-lm
qemu64: Opteron_G2
core2duo: Opteron_G2 ssse3
Opteron_G3: Opteron_G2 popcnt abm sse4a misalignsse
Penryn: core2duo sse4.1
Nehalem: Penryn sse4.2 popcnt
Westmere: Nehalem aes pclmulqdq
SandyBridge: Westmere avx
Opteron_G4: SandyBridge Opteron_G3 fma4 xop
IvyBridge: SandyBridge f16c rdrand
Opteron_G5: Opteron_G4 f16c fma tbm
Haswell: IvyBridge avx2 bmi1 bmi2 fma movbe abm
Broadwell: Haswell adx rdseed
Skylake-Client: Broadwell
EPYC: Broadwell Opteron_G3 clflushopt sha-ni
Skylake-Server: Broadwell clflushopt clwb avx512f avx512bw avx512cd avx512dq avx512vl
Cascadelake-Server: Skylake-Server
EPYC-Rome: EPYC clwb
EPYC-Milan: EPYC-Rome
Icelake-Server: Skylake-Server avx512vbmi gfni vaes vpclmulqdq
SapphireRapids: Icelake-Server avx512ifma sha-ni
EPYC-Genoa: SapphireRapids EPYC
SierraForest: Broadwell clflushopt clwb sha-ni gfni vaes vpclmulqdq
GraniteRapids: SapphireRapids
EPYC-Turin: EPYC-Genoa\
""".splitlines():
    _name, _, _words = _line.partition(": ")
    _INSTRUCTION_SETS[_name] = frozenset[str]().union(
        *(_INSTRUCTION_SETS.get(_word, {_word}) for _word in _words.split())
    )


def instruction_sets(cpu: str) -> frozenset[str] | None:
    """Return the instruction sets of a CPU beyond those of every x86-64 processor.

    Returns: QEMU's names; None: not known of this model. They are the model's: emulation may lack
    some of them, as QEMU 7.2 lacks AVX-512.

    References
    ----------
    QEMU, target/i386/cpu.c, ``builtin_x86_defs``; a test compares them with the QEMU at hand.
    """
    name, *changes = cpu.split(",")
    known = _INSTRUCTION_SETS.get(name)
    if known is None:
        return None
    added = {change[1:] for change in changes if change.startswith("+")}
    return (known | added) - {change[1:] for change in changes if change.startswith("-")}


def cpu_age(cpu: str) -> tuple[datetime, str, int, str]:
    """Return what orders CPUs by age.

    Returns: models that have no date come last; a model comes before itself with changes.
    """
    name = cpu.partition(",")[0]
    since = {model.name: model.since for model in CPU_MODELS}
    return since.get(name, datetime.max.replace(tzinfo=UTC)), name, cpu.count(","), cpu


def cpu_at(
    date: datetime, *, vendor: Vendor = Vendor.INTEL, qemu: tuple[int, int] = OLDEST_QEMU
) -> CpuModel:
    """Return the newest model that was on sale at a date.

    The day of sale itself counts. A date before the vendor's first model gives that first one,
    the oldest that QEMU can stand for.

    `qemu`: QEMU version whose models may be chosen. By default the oldest supported one, so that
    the same date gives the same CPU on every host.
    """
    models = [model for model in CPU_MODELS if model.vendor is vendor and model.qemu <= qemu]
    position = bisect_right([model.since for model in models], date)
    return models[max(position - 1, 0)]


def find_model(text: str, known: frozenset[str]) -> str:
    """Check a CPU as users write it (``Haswell,-cx16``) against the models that QEMU knows."""
    name = text.split(",", 1)[0]
    by_folded = {candidate.casefold(): candidate for candidate in known}
    if name.casefold() in by_folded:
        return by_folded[name.casefold()]
    near = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)
    names = ", ".join(by_folded[match] for match in near)
    raise UsageError(
        f"unknown CPU model: {name!r}; allowed: a model of this QEMU",
        hint=(f"did you mean {names}? " if names else "") + "`buildvm cpus` lists them",
    )


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

    `kernel`: as asked for, such as ``debian:bookworm``, or as ``uname -r`` tells it.
    Returns: debian's suites, then releases by their numbers, then what tells no age.
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
