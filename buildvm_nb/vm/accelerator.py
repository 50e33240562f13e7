"""Which accelerator to use: KVM only where it was seen to run a guest.

``/dev/kvm`` may open, and even create a virtual machine, and still hang the guest early, for
example in nested virtual machines: a boot sector runs there, a kernel does not. So it is proven
with the very kernel that is to be used.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.process import interruptible
from buildvm_nb.model.machine import Accelerator
from buildvm_nb.vm.command import KERNEL_PARAMETERS, BootFiles
from buildvm_nb.vm.qemu import Console, Emulator, OwnedProcess, write_memo

__all__ = ["choose_accelerator", "is_kvm_offered", "prove_kvm"]

_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DEADLINE_S = 10.0
_PATIENCE_S = 6 * _DEADLINE_S
_FAILURE_LASTS_S = 3600.0
"""Later it is tried again: a busy host fails a test that an idle one passes."""
_UP = "buildvm: a guest without settings has come up"
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
    emulator: Emulator, boot: BootFiles | None, memo: Path | None = None, *, again: bool = False
) -> tuple[bool, str]:
    """Tell whether KVM runs a guest on this host, and what was seen.

    Parameters
    ----------
    emulator : Emulator
        The QEMU to try it with.
    boot : BootFiles or None
        The kernel to try it with; None where none is at hand and no KVM either.
    memo : Path, optional
        File in which the answer is remembered: success until the host boots again, failure for
        an hour. Who asks while somebody else tries waits for his answer.
    again : bool
        Try again where a failure is remembered.

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
    if memo is None:
        return _try(emulator, boot)
    key = json.dumps(
        [emulator.path, emulator.version, os.getuid(), boot.kernel_digest or str(boot.kernel)]
    )
    asked_at = _uptime()
    with _alone(memo):
        answers = _remembered(memo)
        if known := _usable(answers.get(key), asked_at if again else None):
            return known
        works, seen = _try(emulator, boot)
        answers[key] = {"works": works, "seen": seen, "tried_at": _uptime()}
        write_memo(memo, {"boot": _boot(), "answers": answers})
    return works, seen


def choose_accelerator(
    wanted: Accelerator, emulator: Emulator, boot: BootFiles | None, memo: Path | None = None
) -> Accelerator:
    """Decide what executes a guest's instructions.

    `boot`: the kernel that will run; for a guest with a kernel of its own any; None where KVM is
    not offered.
    Raises `UsageError` if user-mode Linux was asked for, which is no accelerator of QEMU's.
    """
    if wanted is Accelerator.TCG:
        return wanted
    if wanted is Accelerator.UML:
        raise UsageError(
            "user-mode Linux boots no disk images; expected auto, kvm or tcg",
            hint="--accelerator tcg",
        )
    works, seen = prove_kvm(emulator, boot, memo, again=wanted is Accelerator.KVM)
    if wanted is Accelerator.KVM and not works:
        raise HostError(
            f"KVM does not work on this host: {seen}",
            hint="use --accelerator tcg (emulation), or auto",
        )
    return Accelerator.KVM if works else Accelerator.TCG


@contextmanager
def _alone(memo: Path) -> Iterator[None]:
    """Let one process at a time try; where the cache cannot be written, all may."""
    lock = FileLock(memo.with_suffix(".lock"), timeout=_PATIENCE_S)
    with suppress(OSError):  # also when whoever tries does not come to an end
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _uptime() -> float:
    """Return seconds since the host booted, which all of its processes count alike."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _remembered(memo: Path) -> dict[str, Any]:
    """Return what is known of each QEMU, user and kernel since the host booted."""
    try:
        content = json.loads(memo.read_bytes())
        return dict(content["answers"]) if content["boot"] == _boot() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _usable(answer: Any, asked_at: float | None) -> tuple[bool, str] | None:  # noqa: ANN401 - from a file
    """Return an answer if it is success, or a failure that is new enough."""
    try:
        works, seen, tried_at = answer["works"], answer["seen"], answer["tried_at"]
        oldest = _uptime() - _FAILURE_LASTS_S if asked_at is None else asked_at
        is_new = oldest <= tried_at <= _uptime()
    except (KeyError, TypeError):
        return None
    return (True, str(seen)) if works is True else (False, str(seen)) if is_new else None


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _try(emulator: Emulator, boot: BootFiles) -> tuple[bool, str]:
    argv = [emulator.path, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-accel", "kvm", "-m", "256M", "-serial", "stdio"]
    argv += ["-kernel", str(boot.kernel), "-initrd", str(boot.initramfs)]
    argv += ["-append", " ".join(KERNEL_PARAMETERS)]
    console = Console()
    process = OwnedProcess(argv, inherit=(), console=console)
    try:
        with interruptible(process.kill):
            ended = process.wait(_DEADLINE_S)
        if _UP in console.text:
            return True, "a guest under KVM came up"
        if not ended:
            return False, f"a guest under KVM hung for {_DEADLINE_S:.0f} s"
        return False, f"a guest under KVM did not come up: {process.describe_end()}"
    finally:
        process.close()
