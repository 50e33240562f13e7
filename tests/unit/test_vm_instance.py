"""Workarounds are used where a fault is known, and nowhere else."""

import subprocess
import sys

import pytest

from buildvm_nb.errors import HostError
from buildvm_nb.model.machine import Accelerator
from buildvm_nb.vm.instance import kernel_workarounds, scratch_directory


@pytest.mark.parametrize(
    ("release", "accelerator", "qemu", "needed"),
    [
        ("6.12.95+deb12-cloud-amd64", "tcg", "7.2.22", True),
        ("6.12.95+deb12-cloud-amd64", "tcg", "10.0.13", False),
        ("6.12.95+deb12-cloud-amd64", "kvm", "7.2.22", False),
        ("6.1.0-56-cloud-amd64", "tcg", "7.2.22", False),
        ("7.2.13+deb14-cloud-amd64", "tcg", "7.2.22", False),
        ("custom", "tcg", "7.2.22", False),
    ],
)
def test_slabs_are_checked_only_where_emulation_breaks_them(release, accelerator, qemu, needed):
    assert bool(kernel_workarounds(release, Accelerator(accelerator), qemu)) is needed


OWNER = """
import sys
from pathlib import Path
from buildvm_nb.vm.instance import scratch_directory

with scratch_directory(Path(sys.argv[1])) as place:
    (place / "initramfs.cpio").write_text("x")
    print(place, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def owner(tmp_path):
    """Start processes that own a machine's directory until they are told to end or killed."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path / "machines")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def present(tmp_path):
    return sorted(str(path) for path in (tmp_path / "machines").glob("machine-*"))


def test_a_directory_is_private_and_gone_afterwards(tmp_path):
    with scratch_directory(tmp_path / "machines") as place:
        assert place.stat().st_mode & 0o777 == 0o700
        (place / "exports.tar").write_bytes(b"x")
    assert present(tmp_path) == []


def test_a_directory_is_gone_also_when_its_owner_fails(tmp_path):
    with pytest.raises(LookupError), scratch_directory(tmp_path / "machines"):
        raise LookupError
    assert present(tmp_path) == []


def test_what_a_killed_owner_left_is_cleared_while_live_ones_stay(tmp_path, owner):
    alive, kept = owner()
    dead, left = owner()
    dead.kill()
    dead.wait()
    assert present(tmp_path) == sorted([kept, left])
    with scratch_directory(tmp_path / "machines") as place:
        assert present(tmp_path) == sorted([kept, str(place)])
    assert present(tmp_path) == [kept]
    alive.communicate("end\n", timeout=600)
    assert present(tmp_path) == []


def test_what_was_for_artifacts_is_cleared_by_whoever_starts_next(tmp_path):
    with scratch_directory(tmp_path / "machines", "artifacts-") as kept:
        left = tmp_path / "machines/difference-12345678"
        (left / "first").mkdir(parents=True)
        with scratch_directory(tmp_path / "machines"):
            assert kept.name.startswith("artifacts-")
            assert kept.exists()
            assert not left.exists()


def test_one_process_may_own_several(tmp_path):
    with (
        scratch_directory(tmp_path / "machines") as one,
        scratch_directory(tmp_path / "machines") as other,
    ):
        assert present(tmp_path) == sorted([str(one), str(other)])


def test_other_things_in_the_place_are_left_alone(tmp_path):
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines" / "notes").write_text("mine")
    (tmp_path / "machines" / "machine-file").write_text("mine")
    with scratch_directory(tmp_path / "machines"):
        pass
    assert (tmp_path / "machines" / "notes").read_text() == "mine"
    assert (tmp_path / "machines" / "machine-file").read_text() == "mine"


def test_a_place_that_cannot_be_made_is_told_clearly(tmp_path):
    (tmp_path / "machines").write_text("in the way")
    with (
        pytest.raises(HostError, match="cannot make a directory for scratch: ") as caught,
        scratch_directory(tmp_path / "machines"),
    ):
        pass
    assert "--cache" in caught.value.hint
