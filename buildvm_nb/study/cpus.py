"""The CPU axis: which models fail, and the smallest set of features that decides it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from buildvm_nb.errors import BudgetSpent
from buildvm_nb.model.machine import CPU_MODELS, MachineSpec, Vendor
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.search import Answer, Plan, Probe, State, find_transitions, reduce_set
from buildvm_nb.study.dates import state_of
from buildvm_nb.study.laboratory import Laboratory, Order
from buildvm_nb.study.prepare import home_of
from buildvm_nb.vm import INSTRUCTION_SETS, find_emulator

__all__ = ["GENERATIONS", "CpuStudy", "study_cpus"]

_OLDEST = "core2duo"
"""The oldest model that every current x86-64 distribution and kernel still runs on."""
GENERATIONS = ("Opteron_G3", "SandyBridge", "Haswell", "Skylake-Server", "EPYC")
"""One of each generation and maker: AMD's of old and later, Intel's with AVX and without AVX2, with
AVX2 and without AVX-512, and with that, as far as the accelerator gives it."""
_VENDORS = {Vendor.INTEL: "GenuineIntel", Vendor.AMD: "AuthenticAMD"}
_EVERYTHING = "max"
"""QEMU's model with all that the accelerator can give."""


@dataclass(kw_only=True)
class CpuStudy:
    """What was found about CPUs."""

    passing: tuple[Outcome, ...] = ()
    failing: tuple[Outcome, ...] = ()
    unknown: tuple[Outcome, ...] = ()
    good: Outcome | None = None
    """Passed, on the model next to `bad`."""
    bad: Outcome | None = None
    features: tuple[str, ...] = ()
    """Smallest set found whose removal from `good` makes it fail."""
    needed: tuple[str, ...] = ()
    """Smallest set found whose addition to `bad` makes it pass."""
    harmful: tuple[str, ...] = ()
    """Smallest set found whose addition to `good` makes it fail."""
    vendor: str = ""
    """CPUID's name of the vendor with which `bad` passes, and without which `good` fails."""
    needs_vendor: tuple[Outcome, str] | None = None
    """A run that fails although its CPU has `features`, and the vendor as which that passes."""
    confirmed: int = 0
    disagreeing: tuple[Outcome, ...] = ()
    """Runs in one environment that did not agree; then nothing else is concluded."""
    notes: list[str] = field(default_factory=list)


def study_cpus(
    lab: Laboratory, spec: MachineSpec, models: Sequence[str] = (), *, repeats: int = 2
) -> CpuStudy:
    """Find out whether a case depends on the CPU, and on which features.

    `models`: more models to try, beside the oldest, that of `spec` and all that QEMU can give.
    """
    asked = tuple(dict.fromkeys([spec.cpu, *models, _OLDEST, _EVERYTHING]))
    bench = _Bench(lab, spec, asked)
    tried = bench.run(asked)
    study = CpuStudy()
    pair = _differing(tried)
    if pair:
        pair = _of_one_vendor(tried) or pair
        good, bad = bench.approach(*pair)
        study.good, study.bad = good, bad
        repeated = []
        try:
            for attempt in range(1, repeats + 1):
                for one in (good, bad):
                    repeated += bench.run([one.machine.cpu], attempt)
        except BudgetSpent as spent:
            study.notes.append(f"{spent.message}: not repeated {repeats} times on each side")
        by_cpu = {good.machine.cpu: State.GOOD, bad.machine.cpu: State.BAD}
        judged = [one for one in repeated if state_of(one) is not State.UNKNOWN]
        if any(state_of(one) is not by_cpu[one.machine.cpu] for one in judged):
            study.disagreeing = (good, bad, *judged)
        else:
            study.confirmed = len(judged)
            try:
                _reduce(bench, good, bad, study)
                _confirm(bench, good, bad, study)
                _look_at_others(bench, good, study)
            except BudgetSpent as spent:
                study.notes.append(spent.message)
    study.passing = tuple(one for one in bench.models() if state_of(one) is State.GOOD)
    study.failing = tuple(one for one in bench.models() if state_of(one) is State.BAD)
    study.unknown = tuple(one for one in bench.models() if state_of(one) is State.UNKNOWN)
    return study


