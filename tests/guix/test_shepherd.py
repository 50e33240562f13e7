"""A service file for the Shepherd, run by a real Shepherd, which stands for a user's."""

import json
import os
import signal
import subprocess
import threading

import pytest

from buildvm_nb.guix.machinefile import MachineFile
from buildvm_nb.service.control import shepherd_service

pytestmark = pytest.mark.network

MACHINE = """\
#!/bin/sh
# a machine in the foreground: it tells what it was called with, and ends in order
trap 'echo ended >>"$TOLD"; exit 143' TERM
printf '%s\\n' "$@" >>"$TOLD"
while :; do sleep 0.1; done
"""
SHEPHERD = '(apply (@ (shepherd) main) (list "--silent" {words}))'
HERD = "(apply (@ (shepherd scripts herd) main) (list {words}))"
WORDS = ["with space", 'a"b\\c', "$HOME 100%"]
PATIENCE_S = 600


def program(text, *words):
    return text.format(words=" ".join(json.dumps(str(word)) for word in words))


@pytest.mark.parametrize("auto_start", [True, False])
def test_a_real_shepherd_starts_and_ends_a_machine_as_its_file_says(guile, tmp_path, auto_start):
    (machine := tmp_path / "machine").write_text(MACHINE)
    machine.chmod(0o755)
    told, file, socket = tmp_path / "told", tmp_path / "vm.scm", tmp_path / "socket"
    spec = MachineFile(name="vm", auto_start=auto_start)
    argv, variables = [str(machine), *WORDS], {"TOLD": str(told)}
    file.write_text(shepherd_service(spec, argv, variables, log=str(tmp_path / "log")))

    def herd(*words):
        argv = guile.argv(program(HERD, f"--socket={socket}", *words))
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = guile.environment()
        return subprocess.run(argv, check=False, text=True, env=environment, **pipe).stdout

    def wait_for(*lines):
        for _ in range(PATIENCE_S * 10):
            if told.exists() and told.read_text().splitlines() == list(lines):
                return
            threading.Event().wait(0.1)
        raise AssertionError(told.exists() and told.read_text())

    options = (f"--config={file}", f"--socket={socket}", f"--logfile={tmp_path / 'shepherd.log'}")
    with guile.start(program(SHEPHERD, *options)) as shepherd:
        try:
            while not socket.exists() and shepherd.poll() is None:
                threading.Event().wait(0.1)
            assert shepherd.poll() is None, shepherd.communicate()
            if not auto_start:
                assert "stopped" in herd("status", "vm")
                herd("start", "vm")
            wait_for(*WORDS)
            assert "running" in herd("status", "vm")
            herd("stop", "vm")
            wait_for(*WORDS, "ended")
            assert "stopped" in herd("status", "vm")
        finally:
            herd("stop", "root")
            if shepherd.poll() is None:
                os.kill(shepherd.pid, signal.SIGTERM)
            shepherd.communicate(timeout=PATIENCE_S)
