import json

import pytest

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.vm.emulator import check_cpu, find_emulator

FAKE = """\
#!/bin/sh
echo "$*" >>"$0.calls"
case $1 in
--version)
    echo "QEMU emulator version {version} (Debian 1:{version}+dfsg-7+deb12u16)"
    echo "Copyright (c) 2003-2022 Fabrice Bellard and the QEMU Project developers" ;;
-cpu)
    cat <<'END'
{prefix}EPYC                  (alias configured by machine type)
{prefix}Haswell               (alias configured by machine type)
{prefix}Haswell-v1            Intel Core Processor (Haswell)
{prefix}Haswell-v2            (alias of Haswell-noTSX)
{prefix}qemu64                (alias configured by machine type)

Recognized CPUID flags:
  3dnow 3dnowext 3dnowprefetch abm
  avx avx2 cx16 sse4.1 lahf-lm
END
    ;;
-machine)
    echo '{"QMP": {"version": {}, "capabilities": []}}'
    echo '{"return": {}}'
    # the answers, without those that nobody asked for
    sed -n 's/.*"name": "\\([A-Za-z0-9-]*\\)".*"id".*/\\1/p' | while read -r name; do
        case $name in
        EPYC) vendor=AuthenticAMD ;;
        *) vendor=GenuineIntel ;;
        esac
        echo '{"return": {"model": {"props": {"vendor": "'$vendor'"}}}, "id": "'$name'"}'
    done ;;
esac
"""


@pytest.fixture
def qemu(tmp_path, monkeypatch):
    """Put a fake QEMU first on PATH; returns what writes it."""
    place = tmp_path / "bin" / "qemu-system-x86_64"
    place.parent.mkdir()
    monkeypatch.setenv("PATH", f"{place.parent}:/usr/bin:/bin")
    find_emulator.cache_clear()

    def write(version="7.2.22", prefix="x86 ", script=FAKE):
        place.write_text(script.replace("{version}", version).replace("{prefix}", prefix))
        place.chmod(0o755)
        find_emulator.cache_clear()  # as a new process would
        return place

    yield write
    find_emulator.cache_clear()


def calls(place):
    log = place.with_name(f"{place.name}.calls")
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("version", "prefix"),
    [("7.2.22", "x86 "), ("10.0", "  "), ("10.1.2", "  ")],
)
def test_version_models_and_features_are_read_from_qemu(qemu, version, prefix):
    place = qemu(version, prefix)
    emulator = find_emulator()
    assert emulator.path == str(place)
    assert emulator.version == version
    assert emulator.models == {"EPYC", "Haswell", "Haswell-v1", "Haswell-v2", "qemu64"}
    assert {"3dnow", "avx2", "cx16", "sse4.1", "lahf-lm"} <= emulator.features
    assert set(emulator.vendors) == emulator.models
    assert emulator.vendors["EPYC"] == "AuthenticAMD"
    assert emulator.vendors["Haswell-v2"] == "GenuineIntel"


@pytest.mark.parametrize("version", ["7.1.0", "6.2.0", "2.12"])
def test_a_qemu_that_is_too_old_is_refused(qemu, version):
    qemu(version)
    with pytest.raises(HostError, match=f"QEMU is too old: .* is {version}; allowed: 7.2 or newer"):
        find_emulator()


def test_a_host_without_qemu_is_told_what_to_install(tmp_path, monkeypatch):
    # PATH alone would not hide a QEMU in /usr/sbin, but nobody has one there
    monkeypatch.setenv("PATH", str(tmp_path))
    find_emulator.cache_clear()
    with pytest.raises(HostError, match="program not found on this host: qemu-system") as caught:
        find_emulator()
    assert caught.value.hint.endswith("apt-get install --no-install-recommends qemu-system-x86")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "#!/bin/sh\necho 'libfoo.so.1: cannot open shared object file' >&2\nexit 127\n",
            r"--version exited with 127: libfoo\.so\.1: cannot open",
        ),
        ("#!/bin/sh\necho 'I am no QEMU'\n", "--version exited with 0: I am no QEMU"),
        ("#!/bin/sh\nkill -SEGV $$\n", "--version exited with -11: "),
        ("#!/no/such/interpreter\n", "QEMU does not run: .*: No such file or directory"),
        ("\x7fELF, but not really", "QEMU does not run: .*: Exec format error"),
    ],
)
def test_a_broken_qemu_is_told_with_its_own_words(qemu, script, message):
    qemu(script=script)
    with pytest.raises(HostError, match=message) as caught:
        find_emulator()
    assert caught.value.hint == "reinstall the package qemu-system-x86"


