"""Describing a machine in a notebook: date, CPU, kernel, memory, image, accelerator."""

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets
from dateutil.relativedelta import relativedelta

from buildvm_nb.errors import BuildVMError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.image import DEBIAN_KERNELS, list_kernels
from buildvm_nb.model.instants import format_instant, now
from buildvm_nb.model.machine import CPU_MODELS, Accelerator, ImageSpec, MachineSpec, cpu_at
from buildvm_nb.nb.jobs import Job
from buildvm_nb.nb.panel import Field, Panel, option_field
from buildvm_nb.study import choose_faithful
from buildvm_nb.study.host_checks import Check, State, check_host, check_space
from buildvm_nb.study.options import OPTIONS, read_option
from buildvm_nb.vm import emulated_features, find_emulator

__all__ = [
    "MachinePanel",
]

# What a person is told about this host and a CPU, as HTML.

FIDELITY = {
    Accelerator.AUTO: "KVM where it is proven to work; emulation where you choose the CPU",
    Accelerator.KVM: "fast, but it only hides features: a program that uses one that the model "
    "lacks still runs, unlike on a real one",
    Accelerator.TCG: "slow, and it enforces the model: an instruction that the model lacks kills "
    "the program (SIGILL)",
    Accelerator.UML: "user-mode Linux: fast without KVM, for dates, kernels and commits; the CPU "
    "is this host's",
}
"""What an accelerator means for what is found out about CPUs."""


def checks_html(checks: Iterable[Check]) -> str:
    """Tell what this host lacks.

    Returns: HTML; empty: nothing that is needed is missing.
    """
    lines = [
        f"<li><b>{escape(check.subject)}</b>: {escape(check.found)}"
        + (f"<br><code>{escape(check.hint)}</code>" if check.hint else "")
        + "</li>"
        for check in checks
        if check.state is State.MISSING
    ]
    if not lines:
        return ""
    return (
        '<div role="alert"><b>This host cannot run machines yet. It lacks:</b>'
        f"<ul>{''.join(lines)}</ul>The catalog can be read all the same.</div>"
    )


def features_html(cpu: str, has: Iterable[str], lacks: Iterable[str]) -> str:
    """Tell what a CPU has under emulation.

    `has`, `lacks`: features that it has there, and that its model has but emulation cannot give.
    """
    has, lacks = sorted(has), sorted(lacks)
    told = f"; emulation lacks {len(lacks)} of its model's" if lacks else ""
    lacking = f"<br><b>Lacking:</b> {escape(', '.join(lacks))}" if lacks else ""
    return (
        f"<details><summary>{escape(cpu)} has {len(has)} features{told}</summary>"
        f"{escape(', '.join(has))}{lacking}</details>"
    )


# Describing a machine: date, CPU, kernel, memory, image, accelerator.

_COMMIT, _TODAY, _LATER, _OVERFLOW, _OTHER = (
    "commit date",
    "today",
    "today + 5 years",
    "2038, when 32 bits overflow",
    "as typed",
)
_OVERFLOWS_AT = "2038-01-19T03:14:08Z"


