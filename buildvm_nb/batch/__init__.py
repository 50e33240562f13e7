"""Batches: a table of parameter sets, each run through a notebook that is kept as evidence."""

from buildvm_nb.batch.run import SUMMARY as SUMMARY
from buildvm_nb.batch.run import BatchParameters as BatchParameters
from buildvm_nb.batch.run import BatchResult as BatchResult
from buildvm_nb.batch.run import HandOver as HandOver
from buildvm_nb.batch.run import PlanRow as PlanRow
from buildvm_nb.batch.run import RowResult as RowResult
from buildvm_nb.batch.run import check_parameters as check_parameters
from buildvm_nb.batch.run import read_plan as read_plan
from buildvm_nb.batch.run import run_batch as run_batch
from buildvm_nb.batch.run import run_parameters as run_parameters
