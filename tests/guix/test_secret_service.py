"""Our secret service and Guix's own, each as client and as server of the other."""

import signal
import socket
import stat

import pytest

from buildvm_nb.errors import MachineError
from buildvm_nb.guix.endpoint import Endpoint
from buildvm_nb.guix.secrets import ClientPatience, ServerPatience, receive_secrets, send_secrets
from buildvm_nb.guix.sexp import OffloadMachine, with_machine

pytestmark = pytest.mark.network

FILES = {
    "etc/guix/acl": (b"(acl)\n", 0o644),
    "etc/ssh/ssh_host_ed25519_key": (bytes(range(256)) * 1000, 0o600),
    "etc/ssh/authorized_keys.d/offloading": (b"ssh-ed25519 AAAA\n", 0o444),
    'with "quotes" and \\': (b"", 0o640),
}
PATIENT = ClientPatience(retries=200, pause_s=0.1)
SERVER = ServerPatience(client_timeout_s=600)
# an exception in a fiber is printed, and run-fibers waits for its value for ever: it has to end us
GUIX = """
(use-modules (fibers) (gnu build secret-service))
(define (fail key . args)
  (print-exception (current-error-port) #f key args)
  (primitive-exit 3))
"""
SERVE = """
(run-fibers
 (lambda ()
  (catch #t (lambda ()
   (chdir "%(root)s")
   (let ((files (secret-service-receive-secrets
                 (make-socket-address AF_INET INADDR_LOOPBACK %(port)d) #:timeout 60)))
     (write files)
     (force-output)
     (primitive-exit (if files 0 1)))) fail)))
"""
SEND = """
(run-fibers
 (lambda ()
  (catch #t (lambda ()
   (let ((root (secret-service-send-secrets
                (make-socket-address AF_INET INADDR_LOOPBACK %(port)d) %(root)s
                #:retry 60 #:handshake-timeout 60)))
     (write root)
     (force-output)
     (primitive-exit (if root 0 1)))) fail)))
"""


@pytest.fixture
def secrets(tmp_path):
    root = tmp_path / "secrets"
    for name, (content, mode) in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
    return root


def tree_of(root):
    return {
        str(path.relative_to(root)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in root.rglob("*")
        if path.is_file()
    }


def test_guix_receives_what_we_send(guile, secrets, tmp_path, free_port):
    into = tmp_path / "into"
    into.mkdir()
    # Guix's server writes to absolute names only, and this test is not to write to the host's
    # root directory: below a directory, so that its names lead to a directory of the test's
    below = secrets.rename(tmp_path / "moved")
    root = tmp_path / "root"
    target = root / str(into).lstrip("/")
    target.parent.mkdir(parents=True)
    below.rename(target)
    with guile.start(GUIX + SERVE % {"root": into, "port": free_port}) as process:
        sent = send_secrets(root, Endpoint.parse(f"tcp:127.0.0.1:{free_port}"), PATIENT)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, (out, err)
    assert f"received {len(FILES)} secret files" in out
    assert len(sent) == len(FILES)
    assert tree_of(into) == FILES


def test_we_receive_what_guix_sends(guile, secrets, tmp_path, free_port):
    into = tmp_path / "into"
    endpoint = Endpoint.parse(f"tcp:127.0.0.1:{free_port}")
    with guile.start(GUIX + SEND % {"root": f'"{secrets}"', "port": free_port}) as process:
        received = receive_secrets(endpoint, into, SERVER)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, (out, err)
    assert f"done sending files to 127.0.0.1:{free_port}" in out
    assert tree_of(into) == FILES
    assert [file.name for file in received] == sorted(f"/{name}" for name in FILES)


def test_guix_receives_nothing_where_we_have_nothing(guile, tmp_path, free_port):
    with guile.start(GUIX + SERVE % {"root": tmp_path, "port": free_port}) as process:
        assert send_secrets(None, Endpoint.parse(f"tcp:127.0.0.1:{free_port}"), PATIENT) == []
        out, err = process.communicate(timeout=600)
    assert out.endswith("received 0 secret files\n()"), (out, err)


def test_we_receive_nothing_where_guix_has_nothing(guile, tmp_path, free_port):
    endpoint = Endpoint.parse(f"tcp:127.0.0.1:{free_port}")
    with guile.start(GUIX + SEND % {"root": "#f", "port": free_port}) as process:
        assert receive_secrets(endpoint, tmp_path / "into", SERVER) == []
        process.communicate(timeout=600)


def test_more_than_is_allowed_is_refused_from_guix_as_well(guile, secrets, tmp_path, free_port):
    # more than a connection holds, so that Guix's client is still sending when it is refused
    (secrets / "large").write_bytes(bytes(2**25))
    endpoint = Endpoint.parse(f"tcp:127.0.0.1:{free_port}")
    with guile.start(GUIX + SEND % {"root": f'"{secrets}"', "port": free_port}) as process:
        with pytest.raises(MachineError, match="allowed: 10"):
            receive_secrets(endpoint, tmp_path / "into", SERVER, limit=10)
        _, err = process.communicate(timeout=600)
    # it is told at once: Guile lets the signal of a broken connection end a process
    assert process.returncode == -signal.SIGPIPE or "Connection reset by peer" in err, err
    assert not tree_of(tmp_path / "into")


LIST = """
(define-syntax-rule (build-machine field ...) 'machine)
(write (primitive-load "%s"))
"""


@pytest.mark.parametrize(
    ("greeting", "listed"), [(b"SSH-2.0-x\r\n", "(mine machine)"), (b"", "(mine)")]
)
def test_only_a_machine_that_greets_is_in_the_list(guile, tmp_path, greeting, listed):
    file = tmp_path / "machines.scm"
    with socket.create_server(("127.0.0.1", 0)) as server:
        fields = {"systems": ["x86_64-linux"], "user": "o", "host_key": "k", "private_key": "/k"}
        machine = OffloadMachine(port=server.getsockname()[1], **fields)
        file.write_text(with_machine("(list 'mine)\n", "vm", machine))
        with guile.start(LIST % file) as process:
            way, _ = server.accept()
            with way:
                way.sendall(greeting)
            out, err = process.communicate(timeout=600)
    assert out == listed, err
    with guile.start(LIST % file) as process:  # nobody listens there
        assert process.communicate(timeout=600)[0] == "(mine)"
