"""Batches: a table of parameter sets, each run through a notebook that is kept as evidence."""

from buildvm_nb.batch.handover import HandOver, run_parameters
from buildvm_nb.batch.parameters import BatchParameters, check_parameters
from buildvm_nb.batch.plan import PlanRow, read_plan
from buildvm_nb.batch.results import SUMMARY, BatchResult, RowResult
from buildvm_nb.batch.running import run_batch

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
