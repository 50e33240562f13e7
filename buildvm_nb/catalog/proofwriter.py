"""Proofs out: findings as text that stays the same for the same findings."""

import json
from collections.abc import Iterable, MutableMapping
from pathlib import Path

import tomlkit

from buildvm_nb.catalog.replacing import replacing
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.finding import Finding

__all__ = ["dump_proof", "mark_verified", "write_proof"]


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
