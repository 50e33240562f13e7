"""A guest is what was asked for, to its own programs too."""

import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from buildvm_nb.errors import CpuError, HostError, UsageError
from buildvm_nb.host.process import find_tool
from buildvm_nb.image import fetch_kernel
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.vm import Provision, accelerator
from buildvm_nb.vm.qemu import QEMU

from .conftest import output_of

pytestmark = pytest.mark.vm

IMPOSTOR = """\
#!/bin/bash
# a QEMU whose {accel} gives guests the vendor of another host
args=()
for word in "$@"; do
    if [ "$last" = -cpu ] && [[ "$*" = *"-accel {accel}"* ]]; then word+=,vendor=AuthenticAMD; fi
    if [ "$last $word" = "-accel kvm" ]; then word=tcg; fi
    args+=("$word")
    last=$word
done
exec {qemu} "${{args[@]}}"
"""
NEAR = timedelta(seconds=1)
"""From the instant that was asked for to a command's start."""
RUN_S = 300
"""For a command that says its clock, on a busy host."""


def test_date_cpu_cores_and_kernel_are_what_was_asked_for(machine_on_each, cache):
    result, text = output_of(
        machine_on_each, "date -u +%F; grep -m1 'model name' /proc/cpuinfo; nproc; uname -r"
    )
    assert result.exit_status == 0
    date, model, cores, release = text.splitlines()
    assert date == "2019-05-01"
    assert "Westmere" in model
    assert cores == "1"
    assert release == machine_on_each.environment.kernel_release
    assert release == fetch_kernel("debian:bookworm", cache).release
    assert "sse4_2" in machine_on_each.environment.cpu_flags
    assert "avx" not in machine_on_each.environment.cpu_flags
    assert "sse4.2" in machine_on_each.environment.cpu_features


def test_what_the_cpu_says_of_itself_is_recorded(machine_on_each):
    _, text = output_of(machine_on_each, "cat /proc/cpuinfo")
    said = dict(re.split(r"\s*: ?", line, maxsplit=1) for line in text.splitlines() if ":" in line)
    identity = machine_on_each.environment.cpu_identity
    assert (identity.vendor, identity.family, identity.model) == ("GenuineIntel", 6, 44)
    assert said["vendor_id"] == identity.vendor
    assert said["model name"] == identity.name
    assert int(said["stepping"]) == identity.stepping


@pytest.fixture
def impostor(tmp_path):
    """Make a QEMU that gives guests of an accelerator the CPU vendor of another host."""

    def make(accel):
        path = tmp_path / "qemu"
        path.write_text(IMPOSTOR.format(accel=accel, qemu=find_tool(QEMU)))
        path.chmod(0o755)
        return Provision(qemu=str(path))

    return make


def test_a_guest_whose_cpu_is_of_another_vendor_is_refused(machine_at, impostor):
    other = pytest.raises(CpuError, match=r"says that it is AuthenticAMD, .*; allowed: GenuineInt")
    with other, machine_at(cpu="Haswell", provision=impostor("tcg")):
        pass


def test_a_vendor_that_was_asked_for_is_what_the_guest_sees(machine_at):
    with machine_at(cpu="EPYC,vendor=GenuineIntel,-avx2", accelerator="tcg") as machine:
        _, text = output_of(machine, "grep -m1 vendor_id /proc/cpuinfo; grep -c avx2 /proc/cpuinfo")
        assert text.split() == ["vendor_id", ":", "GenuineIntel", "0"]
        found = machine.environment
    assert (found.cpu, found.cpu_identity.vendor) == (
        "EPYC,vendor=GenuineIntel,-avx2",
        "GenuineIntel",
    )


def test_where_kvm_gives_another_cpu_the_guest_is_emulated_and_says_why(
    machine_at, impostor, monkeypatch, tmp_path
):
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "_DEVICE", device)
    fields = {"accelerator": "auto", "provision": impostor("kvm")}
    with machine_at(cpu="Haswell", **fields) as machine:
        _, text = output_of(machine, "grep -m1 vendor_id /proc/cpuinfo")
        found = machine.environment
    assert "GenuineIntel" in text
    assert (found.accelerator, found.cpu_identity.vendor) == ("tcg", "GenuineIntel")
    assert "under KVM the guest's CPU says that it is AuthenticAMD" in found.accelerator_reason


