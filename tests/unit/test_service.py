"""Machines that stay: their files, records, processes, ports, keys and units, without guests."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from buildvm_nb.errors import BootTimeout, HostError, LaunchError, StateError, UsageError
from buildvm_nb.guix.machinefile import MachineFile, parse_machine_file
from buildvm_nb.guix.sexp import read_forms
from buildvm_nb.model.instants import now
from buildvm_nb.service import (
    Phase,
    Places,
    find_machine,
    known_machines,
    machine_status,
    restart_machine,
    shepherd_service,
    start_machine,
    stop_machine,
    systemd_unit,
)
from buildvm_nb.service.control import Record, claimed, write_record
from buildvm_nb.service.places import (
    Notifier,
    birth,
    check_ports,
    end_process,
    machine_keys,
    ssh_argv,
    wait_for_banner,
)

MACHINE = MachineFile(name="vm")
ROOT = Path(__file__).parents[2]
RUN = f"""
import os, select, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from buildvm_nb.guix.machinefile import MachineFile
from buildvm_nb.model.instants import now
from buildvm_nb.service.places import Notifier
from buildvm_nb.service.places import StatePlace
from buildvm_nb.service.places import birth
from buildvm_nb.service.control import Phase, Record, claimed, write_record

place = StatePlace(root=Path(sys.argv[1]))
notifier = Notifier()
with claimed(place, "vm"):
    write_record(place, Record(machine=MachineFile(name="vm"), file="vm.toml", pid=os.getpid(),
                               born=birth(os.getpid()), phase=Phase.READY, since=now()))
    notifier.tell(STATUS="nearly there")
    notifier.tell(READY="1")
    select.select([], [], [])
