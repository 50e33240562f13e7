"""Whole diagnoses along CPUs, kernels and commits, of tiny cases whose truth is known."""

import os
import subprocess

import pytest

from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.model.instants import parse_instant

pytestmark = pytest.mark.vm

TRAP = parse_instant("2021-11-27T15:28:58Z")
NOW = "now=$(date +%s)\n"
NOWADAYS = "2026-01-01T00:00:00Z"


@pytest.mark.long
def test_the_smallest_set_of_cpu_features_is_found(find_out):
    finding = find_out("grep -qw sse4_2 /proc/cpuinfo", axes=(Axis.CPU,))
    assert finding.kind is FindingKind.CPU_DEPENDENT
    assert finding.features == ("sse4.2",)
    assert finding.features_needed == ("sse4.2",)
    assert "core2duo" in finding.failing_cpus


@pytest.mark.long
def test_the_pair_of_kernels_is_found(find_out):
    finding = find_out("uname -r | grep -qv '^5'", axes=(Axis.KERNEL,))
    assert finding.kind is FindingKind.KERNEL_DEPENDENT
    [boundary] = finding.boundaries
    assert boundary.last_before.startswith("5.10.")
    assert boundary.first_after.startswith("6.1.")
    assert finding.failing_kernels == ("debian:bullseye",)


@pytest.mark.long
def test_an_output_that_differs_between_cpus_varies_along_them(find_out):
    finding = find_out(
        [{"name": "build", "run": "grep -c sse4_2 /proc/cpuinfo >cpu || true; echo same >other"}],
        axes=(Axis.CPU,),
        artifacts=["cpu", "other"],
    )
    assert finding.kind is FindingKind.OUTPUT_VARIES
    assert finding.axis is Axis.CPU
    assert finding.varying_files == ("cpu",)


def git_in(place, date=NOWADAYS):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    env = {**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}

    def git(*words):
        argv = ["git", *identity, "-C", place, *words]
        subprocess.run(argv, check=True, capture_output=True, env=env)

    place.mkdir()
    git("init", "-b", "main")
    return git


@pytest.mark.long
def test_a_date_and_a_cpu_that_break_it_only_together_are_found(find_out, tmp_path):
    place = tmp_path / "repository"
    git = git_in(place, "2014-06-01T12:00:00Z")  # Haswell's time: it has no clflushopt
    git("commit", "--allow-empty", "-m", "begin")
    finding = find_out(
        f"{NOW}grep -qw clflushopt /proc/cpuinfo || exit 0\ntest $now -lt {TRAP.timestamp():.0f}",
        axes=(Axis.DATE, Axis.CPU),
        source={"kind": "git", "url": str(place), "commit": "main"},
        first="2014-01-01",
        last="2027-01-01",
        resolution_s=86_400,
    )
    assert finding.kind is FindingKind.TIME_TRAP
    [boundary] = finding.boundaries
    assert boundary.last_before < "2021-11-27T15:28:58Z" <= boundary.first_after
    assert finding.features_harmful == ("clflushopt",)
    assert "Haswell" in finding.passing_cpus
    assert "on some CPUs only" in finding.summary


@pytest.fixture
def repository(tmp_path):
    place = tmp_path / "repository"
    git = git_in(place)
    states = ["fine", "fine", "does not build", "fine", "broken", "broken", "broken"]
    for number, state in enumerate(states):
        (place / "state").write_text(f"{state}\n")
        (place / "number").write_text(f"{number}\n")
        git("add", ".")
        git("commit", "-m", f"commit {number}: {state}")
        git("tag", f"v{number}")
    return place


@pytest.mark.long
def test_the_commit_that_broke_it_is_found_past_one_that_does_not_build(find_out, repository):
    finding = find_out(
        [
            {"name": "build", "run": "! grep build state"},
            {"name": "test", "run": "grep fine state"},
        ],
        axes=(Axis.COMMIT,),
        source={"kind": "git", "url": str(repository), "commit": "v6"},
        good="v0",
        bad="v6",
    )
    assert finding.kind is FindingKind.COMMIT_DEPENDENT
    assert "commit 4: broken" in finding.summary
    [boundary] = finding.boundaries
    assert boundary.is_exact


@pytest.mark.long
def test_a_feature_that_the_accelerator_cannot_give_is_no_verdict(find_out):
    finding = find_out(
        "grep -qw avx512f /proc/cpuinfo", axes=(Axis.CPU,), cpus=("Haswell,+avx512f",)
    )
    assert finding.kind is FindingKind.UNDETERMINED
    assert finding.summary.startswith("no verdict on CPU Haswell,+avx512f (")
    assert "failed in each of 11 runs along cpu" in finding.summary
