"""The keys of the guest channel: made for one machine, known to both ends before they meet."""

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["ChannelKeys"]

_TYPE = b"ssh-ed25519"


@dataclass(frozen=True)
class ChannelKeys:
    """The two key pairs of one machine."""

    host: Ed25519PrivateKey
    client: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> "ChannelKeys":
        """Make new keys.

        Returns
        -------
        ChannelKeys
            Of this machine and no other.
        """
        return cls(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())

    @classmethod
    def from_text(cls, text: str) -> "ChannelKeys":
        """Read keys that `to_text` wrote.

        Parameters
        ----------
        text : str
            Two private keys in hexadecimal.

        Returns
        -------
        ChannelKeys
            The same as were written.

        Raises
        ------
        ValueError
            If the text is something else.
        """
        host, client = (
            Ed25519PrivateKey.from_private_bytes(bytes.fromhex(part)) for part in text.split()
        )
        return cls(host, client)

    def to_text(self) -> str:
        """Write both private keys.

        Returns
        -------
        str
            In hexadecimal, the server's first.
        """
        return f"{self.host.private_bytes_raw().hex()} {self.client.private_bytes_raw().hex()}"

    def host_key_file(self) -> bytes:
        """Return the server's key in dropbear's own form.

        Returns
        -------
        bytes
            Type, then private and public half as one string (dropbear, src/ed25519.c).
        """
        secret = self.host.private_bytes_raw() + self.host.public_key().public_bytes_raw()
        return b"".join(struct.pack(">I", len(part)) + part for part in (_TYPE, secret))

    def authorized_keys(self) -> bytes:
        """Return the one line that lets the client in.

        Returns
        -------
        bytes
            In OpenSSH's form.
        """
        public = self.client.public_key()
        form = serialization.PublicFormat.OpenSSH
        return public.public_bytes(serialization.Encoding.OpenSSH, form) + b"\n"
