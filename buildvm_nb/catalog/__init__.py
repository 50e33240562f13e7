"""The catalog: case files, outcomes and findings in a database, tables for pandas.

Names are imported when they are first used, so that reading a case file does not import pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildvm_nb.catalog.casefile import case_schema, dump_case, load_case, new_case, parse_case
    from buildvm_nb.catalog.curated import (
        curated_cases,
        curated_findings,
        curated_root,
        dump_proof,
        find_case,
        find_case_file,
        gather_proof,
        mark_verified,
        proof_path,
        read_proof,
        write_proof,
    )
    from buildvm_nb.catalog.frames import empty_frame, outcome_frame
    from buildvm_nb.catalog.lint import LintTrouble, lint_catalog, lint_files, lint_notes
    from buildvm_nb.catalog.reported import REPORTED, reported_entries
    from buildvm_nb.catalog.schema import (
        FAILURES,
        FINDINGS,
        HINTS,
        OUTCOMES,
        SCHEMA_VERSION,
        data_dictionary,
    )
    from buildvm_nb.catalog.shelves import derive, derived_files, stale_files
    from buildvm_nb.catalog.store import Catalog
    from buildvm_nb.catalog.tablefiles import (
        read_csv,
        read_failures,
        read_jsonl,
        read_table,
        write_csv,
        write_jsonl,
        write_table,
    )

__all__ = [
    "FAILURES",
    "FINDINGS",
    "HINTS",
    "OUTCOMES",
    "REPORTED",
    "SCHEMA_VERSION",
    "Catalog",
    "LintTrouble",
    "case_schema",
    "curated_cases",
    "curated_findings",
    "curated_root",
    "data_dictionary",
    "derive",
    "derived_files",
    "dump_case",
    "dump_proof",
    "gather_proof",
    "empty_frame",
    "find_case",
    "find_case_file",
    "lint_catalog",
    "lint_files",
    "lint_notes",
    "load_case",
    "mark_verified",
    "new_case",
    "outcome_frame",
    "parse_case",
    "proof_path",
    "read_csv",
    "read_failures",
    "read_jsonl",
    "read_proof",
    "read_table",
    "reported_entries",
    "stale_files",
    "write_csv",
    "write_jsonl",
    "write_proof",
    "write_table",
]

_HOMES = {
    "FAILURES": "schema",
    "FINDINGS": "schema",
    "HINTS": "schema",
    "OUTCOMES": "schema",
    "REPORTED": "reported",
    "SCHEMA_VERSION": "schema",
    "Catalog": "store",
    "LintTrouble": "lint",
    "case_schema": "casefile",
    "curated_cases": "curated",
    "curated_findings": "curated",
    "curated_root": "curated",
    "data_dictionary": "schema",
    "derive": "shelves",
    "derived_files": "shelves",
    "dump_case": "casefile",
    "dump_proof": "curated",
    "gather_proof": "curated",
    "empty_frame": "frames",
    "find_case": "curated",
    "find_case_file": "curated",
    "lint_catalog": "lint",
    "lint_files": "lint",
    "lint_notes": "lint",
    "load_case": "casefile",
    "mark_verified": "curated",
    "new_case": "casefile",
    "outcome_frame": "frames",
    "parse_case": "casefile",
    "proof_path": "curated",
    "read_csv": "tablefiles",
    "read_failures": "tablefiles",
    "read_jsonl": "tablefiles",
    "read_proof": "curated",
    "read_table": "tablefiles",
    "reported_entries": "reported",
    "stale_files": "shelves",
    "write_csv": "tablefiles",
    "write_jsonl": "tablefiles",
    "write_proof": "curated",
    "write_table": "tablefiles",
}


if not TYPE_CHECKING:  # else a type checker would take any name for an attribute

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
