"""Text of strangers, such as logs and titles: made safe to show, and compared between runs."""

import re

__all__ = ["clean", "says", "steady"]

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[P^_X][^\x1b]*(?:\x1b\\)?|.)"
)
"""Control sequences as ECMA-48 has them: CSI, OSC, strings, single ones."""
_UNITS = (
    r"[num]?s|msecs?|secs?|seconds?|milliseconds?|min|minutes?|h|hours?|wallclock secs"
    r"|usr|sys|cusr|csys|CPU"
)
_VARYING = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"\b0x[0-9a-fA-F]+\b", "0x…"),
        (r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "…"),
        # object ids and digests: letters and digits of a hexadecimal number
        (r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{7,}\b", "…"),
        (r"(?<=/tmp/)(?:pytest-of-[^/\s]+/pytest-\d+|[^/\s:,'\"`()]+)", "…"),
        (r"(\b(?:127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\])):\d+", r"\1:…"),
        (r"(?i)\b(pid|process|thread|tid|worker)([ =:#]+)\d+\b", r"\1\2…"),
        (r"(?<=\w)\[\d+\]:|==\d+==|^\[ *\d+\.\d+\]", "…"),
        (r"(thread '[^']*') \(\d+\)", r"\1"),
        (rf"(?i)-?\b\d+(?:[.,]\d+)?\s?(?:{_UNITS})\b", "… s"),
    )
)
"""What no two runs have in common: addresses, ids, temporary paths, process numbers, durations."""


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


def steady(text: str) -> str:
    """Leave out of a line what differs between any two runs that say the same.

    Parameters
    ----------
    text : str
        A line or a few of a log.

    Returns
    -------
    str
        With single spaces, and with ellipses for addresses, object ids, temporary paths, ports,
        process numbers and durations. Dates stay: a guest's date is what is studied.
    """
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return " ".join(text.split())


def says(line: str, text: str) -> bool:
    """Tell whether a line of a log says a text.

    Parameters
    ----------
    line : str
        A line or a few.
    text : str
        What it is claimed to say; how its words are spaced does not matter, nor do durations,
        addresses and the like.

    Returns
    -------
    bool
        False for a text without words.
    """
    wanted = " ".join(text.split())
    if not wanted or wanted in " ".join(line.split()):
        return bool(wanted)
    told = steady(text)
    return told != wanted and told in steady(line)  # to normalise a long log takes its time