@pytest.mark.parametrize("name", ["bullseye", "bookworm-backports", "sid"])
def test_each_other_kernel_boots_at_a_past_date_on_a_past_cpu(machine_at, cache, name):
    kernel = fetch_kernel(f"debian:{name}", cache)
    with machine_at("2019-05-01", cpu="Westmere", kernel=f"debian:{name}") as machine:
        _, text = output_of(machine, "uname -r; date -u +%F; grep -c Westmere /proc/cpuinfo")
    assert text.split() == [kernel.release, "2019-05-01", "1"]


@pytest.mark.parametrize(
    "date",
    [
        "1970-01-02",
        pytest.param("2038-01-19T03:14:07Z", marks=pytest.mark.long),
        "2038-01-19T03:14:08Z",
        *(
            pytest.param(date, marks=pytest.mark.long)
            for date in ("2069-12-31T23:59:59Z", "2070-01-01", "2100-01-01")
        ),
        "2232-04-18T23:00:00Z",
    ],
)
def test_dates_at_the_edges_are_exact_in_the_guest(machine_at, date):
    wanted = parse_instant(date)
    with machine_at(date) as machine:
        result, text = output_of(machine, "date -u +%s")
    assert timedelta(0) <= result.clock_started_at - wanted < NEAR
    assert 0 <= int(text) - int(wanted.timestamp()) < RUN_S


def test_the_first_command_begins_at_the_machines_date_and_later_ones_go_on(machine_at):
    with machine_at("2021-11-27T15:28:57Z") as machine:
        wanted = machine.spec.date
        first = machine.run("true")
        second = machine.run("true")
    assert timedelta(0) <= first.clock_started_at - wanted < NEAR
    assert second.clock_started_at > first.clock_ended_at


def test_a_clock_set_for_a_command_is_set_just_before_it(machine_on_each):
    wanted = parse_instant("2021-11-27T15:28:57Z")
    result, text = output_of(machine_on_each, "date -u +%s", clock=wanted)
    assert timedelta(0) <= result.clock_started_at - wanted < NEAR
    assert int(text) >= int(wanted.timestamp())
    assert result.clock_ended_at > result.clock_started_at


@pytest.fixture(scope="module")
def odd_one(machine_at, free_port_of_module):
    """A machine with much that others have not, and the port of this host that leads to it."""
    forwarding = [{"host": free_port_of_module, "guest": 8000}]
    with machine_at(cpu="Haswell,-avx2", cpu_count=2, port_forwardings=forwarding) as machine:
        yield machine, free_port_of_module


def test_several_cores_are_there(odd_one):
    assert output_of(odd_one[0], "nproc")[1].strip() == "2"


def test_a_feature_taken_away_is_gone_in_the_guest(odd_one):
    assert "avx2" not in odd_one[0].environment.cpu_flags
    assert "avx" in odd_one[0].environment.cpu_flags


def test_what_emulation_lacks_is_not_among_the_effective_features(machine_at):
    with machine_at(cpu="Skylake-Server") as machine:
        assert "avx512f" not in machine.environment.cpu_features
        assert "avx512f" in machine.environment.cpu_features_lacking
        assert "avx2" in machine.environment.cpu_features


def test_a_feature_asked_for_by_name_that_emulation_lacks_is_refused(machine_at):
    with pytest.raises(HostError, match="avx512f"), machine_at(cpu="Haswell,+avx512f"):
        pass


def test_nothing_of_ours_listens_on_the_host(machine_on_each):
    pid = machine_on_each.pid
    listening = subprocess.run(
        ["ss", "--listening", "--tcp", "--udp", "--processes", "--numeric"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"pid={pid}," not in listening
    links = [str(Path(link).readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    paths = Path("/proc/net/unix").read_text()
    ours = {link.removeprefix("socket:[").removesuffix("]") for link in links if "socket" in link}
    for line in paths.splitlines()[1:]:
        fields = line.split()
        if fields[6] in ours:
            assert len(fields) == 7, f"a socket with a name: {line}"


def test_forwarded_ports_listen_on_the_loopback_interface_only(odd_one):
    machine, port = odd_one
    argv = ["ss", "-ltnH", "sport", "=", f":{port}"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert f"127.0.0.1:{port}" in text
    assert f"0.0.0.0:{port}" not in text
    assert "eth0" in output_of(machine, "ls /sys/class/net")[1]


def test_an_unknown_cpu_is_refused_with_near_names(machine_at):
    with pytest.raises(UsageError, match="Hasswell") as caught:
        machine_at(cpu="Hasswell")
    assert "Haswell" in caught.value.hint


def test_an_unknown_feature_is_refused_with_near_names(machine_at):
    with pytest.raises(UsageError, match="avx22") as caught:
        machine_at(cpu="Haswell,-avx22")
    assert "avx2" in caught.value.hint
