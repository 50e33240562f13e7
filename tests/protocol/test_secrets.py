"""The secret service: our two ends against each other, and against fakes that misbehave."""

import os
import pty
import socket
import stat
import threading
import time
import tty
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from buildvm_nb.errors import HostError, MachineError, UsageError
from buildvm_nb.guix.endpoint import Connection, Ended, Endpoint, TooLate
from buildvm_nb.guix.secrets import (
    GREETING,
    ClientPatience,
    ServerPatience,
    receive_secrets,
    send_secrets,
)

ONCE = ClientPatience(retries=0, pause_s=0.01, handshake_timeout_s=300, transfer_timeout_s=300)
PATIENT = ClientPatience(retries=600, pause_s=0.02, handshake_timeout_s=600)
SERVER = ServerPatience(client_timeout_s=30, transfer_timeout_s=600)
HASTY = ServerPatience(client_timeout_s=30, transfer_timeout_s=0.2)
ACL, KEY = b"(acl)\n", bytes(range(256)) * 300
MESSAGE = (
    b'(secrets (version 0) (files (("/etc/guix/acl" 6 33188) ("/etc/ssh/key" 76800 33152))))'
    + ACL
    + KEY
)
NAMES = ["/etc/guix/acl", "/etc/ssh/key"]


@pytest.fixture
def secrets(tmp_path):
    """A directory as Guix has below ``/etc/guix/virtual-build-machines``."""
    root = tmp_path / "secrets"
    for name, content, mode in (("etc/guix/acl", ACL, 0o644), ("etc/ssh/key", KEY, 0o600)):
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        path.chmod(mode)
    return root


@pytest.fixture
def into(tmp_path):
    """Where secrets are received; made by the receiver."""
    return tmp_path / "into"


@pytest.fixture
def meeting(tmp_path):
    """A Unix socket's endpoint."""
    return Endpoint.parse(f"unix:{tmp_path}/secrets.sock")


@contextmanager
def serving(endpoint, into, patience=SERVER, **options):
    """Receive in another thread; yields a future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(receive_secrets, endpoint, into, patience, **options)


def connect(endpoint):
    """Connect a fake client as soon as the server is there."""
    for _ in range(500):
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(endpoint.path)
        except OSError:
            client.close()
            threading.Event().wait(0.01)
        else:
            return client
    raise AssertionError("no server")


def tell(endpoint, message):
    """Be a client that says a message and closes."""
    with connect(endpoint) as client:
        greeting = client.recv(100)
        client.sendall(message)
    return greeting


@contextmanager
def greeting_with(endpoint, *answers):
    """Be a server that answers each client with some bytes and closes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(endpoint.path)
        listener.listen()

        def serve():
            for answer in answers:
                client, _ = listener.accept()
                with client, client.makefile("rb") as stream:
                    client.sendall(answer)
                    if answer == GREETING:
                        stream.read()

        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(serve)


