"""Which case is meant: a file, a curated one, or one made from options such as ``--git``."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case, Source
    from buildvm_nb.model.machine import ImageSpec

__all__ = ["SourceOptions", "choose_case", "limit_steps", "make_case"]

_KINDS = ("git", "pypi", "debian", "debian_binary", "local")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What to build where there is no case file."""

    git: Annotated[
        str | None, typer.Option(metavar="URL", help="Build a git repository; a path will do.")
    ] = None
    commit: Annotated[
        str | None, typer.Option(metavar="C", help="With --git: this commit, tag or branch.")
    ] = None
    before: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="With --git: the newest commit before that date."),
    ] = None
    branch: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --before: on this branch.")
    ] = None
    pypi: Annotated[
        str | None,
        typer.Option(metavar="NAME==VERSION", help="Build a source distribution from PyPI."),
    ] = None
    debian: Annotated[
        str | None,
        typer.Option(metavar="NAME[=VERSION]", help="Build a source package of the image's suite."),
    ] = None
    debian_binary: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[=VERSION]", help="Test with the files of a package of the image's suite."
        ),
    ] = None
    local: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Build a copy of this directory.")
    ] = None

    def given(self) -> str | None:
        """Return the option that names the source.

        Returns
        -------
        str or None
            Its field; None: no source was given.

        Raises
        ------
        UsageError
            If more than one was given, or one that needs another without it.
        """
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) > 1:
            names = " and ".join(map(_option, kinds))
            raise UsageError(f"more than one source: {names}; allowed: one")
        for extra in ("commit", "before", "branch"):
            if getattr(self, extra) is not None and kinds != ["git"]:
                raise UsageError(f"{_option(extra)} says nothing without --git")
        return kinds[0] if kinds else None

    def source(self, image: "ImageSpec") -> "Source":
        """Return the source that was given.

        Parameters
        ----------
        image : ImageSpec
            What it is built in: a Debian package comes from the same suite.

        Returns
        -------
        Source
            With absolute paths.

        Raises
        ------
        UsageError
            If a value is none, or no source was given.
        """
        from buildvm_nb.model import case

        kind = self.given()
        match kind:
            case "git":
                return case.GitSource.parse(self._git_fields())
            case "pypi":
                return case.PyPISource.parse(_pinned(kind, self.pypi or "", "=="))
            case "debian":
                fields = _package(kind, self.debian or "", image)
                return case.DebianSource.parse(fields)
            case "debian_binary":
                fields = _package(kind, self.debian_binary or "", image)
                return case.DebianBinarySource.parse(fields)
            case "local" if self.local is not None:
                return case.LocalSource.parse({"path": str(self.local.resolve())})
        raise UsageError(
            "nothing to build: no case and no source",
            hint="name a case file, a curated case (`buildvm case list`), or one of "
            + ", ".join(map(_option, _KINDS)),
        )

    def _git_fields(self) -> dict[str, Any]:
        if (self.commit is None) == (self.before is None):
            raise UsageError(
                "--git needs one of --commit and --before",
                hint="--commit C takes a commit, tag or branch; --before DATE the newest commit "
                "before that date",
            )
        url = self.git or ""
        if "://" not in url and Path(url).exists():
            url = str(Path(url).resolve())
        fields = {"commit": self.commit, "before": self.before, "branch": self.branch}
        return {"url": url, **{k: v for k, v in fields.items() if v is not None}}


def make_case(options: SourceOptions, words: Sequence[str], image: "ImageSpec") -> "Case":
    """Make a case of one step from options and a command.

    Parameters
    ----------
    options : SourceOptions
        What to build.
    words : sequence of str
        The command. A single word is shell text; several are a program and its arguments.
    image : ImageSpec
        What to build it in.

    Returns
    -------
    Case
        Its id follows from the source.

    Raises
    ------
    UsageError
        If there is no source or no command, or a value is none.
    """
    from buildvm_nb.model.casemaking import one_step_case
    from buildvm_nb.study.again import uncurated

    source = options.source(image)
    if not words:
        raise UsageError(
            "no command: what is to be run in the source's directory?",
            hint="put it at the end, for example: -- make check",
        )
    run = words[0] if len(words) == 1 else shlex.join(words)
    return uncurated(one_step_case(source, run, image))


def choose_case(
    source: SourceOptions, words: Sequence[str], image: "ImageSpec | None"
) -> tuple["Case", Path]:
    """Return the case that is meant, and the directory that its relative paths start from.

    Parameters
    ----------
    source : SourceOptions
        What to build where there is no case file.
    words : sequence of str
        A case file or the id of a curated case; with a source, the command to run.
    image : ImageSpec, optional
        What a source is built in; default: that of a machine.

    Returns
    -------
    tuple of Case and Path
        That of the case file, or made from the options.

    Raises
    ------
    UsageError
        If no case is meant or more than one, or a value is none.
    """
    if source.given() is not None or not words:
        from buildvm_nb.model.machine import ImageSpec

        return make_case(source, words, image or ImageSpec()), Path.cwd()
    if len(words) > 1:
        raise UsageError(
            f"a case says itself what to run; got a command as well: {shlex.join(words[1:])}",
            hint="leave the command out, or name the source with --git, --pypi or --local",
        )
    from buildvm_nb.catalog import find_case_file, load_case

    path = find_case_file(words[0])
    return load_case(path), path.absolute().parent


def limit_steps(case: "Case", timeout_s: int | None) -> "Case":
    """Give every step of a case the time that the user allows.

    Parameters
    ----------
    case : Case
        As it is written.
    timeout_s : int, optional
        Seconds; None: what the case says.

    Returns
    -------
    Case
        With that limit.
    """
    if timeout_s is None:
        return case
    limits = case.limits.model_copy(update={"step_timeout_s": timeout_s})
    steps = tuple(step.model_copy(update={"timeout_s": None}) for step in case.steps)
    return case.model_copy(update={"limits": limits, "steps": steps})


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _pinned(field: str, text: str, separator: str) -> dict[str, str]:
    name, found, version = text.partition(separator)
    if not (name and found and version):
        raise UsageError(
            f"{_option(field)}: not pinned: {text!r}; allowed: NAME{separator}VERSION",
            hint=f"for example {_option(field)} requests==2.31.0",
        )
    return {"name": name.strip(), "version": version.strip()}


def _package(field: str, text: str, image: "ImageSpec") -> dict[str, str]:
    scheme, _, suite = image.base.partition(":")
    if scheme != "debian":
        raise UsageError(
            f"{_option(field)} needs an image of a Debian suite; the image is {image.base}"
        )
    fields = _pinned(field, text, "=") if "=" in text else {"name": text}
    return {**fields, "suite": suite}
