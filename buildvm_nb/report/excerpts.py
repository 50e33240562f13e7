"""Excerpts of logs: the lines around the one that shows a failure, safe to be shown."""

import re
from collections.abc import Iterable

__all__ = ["clean", "excerpt"]

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[P^_X][^\x1b]*(?:\x1b\\)?|.)"
)
"""Control sequences as ECMA-48 has them: CSI, OSC, strings, single ones."""
_TAIL = 256 * 1024
_BEFORE, _AFTER = 12, 6
_LONGEST = 400


def excerpt(pieces: Iterable[bytes], failing_line: str) -> str:
    """Cut the telling lines out of a log.

    Parameters
    ----------
    pieces : iterable of bytes
        The log; only its last 256 KiB are kept in memory.
    failing_line : str
        The line to look for, or several; not found or empty: the log's end is taken.

    Returns
    -------
    str
        At most 19 lines, cleaned.
    """
    tail = b""
    for piece in pieces:
        tail = (tail + piece)[-_TAIL:]
    lines = clean(tail.decode(errors="replace")).rstrip().split("\n")
    wanted = clean(failing_line).strip().split("\n")[0].strip()
    found = [at for at, line in enumerate(lines) if wanted and wanted in line]
    middle = found[-1] if found else len(lines)
    chosen = lines[max(middle - _BEFORE, 0) : middle + _AFTER + 1]
    return "\n".join(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in chosen)


def clean(text: str) -> str:
    r"""Make text of a stranger safe to show: without escape sequences and control characters.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        Its lines; what cannot be printed is shown as an escape such as ``\x07``.
    """
    plain = _ESCAPES.sub("", text.replace("\r\n", "\n")).expandtabs()
    return "".join(
        letter
        if letter == "\n" or letter.isprintable()
        else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in plain
    )
