"""None"""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from buildvm_nb.errors import UsageError
from buildvm_nb.model.instants import LATEST_CLOCK, format_instant, now
from buildvm_nb.model.machine import (
    CPU_MODELS,
    OLDEST_QEMU,
    Accelerator,
    CpuIdentity,
    CpuModel,
    Environment,
    ImageSpec,
    MachineSpec,
    Network,
    PortForwarding,
    Vendor,
    cpu_at,
    find_model,
    instruction_sets,
)
from buildvm_nb.vm import INSTRUCTION_SETS


def test_what_is_left_out_follows_from_the_date():
    spec = MachineSpec.parse({"date": "2010-06-15"})
    assert spec.cpu == "Westmere"
    assert spec.date == datetime(2010, 6, 15, tzinfo=UTC)
    assert spec.name == "build-vm"
    assert spec.image == ImageSpec(base="debian:bookworm")
    assert spec.kernel == "debian:bookworm"
    assert (spec.cpu_count, spec.memory_mib) == (1, 1024)
    assert spec.accelerator is Accelerator.AUTO
    assert spec.network is Network.OFF
    assert spec.systems == ("x86_64-linux",)
    assert spec.auto_start is False


def test_without_a_date_the_present_second_is_meant():
    before = now()
    spec = MachineSpec.parse({})
    assert before - timedelta(seconds=1) < spec.date <= now()
    assert spec.date.microsecond == 0


def test_none_means_left_out():
    spec = MachineSpec.parse({"date": "2010-06-15", "cpu": None, "memory_mib": None})
    assert (spec.cpu, spec.memory_mib) == ("Westmere", 1024)


def test_a_cpu_that_was_given_stays_whatever_the_date():
    assert MachineSpec.parse({"date": "2010-06-15", "cpu": "Haswell,-cx16"}).cpu == "Haswell,-cx16"


@pytest.mark.parametrize(
    ("text", "base", "packages"),
    [
        ("debian:bookworm", "debian:bookworm", ()),
        ("debian:bookworm,make,gcc", "debian:bookworm", ("gcc", "make")),
        ("debian:trixie,gcc,gcc", "debian:trixie", ("gcc",)),
        ("debian:sid,gcc=4:12.2.0-3", "debian:sid", ("gcc=4:12.2.0-3",)),
    ],
)
def test_an_image_is_read_from_text(text, base, packages):
    image = ImageSpec.parse(text)
    assert (image.base, image.packages) == (base, packages)
    assert ImageSpec.parse(str(image)) == image
    assert MachineSpec.parse({"image": text}).image == image


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("bookworm", "ImageSpec.base"),
        ("debian:", "ImageSpec.base"),
        ("debian:bookworm,", "ImageSpec.packages.0"),
        ("debian:bookworm,-o", "ImageSpec.packages.0"),
        ("debian:bookworm,gcc make", "ImageSpec.packages.0"),
    ],
)
def test_an_image_that_makes_no_sense_is_refused(text, field):
    with pytest.raises(UsageError, match=f"^{re.escape(field)}: "):
        ImageSpec.parse(text)


