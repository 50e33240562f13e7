"""CPU features: what was tried with and without them, and the smallest set that decides."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.plots.style import COLOURS, INK, MARKERS, Drawing, short

__all__ = ["feature_lattice"]

_MOST_ROWS = 40
_MOST_FEATURES = 24
_MARKED = "#56B4E9"


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A CPU that was tried; a feature of neither set is not known of it."""

    cpu: str
    verdict: str
    has: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()


def feature_lattice(finding: Finding | None = None, outcomes: Iterable[Outcome] = ()) -> Drawing:
    """Draw which CPUs were tried, which features each has, and what decides.

    Parameters
    ----------
    finding : Finding, optional
        Names the smallest set of features; alone it tells of models, and of the change that
        decides.
    outcomes : iterable of Outcome
        The runs; what each CPU really had is in them.

    Returns
    -------
    Drawing
        One row for each CPU, what passed on top, with its verdict as colour and marker; one column
        for each feature that differs: a full dot, has it; a ring, lacks it; nothing, not known.
        The columns of the smallest set are shaded, and their names bold.

    Raises
    ------
    UsageError
        If no CPU was tried.
    """
    tried = _from_outcomes(outcomes) or (_from_finding(finding) if finding else [])
    if not tried:
        raise UsageError("no CPU was tried: there is nothing to draw")
    tried.sort(key=lambda one: one.verdict != "passed")
    left_out = len(tried) - _MOST_ROWS
    tried = tried[:_MOST_ROWS]
    decisive = _decisive(finding)
    features = _columns(tried, decisive)
    figure = Drawing(
        figsize=(5 + 0.35 * len(features), 2.4 + 0.3 * len(tried)), layout="constrained"
    )
    axes = figure.add_subplot()
    for place, name in enumerate(features):
        if name in decisive:
            axes.axvspan(place - 0.5, place + 0.5, color=_MARKED, alpha=0.3)
        for wanted, face in ((True, INK), (False, "none")):
            rows = [
                row for row, one in enumerate(tried) if name in (one.has if wanted else one.lacks)
            ]
            axes.plot(
                [place] * len(rows), rows, "o", color=INK, markerfacecolor=face, linestyle="none"
            )
    handles = _mark_verdicts(axes, tried)
    if decisive:
        handles.append(Patch(color=_MARKED, alpha=0.3, label="smallest set that decides"))
    axes.set_xticks(
        range(len(features)), [short(name) for name in features], rotation=60, ha="right"
    )
    for label, name in zip(axes.get_xticklabels(), features, strict=True):
        label.set_fontweight("bold" if name in decisive else "normal")
    axes.set_yticks(range(len(tried)), [f"{short(one.cpu)}: {one.verdict}" for one in tried])
    axes.set_xlim(-1.7, max(len(features), 1) - 0.4)
    axes.set_ylim(len(tried) - 0.5, -0.5)
    figure.set_label(finding.summary if finding else "CPUs that were tried")
    axes.set_title("● has the feature   ○ lacks it", fontsize="medium")
    if left_out > 0:
        axes.set_xlabel(f"{left_out} more CPUs are not shown")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _from_outcomes(outcomes: Iterable[Outcome]) -> list[_Tried]:
    tried: dict[str, _Tried] = {}
    everything: set[str] = set()
    for outcome in outcomes:
        known = outcome.environment
        features = frozenset(known.cpu_features if known else ())
        everything |= features
        verdict = outcome.verdict.value
        earlier = tried.get(outcome.machine.cpu)
        if earlier and earlier.verdict != verdict:
            verdict = "mixed"
        tried[outcome.machine.cpu] = _Tried(cpu=outcome.machine.cpu, verdict=verdict, has=features)
    return [
        _Tried(
            cpu=one.cpu,
            verdict=one.verdict,
            has=one.has,
            lacks=frozenset(everything - one.has) if one.has else frozenset(),
        )
        for one in tried.values()
    ]


def _from_finding(finding: Finding) -> list[_Tried]:
    """Tell of the models, and of the changes that flip the verdict."""
    rows = [_Tried(cpu=cpu, verdict="passed") for cpu in finding.passing_cpus]
    rows += [_Tried(cpu=cpu, verdict="failed") for cpu in finding.failing_cpus]
    base = finding.features_base
    removed, harmful = frozenset(finding.features), frozenset(finding.features_harmful)
    if base and (removed or harmful):
        rows = [one for one in rows if one.cpu != base]
        rows.append(_Tried(cpu=base, verdict="passed", has=removed, lacks=harmful))
        changes = [*(f"-{name}" for name in finding.features)]
        changes += [f"+{name}" for name in finding.features_harmful]
        changed = ",".join([base, *changes])
        rows.append(_Tried(cpu=changed, verdict="failed", has=harmful, lacks=removed))
    return rows


def _decisive(finding: Finding | None) -> frozenset[str]:
    if finding is None:
        return frozenset()
    return frozenset((*finding.features, *finding.features_needed, *finding.features_harmful))


def _columns(tried: Sequence[_Tried], decisive: frozenset[str]) -> list[str]:
    """Choose the features that differ, those that follow the verdict first."""
    known = [one for one in tried if one.has]
    good = [one.has for one in known if one.verdict == "passed"]
    bad = [one.has for one in known if one.verdict != "passed"]
    differing = {name for one in known for name in one.has if any(name in x.lacks for x in known)}

    def share(name: str, among: list[frozenset[str]]) -> float:
        return sum(name in has for has in among) / len(among) if among else 0.0

    ordered = sorted(differing, key=lambda name: (-abs(share(name, good) - share(name, bad)), name))
    chosen = [*sorted(decisive), *(name for name in ordered if name not in decisive)]
    return chosen[:_MOST_FEATURES]


def _mark_verdicts(axes: Axes, tried: Sequence[_Tried]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for verdict in dict.fromkeys(one.verdict for one in tried):
        rows = [row for row, one in enumerate(tried) if one.verdict == verdict]
        (line,) = axes.plot(
            [-1.2] * len(rows),
            rows,
            MARKERS.get(verdict, "*"),
            color=COLOURS[verdict],
            markersize=9,
            markeredgecolor=INK,
            markeredgewidth=0.5,
            linestyle="none",
            label=verdict,
        )
        handles.append(line)
    return handles
