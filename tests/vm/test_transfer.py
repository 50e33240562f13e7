"""Files into a guest and out of it."""

import os
from datetime import UTC, datetime

import pytest

from buildvm_nb.errors import MachineError
from buildvm_nb.vm import Provision

from .conftest import output_of

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "project"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "tool").write_text("#!/bin/sh\necho it runs\n")
    (root / "tool").chmod(0o755)
    (root / "naïve name\twith tab").write_bytes(b"\x00\xff")
    (root / "deep" / "er" / "link").symlink_to("../../tool")
    (root / "new").write_text("from today")
    (root / "old").write_text("from 2001")
    os.utime(root / "old", (978307200, 978307200))
    return root


@pytest.fixture(scope="module")
def shared(machine_at, tree, engine):
    with machine_at(share=tree, **engine) as running:
        yield running


def test_a_shared_directory_is_there_with_modes_links_and_names(shared):
    _, text = output_of(
        shared, "cd project; ./deep/er/link; stat -c %s n*tab; stat -c %U .; ls | wc -l"
    )
    assert text.split() == ["it", "runs", "2", "build", "5"]


def test_no_file_lies_in_the_future_of_the_guest(shared):
    _, text = output_of(shared, "stat -c %Y project/new project/old")
    new, old = map(int, text.split())
    assert new == int(datetime(2019, 5, 1, tzinfo=UTC).timestamp())
    assert old == 978307200


def test_what_the_guest_writes_does_not_reach_the_host(shared, tree):
    shared.run("echo changed >project/old; rm project/tool", check=True)
    assert (tree / "old").read_text() == "from 2001"
    assert (tree / "tool").exists()


def test_artifacts_come_out_with_their_contents(shared, tmp_path):
    shared.run("mkdir -p out/a; echo one >out/a/x.txt; echo two >out/b.txt", check=True)
    files = shared.export(["out/a", "out/*.txt"], tmp_path)
    assert [str(path) for path in files] == ["out/a/x.txt", "out/b.txt"]
    assert (tmp_path / "out/a/x.txt").read_text() == "one\n"


def test_links_and_devices_do_not_come_out(shared, tmp_path):
    shared.run(
        "mkdir -p odd; ln -s /etc/passwd odd/link; mkfifo odd/pipe; echo x >odd/file", check=True
    )
    assert [str(path) for path in shared.export(["odd"], tmp_path)] == ["odd/file"]
    assert not (tmp_path / "odd" / "link").exists()


def test_artifacts_that_do_not_fit_are_an_error_that_says_so(machine_at, tmp_path):
    with machine_at(provision=Provision(exports_mib=1)) as machine:
        machine.run("head -c 3000000 /dev/zero >big", check=True)
        with pytest.raises(MachineError, match="artifacts"):
            machine.export(["big"], tmp_path)
