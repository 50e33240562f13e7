"""From a machine's description to QEMU's command line: a pure function.

References
----------
QEMU, qemu-system-x86_64(1) 7.2 and 10.0; Linux, Documentation/admin-guide/kernel-parameters.txt.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from buildvm_nb.model.machine import Accelerator, MachineSpec, Network
from buildvm_nb.vm.qemu import Emulator

__all__ = [
    "RTC_RANGE",
    "BootFiles",
    "MachineFiles",
    "Sockets",
    "clock",
    "entropy",
    "lines",
    "network",
    "processor",
    "qemu_argv",
]

# What a machine boots from: plain paths and facts, whoever made the files.


@dataclass(frozen=True, kw_only=True)
class BootFiles:
    """The files that a guest boots from; they are only read."""

    kernel: Path
    """A kernel that QEMU boots directly: a bzImage, or an ELF with a PVH note."""
    kernel_release: str
    """What the guest's ``uname -r`` must say."""
    initramfs: Path
    """Our initramfs, not compressed, to which a machine's own settings are appended."""
    root: Path
    """The image: a squashfs."""
    kernel_parameters: tuple[str, ...] = ()
    """What the kernel is told beyond what every guest's kernel is."""
    image_digest: str = ""
    """SHA-256 of `root`."""
    kernel_digest: str = ""
    """Key of the kernel in the cache."""


# The parts of QEMU's command line that all machines share, whatever they boot.
#
# References: QEMU, qemu-system-x86_64(1) 7.2 and 10.0; target/i386/host-cpu.c
# (``host_cpu_instance_init``).

RTC_RANGE = (datetime(1970, 1, 2, tzinfo=UTC), datetime(2070, 1, 1, tzinfo=UTC))
"""What the emulated clock chip can hold: its year has two digits, and QEMU wraps others."""

_MACHINE = "q35,sata=off,smbus=off,smm=off,vmport=off,hpet=off"
"""The type ``pc`` has its interrupt table made by a loop of ACPI code: 0.1 s for every device."""


def processor(qemu: str, spec: MachineSpec, vendor: str, *, without: str = "") -> list[str]:
    """Write program, board, accelerator, CPU and memory.

    `vendor`: the CPU model's, which QEMU replaces by the host's under KVM; empty: leave it at that.
    `without`: features that KVM would add and that are not wanted, each after a comma and a minus.
    Returns: the beginning of a command line, without any device that QEMU adds by itself.
    """
    kvm = spec.accelerator is Accelerator.KVM
    argv = [qemu, "-name", spec.name, "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-no-reboot", "-machine", _MACHINE]
    argv += ["-accel", "kvm" if kvm else "tcg,thread=multi"]
    cpu = spec.cpu + (without if kvm else "") + (f",vendor={vendor}" if kvm and vendor else "")
    return [*argv, "-cpu", cpu, "-smp", str(spec.cpu_count), "-m", f"{spec.memory_mib}M"]


def clock(date: datetime) -> list[str]:
    """Write the clock chip.

    `date`: what it shows at the start; one that it cannot hold is the first that it can.
    """
    first, end = RTC_RANGE
    held = date if first <= date < end else first
    return ["-rtc", f"base={held.astimezone(UTC):%Y-%m-%dT%H:%M:%S},clock=host"]


def lines(monitor: int) -> list[str]:
    """Write the serial console, on QEMU's standard output, and QEMU's monitor."""
    argv = ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=monitor,fd={monitor}"]
    return [*argv, "-mon", "chardev=monitor,mode=control"]


def entropy() -> list[str]:
    """Write the source of random numbers."""
    argv = ["-object", "rng-random,id=rng,filename=/dev/urandom"]
    return [*argv, "-device", "virtio-rng-pci,rng=rng"]


