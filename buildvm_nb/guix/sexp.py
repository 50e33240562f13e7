"""Guix's files of S-expressions: read, searched and edited without touching what is not ours.

One reader serves configurations and lists of machines, which are read as a whole, access-control
lists, which are edited in place, and messages, which come in pieces and announce no length.

References
----------
GNU Guile Reference Manual, "Scheme Syntax"; GNU Guix Reference Manual, "G-Expressions".
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.model.value import Value

__all__ = [
    "OffloadMachine",
    "Quoted",
    "Reader",
    "Symbol",
    "acl_of",
    "authorize",
    "listed_machines",
    "read_all",
    "read_forms",
    "read_signing_key",
    "revoke",
    "with_machine",
    "without_machine",
    "write_form",
]

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


# Whose archives Guix takes: its access-control list, and the keys in it.
#
# The list is edited as text, so that what others wrote into it stays as it is. Keys hold no dates:
# they are good at whatever date a machine has.
#
# References: GNU Guix Reference Manual, "Invoking guix archive"; Libgcrypt Reference Manual,
# "S-expressions" (advanced format).

_LARGEST_KEY = 1 << 16
_EMPTY = "(acl)\n"
_BEFORE_ENTRY = "\n "


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
    """Put a key into a list; `revoke` gives back what was there, byte for byte."""
    acl = acl if acl.strip() else _EMPTY
    form = _read(acl)
    if any(_has(entry, key) for entry in _entries(form)):
        return acl
    last = len(acl[: form.end - 1].rstrip())  # blanks before the last parenthesis stay before it
    return f"{acl[:last]}{_BEFORE_ENTRY}(entry\n{key}\n  (tag (guix import))){acl[last:]}"


def revoke(acl: str, key: str) -> str:
    """Take a key out of a list."""
    for entry in reversed(_entries(_read(acl))):
        if _has(entry, key):
            before, after = acl[: entry.start].removesuffix(_BEFORE_ENTRY), acl[entry.end :]
            # of a comment the end of its line must not go
            between = "" if after.startswith("\n") or ";" not in before.splitlines()[-1] else "\n"
            acl = before + between + after
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


# ``machines.scm``, where Guix's daemon finds the machines it may send builds to.
#
# The file is Scheme, and its last expression gives the list. Ours are added around that expression,
# between marks, so whatever the user wrote stays as it is, byte for byte, and our part can be taken
# out again.
#
# References: GNU Guix Reference Manual, "Daemon Offload Setup"; Guix 1.5,
# ``guix/scripts/offload.scm``.

_OPEN = "(append ; buildvm-nb: what follows, up to its next mark, is yours\n"
_BEGIN = ";;; buildvm-nb: begin. Written by `buildvm guix machines`, which --undo takes out\n"
_END = ";;; buildvm-nb: end\n"
_LIST = """\
(let ((answers? (lambda (port)
                  (false-if-exception
                   (let ((way (socket PF_INET SOCK_STREAM 0)))
                     (dynamic-wind
                       (lambda () #t)
                       (lambda ()
                         (connect way AF_INET INADDR_LOOPBACK port)
                         (and (pair? (car (select (list way) '() '() 10)))
                              (not (eof-object? (peek-char way)))))
                       (lambda () (close-port way))))))))
(append
"""
"""A machine that does not answer is not in the list: Guix would ask it again and again, and build
nothing at all. QEMU takes connections before its guest does, so its SSH server must greet."""
_CLOSE = "))"
_OLD_LIST, _OLD_CLOSE = "(list\n", ")"
_BLOCK = re.compile(
    f"{re.escape(_BEGIN)}(?:{re.escape(_LIST)}(.*?){re.escape(_CLOSE)}"
    f"|{re.escape(_OLD_LIST)}(.*?){re.escape(_OLD_CLOSE)})(\\)?)\n{re.escape(_END)}",
    re.DOTALL,
)
_MACHINE = re.compile(r"^;;; machine (\S+)\n(.*?)(?=^;;; machine |\Z)", re.MULTILINE | re.DOTALL)
_RECORD = re.compile(r"\(build-machine\n.*?^  \(port (\d+)\)$.*?#f\)\)", re.DOTALL | re.MULTILINE)


class OffloadMachine(Value):
    """A machine to which Guix's daemon may send builds: a ``build-machine`` record."""

    name: str = "127.0.0.1"
    """Where its port is; ``localhost`` may be the other address family's, where nothing listens."""
    port: int = Field(ge=1, le=65535)
    systems: tuple[str, ...] = Field(min_length=1)
    user: str
    host_key: str
    """Of its SSH server, as OpenSSH writes it."""
    private_key: str
    """File on this host that lets the user in."""
    speed: float = Field(default=1.0, gt=0)
    """Faster machines are asked first."""
    parallel_builds: int = Field(default=1, ge=1)

    def scheme(self) -> str:
        """Return the expression that makes the record."""
        fields: list[tuple[str, object]] = [
            ("name", self.name),
            ("port", self.port),
            ("systems", [Symbol("list"), *self.systems]),
            ("user", self.user),
            ("host-key", self.host_key),
            ("private-key", self.private_key),
            ("speed", self.speed),
            ("parallel-builds", self.parallel_builds),
            # the way is short, and the machine may be an emulated one with nothing else to do
            ("compression", "none"),
            ("overload-threshold", False),
        ]
        lines = (f"({key} {write_form(value)})" for key, value in fields)
        return "(build-machine\n  " + "\n  ".join(lines) + ")"


def with_machine(text: str, name: str, machine: OffloadMachine) -> str:
    """Add a machine to the list, or replace it there."""
    theirs, ours = _split(text)
    return _joined(theirs, {**ours, name: machine.scheme()})


def without_machine(text: str, name: str) -> str:
    """Take a machine out of the list; with the last one, all of our marks."""
    theirs, ours = _split(text)
    return _joined(theirs, {key: scheme for key, scheme in ours.items() if key != name})


def listed_machines(text: str) -> list[str]:
    """Tell which machines of ours are in the list."""
    return list(_split(text)[1])


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Tell what the user wrote from what we did: the record of each machine by its name."""
    block = _BLOCK.search(text)
    theirs = _BLOCK.sub("", text).replace(_OPEN, "")
    inside = (block[1] or block[2] or "") if block else ""
    ours = {name: _RECORD.search(entry) for name, entry in _MACHINE.findall(inside)}
    is_whole = text.count(_OPEN) == bool(block and block[3]) and all(ours.values())
    if "buildvm-nb:" in theirs or not is_whole:
        raise UsageError(
            "the marks of buildvm-nb in the list of machines were changed",
            hint='take out by hand what is between them, with the lines that have "buildvm-nb:"',
        )
    return theirs, {name: record[0] for name, record in ours.items() if record}


def _joined(theirs: str, ours: dict[str, str]) -> str:
    if not ours:
        return theirs
    machines = "".join(f";;; machine {name}\n{_entry(record)}\n" for name, record in ours.items())
    starts = _form_starts(theirs)
    ending = "" if theirs.endswith("\n") or not theirs else "\n"
    if not starts:
        return f"{theirs}{ending}{_BEGIN}{_LIST}{machines}{_CLOSE}\n{_END}"
    before, last = theirs[: starts[-1]], theirs[starts[-1] :]
    return f"{before}{_OPEN}{last}{ending}{_BEGIN}{_LIST}{machines}{_CLOSE})\n{_END}"


def _entry(record: str) -> str:
    found = _RECORD.fullmatch(record)
    if not found:
        raise AssertionError("a record of ours names its port")
    return f"(if (answers? {found[1]})\n(list {record})\n(list))"


def _form_starts(text: str) -> list[int]:
    """Find where the expressions of the outermost level begin."""
    try:
        return [start for start, _ in read_all(text).places]
    except UsageError as error:
        raise UsageError(
            f"the list of machines cannot be read: {error.message}", hint=error.hint
        ) from error
