"""Proofs: what machines showed on the verified entries of the curated catalog.

A proof is a JSON object: ``proof``, the version of its form; ``findings``; ``outcomes``, which are
those that the findings name as their evidence, without the case, which is the findings'; and
``excerpts``, the ends of the logs of those that decide, by id. One of version 1 is only a list of
findings.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import from_json

from buildvm_nb.catalog.casefile import load_case
from buildvm_nb.catalog.curated import curated_cases, proof_path
from buildvm_nb.errors import CatalogError, SchemaVersionError
from buildvm_nb.model.case import Case
from buildvm_nb.model.documents import read_plain
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import Value

__all__ = [
    "PROOF_VERSION",
    "Proof",
    "curated_findings",
    "load_proof",
    "proposed_cases",
    "read_proof",
]

PROOF_VERSION = 2
_REMEDY = "`buildvm catalog verify {} --write` makes it anew"


class Proof(Value):
    """What machines showed on one entry, and what they were seen to do."""

    findings: tuple[Finding, ...] = Field(min_length=1)
    outcomes: tuple[Outcome, ...] = ()
    """The evidence of the findings; none: it was made by a version that left them out."""
    excerpts: dict[str, str] = Field(default={})
    """Ends of logs, by the id of the outcome."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of the evidence that is not in it."""
        there = {one.id for one in self.outcomes}
        named = dict.fromkeys(key for one in self.findings for key in one.evidence)
        return tuple(key for key in named if key not in there)


def curated_findings(root: Path | None = None) -> tuple[Finding, ...]:
    """Return what was shown on the verified entries of the curated catalog.

    Parameters
    ----------
    root : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.

    Returns
    -------
    tuple of Finding
        In the order of the entries' ids. Proposed and withdrawn entries give none.

    Raises
    ------
    UsageError
        If a case file is invalid.
    CatalogError
        If a proof is missing or invalid, or is on another build than its case.
    """
    found: list[Finding] = []
    for name, path in curated_cases(root).items():
        case = load_case(path)
        if case.entry is None or case.entry.status != "verified":
            continue
        proof = read_proof(proof_path(path))
        digest = case.build_digest()
        for finding in proof:
            if (finding.case.id, finding.case.build_digest()) != (name, digest):
                raise CatalogError(
                    f"the proof of {name} is on another build: {finding.case.id} with digest "
                    f"{finding.case.build_digest()}; the case's is {digest}",
                    hint=_REMEDY.format(name),
                )
        # what the case tells, and no build depends on, may be newer than its proof
        found += [finding.model_copy(update={"case": case}) for finding in proof]
    return tuple(found)


def proposed_cases(root: Path | None = None) -> tuple[Case, ...]:
    """Return the cases of the curated catalog that nobody has proved.

    Parameters
    ----------
    root : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.

    Returns
    -------
    tuple of Case
        In the order of their ids.

    Raises
    ------
    UsageError
        If a case file is invalid.
    """
    cases = map(load_case, curated_cases(root).values())
    return tuple(one for one in cases if one.entry and one.entry.status == "proposed")


def read_proof(path: Path) -> tuple[Finding, ...]:
    """Read the findings of a proof.

    Parameters
    ----------
    path : Path
        ``…/proofs/ID.json``.

    Returns
    -------
    tuple of Finding
        At least one.

    Raises
    ------
    CatalogError
        If it cannot be read, or is no proof.
    """
    return load_proof(path).findings


def load_proof(path: Path) -> Proof:
    """Read a proof.

    Parameters
    ----------
    path : Path
        ``…/proofs/ID.json``.

    Returns
    -------
    Proof
        With at least one finding.

    Raises
    ------
    CatalogError
        If it cannot be read, or is no proof.
    """
    remedy = _REMEDY.format(path.stem)
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise CatalogError(f"no such proof: {path}", hint=remedy) from error
    except OSError as error:
        raise CatalogError(f"cannot read the proof: {path}: {error.strerror}") from error
    try:
        return _proof(from_json(text))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        what = f"{where}: {detail['msg']}" if where else detail["msg"]
        raise CatalogError(f"not a proof: {path}: {what}", hint=remedy) from error
    except SchemaVersionError as error:
        raise SchemaVersionError(f"{path}: {error.message}", hint=error.hint) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CatalogError(f"not a proof: {path}: {error}", hint=remedy) from error


def _proof(plain: Any) -> Proof:  # noqa: ANN401 - any JSON
    if isinstance(plain, list):
        plain = {"proof": 1, "findings": plain}
    if not isinstance(plain, dict) or not isinstance(plain.get("findings"), list):
        message = "no list of findings in it"
        raise TypeError(message)
    if plain.get("proof", 0) > PROOF_VERSION:
        raise SchemaVersionError(
            f"a proof of version {plain['proof']}; this buildvm-nb reads up to {PROOF_VERSION}",
            hint="upgrade buildvm-nb",
        )
    if not plain["findings"]:
        message = "no finding in it"
        raise ValueError(message)
    findings = [read_plain(Finding, one) for one in plain["findings"]]
    case = plain["findings"][0]["case"]
    outcomes = [read_plain(Outcome, {"case": case, **one}) for one in plain.get("outcomes", ())]
    return Proof(findings=findings, outcomes=outcomes, excerpts=plain.get("excerpts", {}))
