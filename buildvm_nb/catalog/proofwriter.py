"""Proofs out: findings with their evidence, as text that stays the same for the same proof."""

import json
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tomlkit

from buildvm_nb.catalog.proofs import PROOF_VERSION, Proof
from buildvm_nb.catalog.replacing import replacing
from buildvm_nb.catalog.springs import spring_at
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.model.outcome import Outcome

if TYPE_CHECKING:
    from buildvm_nb.catalog.store import Catalog

__all__ = ["dump_proof", "gather_proof", "mark_verified", "write_proof"]

_LINES = 30
_LETTERS = 3000


def gather_proof(catalog: "Catalog", findings: Iterable[Finding]) -> Proof:
    """Gather what proves findings: their outcomes, and the ends of the logs that decide.

    Parameters
    ----------
    catalog : Catalog
        That has the findings' evidence.
    findings : iterable of Finding
        On one case.

    Returns
    -------
    Proof
        It refers to nothing outside: outcomes without their logs' digests and without the mirrors
        that their sources came from, and findings that supersede none.

    Raises
    ------
    UsageError
        If an outcome is not there.
    CatalogError
        If the catalog cannot be read.
    """
    given = [one.model_copy(update={"supersedes": None}) for one in findings]
    keys = dict.fromkeys(key for one in given for key in one.evidence)
    outcomes = [catalog.outcome(key) for key in keys]
    excerpts = {
        one.id: _end_of(catalog.log(one.id)) for one in _deciding(given, outcomes) if one.log_digest
    }
    shipped = map(_without_places, outcomes)
    return Proof(findings=tuple(given), outcomes=tuple(shipped), excerpts=excerpts)


def _without_places(outcome: Outcome) -> Outcome:
    """Leave out what only the host that ran it has; a source is known by its digest."""
    sources = tuple(one.model_copy(update={"origin": ""}) for one in outcome.sources)
    return outcome.model_copy(update={"log_digest": "", "sources": sources})


def _deciding(findings: Iterable[Finding], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Choose the first outcome of each verdict, and those nearest to each boundary of dates."""
    chosen = {one.verdict: one for one in reversed(outcomes)}
    found = {one.id: one for one in chosen.values()}
    edges = [edge for one in findings for edge in one.boundaries if edge.axis is Axis.DATE]
    for edge in edges:
        last, first = spring_at(edge.last_before), spring_at(edge.first_after)
        before = [one for one in outcomes if last and one.verdict is edge.before]
        after = [one for one in outcomes if first and one.verdict is edge.after]
        for side, at in ((before, last), (after, first)):
            if side and at:
                nearest = min(side, key=lambda one: abs(one.machine.date - at))
                found[nearest.id] = nearest
    return [one for one in outcomes if one.id in found]


def _end_of(log: bytes) -> str:
    """Return the last lines of a log, with nothing in them that a terminal would obey."""
    lines = log.decode(errors="replace").splitlines()[-_LINES:]
    shown = "\n".join(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
        for line in (line.replace("\t", "    ") for line in lines)
    )
    return shown[-_LETTERS:]


def dump_proof(proof: Proof) -> str:
    """Write a proof as text.

    Parameters
    ----------
    proof : Proof
        On one case.

    Returns
    -------
    str
        JSON, the same for the same proof whatever the order of its findings; an outcome a line.
    """
    ordered = sorted(proof.findings, key=lambda one: (one.axis or "", one.id))
    findings = [_indented(finding.model_dump(mode="json")) for finding in ordered]
    outcomes = [
        json.dumps(
            one.model_dump(mode="json", exclude={"case"}), sort_keys=True, ensure_ascii=False
        )
        for one in sorted(proof.outcomes, key=lambda one: one.id)
    ]
    parts = {
        "proof": str(PROOF_VERSION),
        "findings": _listed(findings),
        "outcomes": _listed(outcomes),
        "excerpts": _indented(proof.excerpts),
    }
    body = ",\n".join(f'"{name}": {text}' for name, text in parts.items())
    return f"{{\n{body}\n}}\n"


def _listed(items: Sequence[str]) -> str:
    return "\n".join(["[", ",\n".join(items), "]"]) if items else "[]"


def _indented(plain: object) -> str:
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)


def write_proof(path: Path, proof: Proof) -> None:
    """Write a proof; what is there is replaced as a whole.

    Parameters
    ----------
    path : Path
        ``…/proofs/ID.json``; its directory is made.
    proof : Proof
        On one case.

    Raises
    ------
    CatalogError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise CatalogError(f"cannot write {path}: {error.strerror}") from error
    with replacing(path) as stream:
        stream.write(dump_proof(proof))


def mark_verified(case_file: Path) -> None:
    """Say in a case file that its entry is verified; everything else in it stays as it is.

    Parameters
    ----------
    case_file : Path
        A valid one with an ``[entry]``.

    Raises
    ------
    CatalogError
        If it cannot be read or written.
    """
    try:
        text = case_file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read {case_file}: {error}") from error
    document = tomlkit.parse(text)
    entry = document.get("entry")
    if not isinstance(entry, MutableMapping):
        raise CatalogError(f"no [entry] in {case_file}")
    entry["status"] = "verified"
    if (changed := tomlkit.dumps(document)) != text:
        with replacing(case_file) as stream:
            stream.write(changed)
