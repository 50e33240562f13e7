"""The groups of options: which case, which machine, which grid, which questions."""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from buildvm_nb.cli.command import complete_axis, complete_cpu, complete_kernel
from buildvm_nb.errors import UsageError
from buildvm_nb.study.options import OPTIONS, read_grid, read_option, read_questions

if TYPE_CHECKING:
    from buildvm_nb.host.cache import Cache
    from buildvm_nb.model.case import Case, Source
    from buildvm_nb.model.machine import ImageSpec, MachineSpec
    from buildvm_nb.model.value import Value
    from buildvm_nb.study.questions import Questions
    from buildvm_nb.study.sweep import Grid

__all__ = [
    "LARGEST_GRID",
    "DiagnosedMachineOptions",
    "FixedOptions",
    "GridOptions",
    "MachineOptions",
    "QuestionOptions",
    "RunOptions",
    "SourceOptions",
    "StudiedMachineOptions",
    "WorkOptions",
    "choose_case",
    "choose_image",
    "limit_steps",
    "make_case",
]

_COMPLETIONS: dict[str, Callable[[str], Iterable[tuple[str, str]]]] = {
    "axes": complete_axis,
    "cpu": complete_cpu,
    "cpus": complete_cpu,
    "kernel": complete_kernel,
    "kernels": complete_kernel,
}


def listed(field: str, *, in_study: bool = False, **more: Any) -> Any:  # noqa: ANN401 - typer's own
    """Return an option of the table for typer; `in_study`: in the words of studies."""
    option = OPTIONS[field]
    return typer.Option(
        option.word,
        metavar=option.metavar or None,
        help=option.in_study if in_study else option.help,
        autocompletion=_COMPLETIONS.get(field),
        **more,
    )


# Which case is meant: a file, a curated one, or one made from options such as ``--git``.

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

        Returns: its field; None: no source was given.
        Raises `UsageError` if more than one was given, or one that needs another without it.
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

        `image`: what it is built in: a Debian package comes from the same suite.
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

    `words`: the command. A single word is shell text; several are a program and its arguments.
    Raises `UsageError` if there is no source or no command, or a value is none.
    """
    from buildvm_nb.model.case import one_step_case
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
    source: SourceOptions,
    words: Sequence[str],
    image: "ImageSpec | None",
    catalog: str | None = None,
) -> tuple["Case", Path]:
    """Return the case that is meant, and the directory that its relative paths start from.

    `words`: what `find_case` takes, or a directory without a case file and the command to run in
    it; with a source, the command alone.
    `image`: what a source is built in; default: that of a machine.
    Raises `UsageError` if no case is meant or more than one, or a value is none.
    """
    from buildvm_nb.catalog.curated import PROJECT_FILE, find_case

    target, command = (Path(words[0]), words[1:]) if words else (Path(), [])
    is_bare = target.is_dir() and not (target / PROJECT_FILE).exists()
    if command and is_bare and source.given() is None:
        source, words = SourceOptions(local=target), command
    if source.given() is not None or not words:
        from buildvm_nb.model.machine import ImageSpec

        return make_case(source, words, image or ImageSpec()), Path.cwd()
    if command:
        raise UsageError(
            f"a case says itself what to run; got a command as well: {shlex.join(command)}",
            hint="leave the command out, or name the source with --git, --pypi or --local",
        )
    return find_case(words[0], catalog)


def limit_steps(case: "Case", timeout_s: int | None) -> "Case":
    """Give every step of a case the time that the user allows.

    `timeout_s`: seconds; None: what the case says.
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


# The options that describe a machine: one group, for every command that boots one.

