"""Machines frozen and resumed at other dates, several at once, each with a past in common."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildvm_nb.errors import HostError, LaunchError, StateError
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.vm import BuildMachine, Checkpoint, Provision

from .conftest import output_of

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def frozen(machine_at, tmp_path_factory):
    machine = machine_at("1990-01-01", cpu="Westmere")
    machine.boot()
    machine.run("echo prepared >state", check=True)
    return machine, machine.freeze(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def fork_at(frozen, cache):
    machine, checkpoint = frozen

    def make(date):
        spec = machine.spec.model_copy(update={"date": parse_instant(date)})
        return BuildMachine(spec, machine.boot_files, cache=cache, checkpoint=checkpoint)

    return make


def test_forks_run_side_by_side_each_at_its_own_date_with_what_was_prepared(fork_at):
    dates = ["1999-12-31T23:59:00Z", "2038-01-19T03:14:00Z", "2106-02-07T06:28:00Z"]

    def look(date):
        with fork_at(date) as machine:
            return output_of(machine, "cat state; date -u +%Y-%m-%dT%H:%M")[1]

    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(look, dates))
    assert said == [f"prepared\n{date[:16]}\n" for date in dates]


def test_the_clock_chip_of_a_fork_is_at_its_date_too(fork_at):
    with fork_at("2021-11-27T15:28:00Z") as machine:
        assert "2021-11-27" in output_of(machine, "cat /sys/class/rtc/rtc0/date")[1]


def test_forks_draw_different_random_numbers(fork_at):
    drawn = set()
    for _ in range(3):
        with fork_at("2020-01-01") as machine:
            drawn.add(output_of(machine, "head -c 16 /dev/urandom | od -An -tx1")[1])
    assert len(drawn) == 3


def test_a_held_clock_stays_within_its_second_while_the_command_runs(fork_at):
    moment = parse_instant("2021-11-27T15:28:58Z")
    with fork_at("2020-01-01") as machine:
        result, said = output_of(
            machine,
            "for i in 1 2 3 4 5; do date -u +%FT%T; sleep 0.5; done",
            clock=moment,
            held=True,
        )
    assert set(said.split()) == {"2021-11-27T15:28:58"}
    assert result.exit_status == 0
    assert result.duration_s > 2.5
    assert result.drift_s is not None
    assert 0 < result.drift_s < 1
    assert result.clock_started_at.replace(microsecond=0) == moment
    assert result.clock_ended_at.replace(microsecond=0) == moment


def test_a_fork_of_an_old_kernel_works_as_well(machine_at, cache, tmp_path):
    machine = machine_at("1990-01-01", kernel="debian:bullseye", cpu="Westmere")
    machine.boot()
    checkpoint = machine.freeze(tmp_path)
    spec = machine.spec.model_copy(update={"date": parse_instant("2030-05-01")})
    with BuildMachine(spec, machine.boot_files, cache=cache, checkpoint=checkpoint) as fork:
        assert output_of(fork, "date -u +%F; uname -r")[1].startswith("2030-05-01\n5.10.")


@pytest.fixture
def truncated(frozen, tmp_path):
    """A copy of a checkpoint that was whole when it was read, and is no more."""
    shutil.copytree(frozen[1].place, tmp_path, dirs_exist_ok=True)
    checkpoint = Checkpoint.read(tmp_path)
    assert checkpoint.environment == frozen[1].environment
    os.truncate(checkpoint.state, checkpoint.state.stat().st_size // 2)
    return checkpoint


def test_a_truncated_checkpoint_is_told_when_it_is_read(truncated):
    with pytest.raises(StateError, match="is damaged"):
        Checkpoint.read(truncated.place)


def test_a_state_that_qemu_cannot_use_is_an_error_and_leaves_nothing_behind(
    frozen, cache, truncated
):
    machine, _ = frozen
    fork = BuildMachine(machine.spec, machine.boot_files, cache=cache, checkpoint=truncated)
    with pytest.raises((StateError, LaunchError)):
        fork.boot()
    with pytest.raises(StateError, match="not up"):
        _ = fork.pid


def test_a_checkpoint_is_its_users_alone(frozen):
    place = frozen[1].place
    assert place.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in place.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_disk_that_fills_up_while_freezing_is_an_error_of_the_host(machine_at, tmp_path):
    small = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(tmp_path)]
    subprocess.run(small, check=True)
    try:
        machine = machine_at()
        machine.boot()
        with pytest.raises(HostError, match="cannot freeze"):
            machine.freeze(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture(scope="module")
def frozen_with_scratch(machine_at, tmp_path_factory):
    small = {"memory_mib": 256, "provision": Provision(scratch_mib=1024)}
    machine = machine_at("1990-01-01", cpu="Westmere", **small)
    machine.boot()
    # more than fits into its memory
    machine.run("head -c 300M /dev/zero >big; echo prepared >state", check=True)
    return machine, machine.freeze(tmp_path_factory.mktemp("checkpoint"))


def test_a_state_too_big_for_memory_is_on_a_scratch_disk_of_which_each_fork_has_a_copy(
    frozen_with_scratch, cache
):
    machine, checkpoint = frozen_with_scratch
    spec = machine.spec.model_copy(update={"date": parse_instant("2030-01-01")})

    def look(name):
        fork = BuildMachine(spec, machine.boot_files, cache=cache, checkpoint=checkpoint)
        with fork:
            output_of(fork, f"cat state; echo {name} >>state; echo {name} >/tmp/{name}")
            return output_of(fork, "cat state; ls /tmp; stat -c %s big")[1]

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(look, ["one", "two"]))
    assert said == [f"prepared\n{name}\n{name}\n{300 * 2**20}\n" for name in ("one", "two")]
    assert Checkpoint.read(checkpoint.place).scratch == checkpoint.scratch


def test_what_a_fork_writes_lies_in_its_own_directory_which_the_next_start_clears(
    frozen_with_scratch, cache
):
    machine, checkpoint = frozen_with_scratch
    spec = machine.spec.model_copy(update={"date": parse_instant("2030-01-01")})
    with BuildMachine(spec, machine.boot_files, cache=cache, checkpoint=checkpoint) as fork:
        links = [str(link.readlink()) for link in Path(f"/proc/{fork.pid}/fd").iterdir()]
        nameless = [link for link in links if link.endswith(" (deleted)")]
        own = str(cache.root / "machines/machine-")
        assert [link for link in nameless if link.startswith(own)]
        assert not [link for link in nameless if link.startswith(("/var/tmp/", "/tmp/vl."))]


def test_a_damaged_scratch_disk_is_noticed(frozen_with_scratch):
    _, checkpoint = frozen_with_scratch
    with checkpoint.scratch.open("r+b") as disk:
        disk.write(b"damaged")
    with pytest.raises(StateError, match="scratch disk is damaged"):
        Checkpoint.read(checkpoint.place)
