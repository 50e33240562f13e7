"""One trial: a case built once in one machine, whatever happens told as an outcome."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from buildvm_nb.errors import BuildVMError, GuestLost, HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache, file_digest, free_bytes
from buildvm_nb.host.facts import host_facts
from buildvm_nb.host.process import find_tool
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image import build_image, fetch_kernel, list_kernels
from buildvm_nb.image.initramfs import build_initramfs
from buildvm_nb.image.kernel import Kernel
from buildvm_nb.image.rootfs import check_makeable
from buildvm_nb.image.uml import fetch_uml_kernel
from buildvm_nb.model.case import Case, Limits, Step
from buildvm_nb.model.machine import Accelerator, ImageSpec, MachineSpec
from buildvm_nb.model.outcome import Artifact, Outcome, Probing, StepRecord, Verdict
from buildvm_nb.model.value import Digest, Value
from buildvm_nb.study.evidence import count_tests, failing_lines, name_signal
from buildvm_nb.vm import (
    QEMU,
    BootFiles,
    BuildMachine,
    CommandResult,
    DiskMachine,
    MachineFiles,
    Provision,
    Sockets,
    check_cpu,
    find_emulator,
    inspect_disk,
    is_kvm_offered,
    prove_kvm,
    prove_uml,
    qemu_argv,
    scratch_directory,
    uml_argv,
)

if TYPE_CHECKING:
    from buildvm_nb.source import Fetched

__all__ = [
    "STEP_LABEL",
    "STEP_MARK",
    "Basis",
    "Inputs",
    "Log",
    "Part",
    "Printed",
    "Setting",
    "Trial",
    "attempt",
    "choose_faithful",
    "dry_run",
    "engine_for",
    "finish",
    "gather",
    "judge_step",
    "judged",
    "kernel_for",
    "known_cpu",
    "kvm_status",
    "log_header",
    "machine_for",
    "open_disk",
    "open_machine",
    "prepare",
    "record_step",
    "run_case",
    "run_here",
    "run_once",
    "run_part",
    "run_steps",
    "trouble",
    "uml_status",
]

# From a machine's description to a machine: its image, kernel and initramfs had ready.


def prepare(
    spec: MachineSpec,
    *,
    cache: Cache,
    progress: Progress = SILENT,
    qemu: str = QEMU,
    elsewhere: bool = False,
) -> BootFiles:
    """Have ready what a machine boots from.

    `elsewhere`: it boots on another host, so this one need not have what runs it.
    Raises `UsageError` if the image, the suite or the kernel is unknown; also if QEMU knows no such
    CPU, as that is found out before anything long begins.
    """
    check_disk_tool(is_needed=spec.accelerator is Accelerator.UML and not elsewhere)
    known_cpu(spec, cache, qemu=qemu, elsewhere=elsewhere)
    check_makeable(spec.image, cache)
    return _boot_files_of(kernel_for(spec, cache, progress), spec.image, cache, progress)


def known_cpu(spec: MachineSpec, cache: Cache, *, qemu: str = QEMU, elsewhere: bool = False) -> str:
    """Return a machine's CPU as QEMU spells it.

    `elsewhere`: it boots on another host; a CPU is taken as it is where this one has no QEMU.
    """
    if spec.accelerator is Accelerator.UML:
        return spec.cpu
    try:
        return check_cpu(spec.cpu, find_emulator(cache.root, qemu))
    except HostError:
        if elsewhere:
            return spec.cpu
        raise


def check_disk_tool(*, is_needed: bool) -> None:
    """Refuse to begin what is to have a scratch disk where none can be made.

    The disk is made last, when image and kernel are there, which may have taken many minutes.
    """
    if is_needed:
        find_tool("mke2fs")


def kernel_for(spec: MachineSpec, cache: Cache, progress: Progress = SILENT) -> Kernel:
    """Return the kernel that a machine boots, which depends on what runs it."""
    fetch = fetch_uml_kernel if spec.accelerator is Accelerator.UML else fetch_kernel
    return fetch(spec.kernel, cache, progress)


def engine_for(spec: MachineSpec, cache: Cache, progress: Progress = SILENT) -> str:
    """Return name and version of what would run a machine, as its environment will tell them.

    For example ``qemu 7.2.22``.
    """
    if spec.accelerator is Accelerator.UML:
        return f"uml {kernel_for(spec, cache, progress).release}"
    return f"qemu {find_emulator(cache.root).version}"


def open_machine(
    spec: MachineSpec,
    *,
    cache: Cache,
    progress: Progress = SILENT,
    share: Path | None = None,
    provision: Provision | None = None,
    on_note: Callable[[str], None] | None = None,
) -> BuildMachine:
    """Return a machine to be entered as a context.

    Parameters
    ----------
    spec : MachineSpec
        What is asked for.
    cache : Cache
        Keeps image, kernel and initramfs.
    progress : Progress
        Shows what is being made.
    share : Path, optional
        A directory of the host, of which the guest gets a copy as ``/build/NAME``.
    provision : Provision, optional
        What else the machine is given; not together with `share`.
    on_note : callable, optional
        Gets a sentence about each shared file that could not be copied; None: that is an error.

    Returns
    -------
    BuildMachine
        Not booted yet.

    Raises
    ------
    UsageError, SourceError, HostError
        As `prepare` does.
    """
    provision = provision or Provision(inputs=_shared(share), on_note=on_note)
    check_disk_tool(is_needed=bool(provision.scratch_mib))
    boot = prepare(spec, cache=cache, progress=progress, qemu=provision.qemu)
    return BuildMachine(spec, boot, cache=cache, provision=provision)


def open_disk(
    spec: MachineSpec,
    disk: Path,
    *,
    cache: Cache,
    progress: Progress = SILENT,
    provision: Provision | None = None,
) -> DiskMachine:
    """Return a machine that boots a disk image by its own boot loader.

    Parameters
    ----------
    spec : MachineSpec
        What is asked for; image and kernel say nothing here.
    disk : Path
        A qcow2 image, or a raw one; it is never written.
    cache : Cache
        Keeps a kernel to prove KVM with, where KVM is offered.
    progress : Progress
        Shows what is being made.
    provision : Provision, optional
        Its QEMU and the log of its console count.

    Returns
    -------
    DiskMachine
        Not booted yet.

    Raises
    ------
    UsageError
        If it is no such image, refers to other files, or CPU or date cannot be had.
    SourceError
        If the kernel to prove KVM with cannot be had.
    HostError
        If this host lacks something.
    """
    image = inspect_disk(disk)
    is_tried = spec.accelerator is not Accelerator.TCG and is_kvm_offered()
    boot = _boot_files(spec.kernel, None, cache, progress) if is_tried else None
    return DiskMachine(spec, image, cache=cache, provision=provision or Provision(), boot=boot)


def dry_run(spec: MachineSpec, *, cache: Cache, share: Path | None = None) -> list[str]:
    """Return the QEMU command line of a machine; image and kernel are had ready for it.

    Parameters
    ----------
    spec : MachineSpec
        What is asked for.
    cache : Cache
        Keeps image and kernel.
    share : Path, optional
        As for `open_machine`.

    Returns
    -------
    list of str
        Program and arguments. Sockets that QEMU would inherit are shown as descriptors 3 to 5,
        files that a machine has of its own by their names.

    Raises
    ------
    UsageError, SourceError, HostError
        As `prepare` does.
    """
    machine = open_machine(spec, cache=cache, share=share)
    files = MachineFiles(
        initramfs=Path("initramfs.cpio"),
        inputs=Path("inputs.squashfs") if share else None,
        exports=Path("exports.tar"),
    )
    if machine.spec.accelerator is Accelerator.UML:
        files = replace(files, scratch=Path("scratch.ext4"))
        return uml_argv(machine.spec, machine.boot_files, files, {"events": 3, "channel": 4})
    sockets = Sockets(monitor=3, channel=4, events=5)
    return qemu_argv(machine.emulator, machine.spec, machine.boot_files, files, sockets)


def kvm_status(cache: Cache) -> tuple[bool, str]:
    """Tell whether KVM runs a guest on this host.

    Parameters
    ----------
    cache : Cache
        Holds a kernel to try it with, and remembers the answer until the host boots again.

    Returns
    -------
    tuple of bool and str
        Whether it works, and a sentence that says what was seen.

    Raises
    ------
    HostError
        If QEMU is missing.
    """
    emulator = find_emulator(cache.root)
    name = next((kernel.name for kernel in list_kernels(cache) if kernel.cached), None)
    boot = _boot_files(name, None, cache, SILENT) if name else None
    return prove_kvm(emulator, boot, cache.root / "kvm.json")


def uml_status(cache: Cache) -> tuple[bool, str]:
    """Tell whether user-mode Linux runs a guest on this host."""
    spec = MachineSpec.parse({"accelerator": Accelerator.UML})
    boot = _boot_files_of(kernel_for(spec, cache), None, cache, SILENT)
    return prove_uml(boot, cache.root / "uml.json")


def choose_faithful(spec: MachineSpec, *, cpu_matters: bool) -> MachineSpec:
    """Choose emulation where the CPU is under study: KVM only hides features from software.

    Parameters
    ----------
    spec : MachineSpec
        Whose accelerator may be `Accelerator.AUTO`.
    cpu_matters : bool
        Whether somebody asked for this very CPU.

    Returns
    -------
    MachineSpec
        With `Accelerator.TCG` where it was left open and the CPU matters.
    """
    if cpu_matters and spec.accelerator is Accelerator.AUTO:
        return spec.model_copy(update={"accelerator": Accelerator.TCG})
    return spec


def _boot_files(
    kernel_name: str, image: ImageSpec | None, cache: Cache, progress: Progress
) -> BootFiles:
    return _boot_files_of(fetch_kernel(kernel_name, cache, progress), image, cache, progress)


def _boot_files_of(
    kernel: Kernel, image: ImageSpec | None, cache: Cache, progress: Progress
) -> BootFiles:
    built = build_image(image, cache, progress) if image else None
    return BootFiles(
        kernel=kernel.vmlinux,
        kernel_release=kernel.release,
        initramfs=build_initramfs(kernel, cache, progress),
        root=built.path if built else Path(),
        image_digest=built.digest if built else "",
        kernel_digest=kernel.path.name,
    )


def _shared(directory: Path | None) -> Mapping[str, Path] | None:
    return {directory.resolve().name or "root": directory.resolve()} if directory else None


# What a case needs in a machine: its sources, fetched once for any number of runs.


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The sources of a case on this host."""

    fetched: "tuple[Fetched, ...]"
    """The case's source first, where it has one, then its inputs."""
    main: "Fetched | None"
    """The case's source."""
    provision: Provision
    """What a machine gets of them."""

    @property
    def top(self) -> str:
        """The source's top directory, relative to the build directory; steps start there."""
        return self.main.top if self.main else ""