@pytest.mark.parametrize(
    ("given", "mib"),
    [(512, 512), ("512M", 512), ("512 MiB", 512), ("2G", 2048), ("2GiB", 2048), ("768", 768)],
)
def test_memory_is_read_with_its_unit(given, mib):
    assert MachineSpec.parse({"memory_mib": given}).memory_mib == mib


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "-no"}, "MachineSpec.name: expected text that matches"),
        ({"name": "a,b"}, "MachineSpec.name: expected text that matches"),
        ({"cpu": "Haswell,-cx16,"}, "MachineSpec.cpu: expected text that matches"),
        ({"cpu": "a b"}, "MachineSpec.cpu: expected text that matches"),
        ({"cpu_count": 0}, "MachineSpec.cpu_count: expected 1 or more"),
        ({"cpu_count": 256}, "MachineSpec.cpu_count: expected 255 or less"),
        ({"memory_mib": 64}, "MachineSpec.memory_mib: expected 192 or more, got 64"),
        ({"memory_mib": "9T"}, "MachineSpec.memory_mib: expected a whole number, got '9T'"),
        ({"kernel": "bookworm"}, "MachineSpec.kernel: expected text that matches"),
        ({"kernel": "../linux"}, "MachineSpec.kernel: expected text that matches"),
        ({"accelerator": "xen"}, "expected 'auto', 'kvm', 'tcg' or 'uml'"),
        ({"network": "on"}, "MachineSpec.network: expected 'off', 'restricted' or 'user'"),
        (
            {"port_forwardings": [{"host": 0, "guest": 22}]},
            "MachineSpec.port_forwardings.0.host: expected 1 or more",
        ),
        (
            {"port_forwardings": [{"host": 22, "guest": 65536}]},
            "MachineSpec.port_forwardings.0.guest: expected 65535 or less",
        ),
        ({"colour": "red"}, "MachineSpec.colour: no such field"),
        ({"date": "soon"}, "not a date: 'soon'; allowed: 2019-05-01"),
        ({"date": "2019-05-01T12:00"}, "a time of day needs a zone"),
        ({"date": "1970-01-01", "cpu": "Haswell"}, "MachineSpec.date: date out of range"),
        (
            {"date": "2019-05-01T00:00:00.5Z"},
            "MachineSpec.date: a machine's date is a whole second",
        ),
    ],
)
def test_a_bad_field_is_refused_by_name_with_what_is_allowed(fields, message):
    with pytest.raises(UsageError) as caught:
        MachineSpec.parse(fields)
    assert message in caught.value.message


def test_all_bad_fields_are_named_at_once_with_the_values_seen():
    with pytest.raises(UsageError) as caught:
        MachineSpec.parse({"cpu_count": 0, "memory_mib": 1})
    lines = caught.value.message.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "MachineSpec.cpu_count",
        "MachineSpec.memory_mib",
    ]
    assert lines[0].endswith("expected 1 or more, got 0")


def test_something_that_is_no_mapping_is_refused():
    with pytest.raises(UsageError, match="MachineSpec: "):
        MachineSpec.parse("debian")


def test_the_last_second_that_linux_can_be_set_to_is_allowed_and_the_next_is_not():
    assert format_instant(LATEST_CLOCK) == "2232-04-18T23:47:15Z"
    assert MachineSpec.parse({"date": LATEST_CLOCK}).date == LATEST_CLOCK
    with pytest.raises(UsageError, match=r"to 2232-04-18T23:47:15Z"):
        MachineSpec.parse({"date": LATEST_CLOCK + timedelta(seconds=1)})


def test_forwardings_need_a_card_so_they_imply_a_restricted_network():
    forwardings = [{"host": 8022, "guest": 22}]
    spec = MachineSpec.parse({"port_forwardings": forwardings})
    assert spec.network is Network.RESTRICTED
    assert spec.port_forwardings == (PortForwarding(host=8022, guest=22),)
    wider = MachineSpec.parse({"port_forwardings": forwardings, "network": "user"})
    assert wider.network is Network.USER


SPECS = st.builds(
    dict,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True),
    image=st.sampled_from(["debian:bookworm", "debian:trixie,gcc,make"]),
    date=st.integers(86400, int(LATEST_CLOCK.timestamp())).map(
        lambda second: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    ),
    cpu=st.sampled_from([None, "Haswell", "Haswell,-cx16,+avx"]),
    cpu_count=st.integers(1, 255),
    memory_mib=st.integers(192, 1024 * 1024),
    # what user-mode Linux cannot give has tests of its own
    accelerator=st.sampled_from(sorted(set(Accelerator) - {Accelerator.UML})),
    network=st.sampled_from(Network),
    port_forwardings=st.lists(
        st.builds(dict, host=st.integers(1, 65535), guest=st.integers(1, 65535)), max_size=3
    ),
    auto_start=st.booleans(),
)


