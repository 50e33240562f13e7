"""A grid, read from text: one list for each axis."""

from collections.abc import Callable, Mapping

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.image import list_kernels
from buildvm_nb.study import axes
from buildvm_nb.study.grid import Grid
from buildvm_nb.vm import find_emulator

__all__ = ["read_grid"]


def read_grid(
    texts: Mapping[str, str | None], cache: Cache, *, names: Mapping[str, str] | None = None
) -> Grid:
    """Read the axes of a grid.

    Parameters
    ----------
    texts : mapping
        By the name of a field of `Grid`, what `buildvm_nb.study.axes` reads; None, and a field
        that is not in it: nothing was given.
    cache : Cache
        Knows which kernels and CPU models there are.
    names : mapping, optional
        What messages call the axes, where they have other names.

    Returns
    -------
    Grid
        An axis that was not given has no values.

    Raises
    ------
    UsageError
        If a text is none; the message names the axis.
    HostError
        If QEMU is missing, where its models are asked for.
    """
    parsers: dict[str, Callable[[str], object]] = {
        "dates": axes.parse_dates,
        "cpus": lambda text: axes.parse_cpus(text, _known_models(cache, text)),
        "kernels": lambda text: axes.parse_kernels(text, _known_kernels(cache, text)),
        "cores": axes.parse_cores,
        "commits": axes.parse_commits,
    }
    values = {}
    for axis, parse in parsers.items():
        text = texts.get(axis)
        try:
            values[axis] = () if text is None else parse(text)
        except UsageError as error:
            name = (names or {}).get(axis, axis)
            raise UsageError(f"{name}: {error.message}", hint=error.hint) from error
    return Grid.parse(values)


def _known_models(cache: Cache, text: str) -> frozenset[str]:
    """Return QEMU's models; where none are asked for as a set, a host without QEMU will do."""
    if axes.CPU_SETS.isdisjoint(part.strip() for part in text.split(",")):
        return frozenset()
    return find_emulator(cache.root).models


def _known_kernels(cache: Cache, text: str) -> list[str]:
    """Return the names of kernels; where they are named, nobody has to be asked."""
    if "all" not in (part.strip() for part in text.split(",")):
        return []
    return [each.name for each in list_kernels(cache)]