def gather(
    case: Case,
    *,
    cache: Cache,
    base: Path = Path(),
    progress: Progress = SILENT,
    elsewhere: bool = False,
) -> Inputs:
    """Fetch all sources of a case; `elsewhere`: for machines of other hosts."""
    from buildvm_nb.source import fetch  # noqa: PLC0415 - 0.1 s that running a command can do without

    check_disk_tool(is_needed=bool(case.limits.disk_mib) and not elsewhere)
    wanted = [case.source] if case.source else []
    wanted += [entry.source for entry in case.inputs]
    fetched = tuple(fetch(source, cache, base=base, progress=progress) for source in wanted)
    main = fetched[0] if case.source else None
    trees = {"": main.tree} if main else {}
    others = fetched[1:] if main else fetched
    trees |= {entry.path: one.tree for entry, one in zip(case.inputs, others, strict=True)}
    provision = Provision(
        inputs=trees or None,
        exports_mib=case.limits.artifacts_mib,
        scratch_mib=case.limits.disk_mib,
        processes=case.limits.processes,
    )
    return Inputs(fetched=fetched, main=main, provision=provision)


# The steps of a case, run in a machine, and the verdict on each.

STEP_MARK = "==> "
"""Begins the lines of a log that are ours."""

STEP_LABEL = "run step "
"""Begins the label of a step's progress; its name follows."""