@settings(deadline=None)
@given(SPECS)
def test_a_machine_goes_through_json_without_loss(fields):
    spec = MachineSpec.parse(fields)
    again = MachineSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.content_digest() == spec.content_digest()


def test_a_machine_cannot_be_changed():
    spec = MachineSpec.parse({})
    with pytest.raises(ValidationError, match="frozen"):
        spec.cpu_count = 2


def test_an_environment_of_an_older_version_can_be_read():
    old = {"cpu": "Haswell", "cpu_features": [], "cpu_flags": [], "cpu_count": 1}
    old |= {"kernel_release": "6.1.0", "accelerator": "kvm", "engine": "qemu 7.2.22"}
    environment = Environment.parse(old)
    assert environment.cpu_identity is None
    assert environment.accelerator_reason == ""


def test_an_environment_goes_through_json_without_loss():
    environment = Environment(
        cpu="Haswell,-cx16",
        cpu_features=("avx", "sse2"),
        cpu_features_lacking=("pcid",),
        cpu_flags=("avx", "pni", "sse2"),
        cpu_identity=CpuIdentity(vendor="V", family=6, model=60, stepping=4, name="N"),
        cpu_count=2,
        kernel_release="6.1.0-40-amd64",
        accelerator=Accelerator.TCG,
        engine="qemu 7.2.22",
    )
    assert Environment.model_validate_json(environment.model_dump_json()) == environment


@pytest.mark.parametrize("systems", [(), ("aarch64-linux",), ("x86_64-linux", "riscv64-linux")])
def test_a_system_that_cannot_be_run_is_refused_with_those_that_can(systems):
    with pytest.raises(UsageError, match=r"allowed: i686-linux, x86_64-linux"):
        MachineSpec.parse({"systems": systems})


BY_NAME = {model.name: model for model in CPU_MODELS}
KNOWN = frozenset({"Haswell", "Broadwell", "Westmere", "qemu64", "EPYC", "EPYC-Rome"})
DATES = st.datetimes(
    min_value=datetime(2006, 7, 27),  # noqa: DTZ001 - hypothesis wants bounds without a zone
    max_value=datetime.now(UTC).replace(tzinfo=None),
    timezones=st.just(UTC),
)


def test_the_table_is_sorted_by_day_and_names_each_model_once():
    assert all(one.since <= other.since for one, other in pairwise(CPU_MODELS))
    assert len(BY_NAME) == len(CPU_MODELS)


@pytest.mark.parametrize("model", CPU_MODELS, ids=lambda model: model.name)
def test_every_entry_is_a_midnight_in_utc_with_a_product_and_a_source(model):
    assert model.since.tzinfo is UTC
    assert model.since == model.since.replace(hour=0, minute=0, second=0, microsecond=0)
    assert model.since < datetime.now(UTC)
    assert model.product
    assert model.source
    assert model.qemu >= OLDEST_QEMU


@settings(deadline=None)
@given(DATES, st.sampled_from(Vendor))
def test_each_date_gives_the_newest_model_of_the_vendor_that_was_on_sale(date, vendor):
    model = cpu_at(date, vendor=vendor)
    assert model.vendor is vendor
    assert model.since <= date
    newer = [
        other
        for other in CPU_MODELS
        if other.vendor is vendor
        and other.qemu <= OLDEST_QEMU
        and model.since < other.since <= date
    ]
    assert not newer


@pytest.mark.parametrize(
    ("day", "name"),
    [
        ("2006-12-24", "core2duo"),
        ("2010-06-15", "Westmere"),
        ("2013-06-03", "IvyBridge"),
        ("2019-05-01", "Cascadelake-Server"),
    ],
)
def test_well_known_dates_give_the_processors_of_their_time(day, name):
    assert cpu_at(datetime.fromisoformat(f"{day}T00:00:00Z")).name == name


