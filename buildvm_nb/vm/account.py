"""What happened to a guest that was lost: told from its console and from QEMU's end."""

from buildvm_nb.errors import BuildVMError, GuestLost, LaunchError
from buildvm_nb.vm.console import Console, Trouble
from buildvm_nb.vm.process import OwnedProcess

__all__ = ["DYING_S", "account_for"]

DYING_S = 5.0
"""How long QEMU may take to end after its guest has."""


def account_for(error: GuestLost, process: OwnedProcess, console: Console) -> BuildVMError:
    """Turn a lost guest into a clear account of what happened to it.

    Parameters
    ----------
    error : GuestLost
        What was noticed.
    process : OwnedProcess
        What ran it.
    console : Console
        What it said.

    Returns
    -------
    BuildVMError
        `GuestLost` with kind of trouble and evidence, or `LaunchError` if QEMU refused its command
        line.
    """
    ended = process.wait(DYING_S)
    trouble = console.trouble()
    if trouble:
        kind, evidence = trouble
        hint = {
            Trouble.OUT_OF_MEMORY: "give the machine more memory with --memory",
            Trouble.OOPS: "another --kernel, or a newer QEMU, may do",
        }.get(kind, "")
        return GuestLost(
            f"the guest died: {kind}", evidence=evidence, is_oops=kind is Trouble.OOPS, hint=hint
        )
    if not ended:
        said = console.text[-4000:]
        return GuestLost(error.message, evidence=error.evidence or said, hint=error.hint)
    how = process.describe_end()
    if not console.text and "was killed" not in how:
        return LaunchError(f"QEMU did not start: {how}", evidence=how)
    return GuestLost(f"the guest is gone: {how}", evidence=console.text[-4000:])
