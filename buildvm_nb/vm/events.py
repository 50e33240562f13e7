"""What passes on the events port: what the guest says of itself and its steps, and our orders."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from buildvm_nb.errors import GuestLost
from buildvm_nb.model.cpu import CpuIdentity

__all__ = ["Awakening", "Events", "GuestFacts", "StepEnd"]

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
class StepEnd:
    """How a step ended, as the guest saw it."""

    clock_at: datetime
    status: int
    """As a shell says it: 128 and the number of a signal."""
    oom_kills: int
    """Processes of the step that were killed for lack of memory."""
    free_kib: int
    """Room left for files."""
    drift_s: float | None
    """How far a held clock strayed at most; None: it was not held."""


@dataclass
class _Inbox:
    facts: GuestFacts = field(default_factory=GuestFacts)
    starts: dict[str, datetime] = field(default_factory=dict)
    ends: dict[str, StepEnd] = field(default_factory=dict)
    awakening: Awakening | None = None
    quiet: set[str] = field(default_factory=set)


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

    def wait_end(self, step: str, timeout_s: float) -> tuple[datetime, StepEnd] | None:
        """Wait until a step's beginning and end are known.

        Parameters
        ----------
        step : str
            Its identifier.
        timeout_s : float
            Seconds of the host's monotonic clock.

        Returns
        -------
        tuple of datetime and StepEnd, or None
            None when it did not end in time, or the guest is gone.
        """
        with self._news:
            self._news.wait_for(lambda: self._closed or step in self._inbox.ends, timeout_s)
            start = self._inbox.starts.pop(step, None)
            end = self._inbox.ends.pop(step, None)
            return (start, end) if start and end else None

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
            case ["start" | "end", step, *_] if step.startswith(_NOT_OURS):
                pass
            case ["closing" | "quiet" as stage, _]:
                self._inbox.quiet.add(stage)
            case ["awake", clock, rtc]:
                self._inbox.awakening = Awakening(
                    clock_at=_instant(clock), rtc_at=datetime.fromisoformat(rtc)
                )
            case _:
                self._take_report(words)

    def _take_report(self, words: list[str]) -> None:
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
            case ["start", step, clock]:
                self._inbox.starts[step] = _instant(clock)
            case ["end", step, clock, status, killed, free, drift]:
                self._inbox.ends[step] = StepEnd(
                    clock_at=_instant(clock),
                    status=int(status),
                    oom_kills=int(killed),
                    free_kib=int(free),
                    drift_s=None if drift == "-" else float(drift),
                )


def _instant(text: str) -> datetime:
    seconds, _, fraction = text.partition(".")
    microseconds = int(fraction[:6].ljust(6, "0") or 0)
    return _EPOCH + timedelta(seconds=int(seconds), microseconds=microseconds)
