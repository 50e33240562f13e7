"""What a person is told about this host and a CPU, as HTML."""

from collections.abc import Iterable
from html import escape

from buildvm_nb.model.machine import Accelerator
from buildvm_nb.study.host_checks import Check, State

__all__ = ["FIDELITY", "checks_html", "features_html"]

FIDELITY = {
    Accelerator.AUTO: "KVM where it is proven to work; emulation where you choose the CPU",
    Accelerator.KVM: "fast, but it only hides features: a program that uses one that the model "
    "lacks still runs, unlike on a real one",
    Accelerator.TCG: "slow, and it enforces the model: an instruction that the model lacks kills "
    "the program (SIGILL)",
    Accelerator.UML: "user-mode Linux: fast without KVM, for dates, kernels and commits; the CPU "
    "is this host's",
}
"""What an accelerator means for what is found out about CPUs."""


def checks_html(checks: Iterable[Check]) -> str:
    """Tell what this host lacks.

    Parameters
    ----------
    checks : iterable of Check
        As of ``buildvm doctor``.

    Returns
    -------
    str
        HTML; empty: nothing that is needed is missing.
    """
    lines = [
        f"<li><b>{escape(check.subject)}</b>: {escape(check.found)}"
        + (f"<br><code>{escape(check.hint)}</code>" if check.hint else "")
        + "</li>"
        for check in checks
        if check.state is State.MISSING
    ]
    if not lines:
        return ""
    return (
        '<div role="alert"><b>This host cannot run machines yet. It lacks:</b>'
        f"<ul>{''.join(lines)}</ul>The catalog can be read all the same.</div>"
    )


def features_html(cpu: str, has: Iterable[str], lacks: Iterable[str]) -> str:
    """Tell what a CPU has under emulation.

    Parameters
    ----------
    cpu : str
        Its name.
    has, lacks : iterable of str
        Features that it has there, and that its model has but emulation cannot give.

    Returns
    -------
    str
        HTML.
    """
    has, lacks = sorted(has), sorted(lacks)
    told = f"; emulation lacks {len(lacks)} of its model's" if lacks else ""
    lacking = f"<br><b>Lacking:</b> {escape(', '.join(lacks))}" if lacks else ""
    return (
        f"<details><summary>{escape(cpu)} has {len(has)} features{told}</summary>"
        f"{escape(', '.join(has))}{lacking}</details>"
    )
