"""Panels that study a case: diagnosis and forecast, with a live picture."""

import shlex
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from html import escape
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ipywidgets as widgets

from buildvm_nb.catalog import dump_case, find_case
from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import interruptible
from buildvm_nb.model.case import Case
from buildvm_nb.model.display import verdict_sign
from buildvm_nb.model.finding import Axis, Finding, Forecast
from buildvm_nb.model.instants import format_instant, now
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import clean
from buildvm_nb.nb.jobs import Job, TaskEvent
from buildvm_nb.nb.panel import Panel, option_field
from buildvm_nb.study.again import field_options, is_curated, question_options
from buildvm_nb.study.axes import parse_distance
from buildvm_nb.study.diagnose import diagnose_case
from buildvm_nb.study.executors import LocalExecutor, Means, fit_jobs
from buildvm_nb.study.forecast import forecast
from buildvm_nb.study.options import OPTIONS, read_option, read_questions
from buildvm_nb.study.questions import DEFAULT_AXES, Questions, refuse_fixed
from buildvm_nb.study.run import machine_for

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = [
    "DiagnosisPanel",
    "ForecastPanel",
    "StudyPanel",
    "read_field",
    "read_subject",
    "write_case",
]

# What a panel studies: a case, where its files are, and how a command names it.


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


def read_subject(
    given: Case | str | Path,
    base: Path | None = None,
    catalog: "Catalog | str | Path | None" = None,
) -> Subject:
    """Find the case that is meant.

    `given`: as `find_case` takes it.
    `base`: directory that relative paths of a `Case` are below; default: the present one.
    """
    case, place = find_case(given, catalog)
    if not isinstance(given, Case):
        is_path = Path(given).exists()  # a terminal may be in another directory
        return Subject(
            case=case, base=place, word=str(Path(given).absolute() if is_path else given)
        )
    place = base or place
    file = None if is_curated(given) else case_place(given, place)
    return Subject(case=given, base=place, word=str(file or given.id), file=file)


def case_place(case: Case, base: Path) -> Path:
    """Return where a case can be written without writing over anything else."""
    text = dump_case(case)
    for number in count(1):
        place = base.absolute() / f"{case.id}{f'-{number}' if number > 1 else ''}.toml"
        if not place.exists() or _reads(place, text):
            return place
    raise AssertionError("unreachable")


def write_case(case: Case, base: Path) -> Path:
    """Write a case file for a command that names it."""
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

    `subject`: the case; where it is in no file, what has to be in one is folded in.
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


# What panels that study a case have in common: fields, Start and Cancel, and a live picture.

WIDE = widgets.Layout(width="auto")  # all that there is; 100 % and margins are more
_REDRAW_S = 1.0
_LISTED = 8


class HasCase(Protocol):
    """Something that knows which case is meant."""

    @property
    def case(self) -> Case:
        """The case."""


class HasMachine(Protocol):
    """Something that knows which machine was chosen, such as a `MachinePanel`."""

    @property
    def chosen(self) -> dict[str, Any]:
        """Fields of `MachineSpec`."""


@dataclass(frozen=True)
class _Came:
    """An outcome has come."""

    outcome: Outcome
    is_known: bool


@dataclass(frozen=True)
class _Drawn:
    """The picture has been drawn anew."""

    html: str