@pytest.mark.parametrize(
    "model",
    [model for model in CPU_MODELS if model.qemu == OLDEST_QEMU],
    ids=lambda model: model.name,
)
def test_the_day_of_sale_itself_counts_and_the_second_before_does_not(model):
    assert cpu_at(model.since, vendor=model.vendor) is model
    before = cpu_at(model.since - timedelta(seconds=1), vendor=model.vendor)
    first = next(other for other in CPU_MODELS if other.vendor is model.vendor)
    assert before is not model or model is first


@pytest.mark.parametrize(
    ("vendor", "name"), [(Vendor.INTEL, "core2duo"), (Vendor.AMD, "Opteron_G1")]
)
def test_a_date_before_the_first_entry_gives_the_oldest_model(vendor, name):
    assert cpu_at(datetime(1971, 1, 1, tzinfo=UTC), vendor=vendor).name == name


@pytest.mark.parametrize(
    ("year", "name"),
    [(2005, "Opteron_G1"), (2010, "Opteron_G3"), (2018, "EPYC"), (2022, "EPYC-Milan")],
)
def test_amd_has_a_line_of_its_own(year, name):
    assert cpu_at(datetime(year, 1, 1, tzinfo=UTC), vendor=Vendor.AMD).name == name


def test_a_model_that_needs_a_newer_qemu_is_chosen_only_when_that_is_there():
    date = datetime(2023, 6, 1, tzinfo=UTC)
    assert cpu_at(date).name == "Icelake-Server"
    assert cpu_at(date, qemu=(8, 0)).name == "SapphireRapids"
    assert cpu_at(date, qemu=(10, 1)).name == "SapphireRapids"


def test_an_entry_cannot_be_changed():
    model: CpuModel = CPU_MODELS[0]
    with pytest.raises(AttributeError):
        model.name = "386"


@pytest.mark.parametrize("text", ["Haswell", "haswell", "HASWELL,-cx16", "Haswell,+avx,-cx16"])
def test_a_model_is_found_whatever_its_case_and_features(text):
    assert find_model(text, KNOWN) == "Haswell"


def test_an_unknown_model_is_refused_and_near_names_are_suggested():
    with pytest.raises(UsageError, match="unknown CPU model: 'Hasvell'; allowed: ") as caught:
        find_model("Hasvell,-cx16", KNOWN)
    assert caught.value.hint.startswith("did you mean Haswell")


def test_where_no_name_is_near_the_list_is_pointed_to():
    with pytest.raises(UsageError) as caught:
        find_model("zzz", KNOWN)
    assert caught.value.hint == "`buildvm cpus` lists them"


# instruction sets

QEMU = shutil.which("qemu-system-x86_64")


def test_every_model_in_the_table_has_its_instruction_sets():
    assert all(instruction_sets(model.name) for model in CPU_MODELS)
    assert instruction_sets("Haswell,-cx16,+adx") == instruction_sets("Haswell") - {"cx16"} | {
        "adx"
    }
    assert instruction_sets("max") is None


@pytest.mark.skipif(QEMU is None, reason="no QEMU")
def test_the_instruction_sets_are_those_that_qemu_gives_a_model():
    asked = [model.name for model in CPU_MODELS] + ["qemu64", "kvm64"]
    named = [
        {
            "execute": "query-cpu-model-expansion",
            "arguments": {"type": "full", "model": {"name": name}},
        }
        for name in asked
    ]
    commands = [{"execute": "qmp_capabilities"}, *named, {"execute": "quit"}]
    done = subprocess.run(
        [QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"],
        input="".join(f"{json.dumps(command)}\n" for command in commands),
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    answers = [one for one in told if "return" in one or "error" in one][1:-1]
    everywhere = {"mmx", "sse", "sse2", "syscall", "nx", "lm"}
    of_speed = {"erms"}  # says that an instruction is fast, and adds none
    seen = 0
    for name, answer in zip(asked, answers, strict=True):
        if "error" in answer:  # a model of a newer QEMU
            continue
        has = {key for key, value in answer["return"]["model"]["props"].items() if value is True}
        assert instruction_sets(name) == has & INSTRUCTION_SETS - everywhere - of_speed, name
        seen += 1
    assert seen > 20
