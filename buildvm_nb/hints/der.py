"""Just enough of DER to find certificates and revocation lists in any bytes, and when they hold.

A full parser refuses what it finds odd: a negative serial number, a string in the wrong alphabet.
Such a certificate ends on its day all the same, so this looks at the shape, and at the times only.

References
----------
X.690, 8.1 (identifier and length octets), 11.7 and 11.8 (times); RFC 5280, 4.1 and 5.1.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from buildvm_nb.model.instants import EARLIEST, LATEST

__all__ = ["Element", "Validity", "children", "find_validities", "read_element", "read_validity"]

_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x02, 0x30, 0x17, 0x18, 0xA0
_TIMES = {_UTC_TIME, _GENERALIZED_TIME}
_LONG_FORM = 0x80
_MOST_LENGTH_BYTES = 4
_PIVOT = 50
_MOST_TRIES = 100_000
_LONGEST = 2**20
"""Of a certificate or list that is looked for inside other bytes."""
_START = re.compile(rb"0\x82[\x00-\xff]{2}0[\x81\x82]")
_TIME = re.compile(
    rb"(\d{2}|\d{4})(\d\d)(\d\d)(\d\d)(?:(\d\d)(\d\d)?)?(?:\.\d{1,9})?(Z|[+-]\d{4})?"
)


class Element(NamedTuple):
    """A tag, and where its contents are."""

    tag: int
    start: int
    end: int


class Validity(NamedTuple):
    """When something holds."""

    offset: int
    """Where it begins."""
    end: int
    """Where its bytes end, as they say themselves."""
    is_list: bool
    """Whether it is a revocation list."""
    begins: datetime | None
    """None: no instant can hold it."""
    ends: datetime | None


def read_element(data: bytes, at: int) -> Element:
    """Read tag and length at an offset.

    Parameters
    ----------
    data : bytes
        Any bytes; the contents may reach beyond their end.
    at : int
        Where.

    Returns
    -------
    Element
        With a tag of one byte.

    Raises
    ------
    ValueError
        If there is no such thing.
    """
    if at + 2 > len(data):
        raise ValueError("DER ends too early")
    tag, length, start = data[at], data[at + 1], at + 2
    if length & _LONG_FORM:
        count = length - _LONG_FORM
        if not 0 < count <= _MOST_LENGTH_BYTES or start + count > len(data):
            raise ValueError("DER has an odd length")
        length = int.from_bytes(data[start : start + count])
        start += count
    return Element(tag, start, start + length)


def children(data: bytes, parent: Element) -> Iterator[Element]:
    """Iterate over what a constructed element holds, as far as the data goes.

    Parameters
    ----------
    data : bytes
        The bytes.
    parent : Element
        What holds them.

    Yields
    ------
    Element
        One after the other.
    """
    at, end = parent.start, min(parent.end, len(data))
    while at < end:
        element = read_element(data, at)
        yield element
        at = element.end


def read_validity(data: bytes, at: int = 0) -> Validity | None:
    """Read the times of a certificate or revocation list.

    Parameters
    ----------
    data : bytes
        Any bytes; what comes after the times may be missing.
    at : int
        Where it begins.

    Returns
    -------
    Validity or None
        None: neither of both begins there.
    """
    try:
        whole = _expect(read_element(data, at), _SEQUENCE)
        parts = children(data, _expect(read_element(data, whole.start), _SEQUENCE))
        part = next(parts)
        if part.tag == _VERSION:
            part = next(parts)
        if part.tag == _INTEGER:
            part = next(parts)
        _expect(part, _SEQUENCE)  # the algorithm
        _expect(next(parts), _SEQUENCE)  # the issuer
        part = next(parts)
        is_list = part.tag in _TIMES
        times = (
            [part, next(parts, None)] if is_list else [*children(data, _expect(part, _SEQUENCE))]
        )
        begins, ends = (_time(data, time) for time in times)
    except (ValueError, StopIteration):
        return None
    return Validity(at, whole.end, is_list, begins, ends)


def find_validities(data: bytes) -> Iterator[Validity]:
    """Find certificates and revocation lists anywhere in some bytes.

    Parameters
    ----------
    data : bytes
        A key store, a signed message, firmware: whatever holds them in the clear.

    Yields
    ------
    Validity
        In the order in which they lie there; none lies inside another.

    Raises
    ------
    ValueError
        If too much looks like one and is none.
    """
    first = read_validity(data)
    if first is not None:
        yield first
    at = first.end if first is not None else 0
    tries = 0
    while match := _START.search(data, at):
        found = read_validity(data, match.start())
        tries += found is None
        if tries > _MOST_TRIES:
            raise ValueError("too much in it looks like certificates; the rest is left out")
        if found is not None and found.end - found.offset < _LONGEST:
            yield found
        at = found.end if found is not None and found.end <= len(data) else match.start() + 2


def _expect(element: Element, tag: int) -> Element:
    if element.tag != tag:
        raise ValueError("DER of another shape")
    return element


def _time(data: bytes, element: Element | None) -> datetime | None:
    if element is None or element.tag in {_SEQUENCE, _VERSION}:
        return None  # a list without nextUpdate
    if element.tag not in _TIMES:
        raise ValueError("DER of another shape")
    match = _TIME.fullmatch(data[element.start : element.end][:40])
    if match is None:
        raise ValueError("no time")
    return _instant(match, is_short=element.tag == _UTC_TIME)


def _instant(match: re.Match[bytes], *, is_short: bool) -> datetime | None:
    year, month, day, hour, minute, second = (int(match[group] or 0) for group in range(1, 7))
    if is_short != (len(match[1]) == 2):  # noqa: PLR2004 - two digits
        raise ValueError("no time")
    if is_short:
        year += 2000 if year < _PIVOT else 1900
    offset = timedelta(0)
    if match[7] and match[7] != b"Z":
        offset = timedelta(hours=int(match[7][:3]), minutes=int(match[7][:1] + match[7][3:]))
    if year == 0:
        return None
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - offset
    except OverflowError:
        return None
    return at if EARLIEST <= at <= LATEST else None