def test_a_qemu_whose_list_of_cpus_fails_is_told(qemu):
    qemu(script=FAKE.replace("-cpu)", "-cpu) echo oh no >&2; exit 3 ;;\nnever)"))
    with pytest.raises(HostError, match="-cpu help\nexited with 3; it said:\noh no"):
        find_emulator()


def test_a_qemu_that_hides_a_vendor_is_told(qemu):
    qemu(script=FAKE.replace("EPYC) vendor", "EPYC) continue; vendor"))
    with pytest.raises(HostError, match=r"QEMU does not tell the vendor of its CPU models: EPYC$"):
        find_emulator()


HASTY = """ | perl -MFcntl -e '
    local $/; my $all = <STDIN>;
    fcntl STDOUT, F_SETFL, O_NONBLOCK | fcntl STDOUT, F_GETFL, 0;
    syswrite STDOUT, (" " x 200_000) . "\\n" . $all' ;;
esac
"""


def test_a_qemu_that_quits_before_all_is_read_is_heard_to_the_end(qemu):
    qemu(script=FAKE.removesuffix(" ;;\nesac\n") + HASTY)
    assert find_emulator().vendors["EPYC"] == "AuthenticAMD"


def test_the_answer_is_remembered_until_the_program_changes(qemu, tmp_path):
    place = qemu("7.2.22")
    assert find_emulator(tmp_path).version == "7.2.22"
    assert len(calls(place)) == 3
    find_emulator.cache_clear()
    assert find_emulator(tmp_path).version == "7.2.22"
    assert len(calls(place)) == 3
    qemu("10.0.11")
    assert find_emulator(tmp_path).version == "10.0.11"
    assert len(calls(place)) == 6


def test_the_memory_of_an_older_version_is_asked_again(qemu, tmp_path):
    qemu()
    find_emulator(tmp_path)
    memo = tmp_path / "emulator.json"
    content = json.loads(memo.read_text())
    del content["known"]["vendors"]
    memo.write_text(json.dumps(content))
    find_emulator.cache_clear()
    assert find_emulator(tmp_path).vendors["EPYC"] == "AuthenticAMD"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"stamp": 1}', "\0\0\0"])
def test_a_damaged_memory_is_asked_again(qemu, tmp_path, content):
    qemu()
    (tmp_path / "emulator.json").write_text(content)
    assert find_emulator(tmp_path).version == "7.2.22"
    assert json.loads((tmp_path / "emulator.json").read_text())["known"]["version"] == "7.2.22"


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("haswell", "Haswell"),
        ("Haswell,-cx16", "Haswell,-cx16"),
        ("Haswell,cx16=off,avx2=on", "Haswell,-cx16,+avx2"),
        ("qemu64,avx", "qemu64,+avx"),
        ("qemu64,+lahf_lm", "qemu64,+lahf-lm"),
    ],
)
def test_a_cpu_is_spelled_as_qemu_does(qemu, text, spelled):
    qemu()
    assert check_cpu(text, find_emulator()) == spelled


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("Haswel", "unknown CPU model: 'Haswel'", "did you mean Haswell"),
        ("Haswell,+avx3", "unknown CPU feature: '\\+avx3' in 'Haswell,\\+avx3'", "did you mean av"),
        ("Haswell,+zzzzzz", "unknown CPU feature", "see qemu-system-x86_64 -cpu help"),
        ("Haswell,avx=maybe", "unknown CPU feature: 'avx=maybe'", "did you mean avx"),
        ("Haswell,+", "unknown CPU feature", "see qemu-system-x86_64 -cpu help"),
    ],
)
def test_an_unknown_cpu_is_refused_with_near_names(qemu, text, message, hint):
    qemu()
    with pytest.raises(UsageError, match=message) as caught:
        check_cpu(text, find_emulator())
    assert caught.value.hint.startswith(hint)


def test_a_memo_that_cannot_be_written_costs_time_and_nothing_else(qemu, tmp_path):
    place = qemu("7.2.22")
    cache = tmp_path / "cache"
    (cache / "emulator.json").mkdir(parents=True)  # nobody may replace it, not even root
    for count in (3, 6):
        find_emulator.cache_clear()
        assert find_emulator(cache).version == "7.2.22"
        assert len(calls(place)) == count
    assert [path.name for path in cache.iterdir()] == ["emulator.json"]
    find_emulator.cache_clear()
    assert find_emulator(tmp_path / "no" / "such").version == "7.2.22"
