"""The errors of buildvm-nb: our machinery failing, never the software under study failing.

A build that fails is data (a verdict); what is raised from here is trouble with the request, the
host, a source, a machine or the catalog. Every class survives pickling, so that it can cross
process borders.

::

    BuildVMError
    ├── UsageError              the request itself is wrong
    ├── HostError               this host lacks something
    │   └── Unreachable         a server or mirror does not answer, or has trouble
    ├── SourceError             a source or input is gone, or not what was named
    ├── MachineError            a virtual build machine did not do its part
    │   ├── LaunchError         QEMU did not start
    │   ├── BootTimeout         the guest did not come up in time
    │   ├── GuestLost           QEMU or the guest died while in use
    │   ├── ClockError          the guest's clock is not what was asked for
    │   ├── CpuError            the guest's CPU is not what was asked for
    │   └── StateError          the machine is not in a state that allows the call
    ├── CatalogError            the catalog cannot be read or written
    │   ├── CatalogUnreachable  its server cannot be reached now
    │   └── SchemaVersionError  it was written by another version
    ├── SearchError             a search was asked something it cannot answer
    ├── BudgetSpent             no more guest runs may be made
    └── CommandFailed           a guest command failed and the caller asked for ``check=True``
"""

from typing import Any

__all__ = [
    "BootTimeout",
    "BudgetSpent",
    "BuildVMError",
    "CatalogError",
    "CatalogUnreachable",
    "ClockError",
    "CommandFailed",
    "CpuError",
    "GuestLost",
    "HostError",
    "LaunchError",
    "MachineError",
    "SchemaVersionError",
    "SearchError",
    "SourceError",
    "StateError",
    "Unreachable",
    "UsageError",
]


class BuildVMError(Exception):
    """Root of all errors that buildvm-nb raises on purpose.

    `hint`: the next step for the user; empty where there is none.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.__dict__.copy()))


def _rebuild(cls: type[BuildVMError], message: str, state: dict[str, Any]) -> BuildVMError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class UsageError(BuildVMError):
    """The request itself is wrong: an unknown name, a value out of range, a bad file."""


class HostError(BuildVMError):
    """This host lacks something: a program, a permission, disk space, a mirror."""


class Unreachable(HostError):
    """A server, mirror or proxy does not answer or has trouble: nothing is known of what it has."""


class SourceError(BuildVMError):
    """A source or an input is not there, by its own server's word, or is not what was named.

    `sought`: where it was sought, in order.
    """

    def __init__(self, message: str, *, sought: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sought = sought


class MachineError(BuildVMError):
    """A virtual build machine did not do its part.

    `evidence`: console or log text that shows it; may be empty.
    """

    def __init__(self, message: str, *, evidence: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.evidence = evidence


class LaunchError(MachineError):
    """QEMU did not start; the message has its exit code, the evidence its words."""


class BootTimeout(MachineError):
    """The guest did not come up before the host's deadline."""


class GuestLost(MachineError):
    """QEMU or the guest died, panicked or stopped answering while in use.

    `evidence`: console or log text that shows it; may be empty.
    """

    def __init__(
        self, message: str, *, evidence: str = "", is_oops: bool = False, hint: str = ""
    ) -> None:
        super().__init__(message, evidence=evidence, hint=hint)
        self.is_oops = is_oops


class ClockError(MachineError):
    """The guest's clock, read back, is not the instant that was asked for."""


class CpuError(MachineError):
    """The guest's CPU, read back, is not the one that was asked for."""


class StateError(MachineError):
    """The machine is not in a state that allows the call."""


class CatalogError(BuildVMError):
    """The catalog cannot be read or written."""


class CatalogUnreachable(CatalogError):
    """The server of the catalog's database cannot be reached, has gone, or is overloaded."""


class SchemaVersionError(CatalogError):
    """The catalog was written with another schema version than this one reads."""


class SearchError(BuildVMError):
    """A search was asked something that it cannot answer."""


class BudgetSpent(BuildVMError):
    """No more guest runs may be made; what was asked for is not known yet."""


class CommandFailed(BuildVMError):
    """A guest command failed and the caller asked for ``check=True``."""

    def __init__(
        self,
        message: str,
        *,
        exit_status: int | None = None,
        signal: int | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.exit_status = exit_status
        self.signal = signal
