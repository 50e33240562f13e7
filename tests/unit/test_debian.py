import os
import shutil
import subprocess

import pytest

from buildvm_nb import debian as mirrors
from buildvm_nb.debian import (
    MIRROR_VARIABLE,
    AptSource,
    Mirrors,
    check_suite,
    complaints,
    find_mirrors,
    host_mirrors,
    sources_for,
    without_password,
)
from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.study.host_checks import check_host

_TARGETS = "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)"

DEB822 = """\
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: trixie
Components: main
"""


def indextargets(tmp_path, *, name, text):
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / name).write_text(text)
    return subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--no-release-info",
            "--format",
            _TARGETS,
            "-o",
            "Dir::Etc::sourcelist=/dev/null",
            "-o",
            f"Dir::Etc::sourceparts={parts}",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_mirrors_are_found_in_deb822_files(tmp_path):
    listing = indextargets(tmp_path, name="debian.sources", text=DEB822)
    assert find_mirrors(listing) == Mirrors(
        archive="http://mirror.example/debian", security="http://mirror.example/debian-security"
    )


def test_mirrors_are_found_in_one_line_files(tmp_path):
    text = (
        "deb [arch=amd64] https://user:pw@mirror.example/pub/debian/ bookworm main contrib\n"
        "# deb http://commented.example/debian trixie main\n"
        "deb http://mirror.example/debian-security bullseye/updates main\n"
    )
    assert find_mirrors(indextargets(tmp_path, name="a.list", text=text)) == Mirrors(
        archive="https://user:pw@mirror.example/pub/debian",
        security="http://mirror.example/debian-security",
    )


def test_a_list_of_mirrors_is_taken_as_it_stands(tmp_path):
    text = "deb mirror+file:/etc/apt/mirrors/debian.list bookworm main\n"
    found = find_mirrors(indextargets(tmp_path, name="a.list", text=text))
    assert found == Mirrors(archive="mirror+file:/etc/apt/mirrors/debian.list")


@pytest.mark.parametrize(
    "line",
    [
        "deb https://packages.example/php bookworm main",
        "deb https://download.example/linux/debian bookworm stable",
        "deb http://archive.example/ubuntu noble main",
        "deb https://apt.example/debian bookworm-pgdg-is-not-ours-either contrib",
        "deb https://packages.example/debian/12/prod bookworm main",
        "",
    ],
)
def test_archives_of_others_are_not_taken_for_debians(tmp_path, line):
    assert find_mirrors(indextargets(tmp_path, name="a.list", text=f"{line}\n")) is None


def test_the_variable_names_the_mirror_on_hosts_without_one(monkeypatch):
    monkeypatch.setenv(MIRROR_VARIABLE, "http://mirror.example/debian")
    assert host_mirrors() == Mirrors(archive="http://mirror.example/debian")
    assert [source.suite for source in sources_for("trixie")] == ["trixie", "trixie-updates"]


def test_a_variable_that_is_no_address_is_refused(monkeypatch):
    monkeypatch.setenv(MIRROR_VARIABLE, "http://a.example/ [trusted=yes]")
    with pytest.raises(HostError, match=MIRROR_VARIABLE):
        host_mirrors()


