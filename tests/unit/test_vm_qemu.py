"""None"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from buildvm_nb.errors import HostError, LaunchError, UsageError
from buildvm_nb.vm import qemu as process_module
from buildvm_nb.vm.qemu import Console, OwnedProcess, Trouble, check_cpu, find_emulator

FAKE = """\
#!/bin/sh
echo "$*" >>"$0.calls"
case $1 in
--version)
    echo "QEMU emulator version {version} (Debian 1:{version}+dfsg-7+deb12u16)"
    echo "Copyright (c) 2003-2022 Fabrice Bellard and the QEMU Project developers" ;;
-cpu)
    cat <<'END'
{prefix}EPYC                  (alias configured by machine type)
{prefix}Haswell               (alias configured by machine type)
{prefix}Haswell-v1            Intel Core Processor (Haswell)
{prefix}Haswell-v2            (alias of Haswell-noTSX)
{prefix}qemu64                (alias configured by machine type)

Recognized CPUID flags:
  3dnow 3dnowext 3dnowprefetch abm
  avx avx2 cx16 sse4.1 lahf-lm
END
    ;;
-machine)
    echo '{"QMP": {"version": {}, "capabilities": []}}'
    echo '{"return": {}}'
    # the answers, without those that nobody asked for
    sed -n 's/.*"name": "\\([A-Za-z0-9-]*\\)".*"id".*/\\1/p' | while read -r name; do
        case $name in
        EPYC) vendor=AuthenticAMD ;;
        *) vendor=GenuineIntel ;;
        esac
        echo '{"return": {"model": {"props": {"vendor": "'$vendor'"}}}, "id": "'$name'"}'
    done ;;
esac
"""


@pytest.fixture
def qemu(tmp_path, monkeypatch):
    """Put a fake QEMU first on PATH; returns what writes it."""
    place = tmp_path / "bin" / "qemu-system-x86_64"
    place.parent.mkdir()
    monkeypatch.setenv("PATH", f"{place.parent}:/usr/bin:/bin")
    find_emulator.cache_clear()

    def write(version="7.2.22", prefix="x86 ", script=FAKE):
        place.write_text(script.replace("{version}", version).replace("{prefix}", prefix))
        place.chmod(0o755)
        find_emulator.cache_clear()  # as a new process would
        return place

    yield write
    find_emulator.cache_clear()


def calls(place):
    log = place.with_name(f"{place.name}.calls")
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("version", "prefix"),
    [("7.2.22", "x86 "), ("10.0", "  "), ("10.1.2", "  ")],
)
def test_version_models_and_features_are_read_from_qemu(qemu, version, prefix):
    place = qemu(version, prefix)
    emulator = find_emulator()
    assert emulator.path == str(place)
    assert emulator.version == version
    assert emulator.models == {"EPYC", "Haswell", "Haswell-v1", "Haswell-v2", "qemu64"}
    assert {"3dnow", "avx2", "cx16", "sse4.1", "lahf-lm"} <= emulator.features
    assert set(emulator.vendors) == emulator.models
    assert emulator.vendors["EPYC"] == "AuthenticAMD"
    assert emulator.vendors["Haswell-v2"] == "GenuineIntel"


@pytest.mark.parametrize("version", ["7.1.0", "6.2.0", "2.12"])
def test_a_qemu_that_is_too_old_is_refused(qemu, version):
    qemu(version)
    with pytest.raises(HostError, match=f"QEMU is too old: .* is {version}; allowed: 7.2 or newer"):
        find_emulator()


def test_a_host_without_qemu_is_told_what_to_install(tmp_path, monkeypatch):
    # PATH alone would not hide a QEMU in /usr/sbin, but nobody has one there
    monkeypatch.setenv("PATH", str(tmp_path))
    find_emulator.cache_clear()
    with pytest.raises(HostError, match="program not found on this host: qemu-system") as caught:
        find_emulator()
    assert caught.value.hint.endswith("apt-get install --no-install-recommends qemu-system-x86")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "#!/bin/sh\necho 'libfoo.so.1: cannot open shared object file' >&2\nexit 127\n",
            r"--version exited with 127: libfoo\.so\.1: cannot open",
        ),
        ("#!/bin/sh\necho 'I am no QEMU'\n", "--version exited with 0: I am no QEMU"),
        ("#!/bin/sh\nkill -SEGV $$\n", "--version exited with -11: "),
        ("#!/no/such/interpreter\n", "QEMU does not run: .*: No such file or directory"),
        ("\x7fELF, but not really", "QEMU does not run: .*: Exec format error"),
    ],
)
def test_a_broken_qemu_is_told_with_its_own_words(qemu, script, message):
    qemu(script=script)
    with pytest.raises(HostError, match=message) as caught:
        find_emulator()
    assert caught.value.hint == "reinstall the package qemu-system-x86"


def test_a_qemu_whose_list_of_cpus_fails_is_told(qemu):
    qemu(script=FAKE.replace("-cpu)", "-cpu) echo oh no >&2; exit 3 ;;\nnever)"))
    with pytest.raises(HostError, match="-cpu help\nexited with 3; it said:\noh no"):
        find_emulator()


def test_a_qemu_that_hides_a_vendor_is_told(qemu):
    qemu(script=FAKE.replace("EPYC) vendor", "EPYC) continue; vendor"))
    with pytest.raises(HostError, match=r"QEMU does not tell the vendor of its CPU models: EPYC$"):
        find_emulator()


HASTY = """ | perl -MFcntl -e '
    local $/; my $all = <STDIN>;
    fcntl STDOUT, F_SETFL, O_NONBLOCK | fcntl STDOUT, F_GETFL, 0;
    syswrite STDOUT, (" " x 200_000) . "\\n" . $all' ;;
