"""S-expressions as Guix writes them: found in a stream, read from a file, written.

Reading and writing are sexpdata's. What is ours is what a stream needs: knowing where an expression
ends before it is parsed, as nothing announces its length.

References
----------
GNU Guile Reference Manual, "Scheme Write" and "Comments".
"""

import re
from typing import Any

import sexpdata

from buildvm_nb.errors import UsageError

__all__ = ["DEEPEST", "FormScanner", "Symbol", "read_forms", "write_form"]

Symbol = sexpdata.Symbol
"""A name, as against a text."""

DEEPEST = 200
"""Parentheses within each other."""

_OPENING, _CLOSING, _QUOTE, _ESCAPE = b'()"\\'
_SPACE = b" \t\r\n"
_SKIPPED = re.compile(r'"(?:[^"\\]|\\.)*"|#\\.|;[^\n]*|#\|.*?\|#|#;', re.DOTALL)
_SKIPPED_OR_TICK = re.compile(_SKIPPED.pattern + "|`", re.DOTALL)
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|\\.|[()\[\]]', re.DOTALL)


class FormScanner:
    """Finds the end of one parenthesised expression that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._escaped = False

    def feed(self, data: bytes) -> int | None:
        """Look at the next piece.

        Parameters
        ----------
        data : bytes
            Of any length.

        Returns
        -------
        int or None
            How much of the piece belongs to the expression; None: it goes on after it.

        Raises
        ------
        ValueError
            If what comes is no parenthesised expression, or too deep a one.
        """
        for position, byte in enumerate(data):
            if self._escaped:
                self._escaped = False
            elif self._in_text:
                self._in_text = byte != _QUOTE
                self._escaped = byte == _ESCAPE
            elif self._depth == 0 and byte != _OPENING:
                if byte not in _SPACE:
                    message = "it does not begin with a parenthesis"
                    raise ValueError(message)
            elif byte == _CLOSING:
                self._depth -= 1
                if self._depth == 0:
                    return position + 1
            else:
                self._enter(byte)
        return None

    def _enter(self, byte: int) -> None:
        self._in_text = byte == _QUOTE
        self._depth += byte == _OPENING
        if self._depth > DEEPEST:
            message = f"its parentheses are more than {DEEPEST} deep"
            raise ValueError(message)


def read_forms(text: str) -> list[Any]:
    """Read all expressions of a text.

    Parameters
    ----------
    text : str
        Scheme.

    Returns
    -------
    list
        Lists, `Symbol`, str, int, float, bool and sexpdata's quotes; nothing is evaluated.

    Raises
    ------
    UsageError
        If parentheses or quotes do not match, are too deep, or there is a comment ``#;``.
    """
    plain = _SKIPPED.sub(_without_comment, text)
    # sexpdata knows no quasiquote; what is unquoted within keeps its comma, and is no literal
    plain = _SKIPPED_OR_TICK.sub(lambda found: "'" if found[0] == "`" else found[0], plain)
    _check_depth(plain)
    try:
        # sexpdata reports a text without an end, or an escape without a character, as it meets it
        forms: list[Any] = sexpdata.parse(plain, nil=None, true="#t", false="#f")
    except (
        sexpdata.ExpectClosingBracket,
        sexpdata.ExpectNothing,
        sexpdata.ExpectSExp,
        AttributeError,
        IndexError,
    ) as error:
        raise UsageError("not S-expressions: parentheses or quotes do not match") from error
    return forms


def _check_depth(text: str) -> None:
    """Refuse what would exhaust the stack of whoever walks through it."""
    depth = 0
    for mark in _MARKS.findall(text):
        depth += (mark in "([") - (mark in ")]")
        if depth > DEEPEST:
            raise UsageError(f"not S-expressions of ours: more than {DEEPEST} parentheses deep")


def _without_comment(found: re.Match[str]) -> str:
    if found[0] == "#;":
        raise UsageError(
            "the comment #; before an expression is not understood",
            hint="take it out, or write the comment as #| … |#",
        )
    return found[0] if found[0][0] == '"' or found[0][:2] == "#\\" else " "


def write_form(form: object) -> str:
    """Write an expression.

    Parameters
    ----------
    form : object
        As `read_forms` gives them; texts without control characters.

    Returns
    -------
    str
        As Guile's ``read`` takes it.
    """
    return str(sexpdata.dumps(form, true_as="#t", false_as="#f"))
