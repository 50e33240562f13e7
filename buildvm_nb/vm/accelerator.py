"""Which accelerator to use: KVM only where it was seen to run a guest.

``/dev/kvm`` may open, and even create a virtual machine, and still hang the guest early, for
example in nested virtual machines: a boot sector runs there, a kernel does not. So it is proven
with the very kernel that is to be used.
"""

import json
import os
import subprocess
from pathlib import Path

from ulid import ULID

from buildvm_nb.errors import HostError
from buildvm_nb.model.machine import Accelerator
from buildvm_nb.vm.boot import BootFiles
from buildvm_nb.vm.command import KERNEL_PARAMETERS
from buildvm_nb.vm.emulator import Emulator

__all__ = ["choose_accelerator", "is_kvm_offered", "prove_kvm"]

_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DEADLINE_S = 10.0
_UP = b"buildvm: a guest without settings has come up"
"""What our init says when it is booted with the common initramfs alone."""


def is_kvm_offered() -> bool:
    """Tell whether KVM may be tried on this host.

    Returns
    -------
    bool
        Whether this user may open its device; that proves nothing yet.
    """
    return os.access(_DEVICE, os.R_OK | os.W_OK)


def prove_kvm(
    emulator: Emulator, boot: BootFiles | None, memo: Path | None = None
) -> tuple[bool, str]:
    """Tell whether KVM runs a guest on this host, and what was seen.

    Parameters
    ----------
    emulator : Emulator
        The QEMU to try it with.
    boot : BootFiles or None
        The kernel to try it with; None where none is at hand and no KVM either.
    memo : Path, optional
        File in which the answer is remembered until the host boots again.

    Returns
    -------
    tuple of bool and str
        Whether it works, and a sentence with the evidence.
    """
    if not _DEVICE.exists():
        return False, f"{_DEVICE} does not exist: the host's processor or kernel offers no KVM"
    if not is_kvm_offered():
        return False, f"{_DEVICE} is there, but this user may not open it (group kvm)"
    if boot is None:
        return False, f"{_DEVICE} is there; it will be tried when the first machine boots"
    stamp = [_BOOT_ID.read_text().strip(), emulator.path, emulator.version, os.getuid()]
    if memo and (known := _remembered(memo, stamp)):
        return known
    answer = _try(emulator, boot)
    if memo:
        partial = memo.with_suffix(f".{ULID()}")
        partial.write_text(json.dumps({"stamp": stamp, "answer": answer}))
        partial.replace(memo)
    return answer


def choose_accelerator(
    wanted: Accelerator, emulator: Emulator, boot: BootFiles | None, memo: Path | None = None
) -> Accelerator:
    """Decide what executes a guest's instructions.

    Parameters
    ----------
    wanted : Accelerator
        What was asked for.
    emulator : Emulator
        The QEMU that will run it.
    boot : BootFiles or None
        The kernel that will run; for a guest with a kernel of its own any; None where KVM is not
        offered.
    memo : Path, optional
        As for `prove_kvm`.

    Returns
    -------
    Accelerator
        `Accelerator.KVM` or `Accelerator.TCG`.

    Raises
    ------
    HostError
        If KVM was asked for and does not work.
    """
    if wanted is Accelerator.TCG:
        return wanted
    works, seen = prove_kvm(emulator, boot, memo)
    if wanted is Accelerator.KVM and not works:
        raise HostError(
            f"KVM does not work on this host: {seen}",
            hint="use --accelerator tcg (emulation), or auto",
        )
    return Accelerator.KVM if works else Accelerator.TCG


def _remembered(memo: Path, stamp: list[object]) -> tuple[bool, str] | None:
    try:
        content = json.loads(memo.read_bytes())
        return tuple(content["answer"]) if content["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _try(emulator: Emulator, boot: BootFiles) -> tuple[bool, str]:
    argv = [emulator.path, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-accel", "kvm", "-m", "256M", "-serial", "stdio"]
    argv += ["-kernel", str(boot.kernel), "-initrd", str(boot.initramfs)]
    argv += ["-append", " ".join(KERNEL_PARAMETERS)]
    try:
        result = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"a guest under KVM hung for {_DEADLINE_S:.0f} s"
    if _UP in result.stdout:
        return True, "a guest under KVM came up"
    said = result.stderr.decode(errors="replace").strip()[-300:]
    return False, f"a guest under KVM ended with {result.returncode}: {said}"
