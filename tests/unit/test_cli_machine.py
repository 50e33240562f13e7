"""``buildvm machine`` without guests: files, units, and what a stopped machine says."""

import json
import sys
import tomllib

import pytest

from buildvm_nb.cli.entry import main


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call ``buildvm machine`` with directories of its own."""
    monkeypatch.setenv("BUILDVM_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("BUILDVM_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))

    def call(*words):
        status = main(["machine", *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def file(call, tmp_path):
    """The file of the machine ``vm``."""
    assert call("new", "vm")[0] == 0
    return tmp_path / "config/machines/vm.toml"


def test_a_new_machine_file_has_guixs_defaults_and_is_never_overwritten(call, file):
    values = tomllib.loads(file.read_text())
    assert (values["name"], values["cpu_count"], values["memory_mib"]) == ("vm", 4, 2048)
    assert values["date"].isoformat() == "2020-01-01T00:00:00+00:00"
    assert values["port_forwardings"] == [{"host": 11022, "guest": 22}]
    assert "cpu" not in values
    assert '# cpu = "Cascadelake-Server"' in file.read_text()
    status, _, err = call("new", "vm")
    assert status == 2
    assert "there is a file already" in err
    assert call("new", "../x")[0] == 2


def test_a_machine_that_was_never_started_is_stopped(call, file):
    assert call("status", "vm")[:2] == (3, "machine  vm\nstate    stopped\n")
    assert json.loads(call("list", "--json")[1]) == [
        {"name": "vm", "phase": "stopped", "record": None}
    ]
    status, _, err = call("stop", "vm")
    assert status == 0
    assert "vm was not running" in err
    for command in ("ssh", "console"):
        status, out, err = call(command, "vm")
        assert (status, out) == (1, "")
        assert "Hint: buildvm machine start vm" in err


@pytest.mark.parametrize("command", ["start", "stop", "restart", "status", "console", "ssh", "run"])
def test_a_machine_that_is_not_there_is_an_error_of_usage(command, call):
    status, _, err = call(command, "none")
    assert status == 2
    assert "no machine 'none'" in err


def test_a_start_is_of_one_machine_or_of_the_automatic_ones(call, file):
    assert call("start")[0] == 2
    assert call("start", "vm", "--auto")[0] == 2
    assert call("start", "--auto") == (0, "", "")  # none says auto_start


def test_a_unit_runs_the_machine_with_this_users_directories(call, file, tmp_path):
    status, out, _ = call("unit", "vm", "--systemd")
    assert status == 0
    assert f'"--cache" "{tmp_path}/cache" "machine" "run" "{file}"' in out
    assert f'ExecStart="{sys.executable}" "-P" "-m"' in out  # not what happens to be in /
    assert f'Environment="BUILDVM_STATE={tmp_path}/state"' in out
    assert "WantedBy=" not in out  # it does not say auto_start
    file.write_text("auto_start = true\n")
    assert "WantedBy=default.target" in call("unit", "vm", "--systemd")[1]
    target = tmp_path / "vm.service"
    status, _, err = call("unit", "vm", "--systemd", "--system", "-o", target)
    assert status == 0
    assert "systemctl daemon-reload && systemctl enable --now vm.service" in err
    assert "sudo buildvm --cache /var/cache/buildvm-nb image build debian:bookworm" in err
    assert "WantedBy=multi-user.target" in target.read_text()
    assert 'Environment="BUILDVM_STATE=/var/lib/buildvm-nb"' in target.read_text()
    assert str(tmp_path / "cache") not in target.read_text()  # its account cannot write there
    assert '"--cache" "/var/cache/buildvm-nb" "machine" "run"' in target.read_text()
    assert call("unit", "vm", "--shepherd", "--system")[0] == 2
    file.write_text("auto_start = true\n")
    status, out, err = call("unit", "vm", "--shepherd")
    assert "(start-in-the-background '(vm))" in out
    for words in ((), ("--systemd", "--shepherd")):
        assert call("unit", "vm", *words)[0] == 2


def test_a_users_unit_is_written_where_no_unit_has_been_yet(call, file, tmp_path):
    target = tmp_path / "home/.config/systemd/user/vm.service"
    status, _, err = call("unit", "vm", "--systemd", "-o", target)
    assert status == 0, err
    assert "machine vm" in target.read_text()
    elsewhere = tmp_path / "none/vm.service"  # any other place has to be there: it may be mistyped
    assert call("unit", "vm", "--systemd", "--system", "-o", elsewhere)[0] != 0


def test_a_wrong_machine_file_is_told_with_its_line(call, file):
    file.write_text("cpu_count = 1\nmemory = 3\n")
    status, _, err = call("start", "vm")
    assert status == 2
    assert f"{file}:2: memory: " in err
    assert "memory_mib" in err
