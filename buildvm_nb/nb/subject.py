"""What a panel studies: a case, where its files are, and how a command names it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from buildvm_nb.catalog import curated_cases, dump_case, find_case_file, load_case
from buildvm_nb.model.case import Case

__all__ = ["Subject", "command_html", "read_subject"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A case to study."""

    case: Case
    base: Path
    """Directory that its relative paths are below."""
    word: str
    """Names it in a command: an id, or the path of a case file."""
    needs_file: bool = False
    """Whether that file is to be written first."""


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
        return Subject(case=load_case(path), base=path.absolute().parent, word=str(given))
    known = curated_cases().get(given.id)
    is_curated = known is not None and load_case(known).build_digest() == given.build_digest()
    word = given.id if is_curated else f"{given.id}.toml"
    return Subject(case=given, base=base or Path.cwd(), word=word, needs_file=not is_curated)


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
    if not subject.needs_file:
        return told
    text = escape(dump_case(subject.case))
    return f"{told}<details><summary>{escape(subject.word)}</summary><pre>{text}</pre></details>"
