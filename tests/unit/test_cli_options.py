"""Machine and source options: text in, checked values out, errors that name the option."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from buildvm_nb.cli.build import ShareOptions
from buildvm_nb.cli.entry import main
from buildvm_nb.cli.options import MachineOptions, SourceOptions, make_case
from buildvm_nb.errors import UsageError
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import Accelerator, ImageSpec, Network, PortForwarding

CACHE = Path("/nowhere/cache")
BASH = ImageSpec(base="debian:trixie", packages=("bash",))


def test_only_what_was_given_overrides():
    assert MachineOptions().overrides() == {}
    given = MachineOptions(date="2019-05-01", memory="2G", cpu_count="2").overrides()
    assert given == {"date": parse_instant("2019-05-01"), "memory_mib": 2048, "cpu_count": 2}


def test_what_is_left_out_follows_from_the_date():
    spec = MachineOptions(date="2010-06-15").spec()
    assert spec.cpu == "Westmere"
    assert spec.accelerator is Accelerator.AUTO


def test_forwardings_are_pairs_of_ports_and_bring_a_card():
    spec = MachineOptions(forward=["8080:80", "2222:22"]).spec()
    assert spec.port_forwardings[0] == PortForwarding(host=8080, guest=80)
    assert spec.network is Network.RESTRICTED


def test_a_relative_kernel_directory_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert MachineOptions(kernel="./linux").spec().kernel == str(tmp_path / "linux")


@pytest.mark.parametrize(
    ("options", "image"),
    [
        ({}, None),
        ({"package": ["gcc"]}, "debian:trixie,bash,gcc"),
        ({"image": "debian:sid"}, "debian:sid"),
        ({"image": "debian:sid,make", "package": ["gcc"]}, "debian:sid,gcc,make"),
        ({"mirror": "file:/srv/debian"}, "debian:trixie,bash"),
    ],
)
def test_packages_and_mirror_are_added_to_the_image_that_is_meant(options, image):
    found = MachineOptions(**options).overrides(BASH).get("image")
    assert (str(found) if found else None) == image
    if found:
        assert found.mirror == options.get("mirror")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200)])
def test_a_timeout_may_have_a_unit(text, seconds):
    assert MachineOptions(timeout=text).timeout_s() == seconds


@pytest.mark.parametrize(
    ("options", "beginning"),
    [
        ({"date": "yesterday"}, "--date: not a date: 'yesterday'; allowed: "),
        ({"date": "2401-01-01"}, "--date: "),
        ({"date": "1970-01-01"}, "--date: date out of range: 1970-01-01; allowed: "),
        ({"date": "+5000y"}, "--date: date out of range: "),
        ({"cpu": "-cpu"}, "--cpu: "),
        ({"cpu_count": "0"}, "--cpu-count: "),
        ({"cpu_count": "two"}, "--cpu-count: "),
        ({"memory": "lots"}, "--memory: not a size: 'lots'; allowed: "),
        ({"memory": "16"}, "--memory: "),
        ({"kernel": "6.1"}, "--kernel: unknown kernel: '6.1'; allowed: "),
        ({"kernel": "debian:No Such"}, "--kernel: "),
        ({"accelerator": "xen"}, "--accelerator: "),
        ({"image": "bookworm"}, "--image: not an image: 'bookworm'; allowed: "),
        ({"package": ["gcc,make"]}, "--package: "),
        ({"mirror": "no address"}, "--mirror: "),
        ({"network": "on"}, "--network: "),
        ({"forward": ["80"]}, "--forward: not two ports: '80'; allowed: "),
        ({"forward": ["80:99999"]}, "--forward"),
        ({"name": "a b"}, "--name: "),
    ],
    ids=str,
)
def test_an_error_names_the_option(options, beginning):
    with pytest.raises(UsageError) as caught:
        MachineOptions(**options).spec()
    assert caught.value.message.startswith(beginning)
    assert "MachineSpec" not in caught.value.message


@pytest.mark.parametrize("text", ["0", "-1", "1d", "soon", "", "8000000", "9999999h"])
def test_a_timeout_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--timeout"):
        MachineOptions(timeout=text).timeout_s()


@pytest.mark.parametrize(
    ("options", "case_id", "source"),
    [
        (
            {"git": "https://example.org/a/Project.git", "commit": "v1.2"},
            "project-v1.2",
            {"kind": "git", "commit": "v1.2"},
        ),
        (
            {"git": "https://example.org/p", "commit": "0123456789" * 4},
            "p-012345678901",
            {"kind": "git", "commit": "0123456789" * 4},
        ),
        (
            {"git": "https://example.org/p", "before": "2020-01-01", "branch": "dev"},
            "p-before-2020-01-01",
            {"kind": "git", "before": "2020-01-01T00:00:00Z", "branch": "dev"},
        ),
        (
            {"pypi": "Requests==2.31.0"},
            "requests-2.31.0",
            {"kind": "pypi", "name": "Requests", "version": "2.31.0"},
        ),
        ({"debian": "hello"}, "hello", {"kind": "debian-source", "suite": "trixie"}),
        (
            {"debian": "hello=2.10-3"},
            "hello-2.10-3",
            {"kind": "debian-source", "name": "hello", "version": "2.10-3"},
        ),
        ({"debian_binary": "tzdata"}, "tzdata", {"kind": "debian-binary", "suite": "trixie"}),
        ({"local": Path("/usr/share")}, "share", {"kind": "local", "path": "/usr/share"}),
    ],
    ids=str,
)
def test_a_source_option_makes_a_case(options, case_id, source):
    case = make_case(SourceOptions(**options), ["make", "check it"], BASH)
    assert case.id == case_id
    assert case.image == BASH
    assert case.steps[0].run == "make 'check it'"
    plain = case.source.model_dump(mode="json")
    assert {key: plain[key] for key in source} == source


def test_a_single_word_is_shell_text():
    case = make_case(SourceOptions(pypi="a==1"), ["make && make check"], BASH)
    assert case.steps[0].run == "make && make check"


def test_a_repository_on_this_host_gets_an_absolute_path(monkeypatch, tmp_path):
    (tmp_path / "repo").mkdir()
    monkeypatch.chdir(tmp_path)
    case = make_case(SourceOptions(git="repo", commit="main"), ["make"], BASH)
    assert case.source.url == str(tmp_path / "repo")
    assert case.id == "repo-main"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "nothing to build"),
        ({"git": "x"}, "one of --commit and --before"),
        ({"git": "x", "commit": "c", "before": "2020-01-01"}, "one of --commit and --before"),
        ({"git": "x", "commit": "-c"}, "commit"),
        ({"git": "x", "pypi": "a==1"}, "more than one source: --git and --pypi"),
        ({"commit": "c", "pypi": "a==1"}, "--commit says nothing without --git"),
        ({"before": "2020-01-01"}, "--before says nothing without --git"),
        ({"pypi": "requests"}, "--pypi: not pinned: 'requests'"),
        ({"pypi": "requests>=2"}, "--pypi: not pinned"),
        ({"debian": "Hello World"}, "name"),
    ],
    ids=str,
)
def test_a_source_that_is_none_is_refused(options, told):
    with pytest.raises(UsageError, match=told):
        make_case(SourceOptions(**options), ["make"], BASH)


def test_a_debian_package_needs_an_image_of_a_suite():
    image = ImageSpec(base="tar:/root.tar")
    with pytest.raises(UsageError, match="--debian needs an image of a Debian suite"):
        make_case(SourceOptions(debian="hello"), ["make"], image)


def test_a_case_from_options_needs_a_command():
    with pytest.raises(UsageError, match="no command"):
        make_case(SourceOptions(pypi="a==1"), [], BASH)


def test_the_current_directory_is_shared_unless_something_else_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert ShareOptions().directory(CACHE) == tmp_path
    assert ShareOptions(share=Path("/usr")).directory(CACHE) == Path("/usr")
    assert ShareOptions(no_share=True).directory(CACHE) is None


def test_a_home_directory_is_shared_only_where_it_is_named(tmp_path, monkeypatch):
    home = tmp_path / "users/somebody"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for place in (home, home.parent):
        monkeypatch.chdir(place)
        with pytest.raises(UsageError, match=f"{place} holds all of a home directory") as caught:
            ShareOptions().directory(CACHE)
        assert f"--share {place} or --no-share" in caught.value.hint
        assert ShareOptions(share=place).directory(CACHE) == place
    monkeypatch.chdir(home / "project")
    assert ShareOptions().directory(CACHE) == home / "project"


def test_a_large_directory_is_shared_only_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    with (tmp_path / "cache/data").open("wb") as stream:
        stream.truncate(10**9)  # sparse
    assert ShareOptions().directory(tmp_path / "cache") == tmp_path
    with pytest.raises(UsageError, match="holds more than 200 MB") as caught:
        ShareOptions().directory(CACHE)
    assert f"--share {tmp_path}" in caught.value.hint
    assert ShareOptions(share=tmp_path).directory(CACHE) == tmp_path


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"share": Path("/")}, "whole file system"),
        ({"share": Path("/etc/passwd")}, "not a directory: /etc/passwd"),
        ({"share": Path("/usr"), "no_share": True}, "contradict"),
    ],
)
def test_a_directory_that_cannot_be_shared_is_refused(options, told):
    with pytest.raises(UsageError, match=told):
        ShareOptions(**options).directory(CACHE)


@pytest.mark.parametrize(
    ("text", "distance"),
    [("+16y", None), ("-2w", timedelta(days=-14)), ("+3d", timedelta(days=3)), ("today", None)],
)
def test_a_machine_gets_the_date_that_the_command_line_says(monkeypatch, capsys, text, distance):
    monkeypatch.setattr("buildvm_nb.study.dry_run", lambda spec, **_: [spec.date.isoformat()])
    before = datetime.now(UTC).replace(microsecond=0)
    words = ["run", "--no-share", "--accelerator", "tcg", "--dry-run", "--date"]
    assert main([*words, text, "--", "true"]) == 0
    date = datetime.fromisoformat(capsys.readouterr().out.strip())
    after = datetime.now(UTC)
    if text == "today":
        assert (date.hour, date.minute, date.second) == (0, 0, 0)
        assert before.date() <= date.date() <= after.date()
    elif distance is None:
        assert (date.year, date.month) in {(one.year + 16, one.month) for one in (before, after)}
    else:
        assert before + distance <= date <= after + distance
    assert main([*words, "+16q", "--", "true"]) == 2
    assert "--date: " in capsys.readouterr().err
