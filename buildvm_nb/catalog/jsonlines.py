"""JSON Lines: one whole outcome on each line, without loss."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from buildvm_nb.catalog.csvfile import replacing
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import describe

__all__ = ["read_jsonl", "write_jsonl"]


def write_jsonl(outcomes: Iterable[Outcome], target: Path | IO[str]) -> None:
    """Write outcomes, one JSON object a line.

    Parameters
    ----------
    outcomes : iterable of Outcome
        Any number; they are not held in memory.
    target : Path or text stream
        A path is replaced at once, when all is written.

    Raises
    ------
    CatalogError
        If the file cannot be written.
    """
    lines = (outcome.model_dump_json() + "\n" for outcome in outcomes)
    if isinstance(target, Path):
        with replacing(target) as stream:
            stream.writelines(lines)
    else:
        target.writelines(lines)


def read_jsonl(path: Path) -> Iterator[Outcome]:
    """Read what `write_jsonl` wrote.

    Parameters
    ----------
    path : Path
        UTF-8; blank lines are skipped.

    Yields
    ------
    Outcome
        One for each line.

    Raises
    ------
    UsageError
        If there is no such file.
    CatalogError
        If it cannot be read, or a line is no outcome.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _outcome(line, f"{path}:{number}")
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read {path}: {error}") from error


def _outcome(line: str, where: str) -> Outcome:
    try:
        return Outcome.model_validate_json(line)
    except ValidationError as error:
        raise CatalogError(f"{where}: no outcome:\n{describe(error, 'Outcome')}") from error