_Parsed = TypeVar("_Parsed", bound="Value")
_OPTION_OF = {"base": "--image", "packages": "--package", "port_forwardings": "--forward"}


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What the user asked of a machine; None where he left it out."""

    date: Annotated[str | None, listed("date")] = None
    cpu: Annotated[str | None, listed("cpu")] = None
    cpu_count: Annotated[str | None, listed("cpu_count")] = None
    memory: Annotated[str | None, listed("memory_mib")] = None
    kernel: Annotated[str | None, listed("kernel")] = None
    accelerator: Annotated[str | None, listed("accelerator")] = None
    image: Annotated[str | None, listed("image")] = None
    package: Annotated[list[str] | None, listed("packages")] = None
    mirror: Annotated[str | None, listed("mirror")] = None
    network: Annotated[str | None, listed("network")] = None
    forward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:GUEST",
            help="Lead a TCP port of this host's loopback interface into the guest; repeatable.",
        ),
    ] = None
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Host name of the guest.")] = None
    timeout: Annotated[str | None, listed("timeout")] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the QEMU command and start nothing.")
    ] = False

    def overrides(self, image: "ImageSpec | None" = None) -> dict[str, Any]:
        """Return what was given, checked, as fields of a `MachineSpec`.

        `image`: what ``--package`` and ``--mirror`` add to where ``--image`` is left out; default:
        that of a machine.
        Returns: fields with valid values; what was left out is not in it.
        """
        given = {
            "date": self.date,
            "cpu": self.cpu,
            "cpu_count": self.cpu_count,
            "memory_mib": self.memory,
            "kernel": self.kernel,
            "accelerator": self.accelerator,
            "network": self.network,
        }
        read = {name: read_option(name, text, OPTIONS[name].word) for name, text in given.items()}
        read |= {
            "name": self.name,
            "image": choose_image(self.image, self.package, self.mirror, image),
            "port_forwardings": tuple(map(_read_forwarding, self.forward or ())) or None,
        }
        read = {name: value for name, value in read.items() if value is not None}
        from buildvm_nb.model.machine import MachineSpec

        spec = _parse(MachineSpec, read)
        return {field: getattr(spec, field) for field in read}

    def spec(self) -> "MachineSpec":
        """Return the machine that was asked for.

        Returns: what was left out is filled in.
        """
        from buildvm_nb.model.machine import MachineSpec

        return _parse(MachineSpec, self.overrides())

    def timeout_s(self) -> int | None:
        """Return the time limit.

        Returns: seconds, from 1 to a week; None: none was given.
        """
        timeout_s: int | None = read_option("timeout", self.timeout, "--timeout")
        return timeout_s


def choose_image(
    text: str | None,
    packages: Sequence[str] | None,
    mirror: str | None,
    base: "ImageSpec | None" = None,
) -> "ImageSpec | None":
    """Return the image that options describe.

    `base`: what is added to where `text` is left out; default: that of a machine.
    Returns: None: nothing was given.
    """
    if text is None and not packages and mirror is None:
        return None
    from buildvm_nb.model.machine import ImageSpec

    chosen = base or ImageSpec()
    if text is not None:
        chosen = read_option("image", text, "--image")
    fields = {
        "base": chosen.base,
        "packages": (*chosen.packages, *(packages or ())),
        "mirror": mirror or chosen.mirror,
    }
    return _parse(ImageSpec, fields)


def _parse(kind: type[_Parsed], data: object) -> _Parsed:
    """Parse a value; messages name the options instead of the fields."""
    try:
        return kind.parse(data)
    except UsageError as error:

        def rename(match: re.Match[str]) -> str:
            field = match[1]
            return _OPTION_OF.get(field, f"--{field.replace('_', '-')}")

        message = re.sub(rf"(?m)^{kind.__name__}\.(\w+)(\.\d+)?", rename, error.message)
        raise UsageError(message, hint=error.hint) from error


def _read_forwarding(text: str) -> dict[str, int]:
    match = re.fullmatch(r"(\d{1,5}):(\d{1,5})", text)
    if not match:
        raise UsageError(
            f"--forward: not two ports: {text!r}; allowed: HOST:GUEST, for example 8080:80"
        )
    return {"host": int(match[1]), "guest": int(match[2])}


# The options of studies: what varies, what is the same for all machines, who runs them.

LARGEST_GRID = 10_000
"""Cells that are run without being asked for twice."""


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """What varies."""

    dates: Annotated[str | None, listed("dates")] = None
    cpus: Annotated[str | None, listed("cpus")] = None
    kernels: Annotated[str | None, listed("kernels")] = None
    cores: Annotated[str | None, listed("cores")] = None
    commits: Annotated[str | None, listed("commits")] = None

    def grid(self, cache: "Cache") -> "Grid":
        """Return the grid that was asked for.

        Returns: an axis that was left out has no values.
        """
        return read_grid(vars(self), cache, names={axis: f"--{axis}" for axis in vars(self)})


@dataclass(frozen=True, kw_only=True)
class FixedOptions:
    """What is the same for all machines of a study."""

    memory: Annotated[str | None, listed("memory_mib", in_study=True)] = None
    accelerator: Annotated[str | None, listed("accelerator", in_study=True)] = None
    image: Annotated[str | None, listed("image", in_study=True)] = None
    package: Annotated[list[str] | None, listed("packages")] = None
    mirror: Annotated[str | None, listed("mirror", in_study=True)] = None
    network: Annotated[str | None, listed("network", in_study=True)] = None

    def machine(self) -> MachineOptions:
        """Return them as options of a machine.

        Returns: the rest is left out.
        """
        return MachineOptions(**vars(self))


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Who does the runs of a study, and which."""

    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Guests side by side. Left out: one per core that fits."
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="Run on the workers of this Dask scheduler instead, one guest for each thread.",
        ),
    ] = None
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run also what the catalog has an answer for.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class RunOptions(WorkOptions):
    """How a sweep is run."""

    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the outcomes to this file, too.")
    ] = None
    yes: Annotated[bool, typer.Option("--yes", help=f"Run more than {LARGEST_GRID:,} cells.")] = (
        False
    )
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells and run none.")] = (
        False
    )


