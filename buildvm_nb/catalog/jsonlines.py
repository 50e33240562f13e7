"""JSON Lines: one whole outcome or finding on each line, without loss."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar, overload

from pydantic import ValidationError

from buildvm_nb.catalog.replacing import replacing
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.documents import read_document
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import Value, describe

__all__ = ["read_jsonl", "write_jsonl"]

V = TypeVar("V", bound=Value)


def write_jsonl(entries: Iterable[Value | str], target: Path | IO[str]) -> None:
    """Write outcomes or findings, one JSON object a line.

    Parameters
    ----------
    entries : iterable of Outcome, Finding or str
        Or their documents, on one line each.
        Any number; they are not held in memory.
    target : Path or text stream
        A path is replaced at once, when all is written.

    Raises
    ------
    CatalogError
        If the file cannot be written.
    """
    lines = (
        f"{entry if isinstance(entry, str) else entry.model_dump_json()}\n" for entry in entries
    )
    if isinstance(target, Path):
        with replacing(target) as stream:
            stream.writelines(lines)
    else:
        target.writelines(lines)


@overload
def read_jsonl(path: Path) -> Iterator[Outcome]: ...


@overload
def read_jsonl(path: Path, kind: type[V]) -> Iterator[V]: ...


def read_jsonl(path: Path, kind: type[Value] = Outcome) -> Iterator[Value]:
    """Read what `write_jsonl` wrote.

    Parameters
    ----------
    path : Path
        UTF-8; blank lines are skipped.
    kind : type
        What the lines are: `Outcome` or `Finding`.

    Yields
    ------
    Outcome or Finding
        One for each line.

    Raises
    ------
    UsageError
        If there is no such file.
    CatalogError
        If it cannot be read, or a line is no such thing.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _entry(line, kind, f"{path}:{number}")
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read {path}: {error}") from error


def _entry(line: str, kind: type[V], where: str) -> V:
    try:
        return read_document(kind, line)
    except ValidationError as error:
        what = f"no {kind.__name__.lower()}"
        raise CatalogError(f"{where}: {what}:\n{describe(error, kind.__name__)}") from error
