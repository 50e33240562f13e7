"""Proofs: what machines showed on the verified entries of the curated catalog."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from buildvm_nb.catalog.casefile import load_case
from buildvm_nb.catalog.curated import curated_cases, proof_path
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.finding import Finding

__all__ = ["curated_findings", "read_proof"]

_FINDINGS = TypeAdapter(tuple[Finding, ...])
_REMEDY = "`buildvm catalog verify {} --write` makes it anew"


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


def read_proof(path: Path) -> tuple[Finding, ...]:
    """Read a proof.

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
        If it cannot be read, or is no list of findings.
    """
    remedy = _REMEDY.format(path.stem)
    try:
        findings = _FINDINGS.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CatalogError(f"no such proof: {path}", hint=remedy) from error
    except OSError as error:
        raise CatalogError(f"cannot read the proof: {path}: {error.strerror}") from error
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        what = f"{where}: {detail['msg']}" if where else detail["msg"]
        raise CatalogError(f"not a proof: {path}: {what}", hint=remedy) from error
    if not findings:
        raise CatalogError(f"not a proof: {path}: no finding in it", hint=remedy)
    return findings
