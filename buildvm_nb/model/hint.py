"""A hint: something in a source tree that is worth probing first. A hint is never a verdict."""

from enum import StrEnum

from buildvm_nb.model.instants import Instant
from buildvm_nb.model.value import Value

__all__ = ["VALIDITIES", "VALIDITY_BEGINS", "VALIDITY_ENDS", "Hint", "HintKind"]


class HintKind(StrEnum):
    """What a hint was read from."""

    CERTIFICATE_BEGINS = "certificate-begins"
    CERTIFICATE_ENDS = "certificate-ends"
    CRL_BEGINS = "crl-begins"
    CRL_ENDS = "crl-ends"
    OPENPGP_KEY_BEGINS = "openpgp-key-begins"
    OPENPGP_KEY_ENDS = "openpgp-key-ends"
    OPENPGP_SIGNATURE_BEGINS = "openpgp-signature-begins"
    OPENPGP_SIGNATURE_ENDS = "openpgp-signature-ends"
    TOKEN_BEGINS = "token-begins"  # noqa: S105 - a kind of hint, not a secret
    TOKEN_ENDS = "token-ends"  # noqa: S105
    SSH_CERTIFICATE_BEGINS = "ssh-certificate-begins"
    SSH_CERTIFICATE_ENDS = "ssh-certificate-ends"
    DATE_CONSTANT = "date-constant"
    """A date written in source text or data."""
    EPOCH_CONSTANT = "epoch-constant"
    """Seconds (or milli-, micro-, nanoseconds) since 1970 written in source text or data."""
    OUTPUT_DATE = "output-date"
    """A date that a failing step printed."""
    ROLLOVER = "rollover"
    """A counter of time overflows, for example 2038-01-19T03:14:08Z."""
    CALENDAR = "calendar"
    """A turn of a year, month or day, 29 February, a change of daylight saving time."""
    CPU_TUNING = "cpu-tuning"
    """A compiler flag that fits code to the building machine, for example ``-march=native``."""
    CPU_DISPATCH = "cpu-dispatch"
    """Code that asks the CPU what it can."""
    KERNEL_VERSION = "kernel-version"
    """Code that reads the kernel's release."""


VALIDITY_BEGINS = frozenset(kind for kind in HintKind if kind.endswith("-begins"))
"""Kinds of hints on the first second at which something is valid."""
VALIDITY_ENDS = frozenset(kind for kind in HintKind if kind.endswith("-ends"))
"""Kinds of hints on the end of a validity: its last second, or the first one after it."""
VALIDITIES = VALIDITY_BEGINS | VALIDITY_ENDS


class Hint(Value):
    """One thing found."""

    kind: HintKind
    path: str = ""
    """Where, relative to what was scanned, ``a.tar!b/c.pem`` inside an archive; empty: generic."""
    line: int | None = None
    """Line, from 1, where the place is text."""
    instant: Instant | None = None
    """The instant as it is written there, as a whole second; None: it is about a CPU or a kernel.

    Whether the end of a validity is its last second or the first one after it is for probes to say.
    """
    condition: str = ""
    """What it is about where that is no instant: a CPU feature, a function that is called."""
    why: str
    """A sentence with names: whose certificate, which constant."""
