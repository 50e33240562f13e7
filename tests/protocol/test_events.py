"""The events port: our reader against a fake guest on a real socket."""

import socket
import threading
from datetime import UTC, datetime

import pytest

from buildvm_nb.errors import GuestLost
from buildvm_nb.model.cpu import CpuIdentity
from buildvm_nb.vm.events import Events

SOON_S = 5.0
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
    port.sendall(b"start s1 1556668800\nend s1 1556668801.5 132 1 2048 -\n")
    started_at, end = events.wait_end("s1", SOON_S)
    assert started_at == AT
    assert end.clock_at == AT.replace(second=1, microsecond=500_000)
    assert (end.status, end.oom_kills, end.free_kib) == (132, 1, 2048)


def test_how_far_a_held_clock_strayed_is_read(guest):
    port, events = guest
    port.sendall(b"start s1 1\nend s1 1 0 0 9 0.014123\nstart s2 1\nend s2 1 0 0 9 -\n")
    assert events.wait_end("s1", SOON_S)[1].drift_s == 0.014123
    assert events.wait_end("s2", SOON_S)[1].drift_s is None


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
    port.sendall(b"start a 1\nstart b 2\nend b 3 0 0 9 -\nend a 4 1 0 9 -\n")
    assert events.wait_end("a", SOON_S)[1].status == 1
    assert events.wait_end("b", SOON_S)[1].status == 0


def test_a_step_that_does_not_end_in_time_is_told_as_none(guest):
    port, events = guest
    port.sendall(b"start s1 1556668800\n")
    assert events.wait_end("s1", 0.05) is None


def test_a_wait_ends_when_another_thread_hears_the_news(guest):
    port, events = guest
    heard = []
    waiter = threading.Thread(target=lambda: heard.append(events.wait_end("s1", SOON_S)))
    waiter.start()
    port.sendall(b"start s1 1\nend s1 2 0 0 9 -\n")
    waiter.join(SOON_S)
    assert heard[0][1].status == 0


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
        b"end s1 1 fine 0 0\n",
        b"end s1 1 0\n",
        b"\xff\xfe\x00 cpus\n",
        b"[    1.000000] systemd: hello\n",
        b"x" * 300_000 + b"\n",
    ],
)
def test_garbage_does_not_stop_the_reader(guest, garbage):
    port, events = guest
    port.sendall(garbage + HELLO + b"start s2 1\nend s2 2 0 0 9 -\n")
    assert events.wait_ready(SOON_S).cpu_count == 2
    assert events.wait_end("s2", SOON_S)[1].status == 0


def test_an_end_without_a_beginning_is_no_end(guest):
    port, events = guest
    port.sendall(b"end s1 2 0 0 9 -\n")
    assert events.wait_end("s1", SOON_S) is None


def test_a_guest_that_goes_away_early_ends_every_wait_at_once(guest):
    port, events = guest
    port.sendall(b"kernel 6.1.0\nstart s1 1\n")
    port.close()
    assert events.wait_ready(60) is None
    assert events.wait_end("s1", 60) is None


def test_what_was_said_before_the_end_is_still_known(guest):
    port, events = guest
    port.sendall(HELLO + b"start s1 1\nend s1 2 7 0 9 -\n")
    port.close()
    assert events.wait_ready(SOON_S).cpu_count == 2
    assert events.wait_end("s1", SOON_S)[1].status == 7


def test_closing_twice_does_no_harm_and_ends_the_thread(guest):
    _, events = guest
    events.close()
    events.close()
    assert not [t for t in threading.enumerate() if t.name == "guest events"]
    assert events.wait_ready(60) is None


def test_sessions_of_others_are_not_kept(guest):
    port, events = guest
    port.sendall(
        b"start session-7-1.5 1\nend session-7-1.5 2 0 0 9 -\nstart s1 1\nend s1 2 0 0 9 -\n"
    )
    assert events.wait_end("s1", SOON_S)
    assert events.wait_end("session-7-1.5", 0.01) is None
    assert not events._inbox.starts