esac
"""


def test_a_qemu_that_quits_before_all_is_read_is_heard_to_the_end(qemu):
    qemu(script=FAKE.removesuffix(" ;;\nesac\n") + HASTY)
    assert find_emulator().vendors["EPYC"] == "AuthenticAMD"


def test_the_answer_is_remembered_until_the_program_changes(qemu, tmp_path):
    place = qemu("7.2.22")
    assert find_emulator(tmp_path).version == "7.2.22"
    assert len(calls(place)) == 3
    find_emulator.cache_clear()
    assert find_emulator(tmp_path).version == "7.2.22"
    assert len(calls(place)) == 3
    qemu("10.0.11")
    assert find_emulator(tmp_path).version == "10.0.11"
    assert len(calls(place)) == 6


def test_the_memory_of_an_older_version_is_asked_again(qemu, tmp_path):
    qemu()
    find_emulator(tmp_path)
    memo = tmp_path / "emulator.json"
    content = json.loads(memo.read_text())
    del content["known"]["vendors"]
    memo.write_text(json.dumps(content))
    find_emulator.cache_clear()
    assert find_emulator(tmp_path).vendors["EPYC"] == "AuthenticAMD"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"stamp": 1}', "\0\0\0"])
def test_a_damaged_memory_is_asked_again(qemu, tmp_path, content):
    qemu()
    (tmp_path / "emulator.json").write_text(content)
    assert find_emulator(tmp_path).version == "7.2.22"
    assert json.loads((tmp_path / "emulator.json").read_text())["known"]["version"] == "7.2.22"


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("haswell", "Haswell"),
        ("Haswell,-cx16", "Haswell,-cx16"),
        ("Haswell,cx16=off,avx2=on", "Haswell,-cx16,+avx2"),
        ("qemu64,avx", "qemu64,+avx"),
        ("qemu64,+lahf_lm", "qemu64,+lahf-lm"),
        ("haswell,vendor=AuthenticAMD,-cx16", "Haswell,vendor=AuthenticAMD,-cx16"),
    ],
)
def test_a_cpu_is_spelled_as_qemu_does(qemu, text, spelled):
    qemu()
    assert check_cpu(text, find_emulator()) == spelled


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("Haswel", "unknown CPU model: 'Haswel'", "did you mean Haswell"),
        ("Haswell,+avx3", "unknown CPU feature: '\\+avx3' in 'Haswell,\\+avx3'", "did you mean av"),
        ("Haswell,+zzzzzz", "unknown CPU feature", "see qemu-system-x86_64 -cpu help"),
        ("Haswell,avx=maybe", "unknown CPU feature: 'avx=maybe'", "did you mean avx"),
        ("Haswell,vendor=Intel", "not a CPU's vendor: 'Intel'", "for example vendor=GenuineIntel"),
        ("Haswell,+", "unknown CPU feature", "see qemu-system-x86_64 -cpu help"),
    ],
)
def test_an_unknown_cpu_is_refused_with_near_names(qemu, text, message, hint):
    qemu()
    with pytest.raises(UsageError, match=message) as caught:
        check_cpu(text, find_emulator())
    assert caught.value.hint.startswith(hint)


def test_a_memo_that_cannot_be_written_costs_time_and_nothing_else(qemu, tmp_path):
    place = qemu("7.2.22")
    cache = tmp_path / "cache"
    (cache / "emulator.json").mkdir(parents=True)  # nobody may replace it, not even root
    for count in (3, 6):
        find_emulator.cache_clear()
        assert find_emulator(cache).version == "7.2.22"
        assert len(calls(place)) == count
    assert [path.name for path in cache.iterdir()] == ["emulator.json"]
    find_emulator.cache_clear()
    assert find_emulator(tmp_path / "no" / "such").version == "7.2.22"


# QEMU's process, with small Python programs in its place: started, heard, ended, described.

SOON_S = 600.0
STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""
OWNER = """
import signal
from buildvm_nb.vm.qemu import Console
from buildvm_nb.vm.qemu import OwnedProcess
print(OwnedProcess(["sleep", "1000"], inherit=(), console=Console()).pid, flush=True)
signal.pause()
"""


@pytest.fixture
def start():
    started = []

    def start(script, *, inherit=(), console=None):
        argv = [sys.executable, "-c", script]
        process = OwnedProcess(argv, inherit=inherit, console=console or Console())
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.close()


def wait_for(condition):
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_it_prints_is_the_guests_console_to_the_last_byte(start):
    console = Console()
    process = start("import sys; sys.stdout.write('x' * 300_000 + 'end')", console=console)
    assert process.wait(SOON_S)
    assert len(console.text) == 300_003
    assert console.text.endswith("xend")


def test_it_reads_nothing_and_is_no_part_of_our_terminals_group(start):
    console = Console()
    script = "import os, sys; print(repr(sys.stdin.read()), os.getsid(0) == os.getpid())"
    assert start(script, console=console).wait(SOON_S)
    assert console.text == "'' True\n"


def test_it_inherits_the_descriptors_that_it_is_given_and_no_others(start):
    ours, theirs = os.pipe()
    _, other = os.pipe()
    script = (
        f"import os; os.write({theirs}, b'hello'); print(os.path.exists('/proc/self/fd/{other}'))"
    )
    console = Console()
    assert start(script, inherit=[theirs], console=console).wait(SOON_S)
    assert console.text == "False\n"
    assert os.read(ours, 100) == b"hello"
    for descriptor in (ours, theirs, _, other):
        os.close(descriptor)


def test_an_exit_is_described_with_its_own_words(start):
    script = """