class _Bench:
    """Runs the case on CPUs."""

    def __init__(self, lab: Laboratory, spec: MachineSpec, asked: Sequence[str]) -> None:
        self.lab = lab
        self.spec = spec
        self._asked = asked
        self.home = home_of(lab.case, spec)
        self._known = find_emulator(lab.cache.root).models
        self._seen: dict[str, Outcome] = {}

    def run(self, cpus: Sequence[str], attempt: int = 0) -> list[Outcome]:
        orders = [
            Order(
                case=self.lab.case,
                machine=self.spec.model_copy(update={"cpu": cpu}),
                probing={"attempt": attempt, "prepared_on": self.home},
            )
            for cpu in cpus
        ]
        outcomes = self.lab.run(orders)
        if attempt == 0:
            self._seen |= zip(cpus, outcomes, strict=True)
        return outcomes

    def first(self, cpu: str) -> Outcome:
        """Return the first outcome on a CPU that was tried."""
        return self._seen[cpu]

    def models(self) -> list[Outcome]:
        """Return the outcomes on plain models and on those that were asked for, oldest first."""
        order = {model.name: number for number, model in enumerate(CPU_MODELS)}
        names = sorted(self._seen, key=lambda cpu: order.get(cpu.split(",")[0], len(order)))
        return [self._seen[name] for name in names if "," not in name or name in self._asked]

    def approach(self, good: Outcome, bad: Outcome) -> tuple[Outcome, Outcome]:
        """Narrow down to neighbouring models, where both are of one vendor's line."""
        line = [
            model.name
            for model in CPU_MODELS
            if model.vendor is Vendor.INTEL and model.name in self._known
        ]
        ends = [one.machine.cpu for one in (good, bad)]
        if not all(end in line for end in ends):
            return good, bad
        low, high = sorted(line.index(end) for end in ends)
        known = {
            Probe(at=line.index(cpu)): self._answer(line.index(cpu), outcome)
            for cpu, outcome in self._seen.items()
            if cpu in line
        }

        def ask(probes: Sequence[Probe]) -> list[Answer]:
            outcomes = self.run([line[probe.at] for probe in probes])
            return [
                self._answer(probe.at, outcome)
                for probe, outcome in zip(probes, outcomes, strict=True)
            ]

        plan = Plan(
            first=low, last=high, repeats=0, can_hold=False, workers=self.lab.workers, reveal=0
        )
        survey = find_transitions(ask, plan, known)
        for change in survey.transitions:
            pair = [self._seen.get(line[at]) for at in (change.last_before, change.first_after)]
            states = {state_of(one): one for one in pair if one}
            if State.GOOD in states and State.BAD in states:
                return states[State.GOOD], states[State.BAD]
        return good, bad

    @staticmethod
    def _answer(at: int, outcome: Outcome) -> Answer:
        return Answer(state=state_of(outcome), first=at, last=at)


def _differing(outcomes: Sequence[Outcome]) -> tuple[Outcome, Outcome] | None:
    good = [one for one in outcomes if state_of(one) is State.GOOD]
    bad = [one for one in outcomes if state_of(one) is State.BAD]
    return (good[0], bad[0]) if good and bad else None


def _reduce(bench: _Bench, good: Outcome, bad: Outcome, study: CpuStudy) -> None:
    """Find the smallest sets of features that flip the verdict."""
    has, has_not = _features(good), _features(bad)
    removed = _minimal(bench, good.machine.cpu, "-", has - has_not, State.BAD)
    if removed is not None:
        study.features, note = removed
        study.notes += note
        added = _minimal(bench, bad.machine.cpu, "+", has - has_not, State.GOOD)
        if added is not None:
            study.needed, note = added
            study.notes += note
        return
    harmful = _minimal(bench, good.machine.cpu, "+", has_not - has, State.BAD)
    if harmful is not None:
        study.harmful, note = harmful
        study.notes += note
        return
    if _reduce_to_vendor(bench, good, bad, study):
        return
    study.notes.append(
        f"no difference in features between {good.machine.cpu} and {bad.machine.cpu} was seen to "
        "flip the verdict: it may be the model's name or number"
    )


def _reduce_to_vendor(bench: _Bench, good: Outcome, bad: Outcome, study: CpuStudy) -> bool:
    """Give each of both the other's vendor; tell whether that decides it."""
    vendors = [_vendor(one) for one in (good, bad)]
    if None in vendors or vendors[0] is vendors[1]:
        return False
    names = [_VENDORS[vendor] for vendor in vendors if vendor]
    swapped = bench.run([f"{bad.machine.cpu},vendor={names[0]}"])
    swapped += bench.run([f"{good.machine.cpu},vendor={names[1]}"])
    if [state_of(one) for one in swapped] == [State.GOOD, State.BAD]:
        study.vendor = names[0]
    return bool(study.vendor)


