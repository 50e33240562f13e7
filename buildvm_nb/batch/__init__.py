"""Batches: a table of parameter sets, each run through a notebook that is kept as evidence."""

from buildvm_nb.batch.run import (
    SUMMARY,
    BatchParameters,
    BatchResult,
    HandOver,
    PlanRow,
    RowResult,
    check_parameters,
    read_plan,
    run_batch,
    run_parameters,
)

__all__ = [
    "SUMMARY",
    "BatchParameters",
    "BatchResult",
    "HandOver",
    "PlanRow",
    "RowResult",
    "check_parameters",
    "read_plan",
    "run_batch",
    "run_parameters",
]
