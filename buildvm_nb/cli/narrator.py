"""The runs of a diagnosis, told as they come."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildvm_nb.model.outcome import Outcome, Probing

__all__ = ["Narrator"]

_SHORT = 12


class Narrator:
    """Puts outcomes into words.

    Date and CPU are always told; kernel, cores and commit as soon as one is not the first one.

    Parameters
    ----------
    tells_commits : bool
        Whether commits are told from the beginning.
    """

    def __init__(self, *, tells_commits: bool = False) -> None:
        self._always = {"date", "cpu", *(["commit"] if tells_commits else [])}
        self._seen: dict[str, set[str]] = {}

    def describe(self, outcome: "Outcome", *, is_known: bool) -> str:
        """Tell an outcome.

        Parameters
        ----------
        outcome : Outcome
            The next one.
        is_known : bool
            Whether the catalog had it.

        Returns
        -------
        str
            For example ``2024-01-01, Haswell, in a fork, clock held: failed (test: exited with
            1), 2.9 s``.
        """
        told = _places(outcome)
        for name, value in told.items():
            self._seen.setdefault(name, set()).add(value)
        shown = [value for name, value in told.items() if self._is_told(name)]
        where = ", ".join([*shown, *_marks(outcome.probing)])
        why = outcome.reason.partition("\n")[0]
        verdict = f"{outcome.verdict.value} ({why})" if why else outcome.verdict.value
        took = "from the catalog" if is_known else f"{outcome.duration_s:.1f} s"
        return f"{where}: {verdict}, {took}"

    def _is_told(self, name: str) -> bool:
        return name in self._always or len(self._seen[name]) > 1


def _places(outcome: "Outcome") -> dict[str, str]:
    from buildvm_nb.model.instants import format_instant

    spec, source = outcome.machine, outcome.case.source
    commit = getattr(source, "commit", None) or ""
    return {
        "commit": f"commit {commit[:_SHORT]}",
        "date": format_instant(spec.date).removesuffix("T00:00:00Z"),
        "cpu": spec.cpu,
        "kernel": f"kernel {spec.kernel}",
        "cores": f"{spec.cpu_count} virtual CPUs",
    }


def _marks(probing: "Probing") -> list[str]:
    marks = ["in a fork"] if probing.prepared_at else []
    marks += ["clock held"] if probing.held else []
    marks += [f"repetition {probing.attempt}"] if probing.attempt else []
    return marks