def _vendor(outcome: Outcome) -> Vendor | None:
    name = outcome.machine.cpu.partition(",")[0]
    return next((model.vendor for model in CPU_MODELS if model.name == name), None)


def _of_one_vendor(outcomes: Sequence[Outcome]) -> tuple[Outcome, Outcome] | None:
    """Return a passing and a failing model of one maker: features tell these apart more likely."""
    for vendor in Vendor:
        if pair := _differing([one for one in outcomes if _vendor(one) is vendor]):
            return pair
    return None


def _confirm(bench: _Bench, good: Outcome, bad: Outcome, study: CpuStudy) -> None:
    """Run the sets that decide it once more; where one does not do it again, it is by chance."""
    sets = [
        (good, "-", study.features, State.BAD),
        (bad, "+", study.needed, State.GOOD),
        (good, "+", study.harmful, State.BAD),
    ]
    for base, sign, names, wanted in sets:
        if not names:
            continue
        cpu = ",".join([base.machine.cpu, *(f"{sign}{name}" for name in sorted(names))])
        again = bench.run([cpu], attempt=1)
        if state_of(again[0]) is wanted.opposite:
            study.disagreeing = (bench.first(cpu), *again)
        for name in names if len(names) > 1 else ():  # without any of them it must not do it
            others = sorted(set(names) - {name})
            less = ",".join([base.machine.cpu, *(f"{sign}{other}" for other in others)])
            tried = [*bench.run([less]), *bench.run([less], attempt=1)]
            if any(state_of(one) is wanted for one in tried):
                study.disagreeing = tuple(tried)


def _look_at_others(bench: _Bench, good: Outcome, study: CpuStudy) -> None:
    """Ask what else the models need that fail although they have what decides it between two."""
    wanted = frozenset(study.features)
    others = [one for one in bench.models() if state_of(one) is State.BAD]
    others = [one for one in others if wanted and wanted <= _features(one)]
    maker = _vendor(good)
    strange = ((one, other) for one in others if (other := _vendor(one)) not in {None, maker})
    if maker and (found := next(strange, None)):
        one, other = found
        as_good, as_other = _VENDORS[maker], _VENDORS[other]
        swapped = [f"{one.machine.cpu},vendor={as_good}", f"{good.machine.cpu},vendor={as_other}"]
        tried = [state for n in (0, 1) for state in map(state_of, bench.run(swapped, attempt=n))]
        if tried == [State.GOOD, State.BAD] * 2:
            study.needs_vendor = one, as_good
    if others and study.needs_vendor is None:
        names = ", ".join(one.machine.cpu for one in others)
        study.notes.append(
            f"{names}: fails although it has {' '.join(study.features)}; "
            "what else it lacks was not found"
        )


def _minimal(
    bench: _Bench, cpu: str, sign: str, features: frozenset[str], wanted: State
) -> tuple[tuple[str, ...], list[str]] | None:
    """Reduce features whose change of one model gives the wanted verdict; None: they do not."""
    likely = sorted(features & INSTRUCTION_SETS)
    rest = sorted(features - INSTRUCTION_SETS)

    def flips(sets: Sequence[frozenset[str]]) -> list[bool | None]:
        cpus = [",".join([cpu, *(f"{sign}{name}" for name in sorted(names))]) for names in sets]
        states = [state_of(outcome) for outcome in bench.run(cpus)]
        return [None if state is State.UNKNOWN else state is wanted for state in states]

    for candidates in (likely, [*likely, *rest]) if likely and rest else ([*likely, *rest],):
        if not candidates:
            continue
        reduction = reduce_set(candidates, flips, workers=bench.lab.workers)
        if reduction.flips:
            notes = []
            if not reduction.is_minimal:
                notes.append(f"{' '.join(reduction.items)} may not be the smallest set")
            return reduction.items, notes
        if reduction.exhausted:
            raise BudgetSpent("the budget of runs ended before features were compared")
    return None


def _features(outcome: Outcome) -> frozenset[str]:
    return frozenset(outcome.environment.cpu_features if outcome.environment else ())
