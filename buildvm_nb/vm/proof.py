"""Proof that a guest is what was asked for: its clock, CPU, cores and kernel, read in the guest.

References
----------
QEMU, target/i386/cpu.c (feature names); Linux, arch/x86/include/asm/cpufeatures.h (flag names).
"""

from datetime import datetime, timedelta

from buildvm_nb.errors import ClockError, CpuError, MachineError
from buildvm_nb.model.cpu import CpuIdentity
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm.events import Awakening, GuestFacts
from buildvm_nb.vm.hardware import RTC_RANGE

__all__ = ["INSTRUCTION_SETS", "linux_flag", "prove", "prove_clock", "prove_machine"]

_LINUX_NAMES = {"sse3": "pni", "pni": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2"}

INSTRUCTION_SETS = frozenset(
    """
    mmx sse sse2 pni ssse3 sse4.1 sse4.2 sse4a cx16 popcnt movbe aes pclmulqdq avx avx2 f16c fma
    fma4 xop tbm bmi1 bmi2 abm lahf-lm 3dnow 3dnowext misalignsse adx rdrand rdseed
    sha-ni gfni vaes vpclmulqdq clflushopt clwb erms avx512f avx512bw avx512cd avx512dq avx512vl
    avx512ifma avx512vbmi syscall nx lm
    """.split()  # noqa: SIM905 - a list of 50 quoted words is harder to read
)
"""Features that programs see and that Linux shows as QEMU gives them.

Left out is what a kernel may hide or invent for its own reasons: xsave and its kin, rtm, pku, umip,
and 3dnowprefetch, which it adds to every 64-bit AMD processor (arch/x86/kernel/cpu/amd.c).
"""


def prove(
    facts: GuestFacts,
    *,
    spec: MachineSpec,
    elapsed_s: float,
    features: tuple[str, ...],
    identity: CpuIdentity,
    kernel_release: str,
) -> None:
    """Compare what the guest says of itself with what it was meant to be.

    Parameters
    ----------
    facts : GuestFacts
        What the guest read.
    spec : MachineSpec
        What was asked for; its date is what the clock was set to.
    elapsed_s : float
        Most seconds that can have passed in the guest since its clock was set.
    features : tuple of str
        What QEMU says the CPU has.
    identity : CpuIdentity
        What the model that was asked for says of itself, by QEMU.
    kernel_release : str
        What ``uname -r`` must say.

    Raises
    ------
    ClockError
        If the clock is elsewhere.
    CpuError
        If it is another CPU.
    MachineError
        If cores or kernel differ.
    """
    prove_machine(facts, spec=spec, elapsed_s=elapsed_s, kernel_release=kernel_release)
    _prove_identity(facts.cpu_identity, identity)
    _prove_cpu(facts.cpu_flags, features)


def prove_machine(
    facts: GuestFacts, *, spec: MachineSpec, elapsed_s: float, kernel_release: str
) -> None:
    """Compare all but the CPU, which not every engine controls; as `prove` does.

    Parameters
    ----------
    facts, spec, elapsed_s, kernel_release
        As for `prove`.

    Raises
    ------
    ClockError
        If the clock is elsewhere.
    MachineError
        If cores or kernel differ.
    """
    _prove_clock("clock", facts.clock_at, spec.date, elapsed_s)
    if facts.kernel_release != kernel_release:
        raise MachineError(
            f"the guest runs kernel {facts.kernel_release!r}; allowed: {kernel_release!r}"
        )
    if facts.cpu_count != spec.cpu_count:
        raise MachineError(f"the guest has {facts.cpu_count} cores; allowed: {spec.cpu_count}")


def prove_clock(awakening: Awakening, date: datetime, elapsed_s: float) -> None:
    """Compare what a resumed guest's clocks say with what they were meant to.

    Parameters
    ----------
    awakening : Awakening
        What the guest read.
    date : datetime
        What its clocks were set to.
    elapsed_s : float
        Most seconds that can have passed in the guest since then.

    Raises
    ------
    ClockError
        If one of them is elsewhere.
    """
    _prove_clock("clock", awakening.clock_at, date, elapsed_s)
    first, end = RTC_RANGE
    if first <= date < end:
        _prove_clock("clock chip", awakening.rtc_at, date, elapsed_s)


def _prove_clock(name: str, seen: datetime | None, date: datetime, elapsed_s: float) -> None:
    latest = date + timedelta(seconds=elapsed_s)
    if seen is None or not date <= seen <= latest:
        said = format_instant(seen) if seen else "nothing"
        raise ClockError(
            f"the guest's {name} says {said}; allowed: from {format_instant(date)} "
            f"to {format_instant(latest)}",
            hint="this kernel or engine cannot hold the date; try another --kernel",
        )


def _prove_identity(seen: CpuIdentity | None, expected: CpuIdentity) -> None:
    if seen != expected:
        raise CpuError(
            f"the guest's CPU says that it is {seen or 'nothing that can be read'}; "
            f"allowed: {expected}",
            hint="--accelerator tcg (emulation) gives every model's identity",
        )


def _prove_cpu(flags: frozenset[str], features: tuple[str, ...]) -> None:
    expected = {linux_flag(name) for name in features if name in INSTRUCTION_SETS}
    seen = flags & {linux_flag(name) for name in INSTRUCTION_SETS}
    if expected != seen:
        more = ", ".join(sorted(seen - expected)) or "none"
        fewer = ", ".join(sorted(expected - seen)) or "none"
        raise CpuError(
            f"the guest's CPU is not the one asked for: it shows {more} beyond it and lacks {fewer}"
        )


def linux_flag(feature: str) -> str:
    """Return Linux's name of a CPU feature.

    Parameters
    ----------
    feature : str
        QEMU's name.

    Returns
    -------
    str
        As ``/proc/cpuinfo`` has it where the feature is there: ``sse4_2`` for ``sse4.2``.
    """
    return _LINUX_NAMES.get(feature, feature.replace("-", "_").replace(".", "_"))
