"""Fixtures for every kind of test."""

import socket

import pytest


@pytest.fixture
def free_port():
    """A TCP port of the loopback interface that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
