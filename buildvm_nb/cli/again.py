"""Commands that build again what a finding is about: ready to be copied."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.cli.case_options import SourceOptions, make_case

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case
    from buildvm_nb.model.finding import Boundary, Finding
    from buildvm_nb.model.machine import MachineSpec

__all__ = ["diagnosing_command", "failing_command", "passing_command"]


def diagnosing_command(finding: "Finding") -> str:
    """Write the command that makes a finding again.

    Parameters
    ----------
    finding : Finding
        Any finding.

    Returns
    -------
    str
        For a shell; what the catalog still has is not run again. On the commit axis it has the
        commits next to the change.
    """
    from buildvm_nb.model.instants import format_instant
    from buildvm_nb.study.again import image_options

    words, last = _subject(finding.case, [])
    options = [] if finding.axis is None else ["--axis", finding.axis.value]
    commits = [_commit(finding, passes=passes) for passes in (True, False)]
    for name, commit in zip(("--good", "--bad"), commits, strict=True):
        options += [name, commit] if commit else []
    for name, date in (("--from", finding.studied_from), ("--to", finding.studied_until)):
        options += [name, format_instant(date)] if date else []
    if last:
        options += image_options(finding.case.image)
    return shlex.join(["buildvm", "diagnose", *words, *options, *last])


def passing_command(finding: "Finding", named: Sequence[str] = ()) -> str:
    """Write the command that builds a finding's case where it passes.

    Parameters
    ----------
    finding : Finding
        Any finding.
    named : sequence of str
        Words by which the user named the case; left out, they follow from the case: the id of a
        curated one, the options of a source with one command, else a case file of its id.

    Returns
    -------
    str
        For a shell; empty where no machine was found in which it passes.
    """
    if finding.environment is None:
        return ""
    return _command(finding, finding.environment, _commit(finding, passes=True), named)


def failing_command(finding: "Finding", named: Sequence[str] = ()) -> str:
    """Write the command that builds a finding's case where it fails.

    Parameters
    ----------
    finding : Finding
        Any finding.
    named : sequence of str
        As of `passing_command`.

    Returns
    -------
    str
        For a shell, in a machine like the one in which it passes, but for what decides; empty
        where the finding names none.
    """
    passing = finding.environment
    if passing is None or finding.axis is None or finding.kind.value == "flaky":
        return ""
    changes = _failing_fields(finding)
    if None in changes.values():
        return ""
    machine = passing.parse(dict(passing) | changes)
    return _command(finding, machine, _commit(finding, passes=False), named)


def _command(
    finding: "Finding", machine: "MachineSpec", commit: str | None, named: Sequence[str]
) -> str:
    from buildvm_nb.study.again import image_options, is_curated, machine_options

    case = finding.case
    name = list(named) or ([case.id] if is_curated(case) else [])
    if commit is not None:
        if name:  # a case file has a commit of its own, and a sweep takes others
            return _sweep(name[0], machine, commit)
        fields = {**dict(case.source or {}), "commit": commit, "before": None, "branch": None}
        case = case.parse(dict(case) | {"source": fields})
    words, last = _subject(case, name)
    options = machine_options(case, machine)
    if last or machine.image != case.image:
        options += image_options(machine.image)
    return shlex.join(["buildvm", "build", *words, *options, *last])


def _subject(case: "Case", name: list[str]) -> tuple[list[str], list[str]]:
    """Return the words that name a case, and those that stand last."""
    from buildvm_nb.study.again import is_curated

    if not name and is_curated(case):
        name = [case.id]
    return (name, []) if name else _source_words(case) or ([f"{case.id}.toml"], [])


def _sweep(name: str, machine: "MachineSpec", commit: str) -> str:
    from buildvm_nb.model.instants import format_instant

    words = ["--commits", commit, "--dates", format_instant(machine.date), "--cpus", machine.cpu]
    words += ["--kernels", machine.kernel, "--accelerator", machine.accelerator.value]
    return shlex.join(["buildvm", "sweep", name, *words])


def _commit(finding: "Finding", *, passes: bool) -> str | None:
    """Return a commit next to a change; None: the case's own."""
    if finding.axis is None or finding.axis.value != "commit" or not finding.boundaries:
        return None
    boundary = finding.boundaries[0]
    is_before = (boundary.before.value == "passed") is passes
    return boundary.last_before if is_before else boundary.first_after


def _failing_fields(finding: "Finding") -> dict[str, Any]:
    """Return what makes a machine fail; a value of None: the finding does not say."""
    match finding.axis and finding.axis.value:
        case "date":
            return {"date": _failing_date(finding)}
        case "cpu":
            return {"cpu": next(reversed(finding.failing_cpus), None)}
        case "kernel":
            return {"kernel": next(reversed(finding.failing_kernels), None)}
        case "cores":
            return {"cpu_count": _failing_count(finding)}
    return {}


def _failing_date(finding: "Finding") -> str | None:
    """Return a date whose whole test fails: it runs away from the passing side."""
    from buildvm_nb.model.instants import format_instant

    for boundary in finding.boundaries:
        if _turns_bad(boundary):
            return boundary.first_after
    is_bad = bool(finding.boundaries) and finding.boundaries[0].before.value != "passed"
    return format_instant(finding.studied_from) if is_bad and finding.studied_from else None


def _failing_count(finding: "Finding") -> int | None:
    if not finding.boundaries:
        return None
    boundary = finding.boundaries[0]
    return int(boundary.first_after if _turns_bad(boundary) else boundary.last_before)


def _turns_bad(boundary: "Boundary") -> bool:
    return boundary.before.value == "passed" != boundary.after.value


def _source_words(case: "Case") -> tuple[list[str], list[str]] | None:
    """Say it with options; None: they cannot say all that the case is."""
    from buildvm_nb.errors import UsageError

    fields, run = _source_fields(case), case.steps[0].run
    try:
        made = make_case(SourceOptions(**fields), [run], case.image)
    except UsageError:
        return None
    limits = made.limits.model_copy(update={"step_timeout_s": case.limits.step_timeout_s})
    if made.model_copy(update={"limits": limits}).build_digest() != case.build_digest():
        return None
    words = [str(word) for name, value in fields.items() for word in (_option(name), value)]
    if limits != made.limits:
        words += ["--timeout", str(limits.step_timeout_s)]
    return words, ["--", run]


def _source_fields(case: "Case") -> dict[str, Any]:
    """Return the fields of `SourceOptions` that name a case's source."""
    told = case.source.model_dump(mode="json") if case.source else {}
    name, version = told.get("name"), told.get("version")
    pinned = f"{name}={version}" if version else name
    fields: dict[str, dict[str, Any]] = {
        "git": {
            "git": told.get("url"),
            "commit": told.get("commit"),
            "before": told.get("before"),
            "branch": told.get("branch"),
        },
        "pypi": {"pypi": f"{name}=={version}"},
        "debian-source": {"debian": pinned},
        "debian-binary": {"debian_binary": pinned},
        "local": {"local": Path(told.get("path", ""))},
    }
    chosen = fields.get(told.get("kind", ""), {})
    return {name: value for name, value in chosen.items() if value is not None}


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"
