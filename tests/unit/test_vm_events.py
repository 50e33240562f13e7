from datetime import UTC, datetime, timedelta

import pytest

from buildvm_nb.errors import ClockError, CpuError, MachineError
from buildvm_nb.model.machine import CpuIdentity, MachineSpec
from buildvm_nb.vm.events import INSTRUCTION_SETS, Awakening, GuestFacts, prove, prove_clock

DATE = datetime(2019, 5, 1, tzinfo=UTC)
FEATURES = ("cx16", "lahf-lm", "pcid", "pni", "sse2", "sse4.1", "sse4.2")
FLAGS = {"cx16", "lahf_lm", "pni", "sse2", "sse4_1", "sse4_2", "constant_tsc", "hypervisor"}

HASWELL = CpuIdentity(
    vendor="GenuineIntel", family=6, model=60, stepping=4, name="Intel Core Processor (Haswell)"
)
SAID = {
    "vendor_id": "GenuineIntel",
    "cpu_family": "6",
    "model": "60",
    "stepping": "4",
    "model_name": "Intel Core Processor (Haswell)",
}


def check(*, features=FEATURES, **seen):
    facts = {
        "kernel_release": "6.1.0-40-amd64",
        "cpu_count": 2,
        "cpu_flags": frozenset(FLAGS),
        "cpu_words": SAID,
        "clock_at": DATE + timedelta(seconds=3),
    }
    prove(
        GuestFacts(**facts | seen),
        spec=MachineSpec(date=DATE, cpu="Haswell", cpu_count=2),
        elapsed_s=10.0,
        features=features,
        identity=HASWELL,
        kernel_release="6.1.0-40-amd64",
    )


def test_a_guest_that_is_what_was_asked_for_passes():
    check()


@pytest.mark.parametrize("seconds", [0, 10])
def test_a_clock_at_the_edges_passes(seconds):
    check(clock_at=DATE + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("clock", "shown"),
    [
        (DATE - timedelta(seconds=1), "2019-04-30T23:59:59Z"),
        (DATE + timedelta(seconds=10.5), "2019-05-01T00:00:10.5Z"),
        (datetime(1970, 1, 2, tzinfo=UTC), "1970-01-02T00:00:00Z"),
        (None, "nothing"),
    ],
)
def test_a_clock_that_is_elsewhere_is_refused(clock, shown):
    with pytest.raises(ClockError, match=f"the guest's clock says {shown}; allowed: from ") as told:
        check(clock_at=clock)
    assert "another --kernel" in told.value.hint


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (
            {"kernel_release": "6.1.0-39-amd64"},
            "the guest runs kernel '6.1.0-39-amd64'; allowed: '6.1.0-40-amd64'",
        ),
        ({"kernel_release": ""}, "the guest runs kernel ''"),
        ({"cpu_count": 1}, "the guest has 1 cores; allowed: 2"),
        (
            {"cpu_flags": frozenset(FLAGS | {"avx2"})},
            "it shows avx2 beyond it and lacks none",
        ),
        (
            {"cpu_flags": frozenset(FLAGS - {"sse4_1", "cx16"})},
            "it shows none beyond it and lacks cx16, sse4_1",
        ),
        ({"cpu_flags": frozenset()}, "it shows none beyond it and lacks "),
    ],
)
def test_each_mismatch_is_refused_with_what_was_seen(seen, message):
    with pytest.raises(MachineError) as caught:
        check(**seen)
    assert type(caught.value) is (CpuError if "cpu_flags" in seen else MachineError)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"vendor_id": "AuthenticAMD"}, "is AuthenticAMD, family 6, model 60, stepping 4, 'Intel"),
        ({"cpu_family": "15"}, "is GenuineIntel, family 15, model 60"),
        ({"model": "61"}, "family 6, model 61"),
        ({"stepping": "1"}, "stepping 1, "),
        ({"model_name": "Intel Core Processor (Haswell, no TSX)"}, r"Haswell, no TSX\)'; allowed"),
        ({"stepping": "unknown"}, "is nothing that can be read; allowed: GenuineIntel, family 6"),
    ],
)
def test_a_cpu_of_another_identity_is_refused(changes, shown):
    with pytest.raises(CpuError, match=shown) as caught:
        check(cpu_words=SAID | changes)
    assert "--accelerator tcg" in caught.value.hint


def test_a_guest_that_does_not_tell_its_cpu_is_refused():
    with pytest.raises(CpuError, match="nothing that can be read"):
        check(cpu_words={})


def test_flags_that_kernels_hide_or_invent_prove_nothing():
    check(cpu_flags=frozenset(FLAGS | {"pcid", "rep_good", "nopl", "xsave", "umip"}))


def test_qemu_s_names_and_those_of_linux_are_matched():
    check(features=(*FEATURES, "sse3"))
    for name in ("sse4.1", "lahf-lm", "sha-ni", "pni"):
        assert name in INSTRUCTION_SETS


def woken(after_s, chip_after_s=None, date=DATE):
    chip = after_s if chip_after_s is None else chip_after_s
    clock_at, rtc_at = (date + timedelta(seconds=one) for one in (after_s, chip))
    prove_clock(Awakening(clock_at=clock_at, rtc_at=rtc_at), date, 10.0)


@pytest.mark.parametrize("after_s", [0, 3, 10])
def test_clocks_of_a_resumed_guest_may_have_gone_on_as_long_as_time_did(after_s):
    woken(after_s)


@pytest.mark.parametrize("after_s", [-1, 11, -86_400 * 365])
def test_a_resumed_guest_whose_clocks_are_elsewhere_is_refused(after_s):
    with pytest.raises(ClockError, match=r"the guest's clock says .*; allowed: from 2019-05-01"):
        woken(after_s)
    with pytest.raises(ClockError, match="the guest's clock chip says "):
        woken(3, chip_after_s=after_s)


def test_a_clock_chip_is_not_asked_for_dates_that_it_cannot_hold():
    late = datetime(2200, 1, 1, tzinfo=UTC)
    woken(3, chip_after_s=-86_400 * 36_525, date=late)
    with pytest.raises(ClockError, match="the guest's clock says "):
        woken(-3, date=late)