class StudyPanel(Panel):
    """A panel that runs a case in many machines and shows each outcome as it comes.

    Every outcome is in the catalog before it is shown, so that what was cancelled goes on where it
    was when it is started again.

    `case`: a case, the path of a case file, or the id of a curated case; it can be typed as well.
    `catalog`: gets the outcomes; default: that of the user.
    `build`: where no case is given or typed, the one that this has at the moment of starting, such
    as a panel that builds one.
    `cache`: default: that of the user.
    `machine`: what it has at the moment of starting holds for every machine, but for what is
    varied.
    `overrides`: fields of `MachineSpec` that hold for every machine; none that is varied.
    `name`: a newer panel of the same name ends what this one runs.
    """

    def __init__(  # noqa: PLR0913 - all have defaults
        self,
        case: Case | str | Path | None = None,
        *,
        catalog: "Catalog | str | Path | None" = None,
        build: "HasCase | None" = None,
        cache: Cache | None = None,
        base: Path | None = None,
        jobs: int | None = None,
        machine: HasMachine | None = None,
        overrides: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> None:
        self._given = case if isinstance(case, Case) else None
        self._catalog = catalog
        self._build = build
        self._cache = cache
        self._base = base
        self._jobs = jobs
        self._machine = machine
        self._overrides = dict(overrides or {})
        self._started_as = ""
        self._last_drawn_s = 0.0
        self._studied: tuple[datetime | None, datetime | None] = (None, None)
        self.outcomes: list[Outcome] = []
        """What has come so far, of this start."""
        self.known = 0
        """How many of them the catalog had already."""
        self._case = widgets.Text(
            value=case.id if isinstance(case, Case) else str(case or ""),
            description="Case",
            placeholder="a case file, or the id of a curated case"
            + ("; left empty: what is built" if build else ""),
            continuous_update=False,
            disabled=isinstance(case, Case),
            layout=WIDE,
        )
        self._start = widgets.Button(
            description="Start", button_style="primary", tooltip="Start, or go on where it was"
        )
        self._cancel = widgets.Button(
            description="Cancel", tooltip="End all guests; what has come is kept", disabled=True
        )
        self._fresh = widgets.Checkbox(
            description="Run anew what the catalog has", indent=False, value=False
        )
        self._write = widgets.Button(
            description="Write case file",
            tooltip="Write the file that the command names; it then works in any terminal here",
            layout=widgets.Layout(width="auto", display="none"),
        )
        self._status = widgets.HTML()
        self._picture = widgets.HTML()
        self._list = widgets.HTML()
        self._result = widgets.HTML()
        self._command = widgets.HTML()
        super().__init__(
            [
                self._case,
                *self._questions(),
                widgets.HBox([self._start, self._cancel, self._fresh]),
                self._status,
                self._picture,
                self._list,
                self._result,
                self._command,
                self._write,
            ],
            name=name,
        )
        self._start.on_click(self.guarded(lambda _: self.start()))
        self._cancel.on_click(self.guarded(lambda _: self.cancel()))
        self._write.on_click(self.guarded(lambda _: self.write_case()))
        self._case.observe(self.guarded(self._describe), "value")
        for widget in (*self._asked(), self._fresh):
            widget.observe(self.guarded(self._describe), "value")
        self.look_again()

    @property
    def status(self) -> str:
        """What is said about the work, as HTML."""
        return str(self._status.value)

    @property
    def result_html(self) -> str:
        """What came of it, as HTML; empty: nothing yet."""
        return str(self._result.value)

    @property
    def picture_html(self) -> str:
        """The line of dates, as HTML."""
        return str(self._picture.value)

    @property
    def command_html(self) -> str:
        """The command that does the same, as HTML."""
        return str(self._command.value)

    @property
    def machine_fields(self) -> dict[str, Any]:
        """What every machine has now, as fields of `MachineSpec`; what is varied is not in it."""
        varied = self._varied()
        refuse_fixed(self._overrides, varied, "the study")
        chosen = self._machine.chosen if self._machine else {}
        return {name: chosen[name] for name in chosen if name not in varied} | self._overrides

    def look_again(self) -> None:
        """Tell what Start would do now, as case and machine may be others; nothing is no error."""
        if self._case.value.strip() or self._has_build():
            self.guarded(self._describe)()
        else:
            self._command.value = ""

    @property
    def subject(self) -> Subject:
        """The case that is meant."""
        if self._given is not None:
            return read_subject(self._given, self._base)
        text = str(self._case.value).strip()
        if not text and self._build is not None:
            return read_subject(self._build.case, self._base)
        if not text:
            raise UsageError(
                "no case; allowed: the path of a case file, or the id of a curated case"
            )
        return read_subject(text, catalog=self._catalog)

    def start(self) -> "Job[Any]":
        """Begin in the background, with what the fields say."""
        import buildvm_nb.plots  # noqa: F401, PLC0415 - half a second; what it lacks is told now

        subject, fields = self.subject, self.machine_fields
        memory = machine_for(subject.case, fields, None).memory_mib
        work = self._prepare(subject)
        self._studied = self._span()  # fields may change while it runs
        self._started_as = self._told(subject)
        self._describe()
        self.outcomes, self.known, self._last_drawn_s = [], 0, 0.0
        self._result.value = self._list.value = ""
        self._status.value = "starting …"
        self._start.disabled, self._cancel.disabled = True, False
        is_fresh = bool(self._fresh.value)
        return self.begin(
            lambda job: self._run(job, subject, work, memory, is_fresh=is_fresh),
            on_event=self._hear,
            on_end=self._finish,
        )

    def write_case(self) -> Path:
        """Write the case file that the command names.

        Returns: the file; another file of that name is left as it is.
        """
        subject = self.subject
        place = write_case(subject.case, subject.base)
        self._status.value = f"written: {escape(str(place))}"
        return place

    @abstractmethod
    def _questions(self) -> list[widgets.Widget]:
        """Make the fields."""

    @abstractmethod
    def _asked(self) -> Sequence[widgets.Widget]:
        """Return the fields that decide what the command is."""

    @abstractmethod
    def _words(self, subject: Subject) -> list[str]:
        """Return the command, without what says which machines."""

    @abstractmethod
    def _varied(self) -> tuple[str, ...]:
        """Return the fields of the machine that the study chooses itself."""

    @abstractmethod
    def _prepare(self, subject: Subject) -> "Callable[[Means], Any]":
        """Read the fields, and return the study, which takes its means."""

    @abstractmethod
    def _show(self, result: Any) -> str:  # noqa: ANN401 - whatever the study returns
        """Write what came of it as HTML."""

    def _draw(self, outcomes: Sequence[Outcome], result: Any = None) -> str:  # noqa: ANN401
        """Draw the line of dates."""
        from buildvm_nb.plots import date_line  # noqa: PLC0415 - half a second

        title = f"{len(outcomes)} outcomes{' so far' if result is None else ''}"
        return date_line(None, outcomes, span=self._studied, title=title).to_html(title)

    def _span(self) -> tuple[datetime | None, datetime | None]:
        """Return the ends of the dates that are asked for, as far as they are given."""
        return None, None

    def _tried(self) -> str:
        """Write what the outcomes so far show as HTML; by default the last ones."""
        lines = (
            f"<li>{format_instant(one.machine.date)}, {escape(one.machine.cpu)}, "
            f"{escape(one.machine.kernel)}: {verdict_sign(one.verdict.value)} "
            f"{escape(clean(one.why))}</li>"
            for one in self.outcomes[-_LISTED:]
        )
        return f'<ul aria-live="polite" aria-label="last outcomes">{"".join(lines)}</ul>'

    def _run(
        self,
        job: "Job[Any]",
        subject: Subject,
        work: "Callable[[Means], Any]",
        memory_mib: int,
        *,
        is_fresh: bool,
    ) -> Any:  # noqa: ANN401 - whatever the study returns
        from buildvm_nb.catalog import Catalog  # noqa: PLC0415 - pandas

        came: list[Outcome] = []

        def hear(outcome: Outcome, is_known: bool) -> None:  # noqa: FBT001 - a callback's argument
            came.append(outcome)
            job.tell(_Came(outcome, is_known))
            # here and not on the kernel's loop, which has to stay free
            if time.monotonic() - self._last_drawn_s >= _REDRAW_S:
                job.tell(_Drawn(self._draw(came)))
                self._last_drawn_s = time.monotonic()

        jobs = fit_jobs(self._jobs, memory_mib)
        with (
            nullcontext(self._catalog)
            if isinstance(self._catalog, Catalog)
            else Catalog(self._catalog) as catalog,
            LocalExecutor(jobs) as executor,
            interruptible(executor.kill),
        ):
            means = Means(
                cache=self._cache or Cache(),
                catalog=catalog,
                executor=executor,
                jobs=jobs,
                base=subject.base,
                progress=job,
                on_outcome=hear,
                fresh=is_fresh,
            )
            result = work(means)
        job.tell(_Drawn(self._draw(came, result)))
        return result

    def _hear(self, event: object) -> None:
        match event:
            case TaskEvent() if not event.is_over:
                so_far = f"{self._counted()}; " if self.outcomes else ""
                self._status.value = f"{so_far}{escape(event.label)} … {escape(event.note)}"
            case _Came():
                self.outcomes.append(event.outcome)
                self.known += event.is_known
                self._status.value = self._counted()
                self._list.value = self._tried()
            case _Drawn():
                self._picture.value = event.html

    def _counted(self) -> str:
        return f"{len(self.outcomes)} outcomes, {self.known} of them from the catalog"

    def _finish(self, job: "Job[Any]") -> None:
        self._start.disabled, self._cancel.disabled = False, True
        self._status.value = f"{job.state}: {self._counted()}"
        if job.state == "done":
            self._result.value = self._show(job.result)
        elif job.state == "cancelled":
            self._status.value += "; Start goes on where it was"

    def _describe(self, _change: object = None) -> None:
        subject = self.subject
        told = self._told(subject)
        self._write.layout.display = "none" if subject.file is None else ""
        begun = f"{self._started_as}<p>Start would now do this:</p>" if self._started_as else ""
        self._command.value = told if self._started_as == told else f"{begun}{told}"
        self.show_error(None)

    def _told(self, subject: Subject) -> str:
        """Write the command for what the fields say now, and what it leaves out."""
        words = [*self._words(subject), *field_options(subject.case, self.machine_fields)]
        told = command_html(subject, [*words, "--fresh"] if self._fresh.value else words)
        chosen = self._machine.chosen if self._machine else {}
        left = [name for name in self._varied() if name in chosen]
        return told + "".join(
            f"<p>The {name} of the machine is left out: this study varies it.</p>" for name in left
        )

    def _has_build(self) -> bool:
        """Tell whether there is a case that is built, and a command for it."""
        try:
            return self._build is not None and bool(self._build.case)
        except UsageError:
            return False


# Finding out when, on which CPU and on which kernel a case stops building, in a notebook.

_AXES = (Axis.DATE, Axis.CPU, Axis.KERNEL, Axis.CORES)


class DiagnosisPanel(StudyPanel):
    """Diagnoses a case: Start asks machines, and each answer goes onto the line of dates.

    Parameters
    ----------
    case, catalog, build, cache, base, jobs, machine, overrides, name
        As for `StudyPanel`.
    """

    @property
    def finding(self) -> Finding | None:
        """What was concluded; None: nothing yet."""
        if self.job is None or self.job.state != "done":
            return None
        found: Finding = self.job.result
        return found

    @property
    def questions(self) -> Questions:
        """What the fields ask.

        Raises
        ------
        UsageError
            If a field is wrong.
        """
        axes = tuple(axis for axis, box in self.axes.items() if box.value)
        if not axes:
            raise UsageError("no axis is chosen; allowed: one or more of date, cpu, kernel, cores")
        fields = ("first", "last") if Axis.DATE in axes else ()
        given = {name: getattr(self, name).value.strip() for name in (*fields, "repeats", "budget")}
        names = {name: OPTIONS[name].label for name in given}
        return read_questions({"axes": axes, **given}, self._cache or Cache(), names=names)

    def _questions(self) -> list[widgets.Widget]:
        self.axes = {
            axis: widgets.Checkbox(
                value=axis in DEFAULT_AXES,
                description=axis.value,
                indent=False,
                tooltip=f"Vary the {axis.value}",
                layout=widgets.Layout(width="auto"),
            )
            for axis in _AXES
        }
        """What is varied, by axis."""
        self.first, self.last, self.repeats, self.budget = map(
            option_field, ("first", "last", "repeats", "budget")
        )
        return [
            widgets.HBox([widgets.Label("Vary"), *self.axes.values()]),
            widgets.HBox([self.first, self.last]),
            widgets.HBox([self.repeats, self.budget]),
        ]

    def _asked(self) -> Sequence[widgets.Widget]:
        return (*self.axes.values(), self.first, self.last, self.repeats, self.budget)

    def _span(self) -> tuple[datetime | None, datetime | None]:
        return read_field("first", self.first), read_field("last", self.last)

    def _varied(self) -> tuple[str, ...]:
        return ("date",) if self.axes[Axis.DATE].value else ()

    def _words(self, subject: Subject) -> list[str]:
        return ["buildvm", "diagnose", subject.word, *question_options(self.questions)]

    def _prepare(self, subject: Subject) -> Callable[[Means], Finding]:
        asked, overrides = self.questions, self.machine_fields

        return lambda means: diagnose_case(subject.case, means, asked, overrides)

    def _show(self, result: Finding) -> str:
        return result._repr_html_()

    def _draw(self, outcomes: Sequence[Outcome], result: Any = None) -> str:  # noqa: ANN401
        if result is None:
            return super()._draw(outcomes)
        from buildvm_nb.plots import date_line, feature_lattice  # noqa: PLC0415 - half a second

        if result.axis is Axis.CPU:
            return feature_lattice(result, outcomes).to_html(result.summary)
        return date_line(result, outcomes, span=self._studied).to_html(result.summary)


def read_field(field: str, widget: widgets.Text) -> Any:  # noqa: ANN401 - the option's value
    """Read an option that somebody typed; empty: nothing."""
    return read_option(field, widget.value.strip() or None, OPTIONS[field].label)


# Which day breaks what in a project, in a notebook.

_SAYS_NOTHING = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})


