"""Simulated worlds: a laboratory whose guests answer at once, all else of a diagnosis is real.

A world says at which instant, on which CPU, kernel and number of cores a test passes, where no
guest comes up, how long the test runs and how often it fails by chance. What stands beyond a
study's far end (boot files, QEMU, Debian's archive) is there at once.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, LocalSource
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.machine import (
    CPU_MODELS,
    Accelerator,
    Environment,
    MachineSpec,
    Vendor,
    instruction_sets,
)
from buildvm_nb.model.outcome import Outcome, StepRecord, Verdict
from buildvm_nb.study.diagnose import diagnose
from buildvm_nb.study.executors import Means
from buildvm_nb.study.laboratory import Laboratory, Order, order_key
from buildvm_nb.study.questions import Questions
from buildvm_nb.study.run import Trial
from buildvm_nb.vm import check_cpu

CASE = Case.parse({"id": "demo", "steps": [{"name": "test", "run": "run-tests"}]})
KERNELS = {
    "debian:bullseye": "5.10.0-35-cloud-amd64",
    "debian:bookworm": "6.1.0-41-cloud-amd64",
    "debian:bookworm-backports": "6.12.48+deb12-cloud-amd64",
    "debian:sid": "7.0.1-cloud-amd64",
}
_RELEASES = KERNELS | {"debian:trixie": "6.12.113"}
"""Also of what guests have under user-mode Linux."""
_SETS = frozenset().union(*(instruction_sets(model.name) or () for model in CPU_MODELS))
_VENDORS = {"GenuineIntel": Vendor.INTEL, "AuthenticAMD": Vendor.AMD}


class _Anything:
    """Features of a QEMU that has them all."""

    def __contains__(self, name: object) -> bool:
        return True


_QEMU = SimpleNamespace(
    models=frozenset({*(model.name for model in CPU_MODELS), "max"}),
    features=_Anything(),
    version="7.2.22",
)
_BOOT = SimpleNamespace(image_digest="1" * 64, kernel_digest="2" * 64)


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look of a test at its machine."""

    at: datetime
    """What the clock says."""
    cpu: str
    features: frozenset[str]
    vendor: Vendor
    kernel: str
    """As ``uname -r`` says it."""
    cores: int
    is_fast: bool = False
    """Whether it runs under user-mode Linux."""
    zone: str = "UTC"
    """What ``TZ`` says."""


TODAY = datetime(2026, 11, 29, 21, 30, tzinfo=UTC)
"""What day it is for a diagnosis: a date more or less is another search, and may be luckier."""
Passes = Callable[[Look], bool]


@dataclass(kw_only=True)
class World(Executor):
    """Guests whose test looks at the clock at certain parts of its time."""

    passes: Passes
    breaks: Callable[[Look], bool] = lambda _look: False
    """Where no guest comes up."""
    lasts_s: int = 1
    slower: int = 1
    """How many times as long it lasts under QEMU as under user-mode Linux."""
    strays_s: Callable[[Order], int] = lambda _order: 0
    """By how much the clock of a run goes on that is to be held."""
    delays_s: tuple[int, ...] = (0,)
    """By how much a busy host delays a run: one of these by chance."""
    looks: tuple[float, ...] = (0.5,)
    """At which parts of its time the test looks."""
    flaky: float = 0.0
    """How often a run that would pass fails by chance."""
    errors: float = 0.0
    """How often a guest is lost by chance."""
    bears_hold: bool = True
    """Whether the test ends under a clock that stands still."""
    seed: int = 0
    log: str = "AssertionError: no"
    ran: list[Outcome] = field(default_factory=list)

    def submit(self, _fn, /, order, *_):
        future = Future()
        future.set_result(self.answer(order))
        return future

    def answer(self, order) -> Trial:
        spec = order.machine
        if spec.accelerator is not Accelerator.UML:
            assert check_cpu(spec.cpu, _QEMU) == spec.cpu
        tried = sum(one.machine == spec and one.probing == order.probing for one in self.ran[-40:])
        chance = random.Random(f"{self.seed} {order_key(order)} {tried}")
        held = order.probing.held
        is_fast = spec.accelerator is Accelerator.UML
        takes_s = self.lasts_s * (1 if is_fast else self.slower)
        delay_s = chance.choice(self.delays_s)
        lasts_s = self.strays_s(order) if held else takes_s + delay_s
        looks = [
            self._look(
                spec, spec.date + timedelta(seconds=int(part * lasts_s)), order.case.timezone
            )
            for part in (self.looks if lasts_s else (0.0,))
        ]
        known = {"case": order.case, "machine": spec}
        if any(map(self.breaks, looks)) or chance.random() < self.errors:
            lost = Outcome(verdict=Verdict.ERROR, reason="the guest was lost", **known)
            self.ran.append(lost.model_copy(update={"probing": order.probing}))
            return Trial(outcome=lost, log=b"")
        passed = all(map(self.passes, looks)) and (self.bears_hold or not held)
        passed = passed and chance.random() >= self.flaky
        verdict = Verdict.PASSED if passed else Verdict.FAILED
        step = StepRecord(
            name="test",
            verdict=verdict,
            clock_started_at=spec.date,
            clock_ended_at=spec.date + timedelta(seconds=lasts_s),
            duration_s=takes_s,
        )
        outcome = Outcome(
            verdict=verdict,
            reason="" if passed else "test: exited with 1",
            evidence="" if passed else self.log,
            failing_step=None if passed else "test",
            steps=(step,),
            image_digest=_BOOT.image_digest,
            kernel_digest=_BOOT.kernel_digest,
            environment=Environment(
                cpu=spec.cpu,
                cpu_features=tuple(sorted(looks[0].features)),
                cpu_flags=(),
                cpu_count=spec.cpu_count,
                kernel_release=looks[0].kernel,
                accelerator=spec.accelerator,
                engine=_engine(spec),
            ),
            probing=order.probing.model_copy(update={"drift_s": 0.01 + (lasts_s if held else 0)}),
            **known,
        )
        self.ran.append(outcome)
        return Trial(outcome=outcome, log=b"" if passed else self.log.encode())

    def _look(self, spec, at: datetime, zone: str = "UTC") -> Look:
        model, *changes = spec.cpu.split(",")
        asked = next((one.partition("=")[2] for one in changes if one.startswith("vendor=")), "")
        made = {entry.name: entry for entry in CPU_MODELS}
        features = instruction_sets(spec.cpu)
        if model == "max":
            taken = {change[1:] for change in spec.cpu.split(",")[1:] if change[0] == "-"}
            features = _SETS - taken
        return Look(
            at=at,
            cpu=spec.cpu,
            features=frozenset(features or ()),
            vendor=_VENDORS.get(asked) or (made[model].vendor if model in made else Vendor.AMD),
            kernel=_RELEASES.get(spec.kernel, spec.kernel),
            cores=spec.cpu_count,
            is_fast=spec.accelerator is Accelerator.UML,
            zone=zone,
        )


