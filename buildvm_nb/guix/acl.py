"""Whose archives Guix takes: its access-control list, and the keys in it.

The list is edited as text, so that what others wrote into it stays as it is. Keys hold no dates:
they are good at whatever date a machine has.

References
----------
GNU Guix Reference Manual, "Invoking guix archive"; Libgcrypt Reference Manual, "S-expressions"
(advanced format).
"""

from pathlib import Path

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.guix.sexp import Form, Symbol, read_all, write_form

__all__ = ["acl_of", "authorize", "read_signing_key", "revoke"]

_LARGEST_KEY = 1 << 16
_EMPTY = "(acl)\n"


def read_signing_key(path: Path) -> str:
    """Read the public key with which a Guix signs what it sends."""
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
    try:
        form = _only(text, "public-key")
    except UsageError as error:
        raise _no_key(path) from error
    if not any(isinstance(part, Form) for part in form):
        raise _no_key(path)
    return text.strip()


def acl_of(key: str) -> str:
    """Write a list that has one key and no other."""
    return authorize(_EMPTY, key)


def authorize(acl: str, key: str) -> str:
    """Put a key into a list."""
    acl = acl.strip() or _EMPTY.strip()
    form = _read(acl)
    if any(_has(entry, key) for entry in _entries(form)):
        return f"{acl}\n"
    last = form.end - 1
    return f"{acl[:last].rstrip()}\n (entry\n{key}\n  (tag (guix import)))\n{acl[last:]}\n"


def revoke(acl: str, key: str) -> str:
    """Take a key out of a list."""
    for entry in reversed(_entries(_read(acl))):
        if _has(entry, key):
            acl = acl[: entry.start].rstrip() + "\n" + acl[entry.end :].lstrip("\n")
    return acl


def _read(acl: str) -> Form:
    try:
        return _only(acl, "acl")
    except UsageError as error:
        raise UsageError(
            "Guix's access-control list is not one: it does not begin with (acl, or its "
            "parentheses do not match",
            hint="`guix archive --authorize` tells more",
        ) from error


def _only(text: str, name: str) -> Form:
    """Read the one list that a text is to be, which begins with a name."""
    forms = read_all(text).forms
    if len(forms) != 1 or not isinstance(forms[0], Form) or forms[0][:1] != [Symbol(name)]:
        raise UsageError(f"not a list that begins with {name}")
    return forms[0]


def _entries(acl: Form) -> list[Form]:
    return [one for one in acl if isinstance(one, Form) and one[:1] == [Symbol("entry")]]


def _has(entry: Form, key: str) -> bool:
    """Tell whether a key is in an entry; digits of numbers are of either case."""
    wanted = write_form(_only(key, "public-key")).upper()
    return any(write_form(part).upper() == wanted for part in entry)


def _no_key(path: Path) -> UsageError:
    return UsageError(
        f"not a public key of Guix: {path}", hint="it begins with (public-key, and is not secret"
    )