class MachinePanel(Panel):
    """Describes a machine; `overrides` and `spec` say what was chosen.

    Parameters
    ----------
    cache : Cache, optional
        Has kernels, and remembers facts about this host; default: that of the user.
    checks : bool
        Look in the background whether this host can run machines.
    name : str
        A newer panel of the same name takes this one's place.
    """

    commit_date = traitlets.Any(None, allow_none=True, help="What *commit date* stands for.")
    changes = traitlets.Int(0, help="Counts changes, for whoever follows them.")

    def __init__(self, *, cache: Cache | None = None, checks: bool = True, name: str = "") -> None:
        self._cache = cache
        self._checks: tuple[Check, ...] | None = None if checks else ()
        self._is_writing = False
        self._looked_at = ""
        self._fields = self._make_fields()
        self._presets = widgets.Dropdown(
            options=[_COMMIT, _TODAY, _LATER, _OVERFLOW, _OTHER],
            description="Preset",
            tooltip="Fill in the date",
        )
        self._accelerator = widgets.Dropdown(
            options=[accelerator.value for accelerator in Accelerator],
            description="Accelerator",
            tooltip="What executes the guest's instructions",
        )
        self._fidelity = widgets.HTML()
        self._host = widgets.HTML()
        self._features = widgets.HTML()
        boxes = {name: field.box for name, field in self._fields.items()}
        super().__init__(
            [
                self._host,
                self._presets,
                boxes["date"],
                boxes["cpu"],
                self._features,
                *(boxes[name] for name in ("cpu_count", "kernel", "memory", "image", "packages")),
                widgets.HBox([self._accelerator, self._fidelity]),
            ],
            name=name,
        )
        self._presets.observe(self.guarded(self._preset), "value")
        self._accelerator.observe(self.guarded(lambda _: self._changed()), "value")
        self.observe(self.guarded(lambda _: self._changed()), "commit_date")
        self.guarded(self._changed)()

    @property
    def overrides(self) -> dict[str, Any]:
        """What one build takes: what was chosen, and the commit's date where no other was.

        Raises
        ------
        UsageError
            If a field is wrong; the panel says so beside it.
        """
        chosen = self.chosen
        if "date" not in chosen and self._presets.value == _COMMIT and self.commit_date:
            chosen["date"] = self.commit_date
        return chosen

    @property
    def chosen(self) -> dict[str, Any]:
        """What was chosen, as fields of `MachineSpec`; what was left open is not in it.

        Raises
        ------
        UsageError
            If a field is wrong; the panel says so beside it.
        """
        read = {name: field.value() for name, field in self._fields.items()}
        image, packages = read.pop("image"), read.pop("packages") or ()
        if image is not None or packages:
            base = image or ImageSpec()
            read["image"] = ImageSpec.parse(
                {"base": base.base, "packages": (*base.packages, *packages)}
            )
        read["memory_mib"] = read.pop("memory")
        if self._accelerator.value != Accelerator.AUTO:
            read["accelerator"] = Accelerator(self._accelerator.value)
        return {name: value for name, value in read.items() if value is not None}

    @property
    def spec(self) -> MachineSpec:
        """The machine that was chosen, what was left open filled in.

        Raises
        ------
        UsageError
            If a field is wrong; the panel says so beside it.
        """
        chosen = self.overrides
        return choose_faithful(MachineSpec.parse(chosen), cpu_matters="cpu" in chosen)

    @property
    def complaints(self) -> dict[str, str]:
        """What is wrong with which field, as HTML."""
        return {name: field.complaint for name, field in self._fields.items() if field.complaint}

    def set(self, **fields: object) -> None:
        """Fill in fields, as somebody would by typing.

        Parameters
        ----------
        **fields
            ``date``, ``cpu``, ``cpu_count``, ``kernel``, ``memory``, ``image``, ``packages``,
            ``accelerator`` or ``preset``; empty text: what follows from the rest.

        Raises
        ------
        UsageError
            If there is no such field, or its value is wrong.
        """
        for name, value in fields.items():
            if name == "accelerator":
                self._accelerator.value = str(value)
            elif name == "preset" and value in self._presets.options:
                self._presets.value = value
            elif name in self._fields:
                text = format_instant(value) if isinstance(value, datetime) else str(value)
                self._fields[name].widget.value = text
                self._fields[name].value()
            else:
                known = [*self._fields, "accelerator", "preset"]
                raise UsageError(
                    f"no such field or preset: {name}={value!r}; allowed: {', '.join(known)}",
                    hint=f"presets are {', '.join(self._presets.options)}",
                )

    def look(self) -> Job[Any]:
        """Look in the background what this host lacks, and what the CPU has.

        Returns
        -------
        Job
            Started.
        """
        self._looked_at = cpu = self.spec.cpu

        def work(job: Job[Any]) -> tuple[str, str, list[str]]:
            cache = self._cache or Cache()
            if self._checks is None:
                self._checks = (*check_host(cache), check_space(cache.root))
            job.check()
            kernels = [kernel.name for kernel in list_kernels(cache)]
            try:
                has, lacks = emulated_features(cpu, find_emulator(cache.root))
            except BuildVMError as error:
                return checks_html(self._checks), escape(error.message), kernels
            return checks_html(self._checks), features_html(cpu, has, lacks), kernels

        def show(job: Job[Any]) -> None:
            if job.state == "done":
                self._host.value, self._features.value, kernels = job.result
                self._fields["kernel"].widget.options = kernels

        return self.begin(work, on_end=show)

    @property
    def host_html(self) -> str:
        """What this host lacks, as it is shown; empty: nothing, or not known yet."""
        return str(self._host.value)

    @property
    def features_html(self) -> str:
        """What the CPU has, as it is shown."""
        return str(self._features.value)

    def _make_fields(self) -> dict[str, Field]:
        wide = {"layout": widgets.Layout(width="26em")}
        suites = ["debian:bullseye", "debian:bookworm", "debian:trixie", "debian:sid"]
        kernels = [*DEBIAN_KERNELS]
        models = [model.name for model in CPU_MODELS]
        shown = {
            "date": option_field("date", "2019-05-01T12:00:00Z"),
            "cpu": option_field("cpu", "current at that date", options=models),
            "cpu_count": option_field("cpu_count", "1"),
            "kernel": option_field("kernel", "debian:bookworm", options=kernels, **wide),
            "memory": option_field("memory_mib", "1024"),
            "image": option_field("image", "debian:bookworm", options=suites, **wide),
            "packages": option_field("packages", "gcc make python3", **wide),
        }
        readers: dict[str, Any] = {
            name: partial(read_option, field, called=OPTIONS[field].label.lower())
            for name in ("date", "cpu", "cpu_count", "kernel", "memory", "image")
            for field in ("memory_mib" if name == "memory" else name,)
        }
        readers["packages"] = lambda text: (
            ImageSpec.parse({"packages": tuple(text.replace(",", " ").split())}).packages
        )
        return {
            name: Field(widget, readers[name], self._field_changed)
            for name, widget in shown.items()
        }

    def _field_changed(self) -> None:
        if not self._is_writing:
            typed = str(self._fields["date"].widget.value).strip()
            self._is_writing = True
            self._presets.value = _OTHER if typed else _COMMIT
            self._is_writing = False
        self.guarded(self._changed)()

    def _preset(self, change: dict[str, Any]) -> None:
        if self._is_writing:
            return
        today = now().replace(hour=0, minute=0, second=0, microsecond=0)
        text = {
            _TODAY: format_instant(today),
            _LATER: format_instant(today + relativedelta(years=5)),
            _OVERFLOW: _OVERFLOWS_AT,
            _COMMIT: "",
        }.get(change["new"])
        if text is not None:
            self._is_writing = True
            self._fields["date"].widget.value = text
            self._is_writing = False

    def _changed(self) -> None:
        """Say what follows from what was chosen."""
        self._fidelity.value = FIDELITY[Accelerator(self._accelerator.value)]
        self.changes += 1
        try:
            spec, chosen = self.spec, self.overrides
        except UsageError:  # the field says it
            for name in ("date", "cpu"):
                self._fields[name].note("")
            return
        follows = "" if self._fields["date"].widget.value else format_instant(spec.date)
        source = "of the commit" if self.commit_date else "unless the source has a date"
        self._fields["date"].note(f"{follows} ({source})" if follows else "")
        model = cpu_at(spec.date)
        told = f"{model.name}: {model.product}, on sale since {model.since:%Y-%m-%d}"
        self._fields["cpu"].note("" if "cpu" in chosen else escape(told))
        if spec.cpu != self._looked_at:
            self.look()
