"""Studies: cases run in machines, and what follows from their outcomes."""

from buildvm_nb.study.run import (
    Trial,
    choose_faithful,
    dry_run,
    kvm_status,
    machine_for,
    open_disk,
    open_machine,
    run_case,
)

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
