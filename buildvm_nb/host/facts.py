"""Facts of this host: what an outcome records, and which of its resources guests may have."""

import os
import platform
import re
from pathlib import Path

__all__ = [
    "available_mib",
    "host_facts",
    "total_mib",
    "usable_cores",
]

# How much memory this host can give to guests.
#
# References: proc(5), ``/proc/meminfo``; Linux, Documentation/admin-guide/cgroup-v2.rst,
# ``memory.max`` and ``memory.current``.

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)))


def available_mib() -> int | None:
    """Return how much memory can be taken without swapping, within the limits of a container.

    Returns: miB; None where the host does not tell.
    """
    limit, used = _of_group("memory.max"), _of_group("memory.current")
    left = None if limit is None or used is None else max(limit - used, 0)
    return _least_mib(_of_host("MemAvailable"), left)


def total_mib() -> int | None:
    """Return how much memory this host has, or its container may use.

    Returns: miB; None where the host does not tell.
    """
    return _least_mib(_of_host("MemTotal"), _of_group("memory.max"))


def _least_mib(*amounts: int | None) -> int | None:
    return min((one // 2**20 for one in amounts if one is not None), default=None)


def _of_host(name: str) -> int | None:
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def _of_group(name: str) -> int | None:
    try:
        match = re.search(r"^0::/(.*)$", _OWN_CGROUP.read_text(), re.MULTILINE)
        return int((_CGROUPS / (match[1] if match else "") / name).read_text())
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
