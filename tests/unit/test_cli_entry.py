"""The program as its callers see it: exit statuses, streams, signals, speed. Real processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from buildvm_nb.cli import main; sys.exit(main())"
HEAVY = {"pandas", "paramiko", "rich", "sqlalchemy", "pyarrow", "qemu"}


def start(*words, program=PROGRAM, **settings):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings.pop("env", {})}
    argv = [sys.executable, "-W", "error", "-c", program, *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(argv, env=environment, **{**streams, **settings})


def call(*words, **settings):
    with start(*words, **settings) as process:
        out, err = process.communicate(timeout=600)
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def place(tmp_path):
    """A catalog with one outcome that has a long log."""
    case = Case(id="demo", step=[Step(name="test", run="true")])
    outcome = Outcome(
        id="01K0000000000000000000000A",
        case=case,
        machine=MachineSpec(date="2020-01-01"),
        verdict="failed",
    )
    path = tmp_path / "catalog.sqlite"
    with Catalog(path) as catalog:
        catalog.record(outcome, b"\x1b[31m\xff line\n" * 500_000)
    return path


def test_help_goes_to_standard_output_and_imports_nothing_heavy():
    program = "import sys\nfrom buildvm_nb.cli import main\nmain()\nprint('\\n'.join(sys.modules))"
    status, out, err = call("--help", program=program)
    assert status == 0
    assert err == ""
    assert "Usage: buildvm" in out
    assert not {*HEAVY, "pydantic"} & set(out.split())


def test_help_of_each_machine_command_imports_nothing_heavy():
    program = "import sys\nfrom buildvm_nb.cli import main\nmain()\nprint('\\n'.join(sys.modules))"
    for name in ("run", "shell", "build", "diagnose", "doctor"):
        _, out, _ = call(name, "--help", program=program)
        assert not HEAVY & set(out.split())


def test_a_call_imports_the_commands_of_one_module_at_most():
    program = "import sys\nfrom buildvm_nb.cli import main\nmain()\nprint('\\n'.join(sys.modules))"
    made = {f"buildvm_nb.cli.{path.stem}" for path in (ROOT / "buildvm_nb/cli").glob("*.py")}
    made -= {f"buildvm_nb.cli.{name}" for name in ("app", "command", "entry", "output")}
    assert not made & set(call("--help", program=program)[1].split())
    assert not made & set(call(program=program)[1].split())
    shown = made & set(call("machine", "start", "--help", program=program)[1].split())
    assert "buildvm_nb.cli.machine" in shown
    assert not {"buildvm_nb.cli.build", "buildvm_nb.cli.catalog"} & shown


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("run",),
        ("run", "--nonsense", "--", "true"),
        ("run", "--date", "2019-05-01T12:00", "--", "true"),
        ("run", "--date", "1969-12-31", "--", "true"),
        ("run", "--share", "/", "--", "true"),
        ("build",),
        ("build", "no-such-case"),
        ("cpus", "--vendor", "VIA"),
        ("catalog", "list", "--verdict", "sad"),
        ("catalog", "export", "-", "--format", "xls"),
        ("--catalog", "/nonexistent/catalog.sqlite", "catalog", "list"),
    ],
    ids=" ".join,
)
def test_a_wrong_request_exits_with_2_and_says_so_on_standard_error(words, tmp_path):
    environment = {"BUILDVM_CATALOG": str(tmp_path / "c.sqlite"), "BUILDVM_CACHE": str(tmp_path)}
    status, out, err = call(*words, env=environment)
    assert (status, out) == (2, "")
    assert err
    assert "Traceback" not in err


def test_an_error_comes_with_its_hint_and_without_a_traceback(tmp_path):
    status, _, err = call("run", "--kernel", "bookworm", "--", "true")
    assert status == 2
    what, hint = err.splitlines()
    assert what.startswith("buildvm: --kernel: unknown kernel: 'bookworm'; allowed: debian:SUITE")
    assert hint == "Hint: did you mean debian:bookworm? `buildvm kernels` lists them"
    _, _, err = call("run", "--kernel", "bookworm", "--", "true", env={"BUILDVM_DEBUG": "1"})
    assert err.startswith("Traceback")


@pytest.mark.parametrize("words", [("--json", "run"), ("run", "--json")], ids=" ".join)
def test_with_json_an_error_is_one_json_object_on_standard_error(words):
    status, out, err = call(*words, "--memory", "lots", "--", "true")
    error = json.loads(err)["error"]
    assert (status, out) == (2, "")
    assert error["type"] == "UsageError"
    assert error["message"].startswith("--memory: not a size: 'lots'")


def test_the_commands_own_options_are_not_taken_from_it(tmp_path):
    status, out, _ = call(
        "run", "--memory", "1", "make", "--json", "--date", "x", env={"BUILDVM_CACHE": "/dev/null"}
    )
    assert (status, out) == (2, "")  # --memory 1 is what is wrong, in plain text


def test_an_unusable_cache_is_told_and_not_a_traceback(tmp_path):
    (tmp_path / "file").touch()
    status, _, err = call("--cache", tmp_path / "file", "image", "list")
    assert status == 2
    assert "the cache is no directory" in err


def test_trouble_of_the_tool_exits_with_1(tmp_path):
    (tmp_path / "c.sqlite").write_bytes(b"no database" * 1000)
    status, out, err = call("catalog", "list", "--catalog", tmp_path / "c.sqlite")
    assert (status, out) == (1, "")
    assert err.startswith("buildvm: ")


def test_a_reader_that_leaves_early_is_no_error(place):
    with start("catalog", "log", "01K", "--catalog", place) as process:
        assert process.stdout.read(5) == b"\x1b[31m"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=600) == 128 + signal.SIGPIPE


def test_a_log_comes_out_byte_for_byte(place):
    with start("catalog", "log", "01K", "--catalog", place) as process:
        out, _ = process.communicate(timeout=600)
    assert out == b"\x1b[31m\xff line\n" * 500_000


def test_a_full_disk_behind_standard_output_is_told():
    with Path("/dev/full").open("w") as full:
        process = start("case", "schema", stdout=full)
        with process:
            _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert b"No space left" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interruption_exits_with_the_signals_status_without_a_traceback(number, expected, place):
    with start("catalog", "log", "01K", "--catalog", place) as process:
        assert process.stdout.read(5)  # now it is writing, more than a pipe holds
        process.send_signal(number)
        _, err = process.communicate(timeout=600)
    assert process.returncode == expected
    assert b"Traceback" not in err


def test_the_shell_is_offered_models_kernels_and_cases(tmp_path):
    def offered(line):
        words = line.split(" ")
        environment = {
            "_BUILDVM_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            "BUILDVM_CACHE": str(tmp_path),
        }
        return call(env=environment)[1].split()

    assert offered("buildvm run --cpu West") == ["Westmere"]
    assert "debian:bullseye" in offered("buildvm run --kernel deb")
    assert offered("buildvm build dulw") == ["dulwich-0.20.23"]
    assert offered("buildvm catalog list --verdict f") == ["failed"]
    assert "image" in offered("buildvm ")
