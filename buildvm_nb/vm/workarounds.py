"""What certain kernels need to run well under certain emulators."""

import re

from buildvm_nb.model.machine import Accelerator

__all__ = ["kernel_workarounds"]

_FIXED_IN_QEMU = 10
_AFFECTED = ((6, 5), (7, 0))


def kernel_workarounds(
    kernel_release: str, accelerator: Accelerator, qemu_version: str
) -> tuple[str, ...]:
    """Return the kernel parameters that a known fault of the emulator calls for.

    Linux 6.12 corrupts its slab lists under the emulation of QEMU 7.2, in most boots, by way of
    ``cmpxchg16b``; 5.10, 6.1 and 7.2 do not, and QEMU 10.0 does not (measured: 8 of 8 boots oopsed
    without, 0 of 5 with this). Taking the feature away from the CPU would change what software
    finds. Slabs with consistency checks use a lock instead (mm/slub.c, ``SLAB_NO_CMPXCHG``), which
    no software sees.

    Parameters
    ----------
    kernel_release : str
        As ``uname -r`` says it.
    accelerator : Accelerator
        What executes the guest.
    qemu_version : str
        For example ``7.2.22``.

    Returns
    -------
    tuple of str
        Kernel parameters; mostly none.
    """
    match = re.match(r"(\d+)\.(\d+)", kernel_release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    emulated = accelerator is Accelerator.TCG
    old = int(qemu_version.split(".", maxsplit=1)[0]) < _FIXED_IN_QEMU
    affected = _AFFECTED[0] <= version < _AFFECTED[1]
    return ("slab_debug=F",) if emulated and old and affected else ()
