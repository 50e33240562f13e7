"""What a panel studies: a case, where its files are, and how a command names it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path

from buildvm_nb.catalog import curated_cases, dump_case, find_case_file, load_case
from buildvm_nb.errors import HostError
from buildvm_nb.model.case import Case

__all__ = ["Subject", "case_place", "command_html", "read_subject", "write_case"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A case to study."""

    case: Case
    base: Path
    """Directory that its relative paths are below."""
    word: str
    """Names it in a command, wherever that is run: an id, or the path of a case file."""
    file: Path | None = None
    """What is to be written before that; None: nothing."""


def read_subject(given: Case | str | Path, base: Path | None = None) -> Subject:
    """Find the case that is meant.

    Parameters
    ----------
    given : Case, str or Path
        A case, the path of a case file, or the id of a curated case.
    base : Path, optional
        Directory that relative paths of a `Case` are below; default: the present one.

    Returns
    -------
    Subject
        The case.

    Raises
    ------
    UsageError
        If there is no such case, or its file is invalid.
    """
    if not isinstance(given, Case):
        path = find_case_file(str(given))
        is_file = Path(given).exists()  # a terminal may be in another directory
        word = str(path.absolute()) if is_file else str(given)
        return Subject(case=load_case(path), base=path.absolute().parent, word=word)
    known = curated_cases().get(given.id)
    is_curated = known is not None and load_case(known).build_digest() == given.build_digest()
    place = base or Path.cwd()
    file = None if is_curated else case_place(given, place)
    return Subject(case=given, base=place, word=str(file or given.id), file=file)


def case_place(case: Case, base: Path) -> Path:
    """Return where a case can be written without writing over anything else.

    Parameters
    ----------
    case : Case
        Any.
    base : Path
        Directory that its relative paths are below.

    Returns
    -------
    Path
        Absolute; what is there already, if anything, says the same.
    """
    text = dump_case(case)
    for number in count(1):
        place = base.absolute() / f"{case.id}{f'-{number}' if number > 1 else ''}.toml"
        if not place.exists() or _reads(place, text):
            return place
    raise AssertionError("unreachable")


def write_case(case: Case, base: Path) -> Path:
    """Write a case file for a command that names it.

    Parameters
    ----------
    case : Case
        Any.
    base : Path
        Directory that its relative paths are below.

    Returns
    -------
    Path
        The file, as `case_place` chose it.

    Raises
    ------
    HostError
        If it cannot be written.
    """
    place = case_place(case, base)
    try:
        place.write_text(dump_case(case), encoding="utf-8")
    except OSError as error:
        raise HostError(
            f"cannot write the case file {place}: {error.strerror}",
            hint="start the notebook in a directory that can be written to",
        ) from error
    return place


def command_html(subject: Subject, words: Sequence[str]) -> str:
    """Write the command that does the same in a shell.

    Parameters
    ----------
    subject : Subject
        The case; where it is in no file, what has to be in one is folded in.
    words : sequence of str
        The command, in full.

    Returns
    -------
    str
        HTML.
    """
    line = escape(shlex.join(words))
    told = f'<pre style="white-space:pre-wrap" aria-label="command">{line}</pre>'
    if subject.file is None:
        return told
    text = escape(dump_case(subject.case))
    return (
        f"{told}<details><summary>{escape(subject.file.name)}</summary><pre>{text}</pre></details>"
    )


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False
