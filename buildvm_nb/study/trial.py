"""One trial: a case built once in one machine, whatever happens told as an outcome."""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import BuildVMError, GuestLost, MachineError, SourceError, UsageError
from buildvm_nb.host.cache import Cache, file_digest
from buildvm_nb.host.facts import host_facts
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image import build_image
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Artifact, Outcome, Verdict
from buildvm_nb.study.environment import choose_faithful, open_machine
from buildvm_nb.study.steps import Judgement, Log, Output, run_steps
from buildvm_nb.vm import BuildMachine, Provision, check_cpu, find_emulator

if TYPE_CHECKING:
    from buildvm_nb.source import Fetched

__all__ = ["Trial", "machine_for", "run_case"]

_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a trial."""

    outcome: Outcome
    log: bytes
    """Everything that the steps printed."""


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What does not change between the attempts of one trial."""

    case: Case
    cache: Cache
    progress: Progress
    output: Output | None
    artifacts: Path | None


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
    setting = _Setting(
        case=case, cache=cache, progress=progress, output=output, artifacts=artifacts
    )
    spec = machine_for(case, overrides, None)
    fetched: list[Fetched] = []
    try:
        check_cpu(spec.cpu, find_emulator(cache.root))
        fetched = _fetch(case, cache, base, progress)
        spec = machine_for(case, overrides, fetched[0] if case.source else None)
        build_image(spec.image, cache, progress)
    except UsageError:
        raise
    except SourceError as error:
        sought = f" (sought in {', '.join(error.sought)})" if error.sought else ""
        outcome = _outcome(case, spec, Verdict.UNAVAILABLE, f"{error.message}{sought}")
        trial = Trial(outcome=outcome, log=b"")
    except BuildVMError as error:
        trial = _broken(case, spec, error, b"")
    else:
        trial = _attempt(setting, spec, fetched)
    outcome = trial.outcome.model_copy(
        update={
            "sources": tuple(one.record for one in fetched),
            "duration_s": round(time.monotonic() - began, 3),
            "host": host_facts(),
            "tool_version": version("buildvm-nb"),
        }
    )
    return replace(trial, outcome=outcome)


def _fetch(case: Case, cache: Cache, base: Path, progress: Progress) -> list["Fetched"]:
    wanted = [case.source] if case.source else []
    wanted += [entry.source for entry in case.inputs]
    from buildvm_nb.source import fetch  # noqa: PLC0415 - 0.1 s that running a command can do without

    return [fetch(source, cache, base=base, progress=progress) for source in wanted]


def _attempt(setting: _Setting, spec: MachineSpec, fetched: list["Fetched"]) -> Trial:
    """Run the steps; again where the guest's kernel broke under emulation."""
    case = setting.case
    trees: dict[str, Path] = {"": fetched[0].tree} if case.source else {}
    inputs = fetched[1:] if case.source else fetched
    trees |= {entry.path: one.tree for entry, one in zip(case.inputs, inputs, strict=True)}
    provision = Provision(
        inputs=trees or None,
        exports_mib=case.limits.artifacts_mib,
        processes=case.limits.processes,
    )
    top = fetched[0].top if case.source else ""
    for attempt in range(1, _ATTEMPTS + 1):
        log = Log(limit=case.limits.log_mib * 2**20, output=setting.output)
        try:
            machine = open_machine(
                spec, cache=setting.cache, progress=setting.progress, provision=provision
            )
            with closing(machine):
                with setting.progress.task(f"boot {spec.cpu} at {spec.date:%Y-%m-%d}"):
                    machine.boot()
                return _study(setting, machine, top, log)
        except UsageError:
            raise
        except BuildVMError as error:
            again = isinstance(error, GuestLost) and error.is_oops
            if not again or attempt == _ATTEMPTS:
                return _broken(case, spec, error, bytes(log.data))
    raise AssertionError("unreachable")


def _study(setting: _Setting, machine: BuildMachine, top: str, log: Log) -> Trial:
    judgement = run_steps(machine, setting.case, top, log)
    kept = _export(setting, machine) if judgement.verdict is Verdict.PASSED else ()
    outcome = _outcome(setting.case, machine.spec, judgement.verdict, judgement.reason)
    outcome = outcome.model_copy(
        update={
            "evidence": judgement.evidence,
            "failing_step": _failing(judgement),
            "steps": judgement.steps,
            "environment": machine.environment,
            "image_digest": machine.boot_files.image_digest,
            "kernel_digest": machine.boot_files.kernel_digest,
            "artifacts": kept,
        }
    )
    return Trial(outcome=outcome, log=bytes(log.data))


def _failing(judgement: Judgement) -> str | None:
    return judgement.steps[-1].name if judgement.verdict is not Verdict.PASSED else None


def _export(setting: _Setting, machine: BuildMachine) -> tuple[Artifact, ...]:
    if not setting.case.artifacts:
        return ()
    with TemporaryDirectory(prefix="artifacts-", dir=setting.cache.root) as scratch:
        into = setting.artifacts or Path(scratch)
        paths = machine.export(setting.case.artifacts, into)
        if not paths:
            patterns = ", ".join(setting.case.artifacts)
            raise MachineError(
                f"the build passed, but left no artifacts: nothing matches {patterns}"
            )
        return tuple(
            Artifact(
                path=str(path),
                size_bytes=(into / path).stat().st_size,
                digest=file_digest(into / path),
            )
            for path in paths
        )


def _outcome(case: Case, spec: MachineSpec, verdict: Verdict, reason: str = "") -> Outcome:
    return Outcome(case=case, machine=spec, verdict=verdict, reason=reason)


def _broken(case: Case, spec: MachineSpec, error: BuildVMError, log: bytes) -> Trial:
    outcome = _outcome(case, spec, Verdict.ERROR, str(error))
    evidence = getattr(error, "evidence", "")
    return Trial(outcome=outcome.model_copy(update={"evidence": evidence}), log=log)
