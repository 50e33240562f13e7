"""From a machine's description to a machine: its image, kernel and initramfs had ready."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image import build_image, fetch_kernel, list_kernels
from buildvm_nb.image.initramfs import build_initramfs
from buildvm_nb.image.kernel import Kernel
from buildvm_nb.image.uml import fetch_uml_kernel
from buildvm_nb.model.machine import Accelerator, ImageSpec, MachineSpec
from buildvm_nb.vm import (
    QEMU,
    BootFiles,
    BuildMachine,
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
    uml_argv,
)

__all__ = [
    "choose_faithful",
    "dry_run",
    "engine_for",
    "kernel_for",
    "kvm_status",
    "open_disk",
    "open_machine",
    "prepare",
    "uml_status",
]


def prepare(
    spec: MachineSpec, *, cache: Cache, progress: Progress = SILENT, qemu: str = QEMU
) -> BootFiles:
    """Have ready what a machine boots from.

    Parameters
    ----------
    spec : MachineSpec
        Whose image and kernel are wanted.
    cache : Cache
        Keeps them.
    progress : Progress
        Shows what is being made.
    qemu : str
        QEMU's program.

    Returns
    -------
    BootFiles
        All in the cache.

    Raises
    ------
    UsageError
        If the image, the suite or the kernel is unknown; also if QEMU knows no such CPU, as that
        is found out before anything long begins.
    SourceError
        If a package cannot be had.
    HostError
        If this host lacks a program, a mirror or space.
    """
    if spec.accelerator is not Accelerator.UML:
        check_cpu(spec.cpu, find_emulator(cache.root, qemu))
    return _boot_files_of(kernel_for(spec, cache, progress), spec.image, cache, progress)


def kernel_for(spec: MachineSpec, cache: Cache, progress: Progress = SILENT) -> Kernel:
    """Return the kernel that a machine boots, which depends on what runs it.

    Parameters
    ----------
    spec : MachineSpec
        The machine.
    cache : Cache
        Keeps it.
    progress : Progress
        Shows what is fetched.

    Returns
    -------
    Kernel
        Complete.

    Raises
    ------
    UsageError, SourceError, HostError
        As `image.fetch_kernel` does.
    """
    fetch = fetch_uml_kernel if spec.accelerator is Accelerator.UML else fetch_kernel
    return fetch(spec.kernel, cache, progress)


def engine_for(spec: MachineSpec, cache: Cache, progress: Progress = SILENT) -> str:
    """Return name and version of what would run a machine, as its environment will tell them.

    Parameters
    ----------
    spec, cache, progress
        As for `kernel_for`.

    Returns
    -------
    str
        For example ``qemu 7.2.22``.

    Raises
    ------
    UsageError, SourceError, HostError
        If this host lacks it.
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
    """Tell whether user-mode Linux runs a guest on this host.

    Parameters
    ----------
    cache : Cache
        Keeps a kernel to try it with, and remembers success.

    Returns
    -------
    tuple of bool and str
        Whether it works, and a sentence that says what was seen.

    Raises
    ------
    SourceError
        If the kernel cannot be had.
    HostError
        If this host lacks something else than the engine itself.
    """
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