# The options that say what a diagnosis is to find out, and in which machines.

_ASKED = ("first", "last", "repeats", "effort", "budget", "cpus", "kernels", "cores", "good", "bad")
"""What options and fields of `Questions` call alike."""


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """What to find out, and how hard to try."""

    axis: Annotated[list[str] | None, listed("axes")] = None
    first: Annotated[str | None, listed("first")] = None
    last: Annotated[str | None, listed("last")] = None
    resolution: Annotated[str | None, listed("resolution_s")] = None
    repeats: Annotated[int | None, listed("repeats", min=0)] = None
    effort: Annotated[str | None, listed("effort")] = None
    budget: Annotated[int | None, listed("budget", min=1)] = None
    no_hints: Annotated[bool, listed("use_hints")] = False
    cpus: Annotated[str | None, listed("cpus", in_study=True)] = None
    kernels: Annotated[str | None, listed("kernels", in_study=True)] = None
    cores: Annotated[str | None, listed("cores", in_study=True)] = None
    good: Annotated[str | None, listed("good")] = None
    bad: Annotated[str | None, listed("bad")] = None

    def questions(self, cache: "Cache") -> "Questions":
        """Return what was asked.

        Returns: what was left out is that of the diagnosis itself.
        Raises `UsageError` if a text is none, or an option is about an axis that is not studied;
        the message names the option.
        """
        given = {
            "axes": self.axis,
            "resolution_s": self.resolution,
            **{name: getattr(self, name) for name in _ASKED},
            "use_hints": False if self.no_hints else None,
        }
        return read_questions(given, cache, names={name: OPTIONS[name].word for name in given})


@dataclass(frozen=True, kw_only=True)
class StudiedMachineOptions(FixedOptions):
    """What is the same for all machines of a study that chooses dates itself."""

    cpu: Annotated[str | None, listed("cpu", in_study=True)] = None
    cpu_count: Annotated[str | None, listed("cpu_count", in_study=True)] = None
    kernel: Annotated[str | None, listed("kernel", in_study=True)] = None


@dataclass(frozen=True, kw_only=True)
class DiagnosedMachineOptions(StudiedMachineOptions):
    """What is the same for all machines of a diagnosis."""

    date: Annotated[str | None, listed("date", in_study=True)] = None
    timeout: Annotated[str | None, listed("timeout", in_study=True)] = None

    def overrides(self, image: "ImageSpec", questions: "Questions") -> dict[str, Any]:
        """Return what was given, checked, as fields of a `MachineSpec`.

        Returns: what was left out, or left to the diagnosis, is not in it.
        """
        if self.date is not None and "date" in questions.axes:
            raise UsageError(
                "--date fixes what --axis date varies",
                hint="name the axes to study, for example --axis cpu; --from and --to limit dates",
            )
        given = self.machine().overrides(image)
        if given.get("accelerator") == "auto":
            del given["accelerator"]
        return given
