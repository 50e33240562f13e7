"""Building in a notebook: boot, run, cancel, shut down; log, verdict, how to run it again."""

import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets

from buildvm_nb.catalog import Catalog, dump_case, find_case
from buildvm_nb.errors import BuildVMError, StateError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, one_step_case
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import ImageSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.nb.commit import CommitPicker
from buildvm_nb.nb.jobs import Job, JobState, TaskEvent, kernel_loop
from buildvm_nb.nb.log import LogView
from buildvm_nb.nb.machine import MachinePanel
from buildvm_nb.nb.panel import Panel
from buildvm_nb.nb.study import read_subject, write_case
from buildvm_nb.study import Trial, run_case
from buildvm_nb.study.again import batch_notebook, build_command, is_curated, settled, uncurated
from buildvm_nb.study.prepare import BootedCase, boot_case
from buildvm_nb.study.run import STEP_LABEL

__all__ = [
    "BuildPanel",
    "Stages",
    "verdict_html",
]

# How an outcome is had again: as a command, a case file or papermill's parameters.


def case_of(form: str, outcome: Outcome) -> Case:
    """Return the case that a form names: a batch knows of a machine only date, CPU and kernel.

    Returns: what was built, with its machine's image and size where they are not told elsewhere.
    """
    return settled(outcome.case, outcome.machine) if form == "papermill" else outcome.case


def _command(outcome: Outcome, base: Path) -> str:
    return build_command(outcome.case, outcome.machine, read_subject(outcome.case, base).word)


def _case_file(outcome: Outcome, _base: Path) -> str:
    return dump_case(outcome.case)


def _papermill(outcome: Outcome, base: Path) -> str:
    spec = outcome.machine
    told = {
        "case": read_subject(case_of("papermill", outcome), base).word,
        "date": format_instant(spec.date),
        "cpu": spec.cpu,
        "kernel": spec.kernel,
    }
    words = [word for name, value in told.items() for word in ("-r", name, value)]
    return shlex.join(["papermill", str(batch_notebook()), "ran.ipynb", *words])


FORMS: dict[str, Callable[[Outcome, Path], str]] = {
    "command": _command,
    "case file": _case_file,
    "papermill": _papermill,
}
"""What writes each form, by the directory that the case's relative paths are below."""


# The buttons and fields of a build, and which of them can be used when.


class BuildControls:
    """Widgets without behaviour."""

    def __init__(self, command: str) -> None:
        self.command = widgets.Textarea(
            value=command,
            description="Command",
            placeholder="make check",
            tooltip="Shell text, run in the source's directory",
            layout=widgets.Layout(width="auto"),
        )
        self.boot = widgets.Button(
            description="Boot", icon="power-off", tooltip="Fetch the source and boot a machine"
        )
        self.run = widgets.Button(
            description="Run",
            icon="play",
            button_style="primary",
            tooltip="Run the case, in the machine that is up or in one booted for it",
        )
        self.cancel = widgets.Button(
            description="Cancel", icon="stop", tooltip="Stop at once, whatever it is doing"
        )
        self.shut_down = widgets.Button(
            description="Shut down", icon="times", tooltip="End the machine that is up"
        )
        self.record = widgets.Button(
            description="Record", icon="save", tooltip="Keep outcome and log in the catalog"
        )
        self.form = widgets.Dropdown(
            options=[*FORMS],
            description="Reproduce",
            tooltip="How to have this outcome again: as a command, a case file or papermill's call",
        )
        self.again = widgets.Textarea(
            description="as", tooltip="Copy this", layout=widgets.Layout(width="auto", height="6em")
        )
        self.write = widgets.Button(
            description="Write case file",
            icon="file",
            tooltip="Write the file that the command names; it then works in any terminal here",
            layout=widgets.Layout(width="auto"),
            disabled=True,
        )
        self.status, self.progress, self.verdict = (widgets.HTML() for _ in range(3))

    @property
    def above(self) -> list[widgets.Widget]:
        """What stands above the log, in order."""
        buttons = widgets.HBox([self.boot, self.run, self.cancel, self.shut_down])
        return [self.command, buttons, self.status, self.progress, self.verdict]

    @property
    def below(self) -> list[widgets.Widget]:
        """What stands below the log, in order."""
        return [widgets.HBox([self.record, self.form, self.write]), self.again]

    def enable(self, *, busy: bool, is_up: bool, has_outcome: bool) -> None:
        """Let be pressed what makes sense now."""
        self.boot.disabled = busy or is_up
        self.run.disabled = busy
        self.cancel.disabled = not busy
        self.shut_down.disabled = busy or not is_up
        if busy or not has_outcome:
            self.record.disabled = True


