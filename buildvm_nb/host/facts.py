"""Facts of this host: what an outcome records, and how much memory guests may have."""

import os
import platform
import re
from pathlib import Path

__all__ = [
    "available_mib",
    "host_facts",
]

# How much memory this host can give to guests.
#
# References: proc(5), ``/proc/meminfo``; Linux, Documentation/admin-guide/cgroup-v2.rst,
# ``memory.max`` and ``memory.current``.

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available_mib() -> int | None:
    """Return how much memory can be taken without swapping, within the limits of a container.

    Returns: miB; None where the host does not tell.
    """
    amounts = [amount for amount in (_of_host(), _of_group()) if amount is not None]
    return min(amounts) // 2**20 if amounts else None


def _of_host() -> int | None:
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def _of_group() -> int | None:
    try:
        match = re.search(r"^0::/(.*)$", _OWN_CGROUP.read_text(), re.MULTILINE)
        group = _CGROUPS / (match[1] if match else "")
        limit, used = (group / "memory.max").read_text(), (group / "memory.current").read_text()
        return max(int(limit) - int(used), 0)
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None


def host_facts() -> dict[str, str | int]:
    """Return what may matter of this host when outcomes are compared."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return {
        "cpu": match[1] if match else platform.machine(),
        "cores": os.cpu_count() or 0,
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
