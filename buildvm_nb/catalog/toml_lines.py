"""Where each key of a TOML text stands: parsers give the values, people need the lines.

The text has been accepted by `tomllib` before it comes here, so this scanner need not judge it; it
only has to know where keys and values begin and end. No library that does this is maintained.
"""

import re
from bisect import bisect_right

__all__ = ["KeyPath", "key_lines"]

KeyPath = tuple[str | int, ...]
"""Keys and array indices from the root to a value, as ``("step", 0, "run")``."""

_BLANK = re.compile(r"[ \t]*")
_VOID = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line of each table, key and array element of a TOML text.

    Returns: lines from 1. A table that several lines make up has the first of them.

    References
    ----------
    TOML v1.0.0, https://toml.io/en/v1.0.0
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.lines: dict[KeyPath, int] = {(): 1}
        self.table: KeyPath = ()
        self._tables: dict[KeyPath, int] = {}
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> None:
        self.skip(_VOID)
        while self.position < len(self.text):
            if self.text[self.position] == "[":
                self.header()
            else:
                self.key_value(self.table)
            self.skip(_VOID)

    def header(self) -> None:
        """``[a.b]`` or ``[[a.b]]``: from here on keys belong to that table."""
        line = self.line()
        many = self.text.startswith("[[", self.position)
        self.position += 2 if many else 1
        keys = self.dotted_key()
        self.position += 2 if many else 1
        path: KeyPath = ()
        for depth, key in enumerate(keys, start=1):
            path += (key,)
            self.lines.setdefault(path, line)
            if many and depth == len(keys):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path += (self._tables[path] - 1,)
                self.lines.setdefault(path, line)
        self.table = path

    def key_value(self, path: KeyPath) -> None:
        line = self.line()
        for key in self.dotted_key():
            path += (key,)
            self.lines.setdefault(path, line)
        self.position += 1  # the equals sign
        self.skip(_BLANK)
        self.value(path)

    def value(self, path: KeyPath) -> None:
        opening = self.text[self.position]
        if opening == "[":
            self.array(path)
        elif opening == "{":
            self.inline_table(path)
        else:
            self.skip(_STRING if opening in "\"'" else _SCALAR)

    def array(self, path: KeyPath) -> None:
        self.position += 1
        index = 0
        while not self.take("]"):
            self.lines[(*path, index)] = self.line()
            self.value((*path, index))
            index += 1
            self.take(",")

    def inline_table(self, path: KeyPath) -> None:
        self.position += 1
        while not self.take("}"):
            self.key_value(path)
            self.take(",")

    def take(self, mark: str) -> bool:
        """Step over a mark, and what is void around it, if it comes next; tell whether it did."""
        self.skip(_VOID)
        if not self.text.startswith(mark, self.position):
            return False
        self.position += len(mark)
        self.skip(_VOID)
        return True

    def dotted_key(self) -> list[str]:
        keys = []
        while True:
            self.skip(_BLANK)
            quoted = self.text[self.position] in "\"'"
            word = self.skip(_STRING if quoted else _BARE_KEY)
            keys.append(_unquote(word) if quoted else word)
            self.skip(_BLANK)
            if self.text[self.position] != ".":
                return keys
            self.position += 1

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            message = f"not TOML at line {self.line()}: check the text with tomllib first"
            raise ValueError(message)
        self.position = match.end()
        return match[0]

    def line(self) -> int:
        return bisect_right(self._starts, self.position)


def _unquote(word: str) -> str:
    if word[0] == "'":
        return word[1:-1]
    return _ESCAPE.sub(
        lambda found: (
            chr(int(found[1] or found[2], 16))
            if found[1] or found[2]
            else _ESCAPED.get(found[3], found[3])
        ),
        word[1:-1],
    )
