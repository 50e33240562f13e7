import threading

import pytest

from buildvm_nb.errors import HostError
from buildvm_nb.vm.console import Console, Trouble

BOOT_LOG = """\
[    0.000000] Linux version 6.1.0-40-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.153-1 (2025-09-20)
[    0.000000] Command line: console=ttyS0 quiet oops=panic panic=-1 mitigations=off nowatchdog
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
[    0.000000] DMI: QEMU Standard PC (i440FX + PIIX, 1996), BIOS 1.16.2-debian-1.16.2-1 04/01/2014
[    0.000000] tsc: Unable to calibrate against PIT
[    0.013341] Early memory node ranges
[    0.081210] Memory: 457592K/523768K available (14342K kernel code, 2332K rwdata)
[    0.112001] rcu: Preemptible hierarchical RCU implementation.
[    0.112003] rcu: \tRCU restricting CPUs from NR_CPUS=8192 to nr_cpu_ids=1.
[    0.112009] rcu: RCU calculated value of scheduler-enlistment delay is 25 jiffies.
[    0.174000] Spectre V2 : User space: Vulnerable
[    0.189120] MDS: Vulnerable: Clear CPU buffers attempted, no microcode
[    0.241000] x86/fpu: x87 FPU will use FXSAVE
[    0.300101] ACPI BIOS Error (bug): Could not resolve symbol [^S08.WMEM], AE_NOT_FOUND
[    0.311000] ACPI Error: Aborting method due to previous error (AE_NOT_FOUND)
[    0.401210] workqueue: round-robin CPU selection forced, expect performance impact
[    0.512001] PCI: Using configuration type 1 for base access
[    0.700211] NET: Registered PF_INET protocol family
[    0.901222] rtc_cmos 00:05: setting system clock to 2019-05-01T00:00:03 UTC (1556668803)
[    1.100000] random: crng init done
[    1.301200] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!
[    1.401210] squashfs: version 4.0 (2009/01/31) Phillip Lougher
[    2.000000] cc1plus[211]: segfault at 0 ip 000055d0c5a1 sp 00007ffd error 4 in cc1plus
[    2.100000] traps: avx[212] trap invalid opcode ip:401136 sp:7ffe error:0 in avx[401000+1000]
[    2.200000] traps: x[213] general protection fault ip:401136 sp:7ffe error:0 in x[401000+1000]
[    2.300000] Memory cgroup out of memory: Killed process 214 (python3) total-vm:812340kB
"""  # noqa: E501 - kernels write long lines

OOPSES = {
    "page fault": "[   12.1] BUG: unable to handle page fault for address: ffffb1d3c0000018\n"
    "[   12.1] #PF: supervisor write access in kernel mode\n"
    "[   12.1] Oops: 0002 [#1] PREEMPT SMP NOPTI",
    "null pointer": "[    3.4] BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "old null pointer": "[    3.4] BUG: unable to handle kernel NULL pointer dereference at 0008",
    "old general protection": "[    3.4] general protection fault: 0000 [#1] SMP NOPTI",
    "general protection": "[    3.4] general protection fault, probably for non-canonical address "
    "0xdead000000000100: 0000 [#1] PREEMPT SMP NOPTI",
    "new general protection": "[    3.4] Oops: general protection fault, probably for "
    "non-canonical address 0xdead000000000100: 0000 [#1] PREEMPT SMP NOPTI",
    "failed assertion": "[    3.4] kernel BUG at mm/slub.c:435!\n"
    "[    3.4] invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
    "division": "[    3.4] divide error: 0000 [#1] PREEMPT SMP",
    "page state": "[    3.4] BUG: Bad page state in process cc1  pfn:1a2b3",
}
PANIC = "[   12.3] Kernel panic - not syncing: Fatal exception in interrupt"
TROUBLES = [(Trouble.OOPS, text) for text in OOPSES.values()] + [
    (Trouble.PANIC, "[    1.9] Kernel panic - not syncing: VFS: Unable to mount root fs on ..."),
    (Trouble.PANIC, "[    1.9] Kernel panic - not syncing: Attempted to kill init! exitcode=0x100"),
    (Trouble.PANIC, "[    1.9] Kernel panic - not syncing: sysrq triggered crash"),
    (Trouble.LOCKUP, "[   60.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [cc1:312]"),
    (Trouble.LOCKUP, "[   60.1] NMI watchdog: Watchdog detected hard LOCKUP on cpu 0"),
    (Trouble.LOCKUP, "[   60.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:"),
    (Trouble.LOCKUP, "[   60.1] rcu: INFO: rcu_sched self-detected stall on CPU"),
    (
        Trouble.OUT_OF_MEMORY,
        "[   44.5] Out of memory: Killed process 87 (sftp) total-vm:90112kB, anon-rss:80040kB",
    ),
    (
        Trouble.OUT_OF_MEMORY,
        "[   44.5] Kernel panic - not syncing: System is deadlocked on memory",
    ),
    (Trouble.INIT, "buildvm: cannot mount the root file system"),
]