"""
"""As `buildvm machine run` does, but without a guest."""


@pytest.fixture
def places(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    return Places(files=files, states=tmp_path / "states")


@pytest.fixture
def argv(places):
    """A command that runs a machine without a guest; what still runs at the end is ended."""
    yield [sys.executable, "-c", RUN, str(places.state("vm").root)]
    stop_machine("vm", places=places)


def test_the_directories_of_machines_can_be_chosen(monkeypatch):
    monkeypatch.setenv("BUILDVM_CONFIG", "/config")
    monkeypatch.setenv("BUILDVM_STATE", "/state")
    places = Places.of_user()
    assert places.files == Path("/config/machines")
    assert places.state("vm").root == Path("/state/machines/vm")


def test_a_machine_is_found_by_its_name_or_its_file(places, tmp_path):
    (places.files / "vm.toml").write_text("cpu_count = 2\n")
    (tmp_path / "other.toml").write_text('name = "mine"\n')
    assert find_machine(places, "vm")[1].cpu_count == 2
    assert find_machine(places, str(tmp_path / "other.toml"))[1].name == "mine"


def test_a_machine_that_is_not_there_is_told_with_those_that_are(places):
    (places.files / "vm.toml").touch()
    (places.files / "old.toml").write_text('name = "new"\n')
    with pytest.raises(UsageError, match=r"no machine 'wm' .*; there is old, vm") as caught:
        find_machine(places, "wm")
    assert "machine new wm" in caught.value.hint
    with pytest.raises(UsageError, match="no machine '"):
        find_machine(places, "../vm")
    with pytest.raises(UsageError, match="no such machine file"):
        find_machine(places, "none.toml")
    with pytest.raises(UsageError, match="is named 'new'"):
        find_machine(places, "old")


def a_record(pid, born, phase=Phase.READY):
    return Record(
        machine=MACHINE, file="f", pid=pid, born=born, phase=phase, since=now(), qemu_pid=1
    )


def test_a_machine_is_alive_while_somebody_holds_its_lock(places):
    place = places.state("vm")
    assert machine_status(place, "vm").phase is Phase.STOPPED
    with claimed(place, "vm"):
        assert machine_status(place, "vm").phase is Phase.STARTING
        write_record(place, a_record(os.getpid(), 1))  # left by another, which has crashed
        assert machine_status(place, "vm").phase is Phase.STARTING
        write_record(place, a_record(os.getpid(), birth(os.getpid())))
        status = machine_status(place, "vm")
        assert (status.phase, status.is_alive, status.ssh_port) == (Phase.READY, True, 11022)
    assert known_machines(places) == ["vm"]


def test_a_record_that_nobody_holds_a_lock_for_is_stale(places):
    place = places.state("vm")
    place.make()
    write_record(place, a_record(os.getpid(), 1))
    status = machine_status(place, "vm")
    assert (status.phase, status.is_alive) == (Phase.FAILED, False)
    assert status.record.failure == f"the process that ran it, {os.getpid()}, was killed"
    assert not stop_machine("vm", places=places)
    assert machine_status(place, "vm").phase is Phase.STOPPED


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}'])
def test_a_damaged_record_is_no_record(places, content):
    place = places.state("vm")
    place.make()
    place.record.write_text(content)
    assert machine_status(place, "vm").phase is Phase.STOPPED
    with claimed(place, "vm"):
        assert machine_status(place, "vm").phase is Phase.STARTING
        with pytest.raises(StateError, match="just being started"):
            stop_machine("vm", places=places)


def test_a_machine_is_run_by_one_process(places):
    place = places.state("vm")
    with claimed(place, "vm"):
        write_record(place, a_record(4711, 1))
        with pytest.raises(StateError, match="run already by process 4711"), claimed(place, "vm"):
            pass


def test_a_state_that_cannot_be_kept_is_told(tmp_path):
    (tmp_path / "states").touch()
    places = Places(files=tmp_path, states=tmp_path / "states")
    with pytest.raises(HostError, match="state cannot be kept"), claimed(places.state("a"), "a"):
        pass


def test_a_process_is_known_by_its_number_and_its_birth():
    with subprocess.Popen(["sleep", "100"]) as process:
        born = birth(process.pid)
        assert end_process(process.pid, born + 1, timeout_s=600)
        assert process.poll() is None
        assert end_process(process.pid, born, timeout_s=600)
        assert process.wait() == -signal.SIGTERM
    assert birth(process.pid) is None
    assert end_process(process.pid, born, timeout_s=600)


def test_a_process_that_does_not_end_is_killed():
    with subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert not end_process(process.pid, birth(process.pid), timeout_s=0.2)
        assert process.wait() == -signal.SIGKILL


def test_readiness_is_told_as_systemd_listens_for_it(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        assert "NOTIFY_SOCKET" not in os.environ
        notifier.tell(READY="1", STATUS="up")
        assert manager.recv(100) == b"READY=1\nSTATUS=up"
    notifier.tell(READY="1")  # nobody listens any more
    Notifier().tell(READY="1")


def test_readiness_is_told_to_an_abstract_socket_too(monkeypatch):
    name = f"buildvm-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        Notifier().tell(READY="1")
        assert manager.recv(100) == b"READY=1"


def test_a_machine_is_started_once_stopped_and_started_again(places, argv):
    status = start_machine("vm", argv, places=places)
    assert status.phase is Phase.READY
    assert start_machine("vm", argv, places=places).record == status.record
    again = restart_machine("vm", argv, places=places)
    assert again.record.pid != status.record.pid
    assert stop_machine("vm", places=places)
    assert not stop_machine("vm", places=places)
    assert not places.state("vm").record.exists()


def test_a_machine_whose_process_was_killed_is_failed_until_it_is_started_again(places, argv):
    status = start_machine("vm", argv, places=places)
    process = os.pidfd_open(status.record.pid)
    os.kill(status.record.pid, signal.SIGKILL)
    os.close(process)
    while machine_status(places.state("vm"), "vm").is_alive:
        threading.Event().wait(0.01)
    assert machine_status(places.state("vm"), "vm").phase is Phase.FAILED
    assert start_machine("vm", argv, places=places).phase is Phase.READY


def test_of_two_starts_at_once_one_makes_the_machine(places, argv):
    def start():
        try:
            return start_machine("vm", argv, places=places).record.pid
        except LaunchError as error:
            return error.evidence

    with ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(start), pool.submit(start)]]
    pids = {result for result in results if isinstance(result, int)}
    assert len(pids) == 1
    assert machine_status(places.state("vm"), "vm").record.pid in pids
    for result in results:
        assert result in pids or "run already" in result


def test_whoever_starts_a_machine_that_is_being_started_waits_until_it_is_ready(places):
    place = places.state("vm")
    seen = []
    second = threading.Thread(
        target=lambda: seen.append(start_machine("vm", ["/bin/false"], places=places).phase)
    )
    with claimed(place, "vm") as claim:
        write_record(place, a_record(os.getpid(), birth(os.getpid()), phase=Phase.STARTING))
        second.start()
        while not is_waited_for(place.starting):
            threading.Event().wait(0.01)
        assert not seen
        write_record(place, a_record(os.getpid(), birth(os.getpid())))
        claim.tell_ready()
        second.join(600)
        assert seen == [Phase.READY]


def is_waited_for(path):
    """Tell whether somebody waits for a lock on a file, by the kernel's list."""
    inode = str(path.stat().st_ino)
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(line[1] == "->" and line[6].endswith(f":{inode}") for line in lines)


