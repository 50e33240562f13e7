"""CPU models by date: the processor that a machine bought on that day could have had.

The table names QEMU's models with the day on which the first processor of that kind went on sale.
It is sorted, covers Intel and AMD, and names only models whose feature set QEMU knows.
"""

import difflib
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from buildvm_nb.errors import UsageError
from buildvm_nb.model.value import Value

__all__ = [
    "CPU_MODELS",
    "OLDEST_QEMU",
    "CpuIdentity",
    "CpuModel",
    "Vendor",
    "cpu_age",
    "cpu_at",
    "find_model",
    "instruction_sets",
]

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

    Parameters
    ----------
    cpu : str
        Model, then features added (``+x``) or taken away (``-x``).

    Returns
    -------
    frozenset of str or None
        QEMU's names; None: not known of this model. They are the model's: emulation may lack some
        of them, as QEMU 7.2 lacks AVX-512.

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

    Parameters
    ----------
    cpu : str
        Model, then features added or taken away.

    Returns
    -------
    tuple
        Models that have no date come last; a model comes before itself with changes.
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

    Parameters
    ----------
    date : datetime
        Aware.
    vendor : Vendor
        Whose processors to choose from.
    qemu : tuple of int
        QEMU version whose models may be chosen. By default the oldest supported one, so that the
        same date gives the same CPU on every host.

    Returns
    -------
    CpuModel
        The model.
    """
    models = [model for model in CPU_MODELS if model.vendor is vendor and model.qemu <= qemu]
    position = bisect_right([model.since for model in models], date)
    return models[max(position - 1, 0)]


def find_model(text: str, known: frozenset[str]) -> str:
    """Check a CPU as users write it (``Haswell,-cx16``) against the models that QEMU knows.

    Parameters
    ----------
    text : str
        Model, then features added (``+x``) or taken away (``-x``).
    known : frozenset of str
        Names of the models that this QEMU has.

    Returns
    -------
    str
        The model's name, spelled as QEMU does.

    Raises
    ------
    UsageError
        If QEMU has no such model; near names are suggested.
    """
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
