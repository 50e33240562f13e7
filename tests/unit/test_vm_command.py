from dataclasses import replace
from pathlib import Path

import pytest

from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm.command import BootFiles, MachineFiles, Sockets, qemu_argv
from buildvm_nb.vm.qemu import Emulator

BOOT = BootFiles(
    kernel=Path("/c/kernel,1/vmlinuz"),
    kernel_release="6.1.0-40-amd64",
    initramfs=Path("/c/common.cpio"),
    root=Path("/c/a,b/root,=.squashfs"),
)
FILES = MachineFiles(
    initramfs=Path("/m/i,1.cpio"), inputs=Path("/m/in,1.squashfs"), exports=Path("/m/ex,1.tar")
)
QEMU = Emulator(
    path="/usr/bin/qemu",
    version="7.2.22",
    models=frozenset({"EPYC", "Haswell", "max"}),
    features=frozenset(),
    vendors={"EPYC": "AuthenticAMD", "Haswell": "GenuineIntel"},
)
SOCKETS = Sockets(monitor=3, channel=4, events=5)


def argv_for(*, files=FILES, **fields):
    fields = {"date": "2019-05-01", "accelerator": "tcg"} | fields
    return qemu_argv(QEMU, MachineSpec.parse(fields), BOOT, files, SOCKETS)


def values(argv, option):
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


def test_the_same_machine_gives_the_same_command_line():
    assert argv_for() == argv_for()
    assert argv_for()[0] == "/usr/bin/qemu"


def test_what_was_asked_for_is_on_the_command_line():
    argv = argv_for(cpu="Haswell,-cx16", cpu_count=3, memory_mib=768, name="time-trap")
    assert values(argv, "-cpu") == ["Haswell,-cx16"]
    assert values(argv, "-smp") == ["3"]
    assert values(argv, "-m") == ["768M"]
    assert values(argv, "-name") == ["time-trap"]
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)


@pytest.mark.parametrize(
    ("accelerator", "cpu", "expected"),
    [
        ("kvm", "Haswell,-cx16", "Haswell,-cx16,vendor=GenuineIntel"),
        ("kvm", "EPYC", "EPYC,vendor=AuthenticAMD"),
        ("kvm", "max", "max"),  # the host's own
        ("tcg", "EPYC", "EPYC"),
    ],
)
def test_kvm_is_told_the_vendor_that_it_would_take_from_the_host(accelerator, cpu, expected):
    assert values(argv_for(accelerator=accelerator, cpu=cpu), "-cpu") == [expected]


@pytest.mark.parametrize(("accelerator", "expected"), [("tcg", "tcg,thread=multi"), ("kvm", "kvm")])
def test_the_accelerator_is_the_one_that_was_decided(accelerator, expected):
    assert values(argv_for(accelerator=accelerator), "-accel") == [expected]


def test_commas_in_paths_are_doubled_wherever_qemu_splits_at_them():
    argv = argv_for()
    drives = values(argv, "-drive")
    assert [drive.partition("file.filename=")[2] for drive in drives] == [
        "/c/a,,b/root,,=.squashfs",
        "/m/in,,1.squashfs",
        "/m/ex,,1.tar",
    ]
    assert values(argv, "-kernel") == ["/c/kernel,1/vmlinuz"]  # taken as it is
    assert values(argv, "-initrd") == ["/m/i,1.cpio"]


def test_only_the_exports_can_be_written():
    root, inputs, exports = values(argv_for(), "-drive")
    assert "readonly=on" in root
    assert "readonly=on" in inputs
    assert "readonly" not in exports


def test_a_machine_without_inputs_has_no_disk_for_them():
    files = MachineFiles(initramfs=FILES.initramfs, inputs=None, exports=FILES.exports)
    names = [drive.split(",")[1] for drive in values(argv_for(files=files), "-drive")]
    assert names == ["id=root", "id=exports"]


def test_a_machine_has_no_network_card_unless_asked_for():
    argv = argv_for()
    assert values(argv, "-nic") == ["none"]
    assert "-netdev" not in argv
    assert not [device for device in values(argv, "-device") if "net" in device]


@pytest.mark.parametrize(("network", "restrict"), [("restricted", "on"), ("user", "off")])
def test_a_card_reaches_out_only_where_that_was_asked_for(network, restrict):
    argv = argv_for(network=network)
    (card,) = values(argv, "-netdev")
    assert card == f"user,id=net,restrict={restrict}"
    assert "-nic" not in argv


def test_forwarded_ports_listen_on_the_loopback_interface_only():
    forwardings = [{"host": 8022, "guest": 22}, {"host": 8080, "guest": 80}]
    (card,) = values(argv_for(port_forwardings=forwardings), "-netdev")
    assert card.split(",")[2:] == [
        "restrict=on",
        "hostfwd=tcp:127.0.0.1:8022-:22",
        "hostfwd=tcp:127.0.0.1:8080-:80",
    ]


def test_monitor_channel_and_events_are_inherited_and_nothing_listens():
    argv = argv_for()
    sockets = [value for value in values(argv, "-chardev") if value.startswith("socket")]
    assert sockets == [
        "socket,id=monitor,fd=3",
        "socket,id=channel,fd=4",
        "socket,id=events,fd=5",
    ]
    assert not [word for word in argv if "server" in word or "listen" in word or "vnc" in word]


@pytest.mark.parametrize(
    ("date", "base"),
    [
        ("2019-05-01T12:30:15Z", "2019-05-01T12:30:15"),
        ("2019-05-01T14:30+02:00", "2019-05-01T12:30:00"),
        ("1970-01-02", "1970-01-02T00:00:00"),
        ("2069-12-31T23:59:59Z", "2069-12-31T23:59:59"),
        ("2070-01-01", "1970-01-02T00:00:00"),
        ("2232-04-18T23:47:15Z", "1970-01-02T00:00:00"),
    ],
)
def test_the_clock_chip_gets_the_date_where_it_can_hold_it(date, base):
    assert values(argv_for(date=date), "-rtc") == [f"base={base},clock=host"]


def test_the_kernel_is_told_to_end_when_it_oopses():
    (line,) = values(argv_for(), "-append")
    assert {"console=ttyS0", "oops=panic", "panic=-1"} <= set(line.split())


@pytest.mark.parametrize(("is_fork", "mode"), [(False, "cache=unsafe"), (True, "snapshot=on")])
def test_a_fork_leaves_the_scratch_disk_of_its_checkpoint_as_it_is(is_fork, mode):
    files = replace(FILES, scratch=Path("/m/scratch.ext4"), is_fork=is_fork)
    *_, scratch = values(argv_for(files=files), "-drive")
    assert "file.filename=/m/scratch.ext4" in scratch
    assert mode in scratch.split(",")
