"""QEMU on this host: what it knows, its process, its monitor, and the guest's serial console."""

import asyncio
import difflib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError
from ulid import ULID

from buildvm_nb.errors import GuestLost, HostError, LaunchError, StateError, UsageError
from buildvm_nb.host.process import find_tool, run_tool
from buildvm_nb.model.machine import OLDEST_QEMU, CpuIdentity, MachineSpec, find_model

__all__ = [
    "QEMU",
    "Console",
    "Emulator",
    "Monitor",
    "OwnedProcess",
    "Trouble",
    "check_cpu",
    "check_wishes",
    "find_emulator",
    "write_memo",
]

# The guest's serial console: kept, and watched for trouble that is the guest's own.
#
# References: Linux: arch/x86/kernel/dumpstack.c (``Oops:``), include/asm-generic/bug.h and mm/
# (``BUG:``), kernel/panic.c (``Kernel panic - not syncing``), mm/oom_kill.c (``Out of memory:
# Killed process``), kernel/watchdog.c (``soft lockup``).

_KEPT = 1 << 20
_LONGEST_LOG = 1 << 24


class Trouble(StrEnum):
    """Kinds of trouble that a console shows."""

    OOPS = "kernel oops"
    PANIC = "kernel panic"
    LOCKUP = "kernel lock-up"
    OUT_OF_MEMORY = "out of memory"
    INIT = "the guest's init failed"


_SIGNS = (
    (
        Trouble.OOPS,  # a trap in the kernel ends in its error code and count: 0000 [#1]
        re.compile(r"\bOops: |\bBUG: (?!workqueue|soft lockup)|: [0-9a-f]{4} \[#\d+\]"),
    ),
    (Trouble.LOCKUP, re.compile(r"soft lockup|hard LOCKUP|rcu: .*detected stalls?")),
    (Trouble.OUT_OF_MEMORY, re.compile(r"Out of memory: Killed|System is deadlocked on memory")),
    (Trouble.INIT, re.compile(r"^buildvm: ", re.MULTILINE)),
    (Trouble.PANIC, re.compile(r"Kernel panic - not syncing")),
)