Output = Callable[[str, bytes], None]
_MEMORY_WORDS = re.compile(
    r"\bMemoryError\b|cannot allocate memory|bad_alloc|memory exhausted|out of memory",
    re.IGNORECASE,
)
_SPACE_WORDS = "No space left on device"
_JUDGED_MIB = 256
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def log_header(step: Step) -> str:
    """Return what a log says before the output of a step."""
    command = step.run.strip().replace("\n", f"\n{STEP_MARK}")
    return f"{STEP_MARK}{step.name}: {command}\n"


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What a step has printed, as plain text: without colours, with plain line ends."""

    kept: str
    """Of very much only beginning and end."""
    whole: str | None
    """None: it is too much to be judged by its text."""
    size_bytes: int


class Log:
    """Everything that the steps print: of each its beginning and its end, up to a limit.

    What a step prints is judged as a whole, so what is cut out of the log waits in a nameless file.
    """

    def __init__(
        self,
        limit: int,
        output: Output | None = None,
        *,
        scratch: Path | None = None,
        judged: int = _JUDGED_MIB * 2**20,
    ) -> None:
        self._ended = bytearray()
        self._half = max(limit // 2, 1)
        self._judged = judged
        self._output = output
        self._scratch = scratch
        self._stack = ExitStack()
        self._spool: IO[bytes] | None = None
        self._reset("")

    @property
    def data(self) -> bytes:
        """All that is kept so far."""
        kept = self._kept()
        end = b"\n" if kept and not kept.endswith(b"\n") else b""
        return bytes(self._ended) + kept + end

    def begin(self, step: Step) -> None:
        """Start a step's part."""
        self._ended += log_header(step).encode()
        self._reset(step.name)

    def write(self, piece: bytes) -> None:
        """Take in what was printed, as it came."""
        self._seen += len(piece)
        room = self._half - len(self._head)
        self._head += piece[:room]
        self._tail += piece[room:] if room > 0 else piece
        try:
            self._keep_whole(piece)
        except OSError as error:
            raise HostError(
                f"cannot keep what a step prints: {error.strerror}", hint="make room for the cache"
            ) from error
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]
        if self._output:
            self._output(self._step, piece)

    def end(self) -> Printed:
        """Finish the step's part."""
        text = _plain(self._kept())
        whole: str | None = text
        if self._spool is not None:
            self._spool.seek(0)
            whole = _plain(self._spool.read()) if self._seen <= self._judged else None
        printed = Printed(kept=text, whole=whole, size_bytes=self._seen)
        self.close()
        return printed

    def close(self) -> None:
        """End a step's part that nobody judges; calling it twice does no harm."""
        self._ended = bytearray(self.data)
        self._reset("")

    def _kept(self) -> bytes:
        tail = self._tail[-self._half :]
        dropped = self._seen - len(self._head) - len(tail)
        note = f"\n{STEP_MARK}{dropped} bytes were printed here and dropped\n".encode()
        return bytes(self._head + (note if dropped else b"") + tail)

    def _keep_whole(self, piece: bytes) -> None:
        if self._spool is None and len(self._tail) > self._half:
            spool = TemporaryFile(dir=self._scratch)  # noqa: SIM115 - the stack closes it
            self._spool = self._stack.enter_context(spool)
            self._spool.write(self._head + self._tail)
        elif self._spool is not None and self._seen <= self._judged:
            self._spool.write(piece)

    def _reset(self, step: str) -> None:
        self._stack.close()
        self._step, self._seen = step, 0
        self._head, self._tail = bytearray(), bytearray()
        self._spool = None


