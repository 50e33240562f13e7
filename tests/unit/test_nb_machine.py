"""The machine panel, driven without a browser."""

import shutil
from datetime import UTC, datetime

import pytest

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.nb.machine import MachinePanel

LONG_S = 600.0


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def panel(cache):
    made = MachinePanel(cache=cache, checks=False)
    yield made
    made.close()


def test_what_is_left_open_follows_from_the_commit(panel):
    panel.commit_date = datetime(2012, 6, 1, tzinfo=UTC)
    assert panel.overrides == {"date": panel.commit_date}
    assert panel.spec.cpu == "IvyBridge"
    assert "2012-06-01T00:00:00Z (of the commit)" in panel._fields["date"]._note.value
    assert "IvyBridge" in panel._fields["cpu"]._note.value


def test_a_preset_fills_in_the_date_and_typing_takes_over(panel):
    panel.set(preset="2038, when 32 bits overflow")
    assert panel.spec.date == datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)
    panel.set(preset="today")
    today = panel.spec.date
    panel.set(preset="today + 5 years")
    assert panel.spec.date.year == today.year + 5
    panel.set(date="2019-05-01")
    assert panel._presets.value == "as typed"
    panel.set(date="")
    assert panel._presets.value == "commit date"
    assert "date" not in panel.overrides


def test_what_was_chosen_is_in_the_machine(panel):
    panel.set(cpu="Haswell,-avx2", memory="2G", kernel="debian:trixie", cpu_count=2)
    panel.set(image="debian:trixie,gcc", packages="make, python3", date="2020-01-01")
    spec = panel.spec
    assert (spec.cpu, spec.memory_mib, spec.cpu_count) == ("Haswell,-avx2", 2048, 2)
    assert str(spec.image) == "debian:trixie,gcc,make,python3"
    assert spec.accelerator == "tcg"  # a chosen CPU is enforced
    assert not panel.complaints


@pytest.mark.parametrize(
    ("field", "typed", "told"),
    [
        ("date", "31.12.1999", "not a date"),
        ("date", "2019-02-30", "not a date"),
        ("date", "2019-05-01T12:00", "needs a zone"),
        ("date", "9000-01-01", "out of range"),
        ("date", "<script>alert(1)</script>", "&lt;script&gt;"),
        ("cpu", "i 9", "cpu: expected text that matches"),
        ("memory", "lots", "memory: not a size: &#x27;lots&#x27;; allowed: 1024 (MiB)"),
        ("memory", "16", "memory: expected 192 or more, got &#x27;16&#x27;"),
        ("cpu_count", "0", "cores: expected 1 or more, got &#x27;0&#x27;"),
        ("kernel", "6.1", "kernel: "),
        ("packages", "Bad_Name", "packages: "),
    ],
)
def test_what_is_wrong_is_told_at_its_field(panel, field, typed, told):
    panel._fields[field].widget.value = typed
    assert told in panel.complaints[field]
    assert "<script" not in panel.complaints[field]
    assert not panel._fields["date"]._note.value  # nothing follows from what is wrong
    with pytest.raises(UsageError):
        _ = panel.spec
    panel._fields[field].widget.value = ""
    assert not panel.complaints


def test_a_field_that_there_is_none_of_is_refused(panel):
    with pytest.raises(UsageError, match="no such field"):
        panel.set(colour="red")


def test_the_accelerator_says_what_it_means_for_what_is_found(panel):
    panel.set(accelerator="kvm")
    assert "only hides" in panel._fidelity.value
    panel.set(accelerator="tcg")
    assert "enforces" in panel._fidelity.value
    assert panel.overrides["accelerator"] == "tcg"


def test_a_host_without_qemu_is_told_what_to_install(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    panel = MachinePanel(cache=cache)
    assert panel.wait(LONG_S)
    assert "program not found on this host: qemu-system-x86_64" in panel.host_html
    assert "apt-get install --no-install-recommends qemu-system-x86" in panel.host_html
    assert panel.spec.cpu  # a machine can be described all the same
    panel.close()


def test_features_are_those_that_this_qemu_gives(cache):
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("needs QEMU")
    panel = MachinePanel(cache=cache, checks=False)
    panel.set(cpu="core2duo")
    assert panel.wait(LONG_S)
    assert "core2duo has" in panel.features_html
    assert "ssse3" in panel.features_html
    assert "avx2" not in panel.features_html
    panel.close()