# How far a build is, by step, with the time left.


class Stages:
    """Follows the pieces of work of a build."""

    def __init__(self, case: Case, took_s: Mapping[str, float]) -> None:
        self._limits = {
            step.name: step.timeout_s or case.limits.step_timeout_s for step in case.steps
        }
        self._took_s = took_s
        self._under_way: list[TaskEvent] = []
        self._ended: list[tuple[str, float]] = []

    def follow(self, event: TaskEvent) -> None:
        """Take note of a piece of work."""
        if event.is_over:
            if event in self._under_way:
                self._under_way.remove(event)
                self._ended.append((event.label, time.monotonic() - event.started_s))
        elif event not in self._under_way:
            self._under_way.append(event)

    def html(self) -> str:
        """Tell what has been done, what is being done and how long it will take."""
        done = [f"<li>{escape(label)}: {s:.1f} s</li>" for label, s in self._ended]
        now = [f"<li><b>{escape(one.label)}</b> {self._left(one)}</li>" for one in self._under_way]
        begun = {label for label, _ in self._ended} | {one.label for one in self._under_way}
        to_come = [
            f"<li>{escape(STEP_LABEL + name)}: to come</li>"
            for name in self._limits
            if STEP_LABEL + name not in begun
        ]
        return f"<ul>{''.join([*done, *now, *to_come])}</ul>"

    def _left(self, one: TaskEvent) -> str:
        ran_s = time.monotonic() - one.started_s
        told = f"for {ran_s:.0f} s"
        step = one.label.removeprefix(STEP_LABEL)
        if one.left_s is not None:
            told += f", about {one.left_s:.0f} s left"
        elif step in self._took_s:
            told += f", about {max(self._took_s[step] - ran_s, 0):.0f} s left as it took before"
        elif step in self._limits:
            told += f", at most {max(self._limits[step] - ran_s, 0):.0f} s left"
        return f"{told} {escape(one.note)}"


# A verdict in words, with a sign and a colour: never by the colour alone.

_LOOKS = {  # sign, background; black on each has a contrast of 4.5 to 1 at least
    Verdict.PASSED: ("\N{CHECK MARK}", "#8fd8b8"),
    Verdict.FAILED: ("\N{BALLOT X}", "#f4a582"),
    Verdict.CRASHED: ("\N{HIGH VOLTAGE SIGN}", "#e3b5d0"),
    Verdict.TIMEOUT: ("\N{HOURGLASS}", "#f3cf7f"),
    Verdict.UNAVAILABLE: ("\N{EMPTY SET}", "#a9d6f2"),
    Verdict.ERROR: ("!", "#cccccc"),
}

_PRE = "color:inherit;background:none;white-space:pre-wrap;margin:4px 0 0"  # not the theme's


def verdict_html(outcome: Outcome) -> str:
    """Tell how a run ended, and why."""
    sign, colour = _LOOKS[outcome.verdict]
    why = f": {escape(outcome.reason)}" if outcome.reason else ""
    seen = f'<pre style="{_PRE}">{escape(outcome.evidence)}</pre>' if outcome.evidence else ""
    return (
        f'<div role="status" style="background:{colour};color:#000;padding:6px 10px;'
        f'border-radius:4px;overflow-wrap:anywhere">{sign} <b>{outcome.verdict.value}</b>{why}'
        f"{seen}</div>"
    )


