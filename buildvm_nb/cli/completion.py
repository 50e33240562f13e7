"""What the shell offers after TAB; never an error, never a traceback."""

from collections.abc import Iterable

__all__ = [
    "complete_axis",
    "complete_case",
    "complete_cpu",
    "complete_hint_kind",
    "complete_kernel",
    "complete_machine",
    "complete_verdict",
]

_WITHOUT_DATE = (("max", "all that the accelerator can do"), ("qemu64", "least common features"))


def complete_cpu(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer CPU models.

    Parameters
    ----------
    incomplete : str
        What is typed so far.

    Yields
    ------
    (str, str)
        QEMU's name and the processor it stands for.
    """
    from buildvm_nb.model.cpu import CPU_MODELS

    dated = ((model.name, f"{model.since:%Y-%m} {model.product}") for model in CPU_MODELS)
    for name, meaning in (*dated, *_WITHOUT_DATE):
        if name.casefold().startswith(incomplete.casefold()):
            yield name, meaning


def complete_kernel(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer kernels.

    Parameters
    ----------
    incomplete : str
        What is typed so far.

    Yields
    ------
    (str, str)
        The name, and the release where it is in the cache.
    """
    from buildvm_nb.errors import BuildVMError
    from buildvm_nb.host.cache import Cache
    from buildvm_nb.image import list_kernels

    try:
        kernels = list_kernels(Cache())
    except BuildVMError:
        return
    for kernel in kernels:
        if kernel.name.startswith(incomplete):
            yield kernel.name, kernel.release


def complete_case(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the curated cases; the shell itself offers files.

    Parameters
    ----------
    incomplete : str
        What is typed so far.

    Yields
    ------
    (str, str)
        Id and nothing.
    """
    from buildvm_nb.catalog import curated_cases
    from buildvm_nb.errors import BuildVMError

    try:
        cases = curated_cases()
    except BuildVMError:
        return
    for name in cases:
        if name.startswith(incomplete):
            yield name, ""


def complete_machine(incomplete: str) -> Iterable[str]:
    """Offer machines that have a file or were started.

    Parameters
    ----------
    incomplete : str
        What is typed so far.

    Yields
    ------
    str
        Names.
    """
    from buildvm_nb.service import Places, known_machines

    yield from (name for name in known_machines(Places.of_user()) if name.startswith(incomplete))


def complete_verdict(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer verdicts.

    Parameters
    ----------
    incomplete : str
        What is typed so far.

    Yields
    ------
    (str, str)
        Verdict and nothing.
    """
    from buildvm_nb.model.outcome import Verdict

    for verdict in Verdict:
        if verdict.startswith(incomplete):
            yield verdict.value, ""


def complete_hint_kind(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer kinds of hints.

    Parameters
    ----------
    incomplete : str
        What is typed so far.

    Yields
    ------
    (str, str)
        Kind and nothing.
    """
    from buildvm_nb.model.hint import HintKind

    for kind in HintKind:
        if kind.startswith(incomplete):
            yield kind.value, ""


def complete_axis(incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the axes that a diagnosis can vary.

    Parameters
    ----------
    incomplete : str
        What is typed so far.

    Yields
    ------
    (str, str)
        Axis and nothing.
    """
    from buildvm_nb.model.finding import Axis

    for axis in Axis:
        if axis.startswith(incomplete):
            yield axis.value, ""
