"""Readiness, told the way systemd listens for it; our own `start` listens the same way.

References
----------
sd_notify(3): a datagram ``READY=1`` to the Unix socket that ``NOTIFY_SOCKET`` names.
"""

import os
import socket
from contextlib import suppress

__all__ = ["VARIABLE", "Notifier"]

VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Tells whoever started this process how far it is; nobody, where nobody asked.

    What the process starts in its turn does not inherit the address.
    """

    def __init__(self) -> None:
        address = os.environ.pop(VARIABLE, "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, **fields: str) -> None:
        """Tell something.

        Parameters
        ----------
        **fields
            As systemd knows them: ``READY="1"``, ``STATUS="…"``, ``STOPPING="1"``.
        """
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as port, suppress(OSError):
            port.sendto(message.encode(), self._address)