def console_saying(text):
    console = Console()
    console.feed(text.replace("\n", "\r\n").encode())
    return console


def test_a_normal_boot_shows_no_trouble():
    assert console_saying(BOOT_LOG).trouble() is None
    assert Console().trouble() is None


@pytest.mark.parametrize(("kind", "text"), TROUBLES)
def test_each_kind_of_trouble_is_told_from_what_kernels_say(kind, text):
    assert console_saying(f"{BOOT_LOG}{text}\n").trouble()[0] is kind


@pytest.mark.parametrize("text", OOPSES.values(), ids=OOPSES)
def test_an_oops_that_ends_in_a_panic_is_an_oops(text):
    kind, evidence = console_saying(f"{BOOT_LOG}{text}\n{PANIC}\n").trouble()
    assert kind is Trouble.OOPS
    assert evidence.endswith(PANIC)


def test_the_evidence_begins_with_the_whole_line_that_shows_it():
    kind, evidence = console_saying(f"{BOOT_LOG}{OOPSES['page fault']}\n").trouble()
    assert kind is Trouble.OOPS
    assert evidence.startswith("[   12.1] BUG: unable to handle page fault")
    assert "random: crng" not in evidence


def test_the_evidence_is_kept_short():
    _, evidence = console_saying(PANIC + "\n" + "[   12.4] Call Trace:\n" * 500).trouble()
    assert len(evidence.splitlines()) == 40


def test_our_init_is_only_heard_at_the_beginning_of_a_line():
    assert console_saying("[    1.0] a program says buildvm: hello\n").trouble() is None


def test_text_may_come_in_pieces_that_split_characters():
    console = Console()
    for byte in "Ünlucky: Kernel panic - not syncing".encode():
        console.feed(bytes([byte]))
    assert console.text == "Ünlucky: Kernel panic - not syncing"
    assert console.trouble()[0] is Trouble.PANIC


def test_bytes_that_are_no_text_do_no_harm():
    console = Console()
    console.feed(b"\xff\xfe\x00" + PANIC.encode())
    assert console.trouble()[0] is Trouble.PANIC


def test_of_very_much_only_the_end_is_kept():
    console = Console()
    for _ in range(100):
        console.feed(b"x" * 99_999 + b"\n")
    console.feed(PANIC.encode())
    assert len(console.text) <= 3 << 20
    assert console.text.endswith(PANIC)
    assert console.trouble()[0] is Trouble.PANIC


def test_several_threads_may_feed_and_read_at_once():
    console = Console()
    feeders = [
        threading.Thread(target=lambda: [console.feed(b"line\r\n") for _ in range(1000)])
        for _ in range(4)
    ]
    for feeder in feeders:
        feeder.start()
    while any(feeder.is_alive() for feeder in feeders):
        assert set(console.text.splitlines()) <= {"line", "line\r"}
    for feeder in feeders:
        feeder.join()
    assert console.text == "line\n" * 4000


def test_what_a_console_says_is_written_to_a_file_as_well(tmp_path):
    log = tmp_path / "console.log"
    for text in (b"first\r\n", b"second\r\n"):  # of two boots
        console = Console(log)
        console.feed(text)
        console.close()
        console.close()
        console.feed(b"late")
    assert log.read_bytes() == b"first\r\nsecond\r\n"


def test_a_log_of_a_console_does_not_fill_the_disk(tmp_path):
    console = Console(tmp_path / "console.log")
    for _ in range(20):
        console.feed(bytes(2**20))
    console.close()
    assert (tmp_path / "console.log").stat().st_size == 2**24


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(HostError, match="cannot write the console's log"):
        Console(tmp_path / "none" / "console.log")