def tree_of(root):
    """What is below a directory: names, contents, permissions."""
    return {
        f"/{path.relative_to(root)}": (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in root.rglob("*")
        if path.is_file()
    }


def is_empty(root):
    return not list(root.rglob("*"))


@pytest.mark.parametrize("kind", ["unix", "tcp", "tcp6"])
def test_files_arrive_with_their_modes_over_each_kind_of_socket(
    kind, secrets, into, meeting, free_port
):
    host = {"tcp": "127.0.0.1", "tcp6": "[::1]"}.get(kind)
    endpoint = Endpoint.parse(f"tcp:{host}:{free_port}") if host else meeting
    with serving(endpoint, into) as received:
        sent = send_secrets(secrets, endpoint, PATIENT)
    assert [file.name for file in sent] == NAMES
    assert received.result() == sent
    assert tree_of(into) == {NAMES[0]: (ACL, 0o644), NAMES[1]: (KEY, 0o600)}


def test_files_arrive_over_vsock(secrets, into):
    endpoint = Endpoint.parse("vsock:1:41004")
    try:
        with socket.socket(socket.AF_VSOCK) as probe:
            probe.bind((1, 41004))
    except OSError:
        pytest.skip("this host has no vsock to itself (module vsock_loopback)")
    with serving(endpoint, into):
        send_secrets(secrets, endpoint, PATIENT)
    assert set(tree_of(into)) == set(NAMES)


def test_files_arrive_at_a_character_device(secrets, into, tmp_path):
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    device = Endpoint.parse(f"port:{os.ttyname(theirs)}")
    with serving(device, into) as received:
        client = Connection(ours)
        deadline = time.monotonic() + 30
        said = b""
        while len(said) < len(GREETING):
            said += client.receive(deadline, "the greeting")
        client.send(MESSAGE, deadline, "the secrets")
        assert [file.name for file in received.result(30)] == NAMES
    client.close()
    os.close(theirs)
    assert said == GREETING
    assert tree_of(into)["/etc/ssh/key"] == (KEY, 0o600)


def test_files_are_sent_to_a_character_device(secrets):
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    device = Endpoint.parse(f"port:{os.ttyname(theirs)}")
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_secrets, secrets, device, ONCE)
        server = Connection(ours)
        deadline = time.monotonic() + 30
        server.send(GREETING, deadline, "the greeting")
        said = b""
        while len(said) < len(MESSAGE):
            said += server.receive(deadline, "the secrets")
        assert [file.name for file in sent.result(30)] == NAMES
    server.close()
    os.close(theirs)
    assert said == MESSAGE


def test_a_device_whose_other_end_is_not_open_yet_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "port")  # it reads as ended as long as nobody writes, as virtio ports do
    port = os.open(tmp_path / "port", os.O_RDONLY | os.O_NONBLOCK)
    with closing(Connection(port, is_device=True)) as connection:
        with pytest.raises(TooLate, match="time was over before the greeting"):
            connection.receive(time.monotonic() + 0.15, "the greeting")
        with ThreadPoolExecutor(1) as pool:
            received = pool.submit(connection.receive, time.monotonic() + 30, "the greeting")
            (tmp_path / "port").write_bytes(GREETING)
            assert received.result(30) == GREETING


def test_a_device_that_takes_nothing_is_given_up():
    ours, theirs = socket.socketpair()
    with (
        closing(theirs),
        closing(Connection(ours.detach(), is_device=True)) as connection,
        pytest.raises(TooLate, match="before it had taken the secrets"),
    ):
        connection.send(bytes(2**24), time.monotonic() + 0.15, "the secrets")


def test_what_is_no_character_device_is_no_port(tmp_path, into):
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="no character device"):
        receive_secrets(Endpoint.parse(f"port:{tmp_path}/file"), into, SERVER)


def test_the_bytes_on_the_wire_are_guixs(secrets, meeting):
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(meeting.path)
        listener.listen()
        sent = pool.submit(send_secrets, secrets, meeting, ONCE)
        client, _ = listener.accept()
        with client, client.makefile("rb") as stream:
            for byte in b"(secret-service-server (version 0))":
                client.sendall(bytes([byte]))  # in pieces
            assert stream.read() == MESSAGE
        sent.result()


def test_no_directory_sends_an_empty_list(into, meeting):
    with serving(meeting, into) as received:
        assert send_secrets(None, meeting, PATIENT) == []
    assert received.result() == []


def test_a_message_may_come_byte_by_byte(into, meeting):
    with serving(meeting, into) as received:
        with connect(meeting) as client:
            for byte in MESSAGE[:400]:
                client.sendall(bytes([byte]))
            client.sendall(MESSAGE[400:])
        received.result()
    assert tree_of(into)["/etc/ssh/key"][0] == KEY


def test_an_old_file_is_replaced(into, meeting):
    (into / "etc/guix").mkdir(parents=True)
    (into / "etc/guix/acl").write_text("old")
    with serving(meeting, into) as received:
        tell(meeting, MESSAGE)
    received.result()
    assert tree_of(into)["/etc/guix/acl"] == (ACL, 0o644)


SMALL = b'(secrets (version 0) (files (("/etc/a" 2 33188) ("/etc/b" 3 33152))))xxyyy'


