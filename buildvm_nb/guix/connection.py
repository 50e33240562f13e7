"""One connection: bytes in and out, each within a time limit of the host's monotonic clock."""

import os
import select
import socket
import time

from buildvm_nb.errors import MachineError

__all__ = ["Connection", "Ended", "TooLate"]

_PIECE = 1 << 16


class Ended(MachineError):
    """The other end closed the connection before it had said all."""


class TooLate(MachineError):
    """The other end did not do its part in time."""


class Connection:
    """A connection over a file descriptor: a socket, or the device of a port.

    Parameters
    ----------
    descriptor : int
        Owned from now on.
    is_device : bool
        Whether it is a character device. That reads as ended, and takes nothing, while the other
        end is not open yet, so that the end of a connection cannot be told from its beginning.
    """

    def __init__(self, descriptor: int, *, is_device: bool = False) -> None:
        self._descriptor = descriptor
        self._is_device = is_device
        self._pending = b""
        os.set_blocking(descriptor, False)

    def receive(self, deadline: float, what: str) -> bytes:
        """Receive what comes next.

        Parameters
        ----------
        deadline : float
            On the monotonic clock.
        what : str
            What is waited for, for messages.

        Returns
        -------
        bytes
            At least one.

        Raises
        ------
        Ended
            If the other end has closed.
        TooLate
            If nothing comes in time.
        """
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        while True:
            self._wait(select.POLLIN, deadline, what)
            try:
                data = os.read(self._descriptor, _PIECE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Ended(f"the connection broke before {what}: {error.strerror}") from error
            if data:
                return data
            if not self._is_device:
                raise Ended(f"the other end closed the connection before {what}")
            self._rest(deadline, what)

    def push_back(self, data: bytes) -> None:
        """Give back bytes that belong to what comes next.

        Parameters
        ----------
        data : bytes
            `receive` returns them again.
        """
        self._pending = data + self._pending

    def send(self, data: bytes, deadline: float, what: str) -> None:
        """Send all of some bytes.

        Parameters
        ----------
        data : bytes
            To be sent.
        deadline : float
            On the monotonic clock.
        what : str
            What is being sent, for messages.

        Raises
        ------
        Ended
            If the other end has closed.
        TooLate
            If it does not take them in time.
        """
        left = memoryview(data)
        while left:
            self._wait(select.POLLOUT, deadline, f"it had taken {what}")
            try:
                left = left[os.write(self._descriptor, left[:_PIECE]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Ended(
                    f"the other end closed the connection before it had taken {what}: "
                    f"{error.strerror}"
                ) from error

    def finish(self, timeout_s: float) -> None:
        """Say that all has been sent, and wait until the other end closes in its turn.

        A connection that is closed at once may lose what the other end has not read yet. A device
        has no such word.

        Parameters
        ----------
        timeout_s : float
            How long to wait; more is not an error, as some never close.

        Raises
        ------
        Ended
            If the other end drops the connection: then it has not taken all.
        """
        if self._is_device:
            return
        with socket.socket(fileno=os.dup(self._descriptor)) as end:
            try:
                end.shutdown(socket.SHUT_WR)
                end.settimeout(timeout_s)
                while end.recv(_PIECE):
                    pass
            except TimeoutError:
                pass
            except OSError as error:
                raise Ended(
                    f"the other end dropped the connection, so it has not taken all: "
                    f"{error.strerror}"
                ) from error

    def close(self) -> None:
        """Close our end; calling it twice does no harm."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _wait(self, event: int, deadline: float, what: str) -> None:
        """Wait until the descriptor is worth a try."""
        poll = select.poll()
        poll.register(self._descriptor, event)
        left_s = deadline - time.monotonic()
        found = poll.poll(max(left_s, 0) * 1000)
        if not found:
            raise TooLate(f"time was over before {what}")
        if self._is_device and found[0][1] == select.POLLHUP:
            self._rest(deadline, what)

    def _rest(self, deadline: float, what: str) -> None:
        """Let a moment pass: a device whose other end is closed is always ready."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TooLate(f"time was over before {what}")
        select.select([], [], [], min(left_s, 0.05))
