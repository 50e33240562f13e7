"""Text of strangers, such as logs and titles, made safe to show: escapes and controls removed."""

import re

__all__ = ["clean"]

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[P^_X][^\x1b]*(?:\x1b\\)?|.)"
)
"""Control sequences as ECMA-48 has them: CSI, OSC, strings, single ones."""


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
