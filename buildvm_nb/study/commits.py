"""The commit axis: which commit broke a case or mended it, at a fixed date, in one machine."""

from collections.abc import Sequence

from buildvm_nb.errors import SourceError, UsageError
from buildvm_nb.model.case import Case, GitSource
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.search import Plan, State
from buildvm_nb.source import Commit, list_commits
from buildvm_nb.study.conclusion import flaky_finding, ordered_finding
from buildvm_nb.study.dates import state_of
from buildvm_nb.study.keeping import split_steps
from buildvm_nb.study.kernels import study_order
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.probe import Order

__all__ = ["between_commits", "study_commits"]

_SCAN_PARTS = 8
"""What is undone in between shows where both ends are alike: so many parts are looked at."""


def between_commits(lab: Laboratory, good: str, bad: str) -> tuple[Commit, ...]:
    """List the commits to search.

    Parameters
    ----------
    lab : Laboratory
        Its case has a git source.
    good, bad : str
        Commits, tags or branches; either may be the older one.

    Returns
    -------
    tuple of Commit
        Oldest first, both ends among them.

    Raises
    ------
    UsageError
        If the case's source is no git repository.
    SourceError
        If a commit cannot be had, or neither is an ancestor of the other.
    """
    source = _git_source(lab.case)

    ends = (good, bad)
    try:
        return _listed(lab, source, *ends)
    except SourceError as error:
        try:
            return _listed(lab, source, *reversed(ends))
        except SourceError:
            raise error from None


def study_commits(
    lab: Laboratory,
    spec: MachineSpec,
    commits: Sequence[Commit],
    base: Finding,
    *,
    repeats: int = 2,
) -> Finding | None:
    """Find the commits at which the verdict changes.

    What the ends show decides what failing means: where an end does not build, that is it; else
    commits that do not build are skipped. Where both ends are alike, some between are looked at.

    Parameters
    ----------
    lab : Laboratory
        Runs the case.
    spec : MachineSpec
        The machine, the same for all.
    commits : sequence of Commit
        Oldest first.
    base : Finding
        What is the same whatever is found.
    repeats : int
        Confirming runs on each side of each change.

    Returns
    -------
    Finding or None
        None where both ends have the same verdict.

    Raises
    ------
    HostError
        If the executor breaks.
    CatalogError
        If an outcome cannot be recorded.
    """
    source = _git_source(lab.case)
    builders = {step.name for step in split_steps(lab.case)[0]}

    def order(commit: Commit, attempt: int) -> Order:
        chosen = source.model_copy(update={"commit": commit.id, "before": None, "branch": None})
        case = lab.case.model_copy(update={"source": chosen})
        return Order(case=case, machine=spec, probing={"attempt": attempt})

    ends = lab.run([order(commit, 0) for commit in (commits[0], commits[-1])])
    failing = [one for one in ends if state_of(one) is State.BAD]
    is_of_build = any(one.failing_step in builders for one in failing)

    def judge(outcome: Outcome) -> State:
        """Skip what does not build, unless that is what an end fails by."""
        is_skipped = outcome.failing_step in builders and not is_of_build
        return State.UNKNOWN if is_skipped else state_of(outcome)

    is_alike = len({state_of(one) for one in ends}) == 1
    last = len(commits) - 1
    parts = min(last, _SCAN_PARTS if is_alike else 1) or 1
    plan = Plan(
        first=0,
        last=last,
        scan=[last * part // parts for part in range(1, parts)],
        repeats=repeats,
        workers=lab.workers,
        can_hold=False,
        reveal=0,
    )
    study = study_order(lab, commits, order, plan, name=lambda commit: commit.id, judge=judge)
    if study.survey.is_flaky:
        split = {one.at for one in study.survey.disagreements}
        runs = [outcome for index in sorted(split) for outcome in study.at(index)]
        return flaky_finding(runs, Axis.COMMIT, base)
    if not study.survey.transitions:
        return None
    finding = ordered_finding(study, Axis.COMMIT, FindingKind.COMMIT_DEPENDENT, base)
    told = [
        _tell(commits, change.last_before, change.first_after, change.after)
        for change in study.survey.transitions
    ]
    return finding.model_copy(update={"summary": "; ".join(told)})


def _listed(lab: Laboratory, source: GitSource, older: str, newer: str) -> tuple[Commit, ...]:
    return list_commits(source, older, newer, cache=lab.cache, base=lab.base, progress=lab.progress)


def _git_source(case: Case) -> GitSource:
    if not isinstance(case.source, GitSource):
        kind = case.source.kind if case.source else "none"
        raise UsageError(
            f"the commit axis needs a git source; case {case.id} has {kind}",
            hint='a [source] with kind = "git", or --git URL',
        )
    return case.source


def _tell(commits: Sequence[Commit], before: int, after: int, state: State) -> str:
    verb = "passes" if state is State.GOOD else "fails"
    first = commits[after]
    told = f"{verb} from commit {first.id[:12]} on ({first.committed_at:%Y-%m-%d}, {first.subject})"
    skipped = after - before - 1
    if skipped:
        told += f", or from one of the {skipped} before it, which do not build"
    return told
