"""What a guest says of itself on the events port, and the proof that it is what was asked for."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from buildvm_nb.errors import ClockError, CpuError, GuestLost, MachineError
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import CpuIdentity, MachineSpec
from buildvm_nb.vm.command import RTC_RANGE

__all__ = [
    "INSTRUCTION_SETS",
    "Events",
    "GuestFacts",
    "Room",
    "StepReport",
    "linux_flag",
    "prove",
    "prove_clock",
    "prove_machine",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_LINE = 1 << 16
_NOT_OURS = "session-"
"""Steps that nobody waits for: sessions of users of the machine's SSH server."""


@dataclass(kw_only=True)
class GuestFacts:
    """What the guest reads of itself."""

    kernel_release: str = ""
    cpu_count: int = 0
    cpu_flags: frozenset[str] = frozenset()
    cpu_words: dict[str, str] = field(default_factory=dict)
    """What ``/proc/cpuinfo`` says besides: ``vendor_id``, ``model_name``, …"""
    clock_at: datetime | None = None

    @property
    def cpu_identity(self) -> CpuIdentity | None:
        """What the CPU says that it is; None when the guest did not tell all of it."""
        said = self.cpu_words
        try:
            return CpuIdentity(
                vendor=said["vendor_id"],
                family=int(said["cpu_family"]),
                model=int(said["model"]),
                stepping=int(said["stepping"]),
                name=said["model_name"],
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, kw_only=True)
class Awakening:
    """What a resumed guest reads of its clocks."""

    clock_at: datetime
    rtc_at: datetime


@dataclass(frozen=True, kw_only=True)
class Room:
    """The least room that was seen in a place while a step ran."""

    place: str
    """``disk`` (all but what follows), ``tmp`` or ``shm``."""
    free_kib: int
    free_inodes: int