def _plain(data: bytes) -> str:
    return _ESCAPES.sub("", data.decode(errors="replace")).replace("\r\n", "\n")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What came of running the steps."""

    verdict: Verdict
    reason: str = ""
    evidence: str = ""
    steps: tuple[StepRecord, ...] = ()
    drift_s: float | None = None
    """How far a held clock strayed at most."""


def run_steps(  # noqa: PLR0913 - half of it has defaults
    machine: BuildMachine,
    case: Case,
    top: str,
    log: Log,
    *,
    steps: Sequence[Step] | None = None,
    held: bool = False,
    progress: Progress = SILENT,
) -> Judgement:
    """Run a case's steps until one does not pass.

    `top`: the source's top directory, relative to the build directory; steps start there.
    `steps`: only these; by default all.
    """
    records: list[StepRecord] = []
    drift_s: float | None = None
    for number, step in enumerate(case.steps if steps is None else steps):
        log.begin(step)
        with progress.task(f"{STEP_LABEL}{step.name}"):
            result = machine.run(
                step.run,
                cwd=top if step.cwd is None else step.cwd,
                env=step.env,
                timeout_s=step.timeout_s or case.limits.step_timeout_s,
                clock=machine.spec.date if held or number == 0 else None,
                held=held,
                stdout=log.write,
                merged=True,
            )
        if result.drift_s is not None:
            drift_s = max(result.drift_s, drift_s or 0.0)
        printed = log.end()
        verdict, reason = judge_step(step, result, printed, case.limits)
        records.append(record_step(step, result, verdict, reason, printed))
        if verdict is not Verdict.PASSED:
            crashed = verdict is Verdict.CRASHED
            kernel_log = machine.kernel_log() if crashed else ""
            return Judgement(
                verdict=verdict,
                reason=f"{step.name}: {reason}",
                evidence=failing_lines(printed.kept, kernel_log),
                steps=tuple(records),
                drift_s=drift_s,
            )
    return Judgement(verdict=Verdict.PASSED, steps=tuple(records), drift_s=drift_s)


def judge_step(
    step: Step, result: CommandResult, printed: Printed, limits: Limits
) -> tuple[Verdict, str]:
    """Judge a step by how it ended; only what the guest's kernel counted makes it an error."""
    if result.status and result.shortage:
        return Verdict.ERROR, (
            f"{result.shortage}, so its failure says nothing; "
            "raise memory_mib, or give it a scratch disk by disk_mib"
        )
    if result.timed_out:
        limit = step.timeout_s or limits.step_timeout_s
        return Verdict.TIMEOUT, f"did not end in {limit} s"
    note = _note_on_words(result, printed.kept, limits)
    if result.signal:
        who = f" ({result.victim})" if result.victim else ""
        return Verdict.CRASHED, f"died of {name_signal(result.signal)}{who}{note}"
    if result.exit_status:
        return Verdict.FAILED, f"exited with {result.exit_status}{note}"
    return _judge_output(step, printed)


