"""Facts of this host that an outcome records."""

import os
import platform
import re
from pathlib import Path

__all__ = ["host_facts"]


def host_facts() -> dict[str, str | int]:
    """Return what may matter of this host when outcomes are compared.

    Returns
    -------
    dict
        ``cpu`` (model name), ``cores``, ``kernel`` (release), ``system`` and ``python``.
    """
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
