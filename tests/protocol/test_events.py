"""The events port: our reader against a fake guest on a real socket."""

import socket
import threading
from datetime import UTC, datetime

import pytest

from buildvm_nb.errors import GuestLost
from buildvm_nb.model.machine import CpuIdentity
from buildvm_nb.vm.events import Events, Room

SOON_S = 600.0
AT = datetime(2019, 5, 1, tzinfo=UTC)
HELLO = b"""\
kernel 6.1.0-40-amd64
cpus 2
flags  fpu sse2 pni
vendor_id  GenuineIntel
cpu_family  6
model  15
model_name  Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz
stepping  11
ready 1556668800.25
"""


def over(step, status=0, drift="-"):
    """What a guest says of a step, from beginning to end."""
    return (
        f"start {step} 1\nran {step} 2 {status} - - disk:9:9\nend {step} 3 0 0 0 {drift}\n".encode()
    )


@pytest.fixture
def guest():
    """The guest's end of a port, and our reader of it."""
    ours, theirs = socket.socketpair()
    events = Events(ours)
    with theirs:
        yield theirs, events
        events.close()


def test_the_facts_of_a_guest_are_read_once_it_is_ready(guest):
    port, events = guest
    port.sendall(HELLO)
    facts = events.wait_ready(SOON_S)
    assert facts.kernel_release == "6.1.0-40-amd64"
    assert facts.cpu_count == 2
    assert facts.cpu_flags == {"fpu", "sse2", "pni"}
    assert facts.cpu_identity == CpuIdentity(
        vendor="GenuineIntel",
        family=6,
        model=15,
        stepping=11,
        name="Intel(R) Core(TM)2 Duo CPU T7700 @ 2.40GHz",
    )
    assert facts.clock_at == AT.replace(microsecond=250_000)


def test_lines_may_come_in_pieces(guest):
    port, events = guest
    for number in range(len(HELLO)):
        port.sendall(HELLO[number : number + 1])
    assert events.wait_ready(SOON_S).cpu_count == 2


def test_a_guest_that_is_not_ready_in_time_is_told_as_none(guest):
    port, events = guest
    port.sendall(b"kernel 6.1.0\ncpus 2\n")
    assert events.wait_ready(0.05) is None


def test_beginning_and_end_of_a_step_are_read(guest):
    port, events = guest
    port.sendall(
        b"start s1 1556668800\nran s1 1556668801.5 132 - 4:cc1,11:a.out disk:2048:7,shm:9:8\n"
    )
    port.sendall(b"end s1 1556668802 3 1 5 -\n")
    step = events.wait_end("s1", SOON_S)
    assert step.started_at == AT
    assert step.ended_at == AT.replace(second=1, microsecond=500_000)
    assert step.over_at == AT.replace(second=2)
    assert (step.exit_status, step.signal, step.killed) == (132, None, {4: "cc1", 11: "a.out"})
    assert step.room == (
        Room(place="disk", free_kib=2048, free_inodes=7),
        Room(place="shm", free_kib=9, free_inodes=8),
    )
    assert (step.ooms, step.oom_kills, step.refused_forks, step.drift_s) == (3, 1, 5, None)


def test_a_step_that_could_not_be_started_says_why(guest):
    port, events = guest
    port.sendall(b"start s1 1\nbroken s1 1 cannot enter the directory /build/x: No such file\n")
    port.sendall(b"end s1 1 0 0 0 -\n")
    step = events.wait_end("s1", SOON_S)
    assert step.broken == "cannot enter the directory /build/x: No such file"
    assert step.ended_at is None


def test_the_signal_that_a_command_died_of_is_read(guest):
    port, events = guest
    port.sendall(b"start s1 1\nran s1 1 0 9 - -\nend s1 1 0 0 0 -\n")
    step = events.wait_end("s1", SOON_S)
    assert (step.signal, step.killed, step.room) == (9, {}, ())


def test_how_far_a_held_clock_strayed_is_read(guest):
    port, events = guest
    port.sendall(over("s1", drift="0.014123") + over("s2"))
    assert events.wait_end("s1", SOON_S).drift_s == 0.014123
    assert events.wait_end("s2", SOON_S).drift_s is None


