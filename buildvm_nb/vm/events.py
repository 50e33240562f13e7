"""What passes on the events port: what the guest says of itself and its steps, and our orders."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from buildvm_nb.errors import GuestLost
from buildvm_nb.model.cpu import CpuIdentity

__all__ = ["Awakening", "Events", "GuestFacts", "Room", "StepReport"]

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
    """Reads the events port in a thread of its own.

    Parameters
    ----------
    port : socket.socket
        Our end; it is closed when the other end is.
    """

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._news = threading.Condition()
        self._inbox = _Inbox()
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="guest events", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> GuestFacts | None:
        """Wait until the guest has said what it is.

        Parameters
        ----------
        timeout_s : float
            Seconds of the host's monotonic clock.

        Returns
        -------
        GuestFacts or None
            None when it did not in time, or is gone.
        """
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
        """Give the guest an order.

        Parameters
        ----------
        line : str
            As its ``control`` script knows it.

        Raises
        ------
        GuestLost
            If the other end is gone.
        """
        try:
            self._port.sendall(f"{line}\n".encode())
        except OSError as error:
            raise GuestLost(f"the guest takes no orders any more: {error.strerror}") from error

    def wait_quiet(self, stage: str, timeout_s: float) -> bool:
        """Wait until the guest has come to a stage of becoming quiet.

        Parameters
        ----------
        stage : str
            ``closing``: the channel may be closed. ``quiet``: it is.
        timeout_s : float
            Seconds of the host's monotonic clock.

        Returns
        -------
        bool
            Whether it has.
        """
        with self._news:
            self._news.wait_for(lambda: self._closed or stage in self._inbox.quiet, timeout_s)
            return stage in self._inbox.quiet

    def wait_awake(self, timeout_s: float) -> Awakening | None:
        """Wait until a resumed guest has set its clocks.

        Parameters
        ----------
        timeout_s : float
            Seconds of the host's monotonic clock.

        Returns
        -------
        Awakening or None
            None when it did not in time, or is gone.
        """
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
