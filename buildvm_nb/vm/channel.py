"""The guest channel: SSH over a socket that only this process and QEMU hold.

Both keys are made for one machine. The client knows the server's key beforehand, the server knows
the client's, and nothing listens anywhere.
"""

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildvm_nb.errors import GuestLost
from buildvm_nb.vm.session import ChannelKeys

__all__ = ["GuestChannel"]

_ALGORITHMS = {
    # what dropbear 2022.83 and paramiko share and what is cheapest for an emulated CPU
    "kex": ("curve25519-sha256@libssh.org",),
    "ciphers": ("aes128-ctr",),
    "digests": ("hmac-sha2-256",),
    "key_types": ("ssh-ed25519",),
}
_WINDOW = 1 << 24
_OPEN_TIMEOUT_S = 100.0
_OPEN_ATTEMPTS = 3


class GuestChannel:
    """An SSH session with a guest.

    `connection`: leads to the guest's port; owned by the session from now on.
    Raises `GuestLost` if the handshake fails or the server is not the one we made.
    """

    def __init__(self, connection: socket.socket, keys: ChannelKeys, *, timeout_s: float) -> None:
        self._connection = connection
        self._transport = paramiko.Transport(connection, default_window_size=_WINDOW)
        options = self._transport.get_security_options()
        for name, allowed in _ALGORITHMS.items():
            setattr(options, name, allowed)
        transport = self._transport
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = timeout_s
        try:
            self._transport.start_client(timeout=timeout_s)
            self._check_server(keys)
            self._transport.auth_publickey("root", _private(keys.client))
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise GuestLost(f"no SSH session with the guest: {error}") from error

    def start(self, line: str, *, terminal: tuple[str, int, int] | None = None) -> paramiko.Channel:
        """Start a command in the guest."""
        try:
            session = self._open()
            with self._limited():
                if terminal:
                    session.get_pty(*terminal)
                session.exec_command(line)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise GuestLost(f"the SSH session with the guest is gone: {error}") from error
        return session

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """End the session with the guest if it takes too long: paramiko would wait for ever."""
        watchdog = threading.Timer(_OPEN_TIMEOUT_S, self._transport.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            watchdog.join()

    def check(self) -> None:
        """Make sure that the guest still answers."""
        try:
            self._open().close()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise GuestLost(f"the guest does not answer any more: {error}") from error

    def _open(self) -> paramiko.Channel:
        """Open a session; the server may close it at once, when a process of another one ends."""
        for left in reversed(range(_OPEN_ATTEMPTS)):
            try:
                return self._transport.open_session(timeout=_OPEN_TIMEOUT_S)
            except paramiko.SSHException:
                if not (left and self._transport.is_active()):
                    raise
        raise AssertionError("unreachable")

    def _check_server(self, keys: ChannelKeys) -> None:
        if self._transport.get_remote_server_key().asbytes() != _private(keys.host).asbytes():
            message = "its server has another key than was made for it"
            raise paramiko.SSHException(message)

    def close(self) -> None:
        """End the session; calling it twice does no harm."""
        with suppress(OSError):  # it is closed, or the guest is gone
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes who reads, else up to 0.1 s later
        self._transport.close()
        self._transport.join(5)


def _private(key: Ed25519PrivateKey) -> paramiko.Ed25519Key:
    form = serialization.PrivateFormat.OpenSSH
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pem.decode()))
