"""Named virtual build machines that stay: started, watched, stopped, run by service managers."""

from buildvm_nb.service.control import (
    Phase,
    Status,
    machine_status,
    restart_machine,
    shepherd_service,
    start_machine,
    stop_machine,
    systemd_unit,
)
from buildvm_nb.service.places import Places, find_machine, known_machines
from buildvm_nb.service.supervisor import secrets_endpoint, supervise

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
