"""JSON Web Tokens and SSH certificates, which carry their times in the clear.

References
----------
RFC 7519, 4.1 (exp, nbf, iat); OpenSSH, PROTOCOL.certkeys.
"""

import binascii
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from buildvm_nb.hints.certificates import tolerant
from buildvm_nb.hints.dates import to_instant
from buildvm_nb.hints.found import Found, Report
from buildvm_nb.model.hint import HintKind

__all__ = ["find_ssh_certificates", "find_tokens"]

_LETTER = rb"[A-Za-z0-9_-]"
_TOKEN = re.compile(
    rb"eyJ(?<!" + _LETTER + rb"eyJ)(" + _LETTER + rb"{5,4000}+)"
    rb"\.(eyJ" + _LETTER + rb"{2,16000}+)\." + _LETTER + rb"{0,1}"
)
_CLAIMS = (
    ("iat", HintKind.TOKEN_BEGINS, "is issued"),
    ("nbf", HintKind.TOKEN_BEGINS, "begins"),
    ("exp", HintKind.TOKEN_ENDS, "ends"),
)
_MARK = b"-cert-v01@openssh.com "
_SSH = re.compile(rb"[a-z0-9-]{3,40}-cert-v01@openssh\.com {1,4}[A-Za-z0-9+/]{100,16000}+={0,2}")
_NAME_BEFORE = re.compile(rb"[a-z0-9-]{3,40}\Z")
_LONGEST_NAME = 40
_NO_END = 2**64 - 1


def find_tokens(data: bytes) -> Iterator[Found]:
    """Find JSON Web Tokens.

    Parameters
    ----------
    data : bytes
        Text.

    Yields
    ------
    Found
        When each is issued, begins and ends, as far as it says so.
    """
    for match in _TOKEN.finditer(data):
        header, claims = _json(b"eyJ" + match[1]), _json(match[2])
        if "alg" not in header:
            continue
        for name, kind, verb in _CLAIMS:
            value = claims.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                at = to_instant(int(value))
                if at is not None:
                    what = f"JSON Web Token ({header['alg']!s:.20}) {verb}: {name}"
                    yield Found(kind, what, at, offset=match.start())


def _json(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(binascii.a2b_base64(text.translate(_TO_BASE64) + b"=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


_TO_BASE64 = bytes.maketrans(b"-_", b"+/")


def find_ssh_certificates(data: bytes, report: Report) -> Iterator[Found]:
    """Find SSH certificates.

    Parameters
    ----------
    data : bytes
        Text.
    report : callable
        Is told what cannot be read.

    Yields
    ------
    Found
        Begin and end; nothing where they are always and never.
    """
    at = data.find(_MARK)
    while at >= 0:
        name = _NAME_BEFORE.search(data, max(0, at - _LONGEST_NAME), at)
        match = _SSH.match(data, name.start()) if name is not None else None
        if match is not None:
            yield from _in_ssh(match, report)
        at = data.find(_MARK, at + len(_MARK))


def _in_ssh(match: re.Match[bytes], report: Report) -> Iterator[Found]:
    key = tolerant(lambda: load_ssh_public_identity(match[0]))
    if not isinstance(key, SSHCertificate):
        report(match.start(), "SSH certificate: damaged, or of a kind that is not known")
        return
    name = key.key_id.decode("utf-8", "replace")
    for kind, seconds, verb in (
        (HintKind.SSH_CERTIFICATE_BEGINS, key.valid_after, "begins"),
        (HintKind.SSH_CERTIFICATE_ENDS, key.valid_before, "ends"),
    ):
        instant = to_instant(seconds) if 0 < seconds < _NO_END else None
        if instant is not None:
            yield Found(
                kind, f"SSH certificate {name!r:.100} {verb}", instant, offset=match.start()
            )
