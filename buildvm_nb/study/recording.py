"""From what happened in a machine, or instead of one, to an outcome."""

import time
from importlib.metadata import version
from pathlib import Path

from buildvm_nb.errors import BuildVMError, HostError, SourceError
from buildvm_nb.host.cache import Cache, file_digest, free_bytes
from buildvm_nb.host.facts import host_facts
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Artifact, Outcome, Probing, SourceRecord, Verdict
from buildvm_nb.model.value import Digest, Value
from buildvm_nb.study.steps import Judgement
from buildvm_nb.vm import BuildMachine, scratch_directory

__all__ = ["Basis", "as_host_error", "broken", "export", "finish", "judged", "unavailable"]


class Basis(Value):
    """What a run is made with beside its case and machine; only what shares it can be compared."""

    image_digest: str = ""
    """SHA-256 of the image; empty, here and below: any."""
    kernel_digest: str = ""
    """Key of the kernel."""
    source_digests: tuple[Digest, ...] | None = None
    """Of the source and the inputs; None: they could not be had."""
    engine: str = ""
    """Name and version of what runs the guest, for example ``qemu 7.2.22``."""

    def difference(self, outcome: Outcome) -> str:
        """Say with what else a run was made.

        Parameters
        ----------
        outcome : Outcome
            Of the run.

        Returns
        -------
        str
            In words, the first difference; empty where there is none.
        """
        sources = ", ".join(record.digest for record in outcome.sources)
        expected = None if self.source_digests is None else ", ".join(self.source_digests)
        engine = outcome.environment.engine if outcome.environment else ""
        for what, seen, wanted in (
            ("image", outcome.image_digest, self.image_digest or None),
            ("kernel", outcome.kernel_digest, self.kernel_digest or None),
            ("QEMU", engine, self.engine or None),
            ("sources", sources, expected),
        ):
            if wanted is not None and seen != wanted:
                return f"other {what}: {seen or 'none'}; expected {wanted or 'none'}"
        return ""


def judged(
    case: Case, machine: BuildMachine, judgement: Judgement, artifacts: tuple[Artifact, ...]
) -> Outcome:
    """Tell what came of running steps in a machine.

    Parameters
    ----------
    case : Case
        Whose steps.
    machine : BuildMachine
        Still up.
    judgement : Judgement
        What the steps did.
    artifacts : tuple of Artifact
        What they left behind.

    Returns
    -------
    Outcome
        Not finished yet.
    """
    passed = judgement.verdict is Verdict.PASSED
    return Outcome(
        case=case,
        machine=machine.spec,
        verdict=judgement.verdict,
        reason=judgement.reason,
        evidence=judgement.evidence,
        failing_step=None if passed else judgement.steps[-1].name,
        steps=judgement.steps,
        environment=machine.environment,
        image_digest=machine.boot_files.image_digest,
        kernel_digest=machine.boot_files.kernel_digest,
        artifacts=artifacts,
        probing=Probing(drift_s=judgement.drift_s),
    )


def unavailable(case: Case, spec: MachineSpec, error: SourceError) -> Outcome:
    """Tell that a source cannot be had.

    Parameters
    ----------
    case : Case
        Whose source.
    spec : MachineSpec
        The machine that it was wanted for.
    error : SourceError
        What is wrong with it.

    Returns
    -------
    Outcome
        Not finished yet.
    """
    sought = f" (sought in {', '.join(error.sought)})" if error.sought else ""
    hint = f"\nHint: {error.hint}" if error.hint else ""
    reason = f"{error.message}{sought}{hint}"
    return Outcome(case=case, machine=spec, verdict=Verdict.UNAVAILABLE, reason=reason)


def broken(case: Case, spec: MachineSpec, error: BuildVMError) -> Outcome:
    """Tell that our machinery or the host broke.

    Parameters
    ----------
    case : Case
        What was to be run.
    spec : MachineSpec
        Where.
    error : BuildVMError
        What broke.

    Returns
    -------
    Outcome
        Not finished yet.
    """
    evidence = getattr(error, "evidence", "")
    return Outcome(
        case=case, machine=spec, verdict=Verdict.ERROR, reason=str(error), evidence=evidence
    )


def as_host_error(error: OSError, cache: Cache) -> HostError:
    """Word what the system refused: this host's trouble, never the case's.

    Parameters
    ----------
    error : OSError
        A full disk, a file that may not be written, a connection that broke.
    cache : Cache
        Where there may be no room.

    Returns
    -------
    HostError
        To be raised or told.
    """
    what = error.strerror or str(error) or type(error).__name__
    place = f": {error.filename}" if error.filename else ""
    return HostError(
        f"this host refused it: {what}{place}",
        hint=f"{free_bytes(cache.root) // 2**20} MiB are free in the cache {cache.root}; "
        "`buildvm doctor` looks at the host",
    )


def finish(outcome: Outcome, sources: tuple[SourceRecord, ...], began: float) -> Outcome:
    """Add what is the same for every outcome.

    Parameters
    ----------
    outcome : Outcome
        Of one run.
    sources : tuple of SourceRecord
        What was fetched for it.
    began : float
        The host's monotonic clock at the request.

    Returns
    -------
    Outcome
        Ready to be recorded.
    """
    return outcome.model_copy(
        update={
            "sources": sources,
            "duration_s": round(time.monotonic() - began, 3),
            "host": host_facts(),
            "tool_version": version("buildvm-nb"),
        }
    )


def export(
    case: Case, machine: BuildMachine, cache: Cache, into: Path | None
) -> tuple[Artifact, ...]:
    """Take a case's artifacts out of a machine.

    Parameters
    ----------
    case : Case
        Names them.
    machine : BuildMachine
        In which its steps passed.
    cache : Cache
        Has room for them.
    into : Path or None
        Where they are put; None: they are only digested.

    Returns
    -------
    tuple of Artifact
        Sorted by path; empty where the case names none, or nothing matches.

    Raises
    ------
    MachineError
        If they cannot be had.
    """
    if not case.artifacts:
        return ()
    with scratch_directory(cache.root / "machines", "artifacts-") as scratch:
        target = into or scratch
        paths = machine.export(case.artifacts, target)
        return tuple(
            Artifact(
                path=str(path),
                size_bytes=(target / path).stat().st_size,
                digest=file_digest(target / path),
            )
            for path in paths
        )