UBUNTU = """\
Types: deb
URIs: http://mirror.example/ubuntu/
Suites: noble noble-updates noble-backports
Components: main universe restricted multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""


@pytest.fixture(params=["", UBUNTU], ids=["nothing", "ubuntu"])
def apt_without_debian(request, tmp_path, monkeypatch):
    """A host whose apt has other sources, or none."""
    (parts := tmp_path / "parts").mkdir()
    (parts / "system.sources").write_text(request.param)
    configuration = tmp_path / "apt.conf"
    configuration.write_text(
        f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{parts}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    mirrors._default_mirrors.cache_clear()


@pytest.mark.usefixtures("apt_without_debian")
def test_a_host_without_debian_mirror_takes_mmdebstraps_own():
    if not shutil.which("mmdebstrap"):
        pytest.skip("mmdebstrap is not installed")
    found = host_mirrors()
    assert found.is_default
    assert found.archive.endswith("/debian")
    assert found.security.endswith("/debian-security")
    assert [source.suite for source in sources_for("bookworm")] == [
        *("bookworm", "bookworm-updates", "bookworm-security")
    ]
    (told,) = (check for check in check_host(None) if check.subject == "package mirror")
    assert told.state == "ok"
    assert told.found.startswith(f"{found.archive}, mmdebstrap's default: apt names none")


MMDEBSTRAP_1_6 = """\
#!/bin/sh
case "$*" in
*check/chrootless*) "{program}" "$@";;
*) echo "E: running chrootless mode as root without fakeroot might damage the host" >&2; exit 1;;
esac
"""


@pytest.mark.usefixtures("apt_without_debian")
def test_mmdebstraps_own_mirror_is_found_by_root_too(tmp_path, monkeypatch):
    """Since 1.5 it refuses root this mode, as what it installs might harm the host."""
    if not (program := shutil.which("mmdebstrap")):
        pytest.skip("mmdebstrap is not installed")
    (programs := tmp_path / "programs").mkdir()
    newer = programs / "mmdebstrap"
    newer.write_text(MMDEBSTRAP_1_6.format(program=program))
    newer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert host_mirrors().is_default


@pytest.mark.usefixtures("apt_without_debian")
def test_a_host_without_any_debian_mirror_is_told_what_to_set(tmp_path, monkeypatch):
    (programs := tmp_path / "programs").mkdir()
    for name, text in (("apt-get", ""), ("mmdebstrap", "echo 'E: no suite stable' >&2; exit 1")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(
        HostError, match=r"names a Debian mirror(.|\n)*E: no suite stable"
    ) as caught:
        host_mirrors()
    assert MIRROR_VARIABLE in caught.value.hint
    (programs / "mmdebstrap").unlink()
    with pytest.raises(HostError, match="mmdebstrap is missing") as caught:
        host_mirrors()
    assert MIRROR_VARIABLE in caught.value.hint
    assert "install" in caught.value.hint


def test_a_mirror_of_apts_is_not_passed_over_for_the_default():
    assert not find_mirrors("Packages http://mirror.example/debian bookworm main").is_default


def test_a_given_mirror_serves_the_suite_alone():
    assert sources_for("bookworm", "http://dated.example/debian/20230701T000000Z") == (
        AptSource(uri="http://dated.example/debian/20230701T000000Z", suite="bookworm"),
    )


@pytest.mark.parametrize("suite", ["sid", "bookworm-backports", "experimental"])
def test_rolling_and_backports_suites_have_no_updates_of_their_own(suite, monkeypatch):
    monkeypatch.setenv(MIRROR_VARIABLE, "http://mirror.example/debian")
    assert [source.suite for source in sources_for(suite)] == [suite]


@pytest.mark.parametrize("suite", ["", "Bookworm", "book worm", "../etc", "bookworm main", "-x"])
def test_what_cannot_be_a_suite_is_refused_with_the_known_ones(suite):
    with pytest.raises(UsageError, match="bullseye, bookworm"):
        check_suite(suite)


def test_an_unknown_suite_comes_with_near_names():
    assert "bookworm" in mirrors.unknown_suite("bokworm").hint


def test_a_source_is_signed_by_debians_keys_and_nothing_else():
    line = AptSource(uri="http://mirror.example/debian", suite="sid").line("deb-src")
    assert line == (
        "deb-src [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
        "http://mirror.example/debian sid main"
    )


def test_passwords_are_not_shown():
    source = AptSource(uri="https://me:secret@mirror.example/debian", suite="sid")
    assert without_password(source.uri) == "https://mirror.example/debian"
    assert "secret" not in str(source)
    assert "secret" not in complaints("E: Failed to fetch https://me:secret@mirror.example/x 404")


def test_only_apts_errors_are_told():
    assert complaints("W: odd\nE: first\nnoise\nE: second\n") == "first; second"