def _engine(spec: MachineSpec, *_: object) -> str:
    is_fast = spec.accelerator is Accelerator.UML
    return f"uml {_RELEASES[spec.kernel]}" if is_fast else f"qemu {_QEMU.version}"


class Notes:
    """Stands in for a catalog, in memory: thousands of worlds need no files."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.logs: dict[str, bytes] = {}

    def answers(self, digest: str) -> list[Outcome]:
        return [one for one in self.outcomes if one.case.build_digest() == digest]

    def record(self, outcome: Outcome, log: bytes) -> Outcome:
        named = str(hash(log)) if log else ""
        self.logs[named] = log
        self.outcomes.append(outcome.model_copy(update={"log_digest": named}))
        return self.outcomes[-1]

    def log(self, digest: str) -> bytes:
        return self.logs[digest]


@contextmanager
def without_host() -> Iterator[None]:
    """Have boot files, QEMU and Debian's archive at once."""

    def had(spec: MachineSpec, *_: object) -> SimpleNamespace:
        if spec.kernel not in KERNELS:
            raise SourceError(f"no such kernel: {spec.kernel}")
        return SimpleNamespace(release=KERNELS[spec.kernel])

    far = {
        "diagnose.now": lambda: TODAY,
        "ordered.kernel_for": had,
        "laboratory.kvm_status": lambda _cache: (False, ""),
        "laboratory.prepare": lambda *_, **__: _BOOT,
        "laboratory.engine_for": _engine,
        "scouting.uml_status": lambda _cache: (False, ""),
        "scouting.kernel_for": lambda *_: None,
        "cpus.find_emulator": lambda *_: _QEMU,
    }
    with ExitStack() as stack:
        for name, answer in far.items():
            stack.enter_context(patch(f"buildvm_nb.study.{name}", answer))
        yield


def diagnosed(
    world: World,
    root: Path,
    *,
    own: datetime | None = None,
    hints: Sequence[str] = (),
    case: Case = CASE,
    workers: int = 1,
    fresh: bool = True,
    catalog: Notes | None = None,
    overrides: Mapping[str, object] | None = None,
    **asked: object,
) -> Finding:
    """Diagnose a world; needs `without_host`.

    `own` dates the case's source, whose files hold `hints`.
    """
    if own is not None:
        tree = root / f"tree-{own:%Y%m%dT%H%M%S}-{abs(hash(tuple(hints)))}"
        if not tree.exists():
            tree.mkdir(parents=True)
            for number, hint in enumerate(hints):
                (tree / f"dates-{number}.py").write_text(hint)
    means = Means(cache=Cache(root / "cache"), catalog=catalog or Notes(), fresh=fresh)
    lab = Laboratory(case, means, world, workers)
    if own is not None:
        record = SimpleNamespace(dated_at=own, digest="0" * 64, name="tree")
        main = SimpleNamespace(record=record, tree=tree, top="")
        lab.case = case.model_copy(update={"source": LocalSource(path="tree")})
        lab.inputs = SimpleNamespace(main=main, fetched=(main,))
        lab._sources[lab.case.build_digest()] = ()  # the tree was made here, not fetched
    return diagnose(lab, Questions(**{"use_hints": bool(hints), **asked}), overrides)