@dataclass(kw_only=True)
class StepReport:
    """What the guest says of a step; it is whole once `is_over`."""

    started_at: datetime | None = None
    """None: it was not started."""
    broken: str = ""
    """Why it could not be started; that is not the command's fault."""
    ended_at: datetime | None = None
    """None: it was not started, or whoever waits for it was killed as well."""
    exit_status: int = 0
    signal: int | None = None
    """The signal that the command itself died of."""
    killed: dict[int, str] = field(default_factory=dict)
    """Signals that any process of the step died of, to the last such process; only asked for where
    the exit status may stand for one."""
    room: tuple[Room, ...] = ()
    ooms: int = 0
    """How often memory could not be had within the step's limit."""
    oom_kills: int = 0
    """Processes of the step that were killed for lack of memory."""
    refused_forks: int = 0
    """Processes and threads that were refused, as there were too many."""
    drift_s: float | None = None
    """How far a held clock strayed at most; None: it was not held."""
    over_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether the guest has said all."""
        return self.over_at is not None


@dataclass
class _Inbox:
    facts: GuestFacts = field(default_factory=GuestFacts)
    steps: dict[str, StepReport] = field(default_factory=dict)
    awakening: Awakening | None = None
    quiet: set[str] = field(default_factory=set)
    taken: int = 0

    def step(self, name: str) -> StepReport:
        return self.steps.setdefault(name, StepReport())


class Events:
    """Reads the events port in a thread of its own."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._news = threading.Condition()
        self._inbox = _Inbox()
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="guest events", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> GuestFacts | None:
        """Wait until the guest has said what it is."""
        with self._news:
            self._news.wait_for(
                lambda: self._closed or self._inbox.facts.clock_at is not None, timeout_s
            )
            return self._inbox.facts if self._inbox.facts.clock_at else None

    def wait_end(self, step: str, timeout_s: float) -> StepReport | None:
        """Wait until a step is over; None when it is not in time, or the guest is gone."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._is_over(step), timeout_s)
            return self._inbox.steps.pop(step) if self._is_over(step) else None

    def _is_over(self, step: str) -> bool:
        report = self._inbox.steps.get(step)
        return report is not None and report.is_over

    def order(self, line: str) -> None:
        """Give the guest an order."""
        try:
            self._port.sendall(f"{line}\n".encode())
        except OSError as error:
            raise GuestLost(f"the guest takes no orders any more: {error.strerror}") from error

    def wait_quiet(self, stage: str, timeout_s: float) -> bool:
        """Wait until the guest has come to a stage of becoming quiet."""
        with self._news:
            self._news.wait_for(lambda: self._closed or stage in self._inbox.quiet, timeout_s)
            return stage in self._inbox.quiet

    def wait_awake(self, timeout_s: float) -> Awakening | None:
        """Wait until a resumed guest has set its clocks."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._inbox.awakening, timeout_s)
            return self._inbox.awakening

    def wait_taken(self, least: int) -> bool:
        """Wait until the guest has taken so many bytes from its channel; False: it is gone."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._inbox.taken >= least)
            return self._inbox.taken >= least

    def close(self) -> None:
        """Stop reading; calling it twice does no harm."""
        with suppress(OSError):  # the other end may be gone already
            self._port.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _read(self) -> None:
        pending = b""
        with self._port:
            while True:
                try:
                    data = self._port.recv(1 << 16)
                except OSError:
                    data = b""
                if not data:
                    break
                *lines, pending = (pending + data).split(b"\n")
                pending = pending[:_LONGEST_LINE]
                with self._news:
                    for line in lines:
                        with suppress(ValueError, OverflowError):  # not one of ours
                            self._take(line.decode(errors="replace").split())
                    self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _take(self, words: list[str]) -> None:
        match words:
            case ["start" | "ran" | "broken" | "end", step, *_] if step.startswith(_NOT_OURS):
                pass
            case ["start" | "ran" | "broken" | "end" as what, step, clock, *more]:
                self._take_step(what, self._inbox.step(step), _instant(clock), more)
            case ["closing" | "quiet" as stage, _]:
                self._inbox.quiet.add(stage)
            case ["took", count]:
                self._inbox.taken = int(count)
            case ["awake", clock, rtc]:
                self._inbox.awakening = Awakening(
                    clock_at=_instant(clock), rtc_at=datetime.fromisoformat(rtc)
                )
            case _:
                self._take_fact(words)

    def _take_fact(self, words: list[str]) -> None:
        facts = self._inbox.facts
        match words:
            case ["kernel", release]:
                facts.kernel_release = release
            case ["cpus", count]:
                facts.cpu_count = int(count)
            case ["flags", *flags]:
                facts.cpu_flags = frozenset(flags) - {":"}
            case [
                "vendor_id" | "cpu_family" | "model" | "model_name" | "stepping" as name,
                *words,
            ]:
                facts.cpu_words[name] = " ".join(words)
            case ["ready", clock]:
                facts.clock_at = _instant(clock)

    @staticmethod
    def _take_step(what: str, report: StepReport, at: datetime, more: list[str]) -> None:
        match what, more:
            case "start", []:
                report.started_at = at
            case "broken", reason:
                report.broken = " ".join(reason) or "no reason given"
            case "ran", [status, signal, killed, room]:
                report.exit_status = int(status)
                report.signal = None if signal == "-" else int(signal)
                report.killed = {int(number): name for number, name in _parts(killed)}
                report.room = tuple(
                    Room(place=place, free_kib=int(kib), free_inodes=int(inodes))
                    for place, kib, inodes in _parts(room)
                )
                report.ended_at = at
            case "end", [ooms, oom_kills, refused_forks, drift]:
                report.ooms = int(ooms)
                report.oom_kills = int(oom_kills)
                report.refused_forks = int(refused_forks)
                report.drift_s = None if drift == "-" else float(drift)
                report.over_at = at


def _parts(text: str) -> list[list[str]]:
    """Split ``a:1,b:2``, or ``-`` for nothing."""
    return [] if text == "-" else [part.split(":") for part in text.split(",")]


def _instant(text: str) -> datetime:
    seconds, _, fraction = text.partition(".")
    microseconds = int(fraction[:6].ljust(6, "0") or 0)
    return _EPOCH + timedelta(seconds=int(seconds), microseconds=microseconds)


# Proof that a guest is what was asked for: its clock, CPU, cores and kernel, read in the guest.
#
# References: QEMU, target/i386/cpu.c (feature names); Linux, arch/x86/include/asm/cpufeatures.h
# (flag names).

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

    `spec`: what was asked for; its date is what the clock was set to.
    `elapsed_s`: most seconds that can have passed in the guest since its clock was set.
    `identity`: what the model that was asked for says of itself, by QEMU.
    """
    prove_machine(facts, spec=spec, elapsed_s=elapsed_s, kernel_release=kernel_release)
    _prove_identity(facts.cpu_identity, identity)
    _prove_cpu(facts.cpu_flags, features)


def prove_machine(
    facts: GuestFacts, *, spec: MachineSpec, elapsed_s: float, kernel_release: str
) -> None:
    """Compare all but the CPU, which not every engine controls; as `prove` does."""
    _prove_clock("clock", facts.clock_at, spec.date, elapsed_s)
    if facts.kernel_release != kernel_release:
        raise MachineError(
            f"the guest runs kernel {facts.kernel_release!r}; allowed: {kernel_release!r}"
        )
    if facts.cpu_count != spec.cpu_count:
        raise MachineError(f"the guest has {facts.cpu_count} cores; allowed: {spec.cpu_count}")


def prove_clock(awakening: Awakening, date: datetime, elapsed_s: float) -> None:
    """Compare what a resumed guest's clocks say with what they were meant to.

    `elapsed_s`: most seconds that can have passed in the guest since then.
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
