"""Proofs: the findings that show what the curated cases claim."""

from pydantic import TypeAdapter, ValidationError

from buildvm_nb.catalog.curated import curated_cases
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.finding import Finding

__all__ = ["curated_findings"]


def curated_findings() -> tuple[Finding, ...]:
    """Return the findings that prove the curated cases' claims.

    Returns
    -------
    tuple of Finding
        Of ``proofs/ID.json`` beside the case files, in the order of the ids.

    Raises
    ------
    CatalogError
        If a file cannot be read.
    """
    several = TypeAdapter(tuple[Finding, ...])
    found: list[Finding] = []
    for key, case in curated_cases().items():
        path = case.parents[1] / "proofs" / f"{key}.json"
        if path.exists():
            try:
                found += several.validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise CatalogError(f"no list of findings: {path}: {error}") from error
    return tuple(found)