def test_a_resumed_guest_says_what_its_clocks_are(guest):
    port, events = guest
    events.order("wake 1556668800.000000 ab")
    assert port.recv(100) == b"wake 1556668800.000000 ab\n"
    port.sendall(b"awake 1556668800.25 2019-05-01T00:00:00Z\n")
    awakening = events.wait_awake(SOON_S)
    assert awakening.clock_at == AT.replace(microsecond=250_000)
    assert awakening.rtc_at == AT


def test_a_guest_becomes_quiet_in_two_stages(guest):
    port, events = guest
    port.sendall(b"closing 1556668800.0\n")
    assert events.wait_quiet("closing", SOON_S)
    assert not events.wait_quiet("quiet", 0.01)
    port.close()
    assert not events.wait_quiet("quiet", SOON_S)


def test_an_order_to_a_guest_that_is_gone_is_told(guest):
    port, events = guest
    port.close()
    assert events.wait_awake(SOON_S) is None
    with pytest.raises(GuestLost, match="takes no orders"):
        events.order("quiet")


def test_steps_are_kept_apart_whatever_their_order(guest):
    port, events = guest
    first, second = (
        over(name, status).splitlines(keepends=True) for name, status in (("a", 1), ("b", 0))
    )
    port.sendall(b"".join([first[0], *second, *first[1:]]))
    assert events.wait_end("a", SOON_S).exit_status == 1
    assert events.wait_end("b", SOON_S).exit_status == 0


def test_a_step_that_does_not_end_in_time_is_told_as_none(guest):
    port, events = guest
    port.sendall(b"start s1 1556668800\n")
    assert events.wait_end("s1", 0.05) is None


def test_a_wait_ends_when_another_thread_hears_the_news(guest):
    port, events = guest
    heard = []
    waiter = threading.Thread(target=lambda: heard.append(events.wait_end("s1", SOON_S)))
    waiter.start()
    port.sendall(over("s1", 3))
    waiter.join(SOON_S)
    assert heard[0].exit_status == 3


@pytest.mark.parametrize(
    "garbage",
    [
        b"cpus many\n",
        b"ready\n",
        b"ready soon\n",
        b"ready 1.x\n",
        b"ready 99999999999999999999\n",
        b"ready \n\n\n",
        b"start s1\n",
        b"start s1 never\n",
        b"end s1 1 fine 0 0 -\n",
        b"end s1 1 0\n",
        b"ran s1 1 0 - 4 -\n",
        b"ran s1 1 0 - - disk:9\n",
        b"ran s1 1 0 - - disk:many:9\n",
        b"\xff\xfe\x00 cpus\n",
        b"[    1.000000] systemd: hello\n",
        b"x" * 300_000 + b"\n",
    ],
)
def test_garbage_does_not_stop_the_reader(guest, garbage):
    port, events = guest
    port.sendall(garbage + HELLO + over("s2", 3))
    assert events.wait_ready(SOON_S).cpu_count == 2
    assert events.wait_end("s2", SOON_S).exit_status == 3


def test_an_end_without_a_beginning_is_told_as_such(guest):
    port, events = guest
    port.sendall(b"end s1 2 0 0 0 -\n")
    assert events.wait_end("s1", SOON_S).started_at is None


def test_a_guest_that_goes_away_early_ends_every_wait_at_once(guest):
    port, events = guest
    port.sendall(b"kernel 6.1.0\nstart s1 1\n")
    port.close()
    assert events.wait_ready(60) is None
    assert events.wait_end("s1", 60) is None


def test_what_was_said_before_the_end_is_still_known(guest):
    port, events = guest
    port.sendall(HELLO + over("s1", 7))
    port.close()
    assert events.wait_ready(SOON_S).cpu_count == 2
    assert events.wait_end("s1", SOON_S).exit_status == 7


def test_closing_twice_does_no_harm_and_ends_the_thread(guest):
    _, events = guest
    events.close()
    events.close()
    assert not [t for t in threading.enumerate() if t.name == "guest events"]
    assert events.wait_ready(60) is None


def test_sessions_of_others_are_not_kept(guest):
    port, events = guest
    port.sendall(over("session-7-1.5") + over("s1"))
    assert events.wait_end("s1", SOON_S)
    assert events.wait_end("session-7-1.5", 0.01) is None
    assert not events._inbox.steps
