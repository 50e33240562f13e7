import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildvm_nb.errors import UsageError
from buildvm_nb.model.cpu import (
    CPU_MODELS,
    OLDEST_QEMU,
    CpuModel,
    Vendor,
    cpu_at,
    find_model,
    instruction_sets,
)
from buildvm_nb.vm import INSTRUCTION_SETS

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
