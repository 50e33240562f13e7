"""The catalog: case files, outcomes and findings in a database, tables for pandas.

Names are imported when they are first used, so that reading a case file does not import pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildvm_nb.catalog.casefile import load_case, parse_case
    from buildvm_nb.catalog.caseschema import case_schema
    from buildvm_nb.catalog.casewriter import dump_case, new_case
    from buildvm_nb.catalog.csvfile import read_csv, write_csv
    from buildvm_nb.catalog.curated import curated_cases, find_case_file
    from buildvm_nb.catalog.frames import empty_frame
    from buildvm_nb.catalog.jsonlines import read_jsonl, write_jsonl
    from buildvm_nb.catalog.schema import FINDINGS, OUTCOMES, SCHEMA_VERSION, data_dictionary
    from buildvm_nb.catalog.store import Catalog

__all__ = [
    "FINDINGS",
    "OUTCOMES",
    "SCHEMA_VERSION",
    "Catalog",
    "case_schema",
    "curated_cases",
    "data_dictionary",
    "dump_case",
    "empty_frame",
    "find_case_file",
    "load_case",
    "new_case",
    "parse_case",
    "read_csv",
    "read_jsonl",
    "write_csv",
    "write_jsonl",
]

_HOMES = {
    "FINDINGS": "schema",
    "OUTCOMES": "schema",
    "SCHEMA_VERSION": "schema",
    "Catalog": "store",
    "case_schema": "caseschema",
    "curated_cases": "curated",
    "data_dictionary": "schema",
    "dump_case": "casewriter",
    "empty_frame": "frames",
    "find_case_file": "curated",
    "load_case": "casefile",
    "new_case": "casewriter",
    "parse_case": "casefile",
    "read_csv": "csvfile",
    "read_jsonl": "jsonlines",
    "write_csv": "csvfile",
    "write_jsonl": "jsonlines",
}


if not TYPE_CHECKING:  # else a type checker would take any name for an attribute

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
