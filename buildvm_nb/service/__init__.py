"""Named virtual build machines that stay: started, watched, stopped, run by service managers."""

from buildvm_nb.service.control import restart_machine, start_machine, stop_machine
from buildvm_nb.service.diskrun import secrets_endpoint
from buildvm_nb.service.places import Places, find_machine, known_machines
from buildvm_nb.service.record import Phase, Status, machine_status
from buildvm_nb.service.supervisor import supervise
from buildvm_nb.service.units import shepherd_service, systemd_unit

__all__ = [
    "Phase",
    "Places",
    "Status",
    "find_machine",
    "known_machines",
    "machine_status",
    "restart_machine",
    "secrets_endpoint",
    "shepherd_service",
    "start_machine",
    "stop_machine",
    "supervise",
    "systemd_unit",
]