@pytest.mark.parametrize("length", range(len(SMALL)))
def test_a_client_that_ends_too_early_at_any_byte_leaves_nothing(length, into, meeting):
    with serving(meeting, into) as received:
        assert tell(meeting, SMALL[:length]) == GREETING
        with pytest.raises(Ended, match=r"closed the connection|broke"):
            received.result()
    assert is_empty(into)


@pytest.mark.parametrize("length", range(len(GREETING)))
def test_a_server_that_ends_its_greeting_at_any_byte_is_tried_again(length, secrets, meeting):
    twice = ClientPatience(retries=1, pause_s=0.01)
    with greeting_with(meeting, GREETING[:length], GREETING):
        assert send_secrets(secrets / "etc/guix", meeting, twice)
    Path(meeting.path).unlink()
    with (
        greeting_with(meeting, GREETING[:length], GREETING[:length]),
        pytest.raises(MachineError, match=r"no secret service at .* after 2 tries"),
    ):
        send_secrets(secrets, meeting, twice)


@pytest.mark.parametrize(
    ("greeting", "complaint"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no S-expression.*SSH-2.0"),
        (b"(hello)", r"no secret service; it greets with \(hello\)"),
        (b"(secret-service-server)", "no secret service"),
        (b'("secret-service-server" (version 0))', "no secret service"),
        (b"(secret-service-server (version 1))", "version 1 .*allowed: 0"),
        (b"(secret-service-server (version " + b"9" * 5000 + b"))", "too long"),
        (b"(" * 300, "more than 200 parentheses deep"),
        (b"(\xff)", "no S-expression"),
        (b'("' + b"x" * 3000, "too long"),
    ],
)
def test_another_greeting_is_refused(greeting, complaint, secrets, meeting):
    with (
        greeting_with(meeting, greeting),
        pytest.raises(MachineError, match=complaint),
    ):
        send_secrets(secrets, meeting, ONCE)


def test_a_server_that_drops_the_connection_has_not_taken_all(secrets, meeting):
    def serve(listener):
        client, _ = listener.accept()
        client.sendall(GREETING)
        client.recv(10)
        client.close()

    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(meeting.path)
        listener.listen()
        served = pool.submit(serve, listener)
        with pytest.raises(Ended, match=r"dropped the connection|closed the connection"):
            send_secrets(secrets, meeting, ONCE)
        served.result()


def test_a_server_that_does_not_greet_in_time_is_given_up(secrets, meeting):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(meeting.path)
        listener.listen()
        with pytest.raises(TooLate, match="time was over before the greeting"):
            send_secrets(secrets, meeting, ClientPatience(handshake_timeout_s=0.1))


def test_nobody_at_all_is_told_with_the_number_of_tries(secrets, meeting):
    with pytest.raises(HostError, match=r"after 3 tries: No such file"):
        send_secrets(secrets, meeting, ClientPatience(retries=2, pause_s=0.01))


