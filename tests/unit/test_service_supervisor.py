"""Machine files with a disk, and what a disk is given by the secret service."""

import re

import pytest

from buildvm_nb.errors import GuestLost, UsageError
from buildvm_nb.guix.endpoint import Endpoint
from buildvm_nb.guix.machinefile import (
    GUIX_FORWARDINGS,
    MachineFile,
    load_machine_file,
    parse_machine_file,
    write_machine_file,
)
from buildvm_nb.guix.secrets import ClientPatience, send_files
from buildvm_nb.service import Places, secrets_endpoint
from buildvm_nb.service.places import wait_for_banner
from buildvm_nb.service.supervisor import secrets_of

PORTS = "port_forwardings = [{host = 11022, guest = 22}, {host = 11004, guest = 1004}]\n"


@pytest.fixture
def place(tmp_path):
    place = Places(files=tmp_path, states=tmp_path / "states").state("vm")
    place.make()
    return place


def disk_with(tmp_path, **files):
    for name, content in files.items():
        path = tmp_path / "secrets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    given = {"secrets": str(tmp_path / "secrets")} if files else {}
    return MachineFile(name="vm", disk="/d", port_forwardings=GUIX_FORWARDINGS, **given)


@pytest.mark.parametrize("key", ["image", "kernel", "disk_mib", "offload", "signing_key"])
def test_what_says_nothing_for_a_disk_is_refused_with_its_line(key):
    with pytest.raises(UsageError, match=rf"f:2: {key}: not with disk") as caught:
        parse_machine_file(f'disk = "a.qcow2"\n{key} = "x"\n', "f", name="vm")
    assert "machine new NAME --disk" in caught.value.hint


def test_the_user_of_a_disk_is_refused_without_one():
    with pytest.raises(UsageError, match=r"f:1: ssh_user: only with disk"):
        parse_machine_file('ssh_user = "me"\n', "f", name="vm")


def test_secrets_of_a_disk_need_a_port_to_its_secret_service():
    with pytest.raises(UsageError, match=r"no port leads; add .*guest = 1004"):
        parse_machine_file('disk = "a"\nsecrets = "s"\n', "f", name="vm")


def test_paths_are_relative_to_the_file(tmp_path):
    path = tmp_path / "vm.toml"
    path.write_text(f'disk = "a.qcow2"\nsecrets = "/s"\n{PORTS}')
    machine = load_machine_file(path)
    assert (machine.disk, machine.secrets) == (str(tmp_path / "a.qcow2"), "/s")


def test_a_written_file_has_what_a_disk_knows_and_no_more():
    text = write_machine_file({"name": "vm", "disk": "/d", "port_forwardings": GUIX_FORWARDINGS})
    machine = parse_machine_file(text, "f", name="vm")
    assert (machine.disk, machine.ssh_user) == ("/d", "offloading")
    assert not re.search(r"^(image|kernel|disk_mib|offload|signing_key) =", text, re.MULTILINE)
    assert "ssh_user" not in write_machine_file({"name": "vm"})


def test_a_machine_with_a_disk_survives_being_recorded():
    machine = MachineFile(name="vm", disk="/d")
    assert MachineFile.model_validate_json(machine.model_dump_json()) == machine


def test_only_a_disk_to_which_a_port_leads_is_sent_secrets():
    machine = MachineFile(name="vm", disk="/d", port_forwardings=GUIX_FORWARDINGS)
    assert str(secrets_endpoint(machine)) == "tcp:127.0.0.1:11004"
    assert secrets_endpoint(MachineFile(name="vm", disk="/d")) is None
    assert secrets_endpoint(machine.model_copy(update={"disk": ""})) is None


def test_a_disk_is_given_ssh_keys_that_its_own_files_lack(tmp_path, place):
    sent = dict(secrets_of(disk_with(tmp_path, **{"etc/guix/acl": b"(acl)"}), place))
    modes = {file.name: oct(file.mode) for file in sent}
    assert list(modes) == [
        "/etc/guix/acl",
        "/etc/ssh/authorized_keys.d/offloading",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
    ]
    assert modes["/etc/ssh/ssh_host_ed25519_key"] == "0o100600"
    public = next(data for file, data in sent.items() if file.name.endswith(".pub"))
    assert (place.root / "known_hosts").read_bytes() == b"vm " + public
    assert all(file.size == len(data) for file, data in sent.items())


def test_a_host_key_of_the_users_own_is_kept_and_expected(tmp_path, place):
    files = {
        "etc/ssh/ssh_host_rsa_key": b"private",
        "etc/ssh/ssh_host_rsa_key.pub": b"ssh-rsa AAAA root@vm",
        "etc/ssh/authorized_keys.d/offloading": b"ssh-ed25519 BBBB me",
    }
    sent = {file.name: data for file, data in secrets_of(disk_with(tmp_path, **files), place)}
    assert "/etc/ssh/ssh_host_ed25519_key" not in sent
    assert (place.root / "known_hosts").read_text() == "vm ssh-rsa AAAA root@vm\n"
    first, second = sent["/etc/ssh/authorized_keys.d/offloading"].splitlines()
    assert first == b"ssh-ed25519 BBBB me"
    assert second.startswith(b"ssh-ed25519 AAAA")


def gone():
    raise GuestLost("it is gone")


def test_who_waits_for_a_machine_notices_that_it_is_gone(free_port):
    endpoint = Endpoint.parse(f"tcp:127.0.0.1:{free_port}")
    with pytest.raises(GuestLost, match="it is gone"):
        send_files([], endpoint, ClientPatience(pause_s=0.01), check=gone)
    with pytest.raises(GuestLost, match="it is gone"):
        wait_for_banner(free_port, 600, check=gone)
