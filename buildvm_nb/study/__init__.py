"""Studies: cases run in machines, and what follows from their outcomes.

Nothing is imported before it is used: a help page takes no more than the table of options.
"""

from typing import TYPE_CHECKING

from buildvm_nb.lazy import passed_on

if TYPE_CHECKING:
    from buildvm_nb.study.laboratory import build_case as build_case
    from buildvm_nb.study.run import Trial as Trial
    from buildvm_nb.study.run import choose_faithful as choose_faithful
    from buildvm_nb.study.run import dry_run as dry_run
    from buildvm_nb.study.run import kvm_status as kvm_status
    from buildvm_nb.study.run import machine_for as machine_for
    from buildvm_nb.study.run import open_disk as open_disk
    from buildvm_nb.study.run import open_machine as open_machine
    from buildvm_nb.study.run import run_case as run_case
else:
    __getattr__, __dir__ = passed_on(__name__, __file__)