# Building: boot, run, cancel, shut down; the log, the verdict, and how to have it again.

_TICK_S = 1.0
_PRINTED = object()
"""Event: the log has something new."""


class BuildPanel(Panel):
    """Builds a case in a machine, with the log as it comes.

    Every run is in a machine of its own. *Boot* only does the longest part of it beforehand.

    Parameters
    ----------
    subject : CommitPicker, Case or str
        Picks what a command is run in; or a case, a case file, or the id of a curated case.
    machine : MachinePanel or mapping, optional
        Where; or fields of `MachineSpec`. Default: what follows from the case.
    command : str
        With a picker: shell text, run in the source's directory.
    catalog : Catalog, str or Path, optional
        Where outcomes are recorded, by itself or by its place; default: that of the user.
    cache : Cache, optional
        Keeps what is fetched; default: that of the user.
    name : str
        A newer panel of the same name ends this one's machine.
    """

    outcome = traitlets.Any(None, allow_none=True, help="Of the last run.")

    def __init__(
        self,
        subject: CommitPicker | Case | str,
        machine: MachinePanel | Mapping[str, Any] | None = None,
        *,
        command: str = "",
        catalog: Catalog | str | Path | None = None,
        cache: Cache | None = None,
        name: str = "",
    ) -> None:
        self._subject = subject
        self._machine = machine
        self._catalog = catalog
        self._cache = cache
        self._booted: BootedCase | None = None
        self._booted_for: tuple[Case, dict[str, Any]] | None = None
        self._trial: Trial | None = None
        self._base = Path.cwd()
        self._stages: Stages | None = None
        self.log_view = LogView()
        self._controls = BuildControls(command)
        self._controls.command.layout.display = "" if isinstance(subject, CommitPicker) else "none"
        super().__init__([*self._controls.above, self.log_view, *self._controls.below], name=name)
        controls = self._controls
        controls.boot.on_click(self.guarded(lambda _: self.boot()))
        controls.run.on_click(self.guarded(lambda _: self.start()))
        controls.cancel.on_click(self.guarded(lambda _: self.cancel()))
        controls.shut_down.on_click(self.guarded(lambda _: self.shut_down()))
        controls.record.on_click(self.guarded(lambda _: self.record()))
        controls.write.on_click(self.guarded(lambda _: self.write_case()))
        controls.form.observe(self.guarded(lambda _: self._reproduce()), "value")
        self.observe(lambda _: self._enable(), "busy")
        self._enable()

    @property
    def case(self) -> Case:
        """What is built.

        Raises
        ------
        UsageError
            If nothing was chosen, or there is no such case.
        """
        if not isinstance(self._subject, CommitPicker):
            return self._subject_case()[0]
        source, command = self._subject.source, self._controls.command.value.strip()
        if source is None:
            raise UsageError("no commit is chosen", hint="choose one from the list")
        if not command:
            raise UsageError(
                "no command: what is to be run in the source's directory?",
                hint="for example: make check",
            )
        return uncurated(one_step_case(source, command, self._overrides.get("image", ImageSpec())))

    @property
    def command_field(self) -> widgets.Textarea:
        """Where the command is typed."""
        return self._controls.command

    @property
    def status(self) -> str:
        """What the panel says that it is doing, as HTML."""
        return str(self._controls.status.value)

    @property
    def verdict_html(self) -> str:
        """The verdict as it is shown."""
        return str(self._controls.verdict.value)

    @property
    def is_up(self) -> bool:
        """Whether a machine was booted and waits for its run."""
        return self._booted is not None

    def boot(self) -> Job[Any]:
        """Boot the machine in the background; it waits for `start`, or for `shut_down`.

        Returns
        -------
        Job
            Started.

        Raises
        ------
        UsageError
            If nothing was chosen, or a field of the machine is wrong.
        StateError
            If it is up.
        """
        if self._booted is not None:
            raise StateError("the machine is up", hint="run the case in it, or shut it down")
        (case, base), overrides = self._asked(), self._overrides
        self._prepare(case, "booting")

        def work(job: Job[Any]) -> None:
            booted = boot_case(
                case, overrides, cache=self._cache or Cache(), base=base, progress=job
            )
            try:
                job.check()  # it may have come up while it was cancelled
            except BaseException:
                booted.close()
                raise
            self._booted, self._booted_for = booted, (case, overrides)

        return self.begin(work, on_event=self._follow, on_end=self._show_machine)

    def start(self) -> Job[Any]:
        """Run the case in the background: in the machine that waits, or in one booted for it.

        Returns
        -------
        Job
            Started; its result is a `Trial`.

        Raises
        ------
        UsageError
            If nothing was chosen, or a field of the machine is wrong.
        """
        (case, base), overrides = self._asked(), self._overrides
        booted = self._booted if self._booted_for == (case, overrides) else None
        if booted is None:
            self.shut_down()  # it is not what is asked for now
        self._prepare(case, "running")
        self.log_view.clear()
        self._trial, self.outcome, self._controls.verdict.value = None, None, ""
        self._base = base
        self._reproduce()

        def output(job: Job[Any], data: bytes) -> None:
            self.log_view.take(data)
            job.tell(_PRINTED)

        def work(job: Job[Any]) -> Trial:
            self._stages = Stages(case, self._took_s(case))
            if booted is not None:
                try:
                    return booted.run(progress=job, output=lambda _, data: output(job, data))
                finally:
                    self._forget(booted)
            return run_case(
                case,
                overrides,
                cache=self._cache or Cache(),
                base=base,
                progress=job,
                output=lambda _, data: output(job, data),
            )

        return self.begin(work, on_event=self._follow, on_end=self._show_outcome)

    def run(self) -> Outcome | None:
        """Run the case and wait for its end.

        Returns
        -------
        Outcome or None
            None: it was cancelled.

        Raises
        ------
        BuildVMError
            If the request is wrong.
        """
        job = self.start()
        self.wait()
        if job.error is not None:
            raise job.error
        return job.result.outcome if job.state is JobState.DONE else None

    def shut_down(self) -> None:
        """End the machine that waits; does nothing when there is none."""
        booted = self._booted
        if booted is not None:
            self._forget(booted)
            booted.close()
            self._controls.status.value = "the machine is shut down"
        self._enable()

    def record(self) -> Outcome:
        """Record the outcome of the last run, with its log.

        Returns
        -------
        Outcome
            As recorded.

        Raises
        ------
        StateError
            If there is none, or it is recorded already.
        CatalogError
            If the catalog cannot be written.
        """
        if self._trial is None:
            raise StateError("there is no outcome to record", hint="run the case first")
        if self._controls.record.disabled:
            raise StateError("the outcome is recorded already")
        with self._opened_catalog() as catalog:
            self.outcome = catalog.record(self._trial.outcome, self._trial.log)
            self._controls.record.disabled = True
            self._controls.status.value = f"recorded as {self.outcome.id} in {escape(catalog.name)}"
        return self.outcome

    def reproduce(self, form: str = "command") -> str:
        """Say how the outcome of the last run is had again.

        Parameters
        ----------
        form : {"command", "case file", "papermill"}
            As what.

        Returns
        -------
        str
            Ready to be copied.

        Raises
        ------
        StateError
            If there is no outcome.
        UsageError
            If there is no such form.
        """
        if form not in FORMS:
            raise UsageError(f"unknown form: {form!r}; allowed: {', '.join(FORMS)}")
        if self.outcome is None:
            raise StateError("there is no outcome to reproduce", hint="run the case first")
        return FORMS[form](self.outcome, self._base)

    def write_case(self) -> Path:
        """Write the case file that the line under *Reproduce* names.

        Returns
        -------
        Path
            The file; another file of that name is left as it is.

        Raises
        ------
        StateError
            If there is no outcome.
        HostError
            If it cannot be written.
        """
        if self.outcome is None:
            raise StateError("there is no outcome to reproduce", hint="run the case first")
        form = str(self._controls.form.value)
        place = write_case(case_of(form, self.outcome), self._base)
        self._controls.status.value = f"written: {escape(str(place))}"
        self.show_error(None)
        return place

    def end(self) -> None:
        """End what runs, and the machine that waits."""
        super().end()
        booted = self._booted
        if booted is not None:
            self._forget(booted)
            booted.close()

    def _subject_case(self) -> tuple[Case, Path]:
        return find_case(self._subject, self._catalog)

    def _asked(self) -> tuple[Case, Path]:
        if isinstance(self._subject, CommitPicker):
            return self.case, Path.cwd()
        return self._subject_case()

    @property
    def _overrides(self) -> dict[str, Any]:
        if isinstance(self._machine, MachinePanel):
            return self._machine.overrides
        return dict(self._machine or {})

    def _opened_catalog(self) -> AbstractContextManager[Catalog]:
        if isinstance(self._catalog, Catalog):
            return nullcontext(self._catalog)  # whoever opened it closes it
        return Catalog(self._catalog)

    def _enable(self) -> None:
        self._controls.enable(busy=self.busy, is_up=self.is_up, has_outcome=self._trial is not None)

    def _prepare(self, case: Case, doing: str) -> None:
        self._stages = Stages(case, {})
        self._controls.status.value = f"{doing} {escape(case.id)}"
        if (loop := kernel_loop()) is not None:
            loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        loop = kernel_loop()
        if self.busy and loop is not None:
            self._draw_progress()
            loop.call_later(_TICK_S, self._tick)

    def _took_s(self, case: Case) -> dict[str, float]:
        """Return how long the steps took when the case was run last."""
        last: deque[Outcome] = deque(maxlen=1)
        with suppress(BuildVMError), self._opened_catalog() as catalog:  # a guess, no more
            last.extend(catalog.answers(case.build_digest()))
        return {step.name: step.duration_s for outcome in last for step in outcome.steps}

    def _follow(self, event: object) -> None:
        if event is _PRINTED:
            self.log_view.refresh()
        elif isinstance(event, TaskEvent) and self._stages is not None:
            self._stages.follow(event)
            self._draw_progress()

    def _draw_progress(self) -> None:
        if self._stages is not None:
            self._controls.progress.value = self._stages.html()

    def _show_machine(self, job: Job[Any]) -> None:
        booted = self._booted
        if booted is None:
            self._controls.status.value = f"not booted: {job.state}"
            return
        found = booted.environment
        self._controls.status.value = escape(
            f"up: {format_instant(booted.spec.date)}, {found.cpu}, Linux {found.kernel_release}, "
            f"{found.accelerator} ({found.engine})"
        )

    def _show_outcome(self, job: Job[Any]) -> None:
        self.log_view.flush()
        self._draw_progress()
        if job.state is not JobState.DONE:
            self._controls.status.value = f"no outcome: {job.state}"
            return
        self._trial = job.result
        self._controls.record.disabled = False
        self.outcome = self._trial.outcome
        self._controls.verdict.value = verdict_html(self.outcome)
        self._controls.status.value = f"took {self.outcome.duration_s:.1f} s"
        self._reproduce()

    def _reproduce(self) -> None:
        form, outcome = str(self._controls.form.value), self.outcome
        self._controls.again.value = self.reproduce(form) if outcome else ""
        needs_file = outcome is not None and not is_curated(case_of(form, outcome))
        self._controls.write.disabled = not needs_file

    def _forget(self, booted: BootedCase) -> None:
        if self._booted is booted:
            self._booted, self._booted_for = None, None
