"""Proofs out: findings as text that stays the same for the same findings."""

import json
from collections.abc import Iterable
from pathlib import Path

from buildvm_nb.catalog.csvfile import replacing
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.finding import Finding

__all__ = ["dump_proof", "write_proof"]


def dump_proof(findings: Iterable[Finding]) -> str:
    """Write findings as the text of a proof.

    Parameters
    ----------
    findings : iterable of Finding
        On one case, current ones.

    Returns
    -------
    str
        JSON, the same for the same findings whatever their order.
    """
    ordered = sorted(findings, key=lambda one: (one.axis or "", one.id))
    plain = [finding.model_dump(mode="json") for finding in ordered]
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_proof(path: Path, findings: Iterable[Finding]) -> None:
    """Write a proof; what is there is replaced as a whole.

    Parameters
    ----------
    path : Path
        ``…/proofs/ID.json``; its directory is made.
    findings : iterable of Finding
        On one case, current ones.

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
        stream.write(dump_proof(findings))
