import pytest

from buildvm_nb.errors import UsageError
from buildvm_nb.guix.endpoint import Endpoint


@pytest.mark.parametrize(
    "text",
    [
        "tcp:127.0.0.1:1004",
        "tcp:[::1]:1004",
        "tcp:localhost:65535",
        "unix:/run/secrets",
        "unix:a:b",
        "vsock:3:1004",
        "vsock:any:4294967294",
        "port:/dev/virtio-ports/secrets",
    ],
)
def test_an_endpoint_is_written_as_it_was_read(text):
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "allowed: tcp:HOST:PORT, unix:PATH"),
        ("localhost:22", "not an endpoint"),
        ("tcp:1004", "not an endpoint"),
        ("tcp::1004", "not an endpoint"),
        ("tcp:localhost:ssh", "not an endpoint"),
        ("tcp:localhost:0", "port out of range: .*allowed: 1 to 65535"),
        ("tcp:localhost:65536", "port out of range"),
        ("vsock:1004", "not an endpoint"),
        ("vsock:x:1004", "not a context identifier: 'x'"),
        ("vsock:4294967296:1", "not a context identifier"),
        ("unix:", "not an endpoint"),
        ("unix:" + "x" * 108, "too long: .*allowed: 107 bytes"),
        ("port:", "not an endpoint"),
    ],
)
def test_what_is_no_endpoint_is_refused(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("tcp:127.0.0.1:1004", "any local user can reach tcp:127.0.0.1:1004"),
        ("tcp:localhost:1004", "any local user"),
        ("tcp:[::1]:1004", "any local user"),
        ("tcp:0.0.0.0:1004", "anybody in the network"),
        ("tcp:example.org:1004", "anybody in the network"),
        ("vsock:3:1004", "any local user"),
    ],
)
def test_what_others_can_reach_comes_with_a_warning(text, warning):
    assert warning in Endpoint.parse(text).warning()


def test_what_is_private_comes_without_a_warning():
    assert not Endpoint.parse("unix:/run/secrets").warning()
    assert not Endpoint.parse("port:/dev/vport0p1").warning()
