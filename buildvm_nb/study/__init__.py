"""Studies: cases run in machines, and what follows from their outcomes."""

from buildvm_nb.study.environment import (
    choose_faithful,
    dry_run,
    kvm_status,
    open_disk,
    open_machine,
)
from buildvm_nb.study.trial import Trial, machine_for, run_case

__all__ = [
    "Trial",
    "choose_faithful",
    "dry_run",
    "kvm_status",
    "machine_for",
    "open_disk",
    "open_machine",
    "run_case",
]
