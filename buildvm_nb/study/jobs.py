"""How many guests run side by side on this host."""

import os

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.memory import available_mib

__all__ = ["default_jobs", "fit_jobs"]


def default_jobs() -> int:
    """Return how many runs this host can do side by side.

    Returns
    -------
    int
        The cores that this process may use, at least 1.
    """
    return max(1, len(os.sched_getaffinity(0)))


def fit_jobs(jobs: int | None, memory_mib: int) -> int:
    """Choose how many guests run side by side, so that they fit into memory.

    Parameters
    ----------
    jobs : int or None
        What was asked for; None: as many as there are cores and fit.
    memory_mib : int
        Memory of each guest.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    UsageError
        If more were asked for than fit.
    HostError
        If not even one fits.
    """
    available = available_mib()
    if available is None:
        return jobs or default_jobs()
    most = available // memory_mib
    if most < 1:
        raise HostError(
            f"too little memory for a guest of {memory_mib} MiB: {available} MiB are available",
            hint="give guests less: --memory 512",
        )
    if jobs is not None and jobs > most:
        raise UsageError(
            f"{jobs} guests of {memory_mib} MiB need {jobs * memory_mib} MiB; {available} MiB are "
            f"available, for {most} at most",
            hint=f"--jobs {most}, or give guests less with --memory",
        )
    return jobs or min(default_jobs(), most)
