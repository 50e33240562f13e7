"""The catalog: case files, outcomes and findings in a database, tables for pandas.

Reading a case file does not import pandas: names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from buildvm_nb.lazy import passed_on

if TYPE_CHECKING:
    from buildvm_nb.catalog.casefile import case_schema as case_schema
    from buildvm_nb.catalog.casefile import dump_case as dump_case
    from buildvm_nb.catalog.casefile import load_case as load_case
    from buildvm_nb.catalog.casefile import new_case as new_case
    from buildvm_nb.catalog.casefile import parse_case as parse_case
    from buildvm_nb.catalog.curated import curated_cases as curated_cases
    from buildvm_nb.catalog.curated import curated_findings as curated_findings
    from buildvm_nb.catalog.curated import curated_root as curated_root
    from buildvm_nb.catalog.curated import dump_proof as dump_proof
    from buildvm_nb.catalog.curated import find_case as find_case
    from buildvm_nb.catalog.curated import find_case_file as find_case_file
    from buildvm_nb.catalog.curated import gather_proof as gather_proof
    from buildvm_nb.catalog.curated import mark_verified as mark_verified
    from buildvm_nb.catalog.curated import proof_path as proof_path
    from buildvm_nb.catalog.curated import read_proof as read_proof
    from buildvm_nb.catalog.curated import write_proof as write_proof
    from buildvm_nb.catalog.frames import empty_frame as empty_frame
    from buildvm_nb.catalog.frames import outcome_frame as outcome_frame
    from buildvm_nb.catalog.lint import LintTrouble as LintTrouble
    from buildvm_nb.catalog.lint import lint_catalog as lint_catalog
    from buildvm_nb.catalog.lint import lint_files as lint_files
    from buildvm_nb.catalog.lint import lint_notes as lint_notes
    from buildvm_nb.catalog.reported import REPORTED as REPORTED
    from buildvm_nb.catalog.reported import reported_entries as reported_entries
    from buildvm_nb.catalog.schema import FAILURES as FAILURES
    from buildvm_nb.catalog.schema import FINDINGS as FINDINGS
    from buildvm_nb.catalog.schema import HINTS as HINTS
    from buildvm_nb.catalog.schema import OUTCOMES as OUTCOMES
    from buildvm_nb.catalog.schema import SCHEMA_VERSION as SCHEMA_VERSION
    from buildvm_nb.catalog.schema import data_dictionary as data_dictionary
    from buildvm_nb.catalog.shelves import derive as derive
    from buildvm_nb.catalog.shelves import derived_files as derived_files
    from buildvm_nb.catalog.shelves import stale_files as stale_files
    from buildvm_nb.catalog.store import Catalog as Catalog
    from buildvm_nb.catalog.tablefiles import read_csv as read_csv
    from buildvm_nb.catalog.tablefiles import read_failures as read_failures
    from buildvm_nb.catalog.tablefiles import read_jsonl as read_jsonl
    from buildvm_nb.catalog.tablefiles import read_table as read_table
    from buildvm_nb.catalog.tablefiles import write_csv as write_csv
    from buildvm_nb.catalog.tablefiles import write_jsonl as write_jsonl
    from buildvm_nb.catalog.tablefiles import write_table as write_table
else:  # else a type checker would take any name for an attribute
    __getattr__, __dir__ = passed_on(__name__, __file__)