class ForecastPanel(StudyPanel):
    """Tells which day breaks what: the list fills in while machines look at the years to come.

    Parameters
    ----------
    case, catalog, build, cache, base, jobs, machine, overrides, name
        As for `StudyPanel`; the project's own tests are the case.
    """

    @property
    def forecast(self) -> Forecast | None:
        """What was foretold; None: nothing yet."""
        if self.job is None or self.job.state != "done":
            return None
        told: Forecast = self.job.result
        return told

    def _questions(self) -> list[widgets.Widget]:
        self.until = widgets.Text(
            value="2040",
            description="Until",
            placeholder="2040, 2040-06-01, or a distance such as 10y",
            tooltip="The last day to look at: a date, a year, or a distance such as 10y",
            continuous_update=False,
        )
        self.budget = option_field("budget")
        return [widgets.HBox([self.until, self.budget])]

    def _asked(self) -> Sequence[widgets.Widget]:
        return (self.until, self.budget)

    def _span(self) -> tuple[datetime | None, datetime | None]:
        start = now().replace(microsecond=0)
        return start, parse_distance(self.until.value, start)

    def _varied(self) -> tuple[str, ...]:
        return ("date",)

    def _words(self, subject: Subject) -> list[str]:
        self._span()  # what is wrong with it is told
        budget = read_field("budget", self.budget)
        words = ["buildvm", "forecast", subject.word, "--until", self.until.value.strip()]
        return words if budget is None else [*words, "--budget", str(budget)]

    def _prepare(self, subject: Subject) -> Callable[[Means], Forecast]:
        _, until = self._span()
        budget = read_field("budget", self.budget)
        if until is None:
            raise AssertionError("unreachable")
        return partial(
            forecast, subject.case, until=until, budget=budget, overrides=self.machine_fields
        )

    def _tried(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in _turns(self.outcomes))
        found = lines or "<li>nothing yet</li>"
        return f'So far:<ul aria-live="polite" aria-label="changes so far">{found}</ul>'

    def _show(self, result: Forecast) -> str:
        self._list.value = ""
        return result._repr_html_()


def _turns(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Tell where the verdict changes, as closely as it is known so far."""
    said = [one for one in outcomes if one.verdict not in _SAYS_NOTHING]
    said.sort(key=lambda one: one.machine.date)
    for before, after in pairwise(said):
        if (before.verdict is Verdict.PASSED) is not (after.verdict is Verdict.PASSED):
            what = "breaks" if before.verdict is Verdict.PASSED else "passes again"
            ends = f"{format_instant(before.machine.date)} and {format_instant(after.machine.date)}"
            yield f"{what} between {ends}: {clean(after.why)}".rstrip(": ")