import sys
print("warning: TCG doesn't support requested feature: CPUID.01H:ECX.fma", file=sys.stderr)
print("-machine q36: unsupported machine type", file=sys.stderr)
sys.exit(3)
"""
    process = start(script)
    assert process.wait(SOON_S)
    assert not process.is_running
    assert process.describe_end() == (
        "QEMU exited with 3; it said: -machine q36: unsupported machine type"
    )


def test_of_very_many_words_the_last_are_told(start):
    process = start("import sys; sys.stderr.write('x' * 100_000 + 'the end')")
    assert process.wait(SOON_S)
    assert process.describe_end().endswith("xthe end")
    assert len(process.describe_end()) < 2100


def test_a_death_by_a_signal_is_described_by_its_name(start):
    process = start(STUBBORN)
    assert process.describe_end() == "QEMU is running"
    process.kill()
    assert process.wait(SOON_S)
    assert process.describe_end() == "QEMU was killed by SIGKILL"
    process.close()
    assert process.describe_end() == "QEMU was killed by SIGKILL"


def test_waiting_for_what_goes_on_ends_in_time(start):
    process = start(STUBBORN)
    assert not process.wait(0.05)
    assert process.is_running


def test_closing_asks_first_and_may_be_repeated(start):
    console = Console()
    script = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready", flush=True)
signal.sigwait({signal.SIGTERM})
print("bye", flush=True)
sys.exit(7)
"""
    process = start(script, console=console)
    wait_for(lambda: "ready\n" in console.text)
    process.close()
    process.close()
    assert console.text == "ready\nbye\n"
    assert process.describe_end() == "QEMU exited with 7"


def test_closing_ends_what_does_not_listen(start, monkeypatch):
    monkeypatch.setattr(process_module, "_KILL_AFTER_S", 0.1)
    console = Console()
    process = start(STUBBORN, console=console)
    wait_for(lambda: "ready\n" in console.text)
    process.close()
    assert process.describe_end() == "QEMU was killed by SIGKILL"
    assert not is_there(process.pid)


def test_its_memory_is_told_while_it_runs(start):
    console = Console()
    script = "import signal\nx = bytearray(40_000_000)\nprint('ready', flush=True)\nsignal.pause()"
    process = start(script, console=console)
    wait_for(lambda: "ready\n" in console.text)
    assert process.resident_bytes() > 40_000_000
    process.close()
    assert process.resident_bytes() == 0


def test_a_program_that_is_not_there_ends_at_once_with_its_name():
    process = OwnedProcess(["/no/such/qemu"], inherit=(), console=Console())
    try:
        assert process.wait(SOON_S)
        assert "/no/such/qemu: not found" in process.describe_end()
    finally:
        process.close()


def test_what_cannot_be_started_at_all_is_a_launch_error():
    with pytest.raises(LaunchError, match="QEMU cannot be started: qemu: Argument list too long"):
        OwnedProcess(["qemu", "x" * 10_000_000], inherit=(), console=Console())


@pytest.mark.parametrize("missing", ["setpriv", "sh"])
def test_what_never_started_leaves_no_file_open(missing, monkeypatch, tmp_path):
    if missing == "setpriv":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:

        def stopped(*_args, **_kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(process_module.subprocess, "Popen", stopped)
    process_module._starter(os.getpid()).submit(int).result()  # its thread's own files are there
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises((HostError, KeyboardInterrupt)):
        OwnedProcess(["true"], inherit=(), console=Console())
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_an_owner_that_died_before_it_was_guarded_has_none(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # so that its parent seems to be another one
    console = Console()
    process = OwnedProcess(["echo", "started"], inherit=(), console=console)
    try:
        assert process.wait(SOON_S)
        assert console.text == ""
        assert process.describe_end() == "QEMU exited with 1"
    finally:
        process.close()


def test_it_does_not_outlive_an_owner_that_is_killed():
    argv = [sys.executable, "-c", OWNER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert is_there(pid)
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_there(pid))


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