def _note_on_words(result: CommandResult, text: str, limits: Limits) -> str:
    """Return what a person should know of words about memory and space: they prove nothing."""
    evidence = failing_lines(text)
    if _SPACE_WORDS in evidence:
        return f" (of the guest's own disks at least {result.free_kib} KiB were free all the time)"
    if _MEMORY_WORDS.search(evidence):
        return (
            f" (the guest has {limits.memory_mib} MiB, and its kernel killed nothing for "
            "lack of memory: if that is too little, raise memory_mib)"
        )
    return ""


def _judge_output(step: Step, printed: Printed) -> tuple[Verdict, str]:
    has_rule = step.expect is not None or step.min_tests is not None
    text = printed.whole
    if text is None and has_rule:
        return Verdict.ERROR, (
            f"exited with 0, but printed {printed.size_bytes} bytes: its output is judged up to "
            f"{_JUDGED_MIB} MiB only; let it print less"
        )
    if text is None:
        return Verdict.PASSED, ""
    if step.expect is not None and not re.search(step.expect, text, re.MULTILINE):
        return Verdict.FAILED, f"exited with 0, but its output lacks {step.expect!r}"
    if step.min_tests is not None:
        count = count_tests(text)
        if count is None or count < step.min_tests:
            ran = "an unknown number of" if count is None else str(count)
            tests = "test" if count == 1 else "tests"
            reason = f"exited with 0, but ran {ran} {tests}; at least {step.min_tests} must run"
            return Verdict.FAILED, reason
    return Verdict.PASSED, ""


def record_step(
    step: Step, result: CommandResult, verdict: Verdict, reason: str, printed: Printed
) -> StepRecord:
    """Write down how a step ended."""
    return StepRecord(
        name=step.name,
        verdict=verdict,
        reason=reason,
        exit_status=result.exit_status,
        signal=result.signal,
        clock_started_at=result.clock_started_at,
        clock_ended_at=result.clock_ended_at,
        duration_s=round(result.duration_s, 3),
        tests_run=None if printed.whole is None else count_tests(printed.whole),
        output_bytes=printed.size_bytes,
    )


# From what happened in a machine, or instead of one, to an outcome.


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

        Returns: in words, the first difference; empty where there is none.
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
    """Tell what came of running steps in a machine."""
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


def trouble(
    case: Case, spec: MachineSpec, error: BuildVMError | OSError, cache: Cache, log: bytes = b""
) -> "Trial":
    """Tell trouble as a trial: a source that cannot be had, or our machinery or the host broke."""
    told = _as_host_error(error, cache) if isinstance(error, OSError) else error
    verdict, reason = Verdict.ERROR, str(told)
    if isinstance(told, SourceError):
        sought = f" (sought in {', '.join(told.sought)})" if told.sought else ""
        hint = f"\nHint: {told.hint}" if told.hint else ""
        verdict, reason = Verdict.UNAVAILABLE, f"{told.message}{sought}{hint}"
    evidence = getattr(told, "evidence", "")
    outcome = Outcome(case=case, machine=spec, verdict=verdict, reason=reason, evidence=evidence)
    return Trial(outcome=outcome, log=log)


