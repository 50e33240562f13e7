"""What follows from the curated catalog's entries: ``failures.csv`` and the table for readers."""

import re
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from buildvm_nb.catalog.casefile import load_case
from buildvm_nb.catalog.csvfile import write_csv
from buildvm_nb.catalog.curated import curated_cases, curated_root
from buildvm_nb.catalog.failurerows import failures_of
from buildvm_nb.catalog.proofs import curated_findings
from buildvm_nb.catalog.replacing import replacing
from buildvm_nb.catalog.reported import REPORTED_FILE, reported_entries
from buildvm_nb.catalog.schema import FAILURES
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.agreement import describe_claim
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.instants import format_instant

__all__ = ["derive", "derived_files", "stale_files"]

_BEGIN = "<!-- begin: made by `buildvm catalog derive` -->"
_END = "<!-- end -->"


def derived_files(root: Path | None = None) -> dict[Path, str]:
    """Work out the derived files of a curated catalog.

    Parameters
    ----------
    root : Path, optional
        Its directory; default: the one that comes with buildvm-nb.

    Returns
    -------
    dict of Path to str
        What each must hold.

    Raises
    ------
    UsageError
        If a case file is invalid.
    CatalogError
        If a proof is, or README.md has no place for the table.
    """
    root = root or curated_root()
    findings = curated_findings(root)
    csv = StringIO()
    # not the present instant: the file would be out of step tomorrow
    made_at = max((one.recorded_at for one in findings), default=None)
    write_csv(failures_of(findings, made_at), csv, FAILURES)
    readme = root / "README.md"
    return {root / "failures.csv": csv.getvalue(), readme: _readme(readme, root, findings)}


def stale_files(root: Path | None = None) -> tuple[Path, ...]:
    """Return the derived files that do not hold what follows from the entries.

    Parameters
    ----------
    root : Path, optional
        A curated catalog.

    Returns
    -------
    tuple of Path
        Those that differ or are missing.

    Raises
    ------
    UsageError
        If a case file is invalid.
    CatalogError
        If a proof is, or README.md has no place for the table.
    """
    return tuple(path for path, text in derived_files(root).items() if _content(path) != text)


def derive(root: Path | None = None) -> tuple[Path, ...]:
    """Make the derived files anew.

    Parameters
    ----------
    root : Path, optional
        A curated catalog.

    Returns
    -------
    tuple of Path
        Those that were not in step.

    Raises
    ------
    UsageError
        If a case file is invalid.
    CatalogError
        If a proof is, README.md has no place for the table, or a file cannot be written.
    """
    stale = stale_files(root)
    texts = derived_files(root)
    for path in stale:
        with replacing(path) as stream:
            stream.write(texts[path])
    return stale


def _content(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read {path}: {error}") from error


def _readme(path: Path, root: Path, findings: tuple[Finding, ...]) -> str:
    text = _content(path) or ""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise CatalogError(f"no place for the table in {path}: allowed: {_BEGIN} … {_END}")
    body = "\n".join(_tables(root, findings))
    return f"{before}{_BEGIN}\n\n{body}\n{_END}{after}"


def _tables(root: Path, findings: tuple[Finding, ...]) -> Iterator[str]:
    cases = [load_case(path) for path in curated_cases(root).values()]
    by_status = {
        status: [case for case in cases if case.entry and case.entry.status == status]
        for status in ("verified", "proposed", "withdrawn")
    }
    yield f"### Verified: {len(by_status['verified'])}\n"
    yield "| entry | what it is about | what machines showed | passes in |"
    yield "|---|---|---|---|"
    for case in by_status["verified"]:
        shown = [one for one in findings if one.case.id == case.id]
        summary = _safe("; ".join(one.summary for one in shown))
        yield _row(
            _link(case),
            _safe(case.title),
            f"{summary} ([proof](proofs/{case.id}.json))",
            _safe("; ".join(filter(None, map(_environment, shown)))) or "no machine that is known",
        )
    yield f"\n### Proposed: {len(by_status['proposed'])}\n"
    yield "Nobody has proved these yet.\n"
    yield "| entry | what it is about | what is claimed |"
    yield "|---|---|---|"
    for case in by_status["proposed"]:
        yield _row(_link(case), _safe(case.title), _safe(_claimed(case)))
    if by_status["withdrawn"]:
        yield f"\n### Withdrawn: {len(by_status['withdrawn'])}\n"
        yield "| entry | why |"
        yield "|---|---|"
        for case in by_status["withdrawn"]:
            why = case.entry.withdrawn_because if case.entry else ""
            yield _row(_link(case), _safe(why))
    reported = reported_entries(root)
    yield f"\n### Reported: {len(reported)}\n"
    yield f"Told by public sources, proved by nobody here: [{REPORTED_FILE}]({REPORTED_FILE}).\n"
    yield "| kind | entries |"
    yield "|---|---|"
    for kind, count in sorted(Counter(reported["kind"]).items()):
        yield _row(_safe(str(kind)), str(count))


def _claimed(case: Case) -> str:
    return describe_claim(case.claim) if case.claim else "nothing"


def _environment(finding: Finding) -> str:
    machine = finding.environment
    if machine is None:
        return ""
    return f"{format_instant(machine.date)[:10]}, {machine.cpu}, {machine.kernel}"


def _link(case: Case) -> str:
    return f"[{case.id}](cases/{case.id}.toml)"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _safe(text: str) -> str:
    """Show what is markup in texts that are not ours."""
    return " ".join(re.sub(r"([|`<>*_\[\]\\])", r"\\\1", text).split())
