"""Named virtual build machines that stay: started, watched, stopped, run by service managers."""

from buildvm_nb.service.control import Phase as Phase
from buildvm_nb.service.control import Status as Status
from buildvm_nb.service.control import machine_status as machine_status
from buildvm_nb.service.control import restart_machine as restart_machine
from buildvm_nb.service.control import shepherd_service as shepherd_service
from buildvm_nb.service.control import start_machine as start_machine
from buildvm_nb.service.control import stop_machine as stop_machine
from buildvm_nb.service.control import systemd_unit as systemd_unit
from buildvm_nb.service.places import Places as Places
from buildvm_nb.service.places import find_machine as find_machine
from buildvm_nb.service.places import known_machines as known_machines
from buildvm_nb.service.supervisor import secrets_endpoint as secrets_endpoint
from buildvm_nb.service.supervisor import supervise as supervise
