"""What a finding says of machines other than its own: where its case passes besides."""

from buildvm_nb.model.finding import Finding, FindingKind
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.study.windows import passes_at

__all__ = ["allows", "passes_with", "passing_cpus", "passing_kernels"]


def allows(finding: Finding, machine: MachineSpec, shown: Finding) -> bool | None:
    """Tell what a finding says of a machine in which another one shows that the same case passes.

    Parameters
    ----------
    finding : Finding
        Any.
    machine : MachineSpec
        In which the case is to be built.
    shown : Finding
        On the same case; shows that machine.

    Returns
    -------
    bool or None
        Whether the case passes in it; None: the finding does not say.
    """
    match finding.kind:
        case FindingKind.TIME_TRAP | FindingKind.RECURRING:
            if machine.cpu in finding.passing_cpus or passes_at(finding, machine.date):
                return True
            return None if _was_spared(finding, machine, shown) else False
        case FindingKind.CPU_DEPENDENT:
            return machine.cpu not in finding.failing_cpus
        case FindingKind.KERNEL_DEPENDENT:
            return machine.kernel not in finding.failing_kernels
        case FindingKind.CORES_DEPENDENT:
            return passes_with(finding, machine.cpu_count)
    return None


def passing_cpus(finding: Finding) -> tuple[str, ...]:
    """Return the CPUs on which a case was seen to pass, the least unusual one first.

    Parameters
    ----------
    finding : Finding
        On a case that depends on the CPU.

    Returns
    -------
    tuple of str
        As QEMU takes them.
    """
    seen = [finding.environment.cpu] if finding.environment else []
    return tuple(dict.fromkeys([*seen, *finding.passing_cpus]))


def passing_kernels(finding: Finding) -> tuple[str, ...]:
    """Return the kernels on which a case was seen to pass, the least unusual one first.

    Parameters
    ----------
    finding : Finding
        On a case that depends on the kernel.

    Returns
    -------
    tuple of str
        Names.
    """
    seen = [finding.environment.kernel] if finding.environment else []
    return tuple(dict.fromkeys([*seen, *finding.passing_kernels]))


def passes_with(finding: Finding, count: int) -> bool:
    """Tell whether a case passes with a number of virtual CPUs.

    Parameters
    ----------
    finding : Finding
        On a case that depends on it.
    count : int
        From 1.

    Returns
    -------
    bool
        False, too, where that was not studied: between both sides of a change.
    """
    if finding.environment is not None and finding.environment.cpu_count == count:
        return True
    passes = bool(finding.boundaries) and finding.boundaries[0].before is Verdict.PASSED
    for edge in finding.boundaries:
        if count >= int(edge.first_after):
            passes = edge.after is Verdict.PASSED
        elif count > int(edge.last_before):
            return False
    return passes


def _was_spared(trap: Finding, machine: MachineSpec, shown: Finding) -> bool:
    """Tell whether the case was seen to pass in such a machine at a date that the trap excludes.

    Then it does not spring there, and was only studied elsewhere.
    """
    seen, sprung = shown.environment, trap.environment
    if seen is None or passes_at(trap, seen.date):
        return False
    is_elsewhere = sprung is None or (machine.cpu, machine.kernel) != (sprung.cpu, sprung.kernel)
    cpus, kernels = passing_cpus(shown), passing_kernels(shown)
    return is_elsewhere and machine.cpu in cpus and machine.kernel in kernels
