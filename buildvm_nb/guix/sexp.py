"""S-expressions as Guix and its users write them: read, with the place of each, and written.

One reader serves configurations and lists of machines, which are read as a whole, access-control
lists, which are edited in place, and messages, which come in pieces and announce no length.

References
----------
GNU Guile Reference Manual, "Scheme Syntax"; GNU Guix Reference Manual, "G-Expressions".
"""

import re
from dataclasses import dataclass
from typing import Any

from buildvm_nb.errors import UsageError

__all__ = ["DEEPEST", "Form", "Quoted", "Reader", "Symbol", "read_all", "read_forms", "write_form"]

DEEPEST = 200
"""Parentheses within each other."""

_LONGEST_TOKEN = 1 << 14
"""Of what comes in pieces, as each piece has what is not complete looked at again."""
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n\f]+|;[^\n]*|\#\|.*?\|\#)
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<open>[(\[])
    |(?P<close>[)\]])
    |(?P<mark>['`]|,@?|\#(?:['`~;]|,@?|[$+]@?|(?=[(\[])))
    |(?P<atom>\#\\.[^ \t\r\n\f()\[\]";]*|(?!\#\|)[^ \t\r\n\f()\[\]";'`,][^ \t\r\n\f()\[\]";]*)""",
    re.DOTALL | re.VERBOSE,
)
_MAY_GO_ON = {"blank", "mark", "atom"}
_BEGINS_LIST = "( \t\r\n"
_CLOSING = {"(": ")", "[": "]"}
_INTEGER, _REAL = (
    re.compile(r"[+-]?\d{1,1000}"),
    re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)(?:e[+-]?\d+)?"),
)
_CONSTANTS = {"#t": True, "#f": False, "#true": True, "#false": False}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True)
class Symbol:
    """A name, as against a text; also a character or a keyword."""

    name: str


@dataclass(frozen=True)
class Quoted:
    """An expression with a mark before it."""

    form: Any
    mark: str = "'"


class Form(list[Any]):
    """A list that knows where it was read: `start` and `end` are offsets of its parentheses."""

    start = end = 0


@dataclass
class _Begun:
    """A list or a mark whose end has not come yet."""

    kind: str
    start: int
    items: Form


class Reader:
    """Reads expressions, also in pieces; nothing is evaluated.

    Where `most` is given it reads so many, and what follows may be anything. With `is_list`
    anything but a list is refused as soon as it begins.
    """

    def __init__(self, most: int | None = None, *, is_list: bool = False) -> None:
        self._most, self._is_list = most, is_list
        self.forms: list[Any] = []
        """Of the outermost level, as far as they are complete."""
        self.places: list[tuple[int, int]] = []
        """Where each of them begins and ends."""
        self._left, self._at, self._line = "", 0, 1
        self._begun: list[_Begun] = []

    @property
    def is_done(self) -> bool:
        """Whether as many were read as were asked for."""
        return len(self.forms) == self._most

    def feed(self, text: str, *, is_last: bool = False) -> None:
        """Read on."""
        text, done = self._left + text, 0
        while done < len(text) and not self.is_done:
            if self._is_list and not self._begun and text[done] not in _BEGINS_LIST:
                raise UsageError("not S-expressions of ours: no parenthesis begins it")
            found = _TOKEN.match(text, done)
            kind = str(found.lastgroup) if found else ""
            if not found or (found.end() == len(text) and kind in _MAY_GO_ON and not is_last):
                break
            self._take(kind, found[0], self._at + done)
            self._line += found[0].count("\n")
            done = found.end()
        self._left, self._at = text[done:], self._at + done
        if is_last and (self._left or self._begun):
            raise self._mismatch()
        if not self.is_done and len(self._left) > _LONGEST_TOKEN:
            raise UsageError(f"not S-expressions: a word has more than {_LONGEST_TOKEN} characters")

    def _take(self, kind: str, word: str, start: int) -> None:
        end = start + len(word)
        match kind:
            case "open" | "mark":
                if word == "#;":
                    raise UsageError(
                        "the comment #; before an expression is not understood",
                        hint="take it out, or write the comment as #| … |#",
                    )
                self._begun.append(_Begun(word, start, Form()))
                if len(self._begun) > DEEPEST:
                    raise UsageError(
                        f"not S-expressions of ours: more than {DEEPEST} parentheses deep"
                    )
            case "close":
                if not self._begun or _CLOSING.get(self._begun[-1].kind) != word:
                    raise self._mismatch()
                begun = self._begun.pop()
                begun.items.start, begun.items.end = begun.start, end
                self._add(begun.items, begun.start, end)
            case "text":
                plain = _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), word[1:-1])
                self._add(plain, start, end)
            case "atom":
                self._add(_atom(word), start, end)

    def _add(self, form: object, start: int, end: int) -> None:
        while self._begun and self._begun[-1].kind not in _CLOSING:
            mark = self._begun.pop()
            form, start = Quoted(form, mark.kind), mark.start
        if self._begun:
            self._begun[-1].items.append(form)
        else:
            self.forms.append(form)
            self.places.append((start, end))

    def _mismatch(self) -> UsageError:
        return UsageError(
            f"not S-expressions: parentheses or quotes do not match, seen in line {self._line}"
        )


def _atom(token: str) -> object:
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if _INTEGER.fullmatch(token):
        return int(token)
    return float(token) if _REAL.fullmatch(token) else Symbol(token)


def read_forms(text: str) -> list[Any]:
    """Read all expressions of a text."""
    return read_all(text).forms


def read_all(text: str) -> Reader:
    """Read a text to its end, and keep the places; raises as `read_forms` does."""
    reader = Reader()
    reader.feed(text, is_last=True)
    return reader


def write_form(form: object) -> str:
    """Write an expression."""
    match form:
        case Symbol():
            return form.name
        case Quoted():
            return f"{form.mark}{write_form(form.form)}"
        case bool():
            return "#t" if form else "#f"
        case str():
            return '"{}"'.format(form.replace("\\", "\\\\").replace('"', '\\"'))
        case list() | tuple():
            return f"({' '.join(map(write_form, form))})"
        case _:
            return str(form)
