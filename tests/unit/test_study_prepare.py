import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case
from buildvm_nb.model.instants import now
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.prepare import evict, home_of, keep, split_steps
from buildvm_nb.study.run import Setting, Trial


def case(*names, **fields):
    return Case.parse({"id": "a", "steps": [{"name": n, "run": n} for n in names]} | fields)


@pytest.mark.parametrize(
    ("names", "before", "after"),
    [
        (("prepare", "build", "test"), ["prepare", "build"], ["test"]),
        (("test",), [], ["test"]),
        (("prepare", "build"), [], ["prepare", "build"]),
    ],
)
def test_a_checkpoint_comes_before_the_test(names, before, after):
    split = split_steps(case(*names))
    assert [[step.name for step in part] for part in split] == [before, after]


def test_a_build_is_carried_over_only_where_the_case_says_so_and_has_one():
    spec = MachineSpec.parse({})
    assert home_of(case("build", "test", prepare_on="once"), spec) == spec
    assert home_of(case("test", prepare_on="once"), spec) is None
    assert home_of(case("build", "test"), spec) is None


@pytest.fixture
def full(tmp_path):
    cache = Cache(tmp_path)
    for age, name in enumerate(["newest", "middle", "oldest"]):
        kind = "built" if name == "middle" else "checkpoints"

        def make(work):
            (work / "state").write_bytes(os.urandom(2**20))

        place = cache.entry(kind, {"name": name}, make)
        used_at = (now() - timedelta(days=age)).timestamp()
        os.utime(place, (used_at, used_at))
    return cache


def left(cache):
    return sorted(
        cache.record(place)["recipe"]["name"]
        for kind in ("checkpoints", "built")
        for _, place in cache.entries(kind)
    )


def test_what_was_used_longest_ago_goes_first(full, monkeypatch):
    monkeypatch.setenv("BUILDVM_CHECKPOINTS_GIB", str(2.5 / 1024))
    assert len(evict(full)) == 1
    assert left(full) == ["middle", "newest"]
    assert evict(full) == ()


def test_what_was_not_used_for_a_month_goes_though_there_is_room(full):
    for _, place in full.entries("built"):
        os.utime(place, (1_000_000, 1_000_000))
    assert len(evict(full)) == 1
    assert left(full) == ["newest", "oldest"]


def test_what_is_needed_now_stays_however_large_it_is(full, monkeypatch):
    monkeypatch.setenv("BUILDVM_CHECKPOINTS_GIB", "0")
    oldest = next(
        key
        for key, place in full.entries("checkpoints")
        if full.record(place)["recipe"]["name"] == "oldest"
    )
    evict(full, keep=oldest)
    assert left(full) == ["oldest"]


def test_a_limit_that_is_no_number_is_refused(full, monkeypatch):
    monkeypatch.setenv("BUILDVM_CHECKPOINTS_GIB", "much")
    with pytest.raises(UsageError, match="much"):
        evict(full)


@pytest.fixture
def is_made(tmp_path, monkeypatch):
    """Tell whether a machine is prepared anew for a case; what passes is kept."""
    monkeypatch.setattr(
        "buildvm_nb.study.prepare.find_emulator",
        lambda _root: SimpleNamespace(path="/usr/bin/qemu", version="7.2.22"),
    )
    cache = Cache(tmp_path)

    def asked(case, spec=None, *, digest="a", image="1", kernel="2"):
        made = []
        boot = SimpleNamespace(
            image_digest=image, kernel_digest=kernel, initramfs=Path("/cache/x/initramfs")
        )
        record = SimpleNamespace(digest=digest)
        inputs = SimpleNamespace(fetched=(SimpleNamespace(record=record),), top="")
        spec = spec or MachineSpec.parse({"date": "2019-05-01"})

        def make(work, _log):
            made.append(work)
            (work / "state").write_bytes(b"state")
            outcome = Outcome(case=case, machine=spec, verdict=Verdict.PASSED)
            return Trial(outcome=outcome, log=b"")

        kept = keep(Setting(case=case, cache=cache), "checkpoints", spec, boot, inputs, make)
        assert not isinstance(kept, Trial)
        return bool(made)

    return asked


def test_a_checkpoint_is_found_again_by_all_that_went_into_it(is_made):
    plain = case("build", "test")
    assert is_made(plain)
    assert not is_made(plain)
    other_test = [{"name": "build", "run": "build"}, {"name": "test", "run": "another"}]
    assert not is_made(case("build", "test", steps=other_test))
    spec = MachineSpec.parse({"date": "2019-05-01", "name": "called-otherwise"})
    assert not is_made(plain, spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "b"},
        {"image": "3"},
        {"kernel": "4"},
        {"spec": MachineSpec.parse({"date": "2019-05-02"})},
        {"spec": MachineSpec.parse({"date": "2019-05-01", "cpu": "Westmere"})},
        {"spec": MachineSpec.parse({"date": "2019-05-01", "cpu_count": 2})},
        {"spec": MachineSpec.parse({"date": "2019-05-01", "memory_mib": 2048})},
        {"case": case("prepare", "build", "test")},
        {"case": case("build", "test", limits={"memory_mib": 512})},
        {
            "case": case(
                "test", steps=[{"name": "build", "run": "make"}, {"name": "test", "run": "t"}]
            )
        },
        {
            "case": case(
                "test",
                steps=[
                    {"name": "build", "run": "build", "env": {"TZ": "CET"}},
                    {"name": "test", "run": "test"},
                ],
            )
        },
    ],
)
def test_a_checkpoint_of_something_else_is_never_taken(is_made, changes):
    known = {"case": case("build", "test")}
    assert is_made(**known)
    assert is_made(**known | changes)


def test_a_checkpoint_of_another_qemu_is_never_taken(is_made, monkeypatch):
    assert is_made(case("build", "test"))
    monkeypatch.setattr(
        "buildvm_nb.study.prepare.find_emulator",
        lambda _root: SimpleNamespace(path="/usr/bin/qemu", version="9.2.0"),
    )
    assert is_made(case("build", "test"))