def test_a_machine_whose_start_by_another_fails_is_started_anew(places, argv):
    place = places.state("vm")
    started = []
    second = threading.Thread(
        target=lambda: started.append(start_machine("vm", argv, places=places).phase)
    )
    with claimed(place, "vm"):
        second.start()
        while not is_waited_for(place.starting):
            threading.Event().wait(0.01)
    second.join(600)
    assert started == [Phase.READY]
    assert stop_machine("vm", places=places)


def test_a_machine_that_does_not_start_is_told_with_what_its_process_said(places):
    argv = ["sh", "-c", "echo port 22 is taken >&2; exit 7"]
    with pytest.raises(LaunchError, match="vm did not start: its process ended with 7") as caught:
        start_machine("vm", argv, places=places)
    assert caught.value.evidence == "port 22 is taken\n"
    with pytest.raises(LaunchError) as caught:
        start_machine("vm", ["sh", "-c", "echo again; exit 1"], places=places)
    assert caught.value.evidence == "again\n"


def test_a_start_that_is_interrupted_leaves_no_process(places, tmp_path):
    argv = ["sh", "-c", f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 99"]
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from buildvm_nb.service import Places, start_machine
start_machine("vm", {argv!r}, places=Places(files=Path("/"), states=Path({str(places.states)!r})))
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as starter:
        while not (tmp_path / "pid").exists():
            threading.Event().wait(0.01)
        starter.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in starter.communicate(timeout=600)[1]
    left = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20  # whose parent has ended is reaped by init
    while birth(left) is not None and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert birth(left) is None


def forwarding(port):
    return parse_machine_file(f"port_forwardings = [{{host = {port}, guest = 22}}]", "f", name="vm")


def test_a_port_in_use_is_found_before_anything_is_started(free_port):
    check_ports(forwarding(free_port))
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()
        with pytest.raises(HostError, match=f"port {free_port} .*already in use") as caught:
            check_ports(forwarding(free_port))
    assert "port_forwardings" in caught.value.hint


@contextmanager
def answering(*answers):
    """A server that answers each connection in its own way, as a forwarded port does."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def serve():
            for answer in answers:
                client, _ = listener.accept()
                with client, suppress(OSError):  # a client that has seen enough hangs up
                    for byte in answer:
                        client.sendall(bytes([byte]))

        served = pool.submit(serve)
        yield listener.getsockname()[1]
        served.result()


def test_only_a_banner_is_readiness_not_a_connection():
    with answering(b"", b"", b"SSH-2.0-dropbear_2022.83\r\nmore") as port:
        assert wait_for_banner(port, 30) == "SSH-2.0-dropbear_2022.83"


@pytest.mark.parametrize(
    ("answers", "seen"),
    [((b"",), "connection was closed"), ((b"220 mail\r\n",), "220 mail"), ((b"x" * 200,), "xxx")],
)
def test_what_is_no_ssh_server_is_told_when_time_is_over(answers, seen):
    with answering(*answers) as port, pytest.raises(BootTimeout, match=seen):
        wait_for_banner(port, 0.15)


def test_nobody_behind_a_port_is_told_when_time_is_over(free_port):
    with pytest.raises(BootTimeout, match=f"no SSH server answered at 127.0.0.1:{free_port}"):
        wait_for_banner(free_port, 0.1)


def test_the_keys_of_a_machine_stay_and_are_for_its_owner(places):
    place = places.state("vm")
    place.make()
    keys = machine_keys(place, "vm")
    assert machine_keys(place, "vm").to_text() == keys.to_text()
    for name in ("keys", "identity", "known_hosts"):
        assert (place.root / name).stat().st_mode & 0o777 == 0o600
    (place.root / "keys").write_text("damaged")
    with pytest.raises(HostError, match="keys are damaged"):
        machine_keys(place, "vm")


def test_ssh_reads_the_files_of_a_machine(places):
    place = places.state("vm")
    place.make()
    machine_keys(place, "vm")
    ssh = shutil.which("ssh-keygen")
    if ssh is None:
        pytest.skip("this host has no ssh-keygen")
    found = subprocess.run(
        [ssh, "-F", "vm", "-f", place.root / "known_hosts"], capture_output=True, check=True
    )
    assert b"ssh-ed25519" in found.stdout
    subprocess.run([ssh, "-y", "-f", place.root / "identity"], capture_output=True, check=True)
    argv = ssh_argv(place, "vm", 11022)
    assert argv[argv.index("-p") + 1] == "11022"
    assert "StrictHostKeyChecking=yes" in argv
    # an old ssh passes over the option of newer ones, and a newer one does not warn of its own host
    given = subprocess.run([argv[0], "-G", "-T", *argv[1:]], capture_output=True, check=True)
    assert not given.stderr, given
    assert argv.index("IgnoreUnknown=WarnWeakCrypto") < argv.index("WarnWeakCrypto=no")


WORDS = ["/usr/bin/env", "-", "/path with/100% $HOME", 'a"b\\c']


@pytest.mark.parametrize("is_system", [True, False])
def test_a_unit_is_one_that_systemd_accepts(is_system, tmp_path):
    machine = MACHINE.model_copy(update={"auto_start": True})
    text = systemd_unit(machine, WORDS, {"BUILDVM_STATE": "/s p"}, is_system=is_system)
    assert 'ExecStart="/usr/bin/env" "-" "/path with/100%% $$HOME" "a\\"b\\\\c"' in text
    assert 'Environment="BUILDVM_STATE=/s p"' in text
    assert ("WantedBy=multi-user.target" in text) is is_system
    assert ("DynamicUser=yes" in text) is is_system
    assert "SupplementaryGroups" not in text  # a group that is not there is an error
    with_kvm = systemd_unit(machine, WORDS, {}, is_system=is_system, group="kvm")
    assert ("\nSupplementaryGroups=kvm\n" in with_kvm) is is_system
    assert "\n[Install]" not in systemd_unit(MACHINE, WORDS, {}, is_system=is_system)
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("this host has no systemd-analyze")
    unit = tmp_path / "buildvm-vm.service"
    unit.write_text(text)
    scope = "--system" if is_system else "--user"
    result = subprocess.run(
        [analyze, "verify", scope, unit], capture_output=True, text=True, check=False
    )
    complaints = [line for line in result.stderr.splitlines() if "buildvm-vm" in line]
    assert not complaints


@pytest.mark.parametrize("auto_start", [True, False])
def test_a_service_for_the_shepherd_is_scheme_that_starts_the_machine_if_asked(auto_start):
    machine = MachineFile(name="vm", auto_start=auto_start)
    text = shepherd_service(machine, WORDS, {"A": "b c"}, log="/l")
    forms = read_forms(text)
    assert len(forms) == 1 + auto_start
    assert re.search(r"\(start-in-the-background '\(vm\)\)", text) or not auto_start
    assert '"a\\"b\\\\c"' in text
    assert '(list "A=b c")' in text
