"""``buildvm guix``: two processes hand files over."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from buildvm_nb.cli import main; sys.exit(main())"


@pytest.fixture
def start(tmp_path):
    def start(*words):
        argv = [sys.executable, "-W", "error", "-c", PROGRAM, *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv, stdout=pipe, stderr=pipe, cwd=tmp_path, env=environment, text=True
        )

    return start


def test_secrets_go_from_one_process_to_another_over_a_private_socket(start, tmp_path):
    (tmp_path / "secrets/etc").mkdir(parents=True)
    (tmp_path / "secrets/etc/key").write_text("secret")
    (tmp_path / "secrets/etc/key").chmod(0o600)
    words = ("guix", "receive-secrets", "--on", "unix:sock", "--into", "into")
    with (
        start(*words, "--json") as receiver,
        start("guix", "send-secrets", "secrets", "--to", "unix:sock") as sender,
    ):
        out, err = sender.communicate(timeout=600)
        assert sender.returncode == 0, err
        assert out.split() == ["file", "bytes", "mode", "/etc/key", "6", "0600"]
        assert "warning" not in err
        out, err = receiver.communicate(timeout=600)
    assert json.loads(out) == [{"name": "/etc/key", "size": 6, "mode": 0o100600}]
    assert (tmp_path / "into/etc/key").read_text() == "secret"


def test_a_port_that_others_can_reach_comes_with_a_warning(start, tmp_path, free_port):
    (tmp_path / "secrets").mkdir()
    to = f"tcp:127.0.0.1:{free_port}"
    with start("guix", "send-secrets", "secrets", "--to", to, "--retries", "0") as sender:
        out, err = sender.communicate(timeout=600)
    assert sender.returncode == 1
    assert f"warning: any local user can reach {to}" in err
    assert "no secret service at" in err
    assert out == ""


def test_a_directory_of_secrets_that_is_not_there_is_an_error_of_usage(start):
    with start("guix", "send-secrets", "none", "--to", "unix:sock") as sender:
        _, err = sender.communicate(timeout=600)
    assert sender.returncode == 2
    assert "no directory of secrets: none" in err