def listed(*triples):
    return b"(secrets (version 0) (files (" + b" ".join(triples) + b")))"


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no S-expression"),
        (b"(hello)", "no list of secrets"),
        (b"(secrets (version 1) (files ()))", "version 1 .*allowed: 0"),
        (b"(secrets (version 0) (files))", "no list of secrets"),
        (b"(secrets (version 0) (files (a)))", "announced as a"),
        (listed(b'("/a" 1)'), "announced as"),
        (listed(b"(/a 1 33188)"), "announced as"),
        (listed(b'("/a" "1" 33188)'), "announced as"),
        (listed(b'("/a" 1.5 33188)'), "announced as"),
        (listed(b'("/a" -1 33188)'), "size -1"),
        (listed(b'("/a" 99999999999999999999 33188)'), "too large"),
        (listed(b'("/a" 67108865 33188)'), "67108865 bytes; allowed: 67108864"),
        (listed(b'("/a" 40000000 33188)', b'("/b" 40000000 33188)'), "too large"),
        (listed(b'("/a" ' + b"9" * 5000 + b" 33188)"), "announced as|no S-expression"),
        (listed(b'("/a" 1 41471)'), "allowed: plain files"),
        (listed(b'("/a" 1 16877)'), "allowed: plain files"),
        (listed(b'("/a" 1 99999999)'), "allowed: plain files"),
        (listed(*[b'("/%d" 0 33188)' % number for number in range(1001)]), "too many secrets"),
        (listed(b'("/a" 0 33188)', b'("a" 0 33188)'), "announced twice"),
        (listed(b'("/x" 0 33188)', b'("/a/b/c" 0 33188)', b'("/a" 0 33188)'), "and a directory"),
        (listed(b'("' + b"/a" * 1000 + b'" 0 33188)'), "too many directories"),
        (listed(b'("/../a" 0 33188)'), "unsafe name"),
        (listed(b'("/etc/../../a" 0 33188)'), "unsafe name"),
        (listed(b'("../a" 0 33188)'), "unsafe name"),
        (listed(b'("//a" 0 33188)'), "unsafe name"),
        (listed(b'("/etc//a" 0 33188)'), "unsafe name"),
        (listed(b'("/./a" 0 33188)'), "unsafe name"),
        (listed(b'("" 0 33188)'), "unsafe name"),
        (listed(b'("/" 0 33188)'), "unsafe name"),
        (listed(b'("/etc/" 0 33188)'), "unsafe name"),
        (listed(b'("/a\x00" 0 33188)'), "unsafe name"),
        (listed(b'("/a\\nb" 0 33188)'), "unsafe name"),
        (listed(b'("/' + b"x" * 256 + b'" 0 33188)'), "too long a name"),
        (listed(b'("' + (b"/" + b"x" * 200) * 25 + b'" 0 33188)'), "too long a name"),
        (b"(secrets " + b"(" * 300, "more than 200 parentheses deep"),
        (b"(" + b'"x" ' * 300000, "too long; allowed: 1048576"),
        (b"(\xff\xfe)", "no S-expression"),
    ],
)
def test_a_list_of_secrets_that_is_not_in_order_is_refused(message, complaint, into, meeting):
    with serving(meeting, into, HASTY) as received, connect(meeting) as client:
        client.settimeout(10)
        client.recv(100)
        with suppress(BrokenPipeError):  # it is refused before all of it is sent
            client.sendall(message)
        with pytest.raises(MachineError, match=complaint):
            received.result(30)
    assert is_empty(into)


def test_absolute_names_are_below_the_directory(into, meeting):
    with serving(meeting, into) as received:
        tell(meeting, listed(b'("/a" 1 33188)', b'("b/c" 1 33188)') + b"12")
    received.result()
    assert tree_of(into) == {"/a": (b"1", 0o644), "/b/c": (b"2", 0o644)}


def test_the_size_of_all_secrets_is_bounded_on_both_sides(secrets, into, meeting):
    with pytest.raises(UsageError, match="allowed: 1000 files of 5"):
        send_secrets(secrets, meeting, ONCE, limit=5)
    with serving(meeting, into, limit=5) as received:
        tell(meeting, MESSAGE)
        with pytest.raises(MachineError, match="allowed: 5"):
            received.result()
    assert is_empty(into)


@pytest.mark.parametrize("target", ["outside", "/nowhere"])
def test_a_link_in_the_way_is_not_followed(target, into, meeting, tmp_path):
    (tmp_path / "outside").mkdir()
    into.mkdir()
    (into / "etc").symlink_to(tmp_path / target)
    with serving(meeting, into) as received:
        tell(meeting, MESSAGE)
        with pytest.raises(HostError, match="links are not followed"):
            received.result()
    assert is_empty(tmp_path / "outside")
    assert [path.name for path in into.iterdir()] == ["etc"]


def test_a_link_at_the_place_of_a_secret_is_replaced_not_followed(into, meeting, tmp_path):
    (tmp_path / "outside").write_text("untouched")
    into.mkdir()
    (into / "a").symlink_to(tmp_path / "outside")
    with serving(meeting, into) as received:
        tell(meeting, listed(b'("/a" 1 33152)') + b"1")
    received.result()
    assert (tmp_path / "outside").read_text() == "untouched"
    assert not (into / "a").is_symlink()
    assert (into / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("there", "complaint"), [("etc/guix/acl/x", "is in the way"), ("etc", "links are not followed")]
)
def test_what_is_in_the_way_of_a_secret_stays_and_nothing_else_comes(
    there, complaint, into, meeting
):
    path = into / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with serving(meeting, into) as received:
        tell(meeting, MESSAGE)
        with pytest.raises(HostError, match=complaint):
            received.result()
    assert tree_of(into) == {f"/{there}": (b"mine", 0o644)}


