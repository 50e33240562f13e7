"""Command lines for the guest's ``step`` script."""

import shlex

from buildvm_nb.vm.session import GuestCommand


def words_of(**fields):
    return shlex.split(GuestCommand(argv=("id", "a b"), **fields).line("s1"))


def test_a_command_runs_as_the_unprivileged_user_in_a_clean_environment():
    words = words_of(env={"LANG": "C"})
    assert words[:5] == ["step", "s1", "-", "/build", "1000"]
    assert words[-3:] == ["--", "id", "a b"]
    assert {"HOME=/home/build", "USER=build", "LANG=C", "TZ=UTC"} < set(words)


def test_a_command_that_sets_a_machine_up_runs_as_root():
    words = words_of(as_root=True)
    assert words[:5] == ["step", "s1", "-", "/build", "-"]
    assert words[-3:] == ["--", "id", "a b"]
    assert {"HOME=/root", "USER=root", "LOGNAME=root"} < set(words)
    assert not any("1000" in word or "=build" in word for word in words)
