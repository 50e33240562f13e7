"""Whose archives Guix takes: its access-control list, and the keys in it.

The list is edited as text, so that what others wrote into it stays as it is. Keys hold no dates:
they are good at whatever date a machine has.

References
----------
GNU Guix Reference Manual, "Invoking guix archive"; Libgcrypt Reference Manual, "S-expressions"
(advanced format).
"""

import re
from pathlib import Path

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.guix.sexp import FormScanner

__all__ = ["acl_of", "authorize", "read_signing_key", "revoke"]

_KEY = re.compile(r"\s*\(\s*public-key\s*\(.*\)\s*\)\s*", re.DOTALL)
_LARGEST_KEY = 1 << 16
_EMPTY = "(acl)\n"


def read_signing_key(path: Path) -> str:
    """Read the public key with which a Guix signs what it sends.

    Parameters
    ----------
    path : Path
        For example ``/etc/guix/signing-key.pub``.

    Returns
    -------
    str
        An S-expression.

    Raises
    ------
    HostError
        If there is none, or it cannot be read.
    UsageError
        If the file is no public key.
    """
    try:
        with path.open(encoding="ascii") as stream:
            text = stream.read(_LARGEST_KEY)
    except FileNotFoundError as error:
        raise HostError(
            f"Guix of this host has no signing key: {path}",
            hint="make one: sudo guix archive --generate-key; or name another `signing_key` in "
            "the machine's file",
        ) from error
    except OSError as error:
        raise HostError(f"cannot read the signing key: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _no_key(path) from error
    if not _KEY.fullmatch(text) or _end(text) is None:
        raise _no_key(path)
    return text.strip()


def acl_of(key: str) -> str:
    """Write a list that has one key and no other.

    Parameters
    ----------
    key : str
        Of `read_signing_key`.

    Returns
    -------
    str
        Content of an ``acl`` file.
    """
    return authorize(_EMPTY, key)


def authorize(acl: str, key: str) -> str:
    """Put a key into a list.

    Parameters
    ----------
    acl : str
        Content of an ``acl`` file; empty where there is none yet.
    key : str
        Of `read_signing_key`.

    Returns
    -------
    str
        The same text where the key is in it already.

    Raises
    ------
    UsageError
        If it is no such list.
    """
    acl = acl.strip() or _EMPTY.strip()
    _check(acl)
    if any(_plain(key) in _plain(entry) for entry in _entries(acl)):
        return f"{acl}\n"
    return f"{acl[:-1].rstrip()}\n (entry\n{key}\n  (tag (guix import)))\n)\n"


def revoke(acl: str, key: str) -> str:
    """Take a key out of a list.

    Parameters
    ----------
    acl : str
        Content of an ``acl`` file.
    key : str
        Of `read_signing_key`.

    Returns
    -------
    str
        All else is as it was.

    Raises
    ------
    UsageError
        If it is no such list.
    """
    _check(acl.strip())
    for entry in _entries(acl):
        if _plain(key) in _plain(entry):
            before, _, after = acl.partition(entry)
            acl = before.rstrip() + "\n" + after.lstrip("\n")
    return acl


def _check(acl: str) -> None:
    if not re.match(r"\(\s*acl\b", acl) or _end(acl) != len(acl):
        raise UsageError(
            "Guix's access-control list is not one: it does not begin with (acl, or its "
            "parentheses do not match",
            hint="`guix archive --authorize` tells more",
        )


def _entries(acl: str) -> list[str]:
    found = []
    for match in re.finditer(r"\(\s*entry\b", acl):
        rest = acl[match.start() :]
        if length := _end(rest):
            found.append(rest[:length])
    return found


def _end(text: str) -> int | None:
    try:
        return FormScanner().feed(text.encode())
    except ValueError:
        return None


def _plain(text: str) -> str:
    return re.sub(r"\s+", "", text).upper()


def _no_key(path: Path) -> UsageError:
    return UsageError(
        f"not a public key of Guix: {path}", hint="it begins with (public-key, and is not secret"
    )
