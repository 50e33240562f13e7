"""The guest channel: our client against a real SSH server on a socket."""

import socket
import threading
from contextlib import suppress

import paramiko
import pytest

from buildvm_nb.errors import GuestLost
from buildvm_nb.vm.channel import GuestChannel, _private
from buildvm_nb.vm.session import ChannelKeys

# ruff: noqa: ARG002 - paramiko says what its methods are given
SOON_S = 600.0


class Guest(paramiko.ServerInterface):
    """Lets one key in and answers each command with its own text."""

    def __init__(self, allowed):
        self.allowed = allowed
        self.commands = []
        self.terminals = []

    def check_auth_publickey(self, username, key):
        fits = username == "root" and key.asbytes() == self.allowed.asbytes()
        return paramiko.AUTH_SUCCESSFUL if fits else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username):
        return "publickey"

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_pty_request(self, channel, term, width, height, *_):
        self.terminals.append((term, width, height))
        return True

    def check_channel_exec_request(self, channel, command):
        self.commands.append(command)

        def answer():
            with suppress(OSError, EOFError, paramiko.SSHException):  # the client need not wait
                channel.sendall(command + channel.makefile("rb").read())
                channel.sendall_stderr(b"oh")
                channel.send_exit_status(3)
                channel.close()

        threading.Thread(target=answer, name="fake command").start()
        return True


@pytest.fixture
def serve():
    """Run a server that holds some keys; returns its interface, its session and our socket."""
    sessions = []

    def start(keys):
        ours, theirs = socket.socketpair()
        session = paramiko.Transport(theirs)
        sessions.append((session, ours))
        session.add_server_key(_private(keys.host))
        guest = Guest(_private(keys.client))
        session.start_server(threading.Event(), guest)
        return guest, session, ours

    yield start
    for session, ours in sessions:
        session.close()
        session.join(SOON_S)
        session.sock.close()
        ours.close()


def test_with_the_right_keys_commands_run_and_are_heard(serve):
    keys = ChannelKeys.generate()
    guest, _, connection = serve(keys)
    channel = GuestChannel(connection, keys, timeout_s=SOON_S)
    with channel.start("step s1") as session:
        session.sendall(b" <input>")
        session.shutdown_write()
        assert session.makefile("rb").read() == b"step s1 <input>"
        assert session.makefile_stderr("rb").read() == b"oh"
        assert session.recv_exit_status() == 3
    assert guest.commands == [b"step s1"]
    assert guest.terminals == []
    channel.close()


def test_a_command_gets_a_terminal_where_it_is_to_have_one(serve):
    keys = ChannelKeys.generate()
    guest, _, connection = serve(keys)
    channel = GuestChannel(connection, keys, timeout_s=SOON_S)
    with channel.start("sh", terminal=("xterm", 132, 50)) as session:
        session.shutdown_write()
        assert session.recv_exit_status() == 3
    assert guest.terminals == [(b"xterm", 132, 50)]
    channel.close()


def test_several_commands_run_side_by_side(serve):
    keys = ChannelKeys.generate()
    _, _, connection = serve(keys)
    channel = GuestChannel(connection, keys, timeout_s=SOON_S)
    with channel.start("one") as first, channel.start("two") as second:
        second.shutdown_write()
        assert second.makefile("rb").read() == b"two"
        first.shutdown_write()
        assert first.makefile("rb").read() == b"one"
    channel.close()


def test_a_server_with_another_key_is_refused_before_we_log_in(serve):
    keys, others = ChannelKeys.generate(), ChannelKeys.generate()
    _, session, connection = serve(ChannelKeys(others.host, keys.client))
    with pytest.raises(GuestLost, match="its server has another key than was made for it"):
        GuestChannel(connection, keys, timeout_s=SOON_S)
    assert not session.is_authenticated()


def test_a_server_that_does_not_let_us_in_is_lost(serve):
    keys, others = ChannelKeys.generate(), ChannelKeys.generate()
    _, _, connection = serve(ChannelKeys(keys.host, others.client))
    with pytest.raises(GuestLost, match="no SSH session with the guest: Authentication failed"):
        GuestChannel(connection, keys, timeout_s=SOON_S)


def test_a_server_that_goes_away_before_the_handshake_is_lost():
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(GuestLost, match="no SSH session with the guest"):
        GuestChannel(ours, ChannelKeys.generate(), timeout_s=SOON_S)


def test_a_server_that_says_nothing_is_given_up_in_time():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(GuestLost, match="no SSH session with the guest"):
        GuestChannel(ours, ChannelKeys.generate(), timeout_s=0.3)


def test_a_server_that_went_away_later_is_lost_when_the_next_command_starts(serve):
    keys = ChannelKeys.generate()
    _, session, connection = serve(keys)
    channel = GuestChannel(connection, keys, timeout_s=SOON_S)
    session.close()
    session.join(SOON_S)
    with pytest.raises(GuestLost, match="the SSH session with the guest is gone"):
        channel.start("step s1")
    channel.close()


def test_closing_twice_does_no_harm(serve):
    keys = ChannelKeys.generate()
    _, _, connection = serve(keys)
    channel = GuestChannel(connection, keys, timeout_s=SOON_S)
    channel.close()
    channel.close()
    with pytest.raises(GuestLost):
        channel.start("step s1")