def network(spec: MachineSpec) -> list[str]:
    """Write the network card; forwarded ports listen on the loopback interface only."""
    if spec.network is Network.OFF:
        return ["-nic", "none"]
    options = [
        "user",
        "id=net",
        f"restrict={'on' if spec.network is Network.RESTRICTED else 'off'}",
    ]
    options += [
        f"hostfwd=tcp:127.0.0.1:{forwarding.host}-:{forwarding.guest}"
        for forwarding in spec.port_forwardings
    ]
    return ["-netdev", ",".join(options), "-device", "virtio-net-pci,netdev=net,romfile="]


_WRITABLE = "cache=unsafe,discard=unmap"
_COPIED = "snapshot=on"
"""What is written goes to a nameless temporary file of QEMU's own."""

KERNEL_PARAMETERS = (
    "console=ttyS0",
    "quiet",
    # a kernel that oopsed proves nothing any more: end at once, so that the host notices
    "oops=panic",
    "panic=-1",
    # page table isolation and the like guard a guest's users against each other; under emulation
    # they cost much and mean nothing
    "mitigations=off",
    "cryptomgr.notests",
    # on a busy host an emulated timer may be late, and the kernel's check of it ends in a panic
    "no_timer_check",
    "nowatchdog",
    "random.trust_cpu=on",
    "apparmor=0",
    "audit=0",
)
"""What every guest's kernel is told."""


@dataclass(frozen=True, kw_only=True)
class MachineFiles:
    """The files that belong to one machine."""

    initramfs: Path
    """The common one with this machine's settings appended."""
    inputs: Path | None
    """A squashfs that becomes the build directory; None: the build directory is empty."""
    exports: Path
    """A sparse file that the guest writes artifacts to."""
    scratch: Path | None = None
    """An ext4 file system for all that is written in the guest; a fork leaves it as it is."""
    is_fork: bool = False
    """Whether the machine waits for the state of a frozen one instead of booting."""


@dataclass(frozen=True, kw_only=True)
class Sockets:
    """File descriptors of the connected sockets that QEMU inherits."""

    monitor: int
    channel: int
    events: int


def qemu_argv(
    emulator: Emulator, spec: MachineSpec, boot: BootFiles, files: MachineFiles, sockets: Sockets
) -> list[str]:
    """Write the command line that runs a machine.

    Nothing in it listens: monitor, channel and events are sockets that are connected already, and
    forwarded ports, where asked for, listen on the loopback interface only.

    Parameters
    ----------
    emulator : Emulator
        The QEMU that will run.
    spec : MachineSpec
        What is asked for; `Accelerator.AUTO` must have been decided.
    boot : BootFiles
        What is booted.
    files : MachineFiles
        This machine's own files.
    sockets : Sockets
        Descriptors that QEMU inherits.

    Returns
    -------
    list of str
        Program and arguments.
    """
    argv = processor(emulator.path, spec, emulator.vendor_of(spec.cpu))
    argv += ["-kernel", str(boot.kernel), "-initrd", str(files.initramfs)]
    argv += ["-append", " ".join((*KERNEL_PARAMETERS, *boot.kernel_parameters))]
    argv += clock(spec.date)
    if files.is_fork:
        argv += ["-incoming", "defer"]
    argv += lines(sockets.monitor)
    argv += _disk("root", boot.root)
    if files.inputs:
        argv += _disk("inputs", files.inputs)
    argv += _disk("exports", files.exports, _WRITABLE)
    if files.scratch:
        argv += _disk("scratch", files.scratch, _COPIED if files.is_fork else _WRITABLE)
    argv += ["-device", "virtio-serial-pci"]
    for name, descriptor in (("channel", sockets.channel), ("events", sockets.events)):
        argv += ["-chardev", f"socket,id={name},fd={descriptor}"]
        argv += ["-device", f"virtserialport,chardev={name},name=buildvm.{name}"]
    return argv + entropy() + network(spec)


def _disk(name: str, path: Path, mode: str = "readonly=on") -> list[str]:
    escaped = str(path).replace(",", ",,")
    # by default a full disk of the host pauses the guest; the monitor hears of it in any case
    drive = f"if=none,id={name},format=raw,werror=report,rerror=report"
    drive += f",file.locking=off,{mode},file.filename={escaped}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]
