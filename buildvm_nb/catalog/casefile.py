"""Case files: TOML in, a `Case` out, or errors that name file, line and key, all at once.

Reading is strict: a text is no number, an unknown key is an error, and nothing is guessed.
"""

import tomllib
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from buildvm_nb.catalog.complaints import complaints
from buildvm_nb.catalog.positions import key_lines
from buildvm_nb.errors import UsageError
from buildvm_nb.model.case import ArchiveSource, Case, GitSource, LocalSource, Source

__all__ = ["LARGEST_FILE", "load_case", "parse_case"]

LARGEST_FILE = 2**20
"""Bytes that a case file may have; real ones have one or two thousand."""

_TOLD = 100


def load_case(path: Path) -> Case:
    """Read a case file.

    A `LocalSource.path` in it is relative to the file's own directory and comes back absolute; so
    do the URLs of git and archive sources that begin with ``./`` or ``../``.

    Parameters
    ----------
    path : Path
        A TOML file in UTF-8.

    Returns
    -------
    Case
        The case.

    Raises
    ------
    UsageError
        If the file cannot be read, is no TOML, or is no valid case; the message has one line for
        each trouble: ``FILE:LINE: KEY: what (got the value)``.
    """
    case = parse_case(_read(path), str(path))
    base = path.absolute().parent
    source = None if case.source is None else _resolved(case.source, base)
    inputs = tuple(
        entry.model_copy(update={"source": _resolved(entry.source, base)}) for entry in case.inputs
    )
    return case.model_copy(update={"source": source, "inputs": inputs})


def parse_case(text: str, name: str = "case") -> Case:
    """Turn the text of a case file into a case.

    Parameters
    ----------
    text : str
        TOML.
    name : str
        What error messages call the file.

    Returns
    -------
    Case
        The case; local paths are as they were written.

    Raises
    ------
    UsageError
        If the text is no TOML or no valid case.
    """
    try:
        data = tomllib.loads(text)
        lines = key_lines(text.replace("\r\n", "\n"))
        plain = _tuples(data)
    except RecursionError as error:
        raise UsageError(f"{name}: arrays or tables are nested too deeply") from error
    except ValueError as error:
        _refuse_syntax(error, text, name)
    try:
        return Case.model_validate(plain, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        found = complaints(error, data, lines)
        hint = ""
        if any(complaint.about_keys for complaint in found):
            hint = "`buildvm case schema` prints every key with its meaning"
        told = [f"{name}:{complaint.line}: {complaint.text}" for complaint in found[:_TOLD]]
        if len(found) > _TOLD:
            told.append(f"{name}: and {len(found) - _TOLD} more")
        raise UsageError("\n".join(told), hint=hint) from error


def _read(path: Path) -> str:
    if path.is_dir():
        raise UsageError(f"not a case file but a directory: {path}", hint="name a TOML file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"not a regular file: {path}")
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise UsageError(
            f"no such case file: {path}", hint="`buildvm case new` writes a template"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read the case file: {path}: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise UsageError(f"too large for a case file: {path}; allowed: up to {LARGEST_FILE} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UsageError(
            f"{path}:{line}: not UTF-8: byte 0x{byte:02x}", hint="save the file as UTF-8"
        ) from error


def _refuse_syntax(error: ValueError, text: str, name: str) -> NoReturn:
    """Say where the TOML is broken; tomllib tells it in its message only."""
    what, separator, where = str(error).rpartition(" (at ")
    if not separator:
        reason = str(error).partition(";")[0]  # Python's limit on the digits of a number
        raise UsageError(f"{name}: not valid TOML: {reason}") from error
    line, column = text.count("\n") + 1, len(text.rpartition("\n")[2]) + 1
    words = where.rstrip(")").replace(",", "").split()
    if words[0] == "line":
        line, column = int(words[1]), int(words[3])
    raise UsageError(f"{name}:{line}:{column}: not valid TOML: {what}") from error


def _tuples(value: object) -> Any:  # noqa: ANN401 - any plain TOML value
    """Turn arrays into tuples: strict validation takes no list for a tuple."""
    if isinstance(value, dict):
        return {key: _tuples(member) for key, member in value.items()}
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return value


def _resolved(source: Source, base: Path) -> Source:
    if isinstance(source, LocalSource):
        return source.model_copy(update={"path": str((base / source.path).resolve())})
    if isinstance(source, GitSource | ArchiveSource) and source.url.startswith(("./", "../")):
        return source.model_copy(update={"url": str((base / source.url).resolve())})
    return source
