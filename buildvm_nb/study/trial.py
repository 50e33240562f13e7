"""One trial: a case built once in one machine, whatever happens told as an outcome."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import BuildVMError, GuestLost, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image import build_image
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, StepRecord, Verdict
from buildvm_nb.study.environment import choose_faithful, open_machine
from buildvm_nb.study.inputs import Inputs, gather
from buildvm_nb.study.recording import as_host_error, broken, export, finish, judged, unavailable
from buildvm_nb.study.steps import Log, Output, run_steps
from buildvm_nb.vm import BuildMachine, check_cpu, find_emulator

if TYPE_CHECKING:
    from buildvm_nb.source import Fetched

__all__ = [
    "Part",
    "Setting",
    "Trial",
    "attempt",
    "machine_for",
    "run_case",
    "run_once",
    "run_part",
]

_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a trial."""

    outcome: Outcome
    log: bytes
    """Everything that the steps printed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What does not change between the attempts of one trial."""

    case: Case
    cache: Cache
    progress: Progress = SILENT
    output: Output | None = None
    """Gets the name of the step and what it prints, piece by piece."""
    artifacts: Path | None = None
    """Directory that artifacts are put into; None: they are only digested."""

    def new_log(self) -> Log:
        """Return an empty log, limited as the case says."""
        limit = self.case.limits.log_mib * 2**20
        return Log(limit, self.output, scratch=self.cache.root)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which part of a case a run does, and how."""

    steps: tuple[Step, ...] | None = None
    """None: all."""
    earlier: tuple[StepRecord, ...] = ()
    """Of steps that ran before, elsewhere."""
    held: bool = False
    """Hold the guest's clock at the machine's date while the steps run."""


WHOLE = Part()


def machine_for(case: Case, overrides: Mapping[str, Any], dated: "Fetched | None") -> MachineSpec:
    """Complete a machine's description from a case: what a user leaves out follows from it.

    Parameters
    ----------
    case : Case
        Gives image, memory and cores.
    overrides : mapping
        Fields of `MachineSpec` that the user gave.
    dated : Fetched or None
        The case's source; its date is the default one.

    Returns
    -------
    MachineSpec
        With the CPU of the date where none was given, and emulation where one was.

    Raises
    ------
    UsageError
        If a field is wrong.
    """
    fields: dict[str, Any] = {
        "image": case.image,
        "memory_mib": case.limits.memory_mib,
        "cpu_count": case.limits.cpu_count,
    }
    if dated and dated.record.dated_at:
        fields["date"] = dated.record.dated_at.replace(microsecond=0)
    given = {name: value for name, value in overrides.items() if value is not None}
    spec = MachineSpec.parse(fields | given)
    return choose_faithful(spec, cpu_matters="cpu" in given)


def run_case(  # noqa: PLR0913 - all but the case have defaults
    case: Case,
    overrides: Mapping[str, Any] | None = None,
    *,
    cache: Cache,
    base: Path = Path(),
    progress: Progress = SILENT,
    output: Output | None = None,
    artifacts: Path | None = None,
) -> Trial:
    """Build a case once in one machine.

    Trouble of the case, of its sources, of the host or of the machine becomes a verdict; only a
    wrong request is raised.

    Parameters
    ----------
    case : Case
        What to build.
    overrides : mapping, optional
        Fields of `MachineSpec`: where to build it.
    cache : Cache
        Keeps sources, image and kernel.
    base : Path
        Directory that relative paths of the case are below.
    progress : Progress
        Shows what is being done.
    output : callable, optional
        Gets the name of the step and what it prints, piece by piece.
    artifacts : Path, optional
        Directory that the case's artifacts are put into; None: they are only digested.

    Returns
    -------
    Trial
        The outcome and the log.

    Raises
    ------
    UsageError
        If the request is wrong: an unknown CPU, image or kernel, a date out of range.
    """
    began = time.monotonic()
    overrides = overrides or {}
    setting = Setting(case=case, cache=cache, progress=progress, output=output, artifacts=artifacts)
    spec = machine_for(case, overrides, None)
    inputs: Inputs | None = None
    try:
        check_cpu(spec.cpu, find_emulator(cache.root))
        inputs = gather(case, cache=cache, base=base, progress=progress)
        spec = machine_for(case, overrides, inputs.main)
        build_image(spec.image, cache, progress)
    except UsageError:
        raise
    except SourceError as error:
        trial = Trial(outcome=unavailable(case, spec, error), log=b"")
    except BuildVMError as error:
        trial = Trial(outcome=broken(case, spec, error), log=b"")
    except OSError as error:
        trial = Trial(outcome=broken(case, spec, as_host_error(error, cache)), log=b"")
    else:
        trial = run_once(setting, spec, inputs)
    sources = tuple(one.record for one in inputs.fetched) if inputs else ()
    return replace(trial, outcome=finish(trial.outcome, sources, began))


def run_once(setting: Setting, spec: MachineSpec, inputs: Inputs, part: Part = WHOLE) -> Trial:
    """Boot a machine and run the steps of a case in it.

    Parameters
    ----------
    setting : Setting
        The case, and where its output goes.
    spec : MachineSpec
        The machine.
    inputs : Inputs
        The case's sources.
    part : Part
        Which steps, and how.

    Returns
    -------
    Trial
        Its outcome is not finished yet.

    Raises
    ------
    UsageError
        If the request is wrong.
    """

    def boot_and_run(log: Log) -> Trial:
        machine = open_machine(
            spec, cache=setting.cache, progress=setting.progress, provision=inputs.provision
        )
        with closing(machine):
            with setting.progress.task(f"boot {spec.cpu} at {spec.date:%Y-%m-%d}"):
                machine.boot()
            return run_part(setting, machine, inputs, part, log)

    return attempt(setting, spec, boot_and_run)


def attempt(setting: Setting, spec: MachineSpec, work: Callable[[Log], Trial]) -> Trial:
    """Do something in a machine; again where the guest's kernel broke under emulation.

    Parameters
    ----------
    setting : Setting
        The case under study.
    spec : MachineSpec
        The machine, for the outcome if it breaks.
    work : callable
        Gets an empty log, boots or resumes a machine and returns what came of it.

    Returns
    -------
    Trial
        With verdict ``error`` where machinery broke.

    Raises
    ------
    UsageError
        If the request is wrong.
    """
    for number in range(1, _ATTEMPTS + 1):
        log = setting.new_log()
        try:
            return work(log)
        except UsageError:
            raise
        except BuildVMError as error:
            again = isinstance(error, GuestLost) and error.is_oops
            if not again or number == _ATTEMPTS:
                outcome = broken(setting.case, spec, error)
                return Trial(outcome=outcome, log=log.data)
        except OSError as error:
            outcome = broken(setting.case, spec, as_host_error(error, setting.cache))
            return Trial(outcome=outcome, log=log.data)
        finally:
            log.close()
    raise AssertionError("unreachable")


def run_part(
    setting: Setting, machine: BuildMachine, inputs: Inputs, part: Part, log: Log
) -> Trial:
    """Run steps of a case in a machine that is up, and take out artifacts where they passed.

    Parameters
    ----------
    setting : Setting
        The case, and where artifacts go.
    machine : BuildMachine
        With the case's inputs.
    inputs : Inputs
        The case's sources.
    part : Part
        Which steps, and how.
    log : Log
        Gets what they print.

    Returns
    -------
    Trial
        Its outcome is not finished yet.

    Raises
    ------
    MachineError
        If the machine fails, or artifacts cannot be had.
    """
    judgement = run_steps(
        machine,
        setting.case,
        inputs.top,
        log,
        steps=part.steps,
        held=part.held,
        progress=setting.progress,
    )
    passed = judgement.verdict is Verdict.PASSED
    judgement = replace(judgement, steps=(*part.earlier, *judgement.steps))
    kept = export(setting.case, machine, setting.cache, setting.artifacts) if passed else ()
    if passed and setting.case.artifacts and not kept:
        patterns = ", ".join(setting.case.artifacts)
        reason = f"all steps passed, but left no artifacts: nothing matches {patterns}"
        judgement = replace(judgement, verdict=Verdict.FAILED, reason=reason)
    outcome = judged(setting.case, machine, judgement, kept)
    return Trial(outcome=outcome, log=log.data)