class Console:
    """Collects what the guest's console says; safe to use from several threads.

    `log`: a file that gets it as well, up to 16 MiB.
    """

    def __init__(self, log: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._text = bytearray()
        try:
            self._log = log.open("ab", buffering=0) if log else None
        except OSError as error:
            raise HostError(f"cannot write the console's log: {log}: {error.strerror}") from error

    def feed(self, data: bytes) -> None:
        """Take in what was just said."""
        with self._lock:
            self._text += data
            if self._log and self._log.tell() < _LONGEST_LOG:
                with suppress(OSError):  # a full disk of the host is no trouble of the guest
                    self._log.write(data)
            if len(self._text) > 2 * _KEPT:
                del self._text[:-_KEPT]

    def close(self) -> None:
        """Close the log; calling it twice does no harm."""
        with self._lock:
            if self._log:
                self._log.close()
            self._log = None

    @property
    def text(self) -> str:
        """What the console said; of very much only the end."""
        with self._lock:
            return self._text.decode(errors="replace").replace("\r\n", "\n")

    def trouble(self) -> tuple[Trouble, str] | None:
        """Return the first kind of trouble that the console shows, with the lines that show it."""
        text = self.text
        for kind, sign in _SIGNS:
            if match := sign.search(text):
                start = text.rfind("\n", 0, match.start()) + 1
                return kind, "\n".join(text[start:].splitlines()[:40])
        return None


# The QEMU on this host: where it is, its version, the CPU models and features it knows.

QEMU = "qemu-system-x86_64"
"""Its program."""

_OF_THE_HOST = frozenset({"base", "host", "max"})
"""Models that stand for no processor of their own."""


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """A QEMU program for x86-64 guests."""

    path: str
    version: str
    """For example ``7.2.22``."""
    models: frozenset[str]
    """CPU models that it knows."""
    features: frozenset[str]
    """CPU features that it knows, by QEMU's names."""
    vendors: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Each model's vendor, as CPUID says it; those that stand for the host's CPU have none."""

    def vendor_of(self, cpu: str) -> str:
        """Return the vendor asked for, or the model's; empty: it stands for the host's CPU."""
        model, *changes = cpu.split(",")
        asked = [one.partition("=")[2] for one in changes if one.startswith(_VENDOR)]
        return asked[-1] if asked else self.vendors.get(model, "")


@lru_cache
def find_emulator(cache_root: Path | None = None, program: str = QEMU) -> Emulator:
    """Find QEMU on this host and learn what it knows.

    Parameters
    ----------
    cache_root : Path, optional
        Where the answer is remembered until the program changes.
    program : str
        Its name or path.

    Returns
    -------
    Emulator
        The program.

    Raises
    ------
    HostError
        If QEMU is missing, does not run, or is too old.
    """
    path = find_tool(program)
    status = Path(path).stat()
    stamp = [path, status.st_size, status.st_mtime_ns]
    memo = cache_root / "emulator.json" if cache_root else None
    remembered = _remembered(memo, stamp)
    known = remembered or _ask(path)
    version = str(known["version"])
    if tuple(map(int, version.split(".")[:2])) < OLDEST_QEMU:
        oldest = ".".join(map(str, OLDEST_QEMU))
        raise HostError(
            f"QEMU is too old: {path} is {version}; allowed: {oldest} or newer",
            hint="upgrade qemu-system-x86; Debian 12 has 7.2",
        )
    if memo and not remembered:
        write_memo(memo, {"stamp": stamp, "known": known})
    return Emulator(
        path=path,
        version=version,
        models=frozenset(known["models"]),
        features=frozenset(known["features"]),
        vendors=known["vendors"],
    )


def _remembered(memo: Path | None, stamp: list[object]) -> dict[str, Any] | None:
    try:
        content = json.loads(memo.read_bytes()) if memo else {}
        # an older version did not ask for vendors
        usable = content.get("stamp") == stamp and "vendors" in content["known"]
        return content["known"] if usable else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_memo(memo: Path, content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Write what was found out as JSON, where that can be done: it only saves time."""
    partial = memo.with_suffix(f".{ULID()}")
    with suppress(OSError):
        try:
            partial.write_text(json.dumps(content))
            partial.replace(memo)
        finally:
            partial.unlink(missing_ok=True)


def _ask(path: str) -> dict[str, Any]:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise HostError(
            f"QEMU does not run: {path}: {error.strerror}",
            hint="reinstall the package qemu-system-x86",
        ) from error
    match = re.search(r"version (\d+\.\d+(?:\.\d+)?)", said.stdout)
    if said.returncode != 0 or not match:
        raise HostError(
            f"QEMU does not run: {path} --version exited with {said.returncode}: "
            f"{(said.stderr or said.stdout).strip()[:500]}",
            hint="reinstall the package qemu-system-x86",
        )
    models, _, features = run_tool([path, "-cpu", "help"]).decode().partition("CPUID flags:")
    names = re.findall(r"^(?:x86 |\s{2})(\S+)", models, re.MULTILINE)
    return {
        "version": match[1],
        "models": names,
        "features": features.split(),
        "vendors": _ask_vendors(path, [name for name in names if name not in _OF_THE_HOST]),
    }


def _ask_vendors(path: str, models: list[str]) -> dict[str, str]:
    """Ask a QEMU that has no machine; under emulation a model's vendor is its own."""
    orders: list[dict[str, object]] = [{"execute": "qmp_capabilities"}]
    orders += [
        {
            "execute": "query-cpu-model-expansion",
            "arguments": {"type": "full", "model": {"name": name}},
            "id": name,
        }
        for name in models
    ]
    argv = [path, "-machine", "none,accel=tcg", "-nodefaults", "-no-user-config"]
    # to a file: what a pipe does not take at once, QEMU drops when it quits
    with tempfile.TemporaryFile() as stream, tempfile.TemporaryFile() as said:
        stream.write("\n".join(map(json.dumps, [*orders, {"execute": "quit"}])).encode())
        stream.seek(0)
        run_tool([*argv, "-display", "none", "-qmp", "stdio"], stdin=stream, stdout=said)
        said.seek(0)
        answers = [json.loads(line) for line in said if b'"return"' in line]
    vendors = {
        answer["id"]: answer["return"]["model"]["props"]["vendor"]
        for answer in answers
        if "id" in answer
    }
    if silent := sorted(set(models) - set(vendors)):
        raise HostError(f"QEMU does not tell the vendor of its CPU models: {' '.join(silent)}")
    return vendors


_VENDOR = "vendor="
_VENDOR_CHARACTERS = 12


def check_cpu(text: str, emulator: Emulator) -> str:
    """Check a CPU as users write it, and spell it as QEMU does.

    Parameters
    ----------
    text : str
        Model, then features added (``+x``, ``x=on``) or taken away (``-x``, ``x=off``), or a vendor
        (``vendor=GenuineIntel``).
    emulator : Emulator
        Whose models and features count.

    Returns
    -------
    str
        Model and changes, with features as ``+x`` or ``-x``.

    Raises
    ------
    UsageError
        If QEMU knows no such model or feature; near names are suggested.
    """
    model = find_model(text, emulator.models)
    changes = []
    for part in text.split(",")[1:]:
        name, _, value = part.partition("=")
        if part.startswith(_VENDOR):
            if len(value) != _VENDOR_CHARACTERS:
                raise UsageError(
                    f"not a CPU's vendor: {value!r} in {text!r}; expected twelve characters",
                    hint="for example vendor=GenuineIntel or vendor=AuthenticAMD",
                )
            changes.append(part)
            continue
        sign = "-" if name.startswith("-") or value == "off" else "+"
        feature = name.lstrip("+-").replace("_", "-")
        if feature not in emulator.features or value not in {"", "on", "off"}:
            near = difflib.get_close_matches(feature, emulator.features, n=3, cutoff=0.5)
            raise UsageError(
                f"unknown CPU feature: {part!r} in {text!r}; allowed: +FEATURE or -FEATURE",
                hint=f"did you mean {', '.join(near)}?"
                if near
                else "see qemu-system-x86_64 -cpu help",
            )
        changes.append(f"{sign}{feature}")
    return ",".join([model, *changes])


def check_wishes(spec: MachineSpec, lacking: tuple[str, ...], emulator: Emulator) -> None:
    """Make sure that a running machine's CPU has what was asked for by name."""
    wishes = {part[1:] for part in spec.cpu.split(",")[1:] if part[0] == "+"}
    if missed := sorted(wishes & set(lacking)):
        raise HostError(
            f"the accelerator cannot give the CPU {', '.join(missed)}: "
            f"{spec.accelerator} of QEMU {emulator.version}, asked for by {spec.cpu!r}",
            hint="a newer QEMU may; AVX-512 is in none's emulation",
        )


# QEMU's monitor: what it runs and what its CPU really has.
#
# References: QEMU, docs/interop/qmp-spec.rst, qapi/machine-target.json
# (``query-cpu-model-expansion``); target/i386/cpu.c (property ``unavailable-features``).


class Monitor:
    """A QMP session, usable from any thread, also where an event loop is running already.

    `on_trouble`: gets a sentence when QEMU says that a disk of the machine failed, or that it has
    paused the guest though nobody asked for it; called once, in a thread of the session.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        timeout_s: float = 120.0,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._may_stop = False
        self._on_trouble = on_trouble
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="QEMU monitor", daemon=True
        )
        self._thread.start()
        self._client = QMPClient("buildvm")
        # its filter sees an event before the answer to any later command is passed on
        listener = EventListener(("STOP", "BLOCK_IO_ERROR"), self._look_at)
        self._client.register_listener(listener)
        try:
            self._wait(self._client.connect(connection))
        except GuestLost:
            self.close()
            raise

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - QMP's own JSON
        """Run a monitor command.

        Raises `GuestLost` if QEMU is gone, refuses the command or does not answer in time.
        """
        self._may_stop |= command == "stop"
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self._wait(self._client.execute(command, named or None))

    def _look_at(self, event: Message) -> bool:
        """Report an event that means trouble, once; nothing is kept for a reader."""
        name, data = str(event["event"]), cast("dict[str, Any]", event.get("data", {}))
        if name == "BLOCK_IO_ERROR":
            disk = data.get("device") or data.get("node-name") or "unknown"
            reason = data.get("reason") or "no reason given"
            trouble = f"QEMU could not {data.get('operation', 'use')} the disk {disk!r}: {reason}"
        elif self._may_stop:
            return False
        else:
            trouble = "QEMU has paused the guest, and nobody has asked for it"
        report, self._on_trouble = self._on_trouble, None
        if report:
            report(trouble)
        return False

    def cpu_features(
        self, cpu: str, known: frozenset[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the features that the guest's CPU really has, and those that it lacks.

        Returns: QEMU's names, sorted: what the CPU has, and what was asked for (by its model or by
        name) but the accelerator cannot give.
        """
        model, *changes = cpu.split(",")
        features = [change for change in changes if not change.startswith(_VENDOR)]
        props = {change[1:]: change[0] == "+" for change in features}
        asked = self.execute(
            "query-cpu-model-expansion", type="full", model={"name": model, "props": props}
        )["model"]["props"]
        path = self.execute("query-cpus-fast")[0]["qom-path"]
        lacking = set(self.execute("qom-get", path=path, property="unavailable-features"))
        wanted = {name for name, value in asked.items() if value is True and name in known}
        return tuple(sorted(wanted - lacking)), tuple(sorted(lacking & known))

    def cpu_identity(self, cpu: str, vendor: str = "") -> CpuIdentity:
        """Return what a CPU says of itself when the accelerator gives all that was asked for.

        `vendor`: the model's own. Without it QEMU answers with the one that it gives the guest:
        under KVM the host's.
        """
        props = {"vendor": vendor} if vendor else {}
        model = {"name": cpu.partition(",")[0], "props": props}
        said = self.execute("query-cpu-model-expansion", type="full", model=model)["model"]["props"]
        return CpuIdentity(
            vendor=said["vendor"],
            family=said["family"],
            model=said["model"],
            stepping=said["stepping"],
            name=" ".join(said["model-id"].split()),
        )

    def migrate(self, command: str, descriptor: int, *, timeout_s: float) -> None:
        """Write the machine's state to a file, or read it from one."""
        events = [{"capability": "events", "state": True}]
        self.execute("migrate-set-capabilities", capabilities=events)
        status = self._wait(self._migrate(command, descriptor), timeout_s)
        if status != "completed":
            reason = self.execute("query-migrate").get("error-desc", "no reason given")
            raise StateError(f"QEMU's {command} {status}: {reason}")

    async def _migrate(self, command: str, descriptor: int) -> str:
        """Pass the file, start, and return the status that it ended with."""
        self._client.send_fd_scm(descriptor)
        await self._client.execute("getfd", {"fdname": "state"})
        with self._client.listener("MIGRATION") as listener:
            await self._client.execute(command, {"uri": "fd:state"})
            gone = asyncio.ensure_future(self._client.runstate_changed())
            while True:
                news = asyncio.ensure_future(listener.get())
                await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not news.done():
                    news.cancel()
                    raise EOFError("QEMU is gone")
                data: Any = news.result()["data"]
                status = str(data["status"])
                if status in {"completed", "failed", "cancelled"}:
                    gone.cancel()
                    return status

    def close(self) -> None:
        """End the session; calling it twice does no harm."""
        if self._loop.is_closed():
            return
        with suppress(GuestLost):  # QEMU may have gone first
            self._wait(self._client.disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Any, timeout_s: float = 0.0) -> Any:  # noqa: ANN401 - what it returns
        limited = asyncio.wait_for(work, timeout_s or self._timeout_s)
        future = asyncio.run_coroutine_threadsafe(limited, self._loop)
        try:
            return future.result()
        except (QMPError, ExecuteError, TimeoutError, OSError, EOFError) as error:
            raise GuestLost(f"QEMU's monitor: {type(error).__name__}: {error}") from error


# An engine's process: started so that it cannot outlive us, watched until it ends.
#
# The kernel kills it when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG), so it is
# started from a thread that lives as long as this process does. Who died before the kernel was
# asked is no longer its parent, which it checks before it becomes the engine.

_KILL_AFTER_S = 5.0
_IF_WE_LIVE = 'test "$PPID" = "$0" && exec "$@"'


@lru_cache
def _starter(pid: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a forked process needs its own
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine starter")


class OwnedProcess:
    """A running QEMU, or another program that runs a guest.

    `temporary`: directory for its temporary files; None: the system's.
    """

    def __init__(
        self,
        argv: list[str],
        *,
        name: str = "QEMU",
        inherit: Iterable[int],
        console: Console,
        temporary: Path | None = None,
    ) -> None:
        self._console = console
        self._name = name
        checked = ["/bin/sh", "-c", _IF_WE_LIVE, str(os.getpid()), *argv]
        guarded = [find_tool("setpriv"), "--pdeathsig", "KILL", "--", *checked]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        start = _starter(os.getpid()).submit(
            subprocess.Popen,
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=tuple(inherit),
            cwd="/",
            env={**os.environ, "TMPDIR": str(temporary)} if temporary else None,
            start_new_session=True,
        )
        try:
            self._process: subprocess.Popen[bytes] = start.result()
        except OSError as error:
            self._errors.close()
            raise LaunchError(f"{name} cannot be started: {argv[0]}: {error.strerror}") from error
        except BaseException:
            self._errors.close()
            raise
        self._reader = threading.Thread(target=self._read, name="guest console", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def resident_bytes(self) -> int:
        """Return how much memory it occupies.

        Returns: resident set size of the largest of its processes; 0 when it has ended.
        """
        pages = [_resident_pages(pid) for pid in (self.pid, *_descendants(self.pid))]
        return max(pages) * os.sysconf("SC_PAGE_SIZE")  # the guest's memory is in one of them

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(timeout_s)
        return True

    def describe_end(self) -> str:
        """Say how it ended."""
        code = self._process.poll()
        if code is None:
            return f"{self._name} is running"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        said = "" if self._errors.closed else self._words()
        return f"{self._name} {how}" + (f"; it said: {said}" if said else "")

    def kill(self) -> None:
        """End it at once, also from another thread; whoever waits for its guest sees it gone."""
        self._process.kill()

    def close(self) -> None:
        """End it: politely, then by force; calling it twice does no harm."""
        if self.is_running:
            self._process.terminate()
            if not self.wait(_KILL_AFTER_S):
                self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def _words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        kept = [line for line in lines if "TCG doesn't support requested feature" not in line]
        return "\n".join(kept)[-2000:]

    def _read(self) -> None:
        stream = self._process.stdout
        while stream and (data := os.read(stream.fileno(), 1 << 16)):
            self._console.feed(data)


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _descendants(pid: int) -> Iterator[int]:
    try:
        lists = [place.read_text() for place in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in " ".join(lists).split():
        yield int(child)
        yield from _descendants(int(child))
