"""QEMU's monitor: our client against a fake QEMU that speaks real QMP."""

import json
import socket
import threading
from contextlib import suppress

import pytest

from buildvm_nb.errors import GuestLost
from buildvm_nb.model.machine import CpuIdentity
from buildvm_nb.vm.qemu import Monitor

GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2"},
        "capabilities": ["oob"],
    }
}
EVENT = {"timestamp": {"seconds": 1, "microseconds": 0}, "event": "RTC_CHANGE", "data": {}}
SILENCE, HANG_UP = object(), object()


class FakeQemu:
    """Greets, agrees on capabilities, then gives each command the reply laid down for it."""

    def __init__(self, replies, *, greeting=GREETING, event=EVENT):
        self.event = event
        self.replies = {"qmp_capabilities": {"return": {}}} | replies
        self.greeting = greeting
        self.heard = []
        self.client, self._port = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="fake QEMU")
        self._thread.start()

    def _serve(self):
        with self._port, suppress(OSError):  # the client may be gone already
            if self.greeting is HANG_UP:
                return
            if self.greeting is not SILENCE:
                self._say(self.greeting)
            for request in self._requests():
                self.heard.append(request)
                reply = self.replies[request["execute"]]
                if reply is HANG_UP:
                    return
                if reply is SILENCE:
                    continue
                if "id" in request:  # events begin after the capabilities were agreed on
                    self._say(self.event)
                    reply |= {"id": request["id"]}
                self._say(reply)

    def _requests(self):
        """Read JSON as it comes: QMP clients need not end their requests with a line feed."""
        text = ""
        while data := self._port.recv(1 << 16):
            text += data.decode()
            while text:
                try:
                    request, end = json.JSONDecoder().raw_decode(text)
                except ValueError:
                    break  # the rest is yet to come
                text = text[end:].lstrip()
                yield request

    def _say(self, message):
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        self._port.sendall(text + b"\r\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self._thread.join(600)
        assert not self._thread.is_alive()


@pytest.fixture
def talk():
    """Connect a monitor to a fake QEMU with given replies."""
    opened = []

    def connect(replies, *, timeout_s=60.0, on_trouble=None, **more):
        qemu = FakeQemu(replies, **more)
        opened.append(qemu.__exit__)
        monitor = Monitor(qemu.client, timeout_s=timeout_s, on_trouble=on_trouble)
        opened.append(monitor.close)
        return qemu, monitor

    yield connect
    for close in reversed(opened):
        close()


def test_a_command_is_answered_with_plain_json(talk):
    _, monitor = talk({"query-status": {"return": {"status": "running", "running": True}}})
    assert monitor.execute("query-status") == {"status": "running", "running": True}


def test_arguments_are_sent_with_dashes_for_underscores(talk):
    qemu, monitor = talk({"qom-get": {"return": []}})
    monitor.execute("qom-get", path="/machine", my_property="x")
    assert qemu.heard[-1]["arguments"] == {"path": "/machine", "my-property": "x"}


def test_a_refused_command_is_an_error_with_qemu_s_own_words(talk):
    refusal = {"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}
    _, monitor = talk({"x": refusal, "query-status": {"return": {}}})
    with pytest.raises(GuestLost, match=r"QEMU's monitor: .*The command x has not been found"):
        monitor.execute("x")
    assert monitor.execute("query-status") == {}


def test_silence_ends_with_an_error_when_the_time_is_over(talk):
    _, monitor = talk({"query-status": SILENCE}, timeout_s=0.2)
    with pytest.raises(GuestLost, match="QEMU's monitor: TimeoutError"):
        monitor.execute("query-status")


def test_a_qemu_that_never_greets_is_given_up(talk):
    with pytest.raises(GuestLost, match="QEMU's monitor: "):
        talk({}, greeting=SILENCE, timeout_s=0.2)
    assert not [t for t in threading.enumerate() if t.name == "QEMU monitor"]


def test_a_qemu_that_ends_before_its_greeting_is_lost(talk):
    with pytest.raises(GuestLost, match="QEMU's monitor: "):
        talk({}, greeting=HANG_UP)


def test_something_that_does_not_speak_qmp_is_lost(talk):
    with pytest.raises(GuestLost, match="QEMU's monitor: "):
        talk({}, greeting=b"SSH-2.0-dropbear")


def test_a_qemu_that_ends_in_the_middle_is_lost_then_and_ever_after(talk):
    _, monitor = talk({"quit": HANG_UP})
    with pytest.raises(GuestLost, match="QEMU's monitor: "):
        monitor.execute("quit")
    with pytest.raises(GuestLost, match="QEMU's monitor: "):
        monitor.execute("query-status")


def test_what_the_cpu_has_and_what_it_lacks_is_told_by_qemu_s_names(talk):
    props = {"avx": True, "sse2": True, "pcid": True, "cx16": False, "kvm": True, "level": 13}
    qemu, monitor = talk(
        {
            "query-cpu-model-expansion": {"return": {"model": {"name": "max", "props": props}}},
            "query-cpus-fast": {"return": [{"qom-path": "/machine/unattached/device[0]"}]},
            "qom-get": {"return": ["pcid", "vmx-ept"]},
        }
    )
    known = frozenset({"avx", "sse2", "pcid", "cx16"})
    assert monitor.cpu_features("Haswell,-cx16,+avx", known) == (("avx", "sse2"), ("pcid",))
    asked = next(r for r in qemu.heard if r["execute"] == "query-cpu-model-expansion")
    assert asked["arguments"] == {
        "type": "full",
        "model": {"name": "Haswell", "props": {"cx16": False, "avx": True}},
    }
    assert qemu.heard[-1]["arguments"] == {
        "path": "/machine/unattached/device[0]",
        "property": "unavailable-features",
    }


@pytest.mark.parametrize("vendor", ["", "AuthenticAMD"])
def test_what_a_model_says_of_itself_is_asked_with_its_own_vendor(talk, vendor):
    props = {
        "vendor": "AuthenticAMD",
        "family": 23,
        "model": 1,
        "stepping": 2,
        "model-id": "AMD EPYC  Processor",
    }
    qemu, monitor = talk(
        {"query-cpu-model-expansion": {"return": {"model": {"name": "EPYC", "props": props}}}}
    )
    assert monitor.cpu_identity("EPYC,-avx2", vendor) == CpuIdentity(
        vendor="AuthenticAMD", family=23, model=1, stepping=2, name="AMD EPYC Processor"
    )
    asked = {"name": "EPYC", "props": {"vendor": vendor} if vendor else {}}
    assert qemu.heard[-1]["arguments"] == {"type": "full", "model": asked}


def test_closing_twice_does_no_harm_and_ends_the_thread(talk):
    _, monitor = talk({})
    monitor.close()
    monitor.close()
    assert not [t for t in threading.enumerate() if t.name == "QEMU monitor"]


RUNNING = {"query-status": {"return": {"status": "running"}}, "stop": {"return": {}}}


def event(name, **data):
    return {"timestamp": {"seconds": 1, "microseconds": 0}, "event": name, "data": data}


def test_a_disk_that_fails_is_reported_before_the_next_answer_and_once(talk):
    heard = []
    failure = event(
        "BLOCK_IO_ERROR", device="scratch", operation="write", reason="No space left on device",
        action="report", nospace=True,
    )  # fmt: skip
    _, monitor = talk(RUNNING, event=failure, on_trouble=heard.append)
    for _ in range(3):
        monitor.execute("query-status")
        assert heard == ["QEMU could not write the disk 'scratch': No space left on device"]


def test_a_pause_that_nobody_asked_for_is_reported(talk):
    heard = []
    _, monitor = talk(RUNNING, event=event("STOP"), on_trouble=heard.append)
    monitor.execute("query-status")
    assert heard == ["QEMU has paused the guest, and nobody has asked for it"]


def test_a_pause_that_was_asked_for_and_other_news_are_no_trouble(talk):
    heard = []
    _, monitor = talk(RUNNING, event=event("STOP"), on_trouble=heard.append)
    monitor.execute("stop")
    assert heard == []
    _, monitor = talk(RUNNING, on_trouble=heard.append)
    monitor.execute("query-status")
    assert heard == []
