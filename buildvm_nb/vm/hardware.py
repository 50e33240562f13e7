"""The parts of QEMU's command line that all machines share, whatever they boot.

References
----------
QEMU, qemu-system-x86_64(1) 7.2 and 10.0; target/i386/host-cpu.c (``host_cpu_instance_init``).
"""

from datetime import UTC, datetime

from buildvm_nb.model.machine import Accelerator, MachineSpec, Network

__all__ = ["RTC_RANGE", "clock", "entropy", "lines", "network", "processor"]

RTC_RANGE = (datetime(1970, 1, 2, tzinfo=UTC), datetime(2070, 1, 1, tzinfo=UTC))
"""What the emulated clock chip can hold: its year has two digits, and QEMU wraps others."""

_MACHINE = "q35,sata=off,smbus=off,smm=off,vmport=off,hpet=off"
"""The type ``pc`` has its interrupt table made by a loop of ACPI code: 0.1 s for every device."""


def processor(qemu: str, spec: MachineSpec, vendor: str, *, without: str = "") -> list[str]:
    """Write program, board, accelerator, CPU and memory.

    Parameters
    ----------
    qemu : str
        The program.
    spec : MachineSpec
        `Accelerator.AUTO` must have been decided.
    vendor : str
        The CPU model's, which QEMU replaces by the host's under KVM; empty: leave it at that.
    without : str
        Features that KVM would add and that are not wanted, each after a comma and a minus.

    Returns
    -------
    list of str
        The beginning of a command line, without any device that QEMU adds by itself.
    """
    kvm = spec.accelerator is Accelerator.KVM
    argv = [qemu, "-name", spec.name, "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-no-reboot", "-machine", _MACHINE]
    argv += ["-accel", "kvm" if kvm else "tcg,thread=multi"]
    cpu = spec.cpu + (without if kvm else "") + (f",vendor={vendor}" if kvm and vendor else "")
    return [*argv, "-cpu", cpu, "-smp", str(spec.cpu_count), "-m", f"{spec.memory_mib}M"]


def clock(date: datetime) -> list[str]:
    """Write the clock chip.

    Parameters
    ----------
    date : datetime
        What it shows at the start; one that it cannot hold is the first that it can.

    Returns
    -------
    list of str
        Arguments.
    """
    first, end = RTC_RANGE
    held = date if first <= date < end else first
    return ["-rtc", f"base={held.astimezone(UTC):%Y-%m-%dT%H:%M:%S},clock=host"]


def lines(monitor: int) -> list[str]:
    """Write the serial console, on QEMU's standard output, and QEMU's monitor.

    Parameters
    ----------
    monitor : int
        Descriptor of a connected socket that QEMU inherits.

    Returns
    -------
    list of str
        Arguments.
    """
    argv = ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=monitor,fd={monitor}"]
    return [*argv, "-mon", "chardev=monitor,mode=control"]


def entropy() -> list[str]:
    """Write the source of random numbers.

    Returns
    -------
    list of str
        Arguments.
    """
    argv = ["-object", "rng-random,id=rng,filename=/dev/urandom"]
    return [*argv, "-device", "virtio-rng-pci,rng=rng"]


def network(spec: MachineSpec) -> list[str]:
    """Write the network card; forwarded ports listen on the loopback interface only.

    Parameters
    ----------
    spec : MachineSpec
        With the network and the ports that are asked for.

    Returns
    -------
    list of str
        Arguments.
    """
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