def test_a_link_among_the_secrets_is_not_sent(secrets, meeting):
    (secrets / "etc/link").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"must be a plain file: .*/etc/link"):
        send_secrets(secrets, meeting, ONCE)


def test_a_fifo_among_the_secrets_is_not_waited_for(secrets, meeting):
    os.mkfifo(secrets / "etc/fifo")
    with pytest.raises(UsageError, match="plain file"):
        send_secrets(secrets, meeting, ONCE)


def test_a_directory_that_is_not_there_cannot_be_sent(tmp_path, meeting):
    with pytest.raises(UsageError, match="no directory of secrets"):
        send_secrets(tmp_path / "none", meeting, ONCE)


def test_a_second_client_is_refused_while_the_first_is_served(into, meeting):
    with serving(meeting, into) as received:
        with connect(meeting) as first:
            assert first.recv(100) == GREETING
            with socket.socket(socket.AF_UNIX) as second, pytest.raises(OSError):  # noqa: PT011
                second.connect(meeting.path)
            first.sendall(SMALL)
        received.result()
    assert set(tree_of(into)) == {"/etc/a", "/etc/b"}


def test_of_clients_that_race_for_a_tcp_port_one_is_served_and_the_others_are_not(into, free_port):
    endpoint = Endpoint.parse(f"tcp:127.0.0.1:{free_port}")
    start, over = threading.Barrier(4), threading.Event()

    def race(number):
        start.wait(600)
        while not over.wait(0.005):
            try:
                client = socket.create_connection(("127.0.0.1", free_port), 10)
            except OSError:
                continue
            with client:
                try:
                    if client.recv(100) != GREETING:
                        return False
                    client.sendall(listed(b'("/who" 1 33188)') + b"%d" % number)
                except OSError:
                    return False
                return True
        return False

    with ThreadPoolExecutor(4) as pool, serving(endpoint, into) as received:
        racers = [pool.submit(race, number) for number in range(3)]
        start.wait(600)
        try:
            received.result()
        finally:
            over.set()
        winners = [number for number, racer in enumerate(racers) if racer.result()]
    assert len(winners) == 1
    assert (into / "who").read_text() == str(winners[0])


def test_a_client_that_says_nothing_does_not_hold_the_server_for_ever(into, meeting):
    with (
        serving(meeting, into, HASTY) as received,
        connect(meeting),
        pytest.raises(TooLate, match="time was over before the list of secrets"),
    ):
        received.result()


def test_a_server_that_nobody_comes_to_gives_up(into, meeting):
    with pytest.raises(TooLate, match="nobody sent secrets to unix:"):
        receive_secrets(meeting, into, ServerPatience(client_timeout_s=0.05))
    assert not Path(meeting.path).exists()


def test_a_place_that_is_taken_is_told(into, meeting, free_port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()
        with pytest.raises(HostError, match="Address already in use") as caught:
            receive_secrets(Endpoint.parse(f"tcp:127.0.0.1:{free_port}"), into, SERVER)
    assert "another process has it" in caught.value.hint
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(meeting.path)
        other.listen()
        with pytest.raises(HostError, match="Address already in use"):
            receive_secrets(meeting, into, SERVER)


def test_the_socket_of_a_killed_server_is_no_hindrance(into, meeting):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(meeting.path)
    with serving(meeting, into) as received:
        tell(meeting, SMALL)
    assert len(received.result()) == 2


def test_a_file_at_the_place_of_a_socket_is_left_alone(into, meeting):
    Path(meeting.path).write_text("mine")
    with pytest.raises(HostError, match="Address already in use"):
        receive_secrets(meeting, into, SERVER)
    assert Path(meeting.path).read_text() == "mine"
