"""Excerpts of logs: the lines around the one that shows a failure, safe to be shown."""

from collections.abc import Iterable

from buildvm_nb.model.plaintext import clean

__all__ = ["excerpt"]

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