def _as_host_error(error: OSError, cache: Cache) -> HostError:
    """Word what the system refused: this host's trouble, never the case's.

    `error`: a full disk, a file that may not be written, a connection that broke.
    """
    what = error.strerror or str(error) or type(error).__name__
    place = f": {error.filename}" if error.filename else ""
    return HostError(
        f"this host refused it: {what}{place}",
        hint=f"{free_bytes(cache.root) // 2**20} MiB are free in the cache {cache.root}; "
        "`buildvm doctor` looks at the host",
    )


def finish(
    trial: "Trial", began: float, inputs: Inputs | None = None, probing: Probing | None = None
) -> "Trial":
    """Add what is the same for every outcome."""
    drift_s = trial.outcome.probing.drift_s
    known = {
        "probing": (probing or Probing()).model_copy(update={"drift_s": drift_s}),
        "sources": tuple(one.record for one in inputs.fetched) if inputs else (),
        "duration_s": round(time.monotonic() - began, 3),
        "host": host_facts(),
        "tool_version": version("buildvm-nb"),
    }
    return replace(trial, outcome=trial.outcome.model_copy(update=known))


def export(
    case: Case, machine: BuildMachine, cache: Cache, into: Path | None
) -> tuple[Artifact, ...]:
    """Take a case's artifacts out of a machine.

    `into`: where they are put; None: they are only digested.
    Returns: sorted by path; empty where the case names none, or nothing matches.
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


# One trial: a case built once in one machine, whatever happens told as an outcome.

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
    held: bool = False,
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
    held : bool
        Let the guest's clock stand still at the machine's date while the steps run.

    Returns
    -------
    Trial
        The outcome and the log.

    Raises
    ------
    UsageError
        If the request is wrong: an unknown CPU, image or kernel, a date out of range.
    """
    setting = Setting(case=case, cache=cache, progress=progress, output=output, artifacts=artifacts)
    return run_here(
        setting,
        overrides or {},
        lambda: gather(case, cache=cache, base=base, progress=progress),
        lambda spec, inputs: run_once(setting, spec, inputs, Part(held=held)),
        Probing(held=held),
    )


def run_here(
    setting: Setting,
    overrides: Mapping[str, Any],
    had: Callable[[], Inputs],
    run: Callable[[MachineSpec, Inputs], Trial],
    probing: Probing,
) -> Trial:
    """Run a case on this host: all runs do, plain or in a fork, of a build or of a study.

    `had`: fetches the case's sources.
    `run`: boots or resumes a machine and runs steps in it.
    """
    began, case, cache = time.monotonic(), setting.case, setting.cache
    spec = machine_for(case, overrides, None)
    inputs: Inputs | None = None
    try:
        known_cpu(spec, cache)  # before anything is fetched
        inputs = had()
        spec = machine_for(case, overrides, inputs.main)
        trial = run(spec, inputs)
    except UsageError:
        raise
    except (BuildVMError, OSError) as error:
        trial = trouble(case, spec, error, cache)
    return finish(trial, began, inputs, probing)


def run_once(setting: Setting, spec: MachineSpec, inputs: Inputs, part: Part = WHOLE) -> Trial:
    """Boot a machine and run the steps of a case in it."""

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

    `work`: gets an empty log, boots or resumes a machine and returns what came of it.
    """
    for number in range(1, _ATTEMPTS + 1):
        log = setting.new_log()
        try:
            return work(log)
        except UsageError:
            raise
        except (BuildVMError, OSError) as error:
            again = isinstance(error, GuestLost) and error.is_oops
            if not again or number == _ATTEMPTS:
                return trouble(setting.case, spec, error, setting.cache, log.data)
        finally:
            log.close()
    raise AssertionError("unreachable")


def run_part(
    setting: Setting, machine: BuildMachine, inputs: Inputs, part: Part, log: Log
) -> Trial:
    """Run steps of a case in a machine that is up, and take out artifacts where they passed."""
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
