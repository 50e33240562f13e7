"""Whole diagnoses of tiny cases whose truth is known, in real guests."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from buildvm_nb.model.finding import FindingKind
from buildvm_nb.model.instants import parse_instant

pytestmark = pytest.mark.vm

TRAP = parse_instant("2021-11-27T15:28:58Z")
NOW = "now=$(date +%s)\n"


def bounds(finding):
    return [
        (one.last_before, one.first_after, str(one.before), str(one.after), one.is_exact)
        for one in finding.boundaries
    ]


@pytest.mark.long
def test_a_trap_is_located_to_the_second_and_asking_again_costs_no_run(find_out):
    trap = f"{NOW}test $now -lt {TRAP.timestamp():.0f}"
    span = {"first": "2021-11-27T15:00:00Z", "last": "2021-11-27T16:00:00Z"}
    finding = find_out(trap, **span)
    assert finding.kind is FindingKind.TIME_TRAP
    assert bounds(finding) == [
        ("2021-11-27T15:28:57Z", "2021-11-27T15:28:58Z", "passed", "failed", True)
    ]
    assert finding.environment.date < TRAP
    assert 0 < finding.runs <= 40
    again = find_out(trap, **span)
    assert again.runs == 0
    assert again.boundaries == finding.boundaries


@pytest.mark.long
def test_a_step_that_looks_late_at_the_clock_does_not_move_the_boundary(find_out):
    finding = find_out(
        f"sleep 2\n{NOW}test $now -lt {TRAP.timestamp():.0f}",
        first="2021-11-27T15:28:50Z",
        last="2021-11-27T15:29:05Z",
    )
    assert bounds(finding) == [
        ("2021-11-27T15:28:57Z", "2021-11-27T15:28:58Z", "passed", "failed", True)
    ]


def certificate(begins, ends):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "short-lived")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.mark.long
def test_a_hint_reveals_a_window_that_the_scan_steps_over_and_names_the_cause(find_out, tmp_path):
    begins, ends = datetime(2022, 3, 1, 8, tzinfo=UTC), datetime(2022, 5, 1, 9, tzinfo=UTC)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "server.pem").write_bytes(certificate(begins, ends))
    finding = find_out(
        f"{NOW}test $now -lt {begins.timestamp():.0f} || test $now -ge {ends.timestamp():.0f}",
        source={"kind": "local", "path": "source"},
        first="2018-01-01",
        last="2026-01-01",
    )
    assert [one.first_after for one in finding.boundaries] == [
        "2022-03-01T08:00:00Z",
        "2022-05-01T09:00:00Z",
    ]
    assert all(one.is_exact for one in finding.boundaries)
    assert [window.passes_from for window in finding.windows] == [None, ends]


@pytest.mark.long
def test_the_certificate_that_ends_at_the_boundary_is_the_cause(find_out, tmp_path):
    (tmp_path / "source").mkdir()
    pem = certificate(TRAP - timedelta(days=1000), TRAP)
    (tmp_path / "source" / "server.pem").write_bytes(pem)
    finding = find_out(
        f"{NOW}test $now -lt {TRAP.timestamp():.0f}",
        source={"kind": "local", "path": "source"},
        first="2021-01-01",
        last="2023-01-01",
        effort="quick",
    )
    [boundary] = finding.boundaries
    assert boundary.is_exact
    assert boundary.cause.path == "server.pem"
    assert "CN=short-lived" in boundary.cause.why
    # by halving alone, two years take 26 questions; a loaded host may have to ask some again
    assert finding.runs <= 12


@pytest.mark.long
def test_the_overflow_of_2038_is_told_as_such(find_out):
    finding = find_out(
        f"{NOW}test $now -lt 2147483648", first="2038-01-19T03:00:00Z", last="2038-01-20"
    )
    assert [one.first_after for one in finding.boundaries] == ["2038-01-19T03:14:08Z"]
    assert finding.boundaries[0].cause.kind == "rollover"


@pytest.mark.long
def test_a_coin_toss_is_flaky_and_never_a_boundary(find_out):
    toss = "test $(od -An -N1 -tu1 /dev/urandom) -lt 128"
    finding = find_out(toss, first="2020-01-01", last="2024-01-01", budget=12)
    assert finding.kind in {FindingKind.FLAKY, FindingKind.UNDETERMINED}
    assert not finding.boundaries


@pytest.mark.long
def test_a_test_that_hangs_from_a_date_on_is_a_trap_that_hangs(find_out):
    finding = find_out(
        [{"name": "test", "run": f"{NOW}test $now -lt 1609459200 || sleep 1000", "timeout_s": 2}],
        first="2020-12-31T23:59:40Z",
        last="2021-01-01T00:00:20Z",
        budget=24,
    )
    assert finding.kind is FindingKind.TIME_TRAP
    [boundary] = finding.boundaries
    assert boundary.after == "timeout"
    assert boundary.last_before <= "2020-12-31T23:59:59Z" < boundary.first_after
    assert finding.runs <= 24


@pytest.mark.long
def test_a_build_that_depends_on_the_date_is_built_anew_at_every_date(find_out):
    steps = [
        {"name": "build", "run": f"{NOW}test $now -lt {TRAP.timestamp():.0f}"},
        {"name": "test", "run": "true"},
    ]
    finding = find_out(steps, first="2021-11-27T15:28:50Z", last="2021-11-27T15:29:10Z")
    assert [one.first_after for one in finding.boundaries] == ["2021-11-27T15:28:58Z"]


@pytest.mark.long
def test_what_fails_or_passes_everywhere_is_told_so(find_out):
    span = {"first": "2020-01-01", "last": "2021-01-01", "effort": "quick"}
    assert find_out("true", **span).kind is FindingKind.SOUND
    assert find_out("false", **span).kind is FindingKind.ALWAYS_FAILING


@pytest.mark.long
def test_a_guest_that_is_killed_in_mid_search_moves_no_boundary(find_out):
    killed, over = [], threading.Event()

    def kill_one():
        """Kill the first guest that is seen under way."""
        while not killed and not over.wait(0.02):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    words = place.read_bytes().split(b"\0")
                    ours = words[0].endswith(b"qemu-system-x86_64") and b"512M" in words
                    if ours and not killed and _is_ours(int(place.parent.name)):
                        os.kill(int(place.parent.name), signal.SIGKILL)
                        killed.append(place.parent.name)

    killer = threading.Thread(target=kill_one)

    def begin(outcome, known):
        """Let the search have its first outcome, then start to kill."""
        if not killer.ident:
            killer.start()

    trap = f"sleep 0.5\n{NOW}test $now -lt {TRAP.timestamp():.0f}"
    span = {"first": "2021-11-27T15:28:00Z", "last": "2021-11-27T15:30:00Z"}
    try:
        finding = find_out(trap, on_outcome=begin, **span)
    finally:
        over.set()
    assert killed
    assert [one.first_after for one in finding.boundaries] == ["2021-11-27T15:28:58Z"]
    assert finding.boundaries[0].is_exact


def _is_ours(process):
    """Whether a process descends from this one."""
    while process > 1:
        if process == os.getpid():
            return True
        status = Path(f"/proc/{process}/status").read_text()
        process = int(status.partition("PPid:")[2].split()[0])
    return False


@pytest.mark.long
def test_two_diagnoses_of_one_case_at_once_agree(find_out):
    trap = f"{NOW}test $now -lt {TRAP.timestamp():.0f}"
    span = {"first": "2021-11-27T15:28:00Z", "last": "2021-11-27T15:30:00Z"}
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: find_out(trap, **span), range(2))
    for finding in (first, second):
        [boundary] = finding.boundaries
        assert (boundary.first_after, boundary.is_exact) == ("2021-11-27T15:28:58Z", True)
