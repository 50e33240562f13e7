"""QEMU's monitor: what it runs and what its CPU really has.

References
----------
QEMU, docs/interop/qmp-spec.rst, qapi/machine-target.json (``query-cpu-model-expansion``);
target/i386/cpu.c (property ``unavailable-features``).
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from buildvm_nb.errors import GuestLost, StateError
from buildvm_nb.model.cpu import CpuIdentity

__all__ = ["Monitor"]


class Monitor:
    """A QMP session, usable from any thread, also where an event loop is running already.

    Parameters
    ----------
    connection : socket.socket
        Connected to QEMU's monitor; owned by the session from now on.
    timeout_s : float
        For each command, by the host's monotonic clock.
    on_trouble : callable, optional
        Gets a sentence when QEMU says that a disk of the machine failed, or that it has paused the
        guest though nobody asked for it; called once, in a thread of the session.
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

        Parameters
        ----------
        command : str
            Its name.
        **arguments
            Its arguments; ``_`` in a name stands for ``-``.

        Returns
        -------
        Any
            Plain JSON.

        Raises
        ------
        GuestLost
            If QEMU is gone, refuses the command or does not answer in time.
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

        Parameters
        ----------
        cpu : str
            As given to QEMU: model, then ``+feature`` or ``-feature``.
        known : frozenset of str
            Names that are CPU features; a CPU has many other properties.

        Returns
        -------
        tuple of two tuples of str
            QEMU's names, sorted: what the CPU has, and what was asked for (by its model or by
            name) but the accelerator cannot give.

        Raises
        ------
        GuestLost
            If QEMU does not answer.
        """
        model, *changes = cpu.split(",")
        props = {change[1:]: change[0] == "+" for change in changes}
        asked = self.execute(
            "query-cpu-model-expansion", type="full", model={"name": model, "props": props}
        )["model"]["props"]
        path = self.execute("query-cpus-fast")[0]["qom-path"]
        lacking = set(self.execute("qom-get", path=path, property="unavailable-features"))
        wanted = {name for name, value in asked.items() if value is True and name in known}
        return tuple(sorted(wanted - lacking)), tuple(sorted(lacking & known))

    def cpu_identity(self, cpu: str, vendor: str = "") -> CpuIdentity:
        """Return what a CPU says of itself when the accelerator gives all that was asked for.

        Parameters
        ----------
        cpu : str
            As for `cpu_features`.
        vendor : str
            The model's own. Without it QEMU answers with the one that it gives the guest: under
            KVM the host's.

        Returns
        -------
        CpuIdentity
            By QEMU's table of models.

        Raises
        ------
        GuestLost
            If QEMU does not answer.
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
        """Write the machine's state to a file, or read it from one.

        Parameters
        ----------
        command : {"migrate", "migrate-incoming"}
            Which way.
        descriptor : int
            Of the file; QEMU gets a duplicate.
        timeout_s : float
            For the whole of it, by the host's monotonic clock.

        Raises
        ------
        GuestLost
            If QEMU is gone or does not end in time.
        StateError
            If QEMU says that it failed, with its reason.
        """
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
