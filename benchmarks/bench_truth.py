"""Diagnoses of random worlds, and how many of them are true.

No guest runs: a world says when, on which CPU, kernel and number of cores a test passes, and the
whole of a diagnosis runs on it. A finding is *right* where it names what the world does; *partly*
where what it says is true and something is left out; *missed* where it says nothing of it, and says
what it took for granted or could not tell; and *wrong* where it says what is not so. Aim: none is
wrong, and of the rules of the calendar 95 in 100 are right.

    python benchmarks/bench_truth.py --worlds 2000 --seed 1
"""

# ruff: noqa: PLR2004 - numbers of calendars, and of what worlds are made of
import argparse
import contextlib
import random
import signal
import statistics
import sys
import tempfile
from calendar import monthrange
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.instants import is_within

sys.path.append(str(Path(__file__).parent.parent / "tests" / "unit"))

from worlds import KERNELS, Look, World, diagnosed, without_host

_BERLIN, _NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
_SETS = ("avx", "avx2", "aes", "fma", "sse4.2", "movbe")
_DATE = (Axis.DATE,)


@dataclass(kw_only=True)
class Shape:
    """A random world of one kind, and what is true of it."""

    world: World
    own: datetime
    fails: Callable[[datetime], bool] | None = None
    """On the case's own CPU and kernel; None: not of dates."""
    edges: tuple[datetime, ...] = ()
    recurs: bool = False
    axis: Axis = Axis.DATE
    axes: tuple[Axis, ...] | None = _DATE
    names: frozenset[str] = frozenset()
    """What a finding on another axis is to name."""
    untold: bool = False
    """Whether nothing can be concluded, so that saying so is right."""
    hints: tuple[str, ...] = ()
    asked: dict[str, object] = field(default_factory=dict)


def _instant(chance: random.Random, first: int, last: int) -> datetime:
    low, high = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first, last))
    return datetime.fromtimestamp(chance.randrange(low, high), UTC)


def _own(chance: random.Random) -> datetime:
    return _instant(chance, 2008, 2026)


def _noise(chance: random.Random) -> dict[str, object]:
    """Return how long a test runs, and when it looks at the clock."""
    lasts_s = chance.choice([1, 1, 5, 60, 900])
    looks = chance.choice([(0.0,), (0.5,), (1.0,), (0.1, 0.9)])
    return {"lasts_s": lasts_s, "looks": looks, "seed": chance.randrange(1 << 30)}


def _of_dates(chance: random.Random, fails: Callable[[datetime], bool], **known: object) -> Shape:
    made = {**_noise(chance), **known.pop("noise", {})}
    world = World(passes=lambda look: not fails(look.at), **made)
    return Shape(world=world, fails=fails, **{"own": _own(chance), **known})


def edge(chance: random.Random) -> Shape:
    """Fails from some instant on."""
    own = _own(chance)
    at = _instant(chance, own.year + 1, 2040)
    return _of_dates(chance, lambda now: now >= at, edges=(at,), own=own)


def hinted(chance: random.Random) -> Shape:
    """Fail so, with the instant in a source."""
    shape = edge(chance)
    shape.hints = (f"EXPIRES = '{shape.edges[0]:%Y-%m-%dT%H:%M:%SZ}'\n",)
    return shape


def early(chance: random.Random) -> Shape:
    """Pass from some instant on."""
    own = _own(chance)
    at = own - timedelta(days=chance.uniform(10, 3000))
    at = at.replace(microsecond=0)
    return _of_dates(chance, lambda now: now < at, edges=(at,), own=own)


def window(chance: random.Random) -> Shape:
    """Fails for months or years within five years of its own date."""
    own = _own(chance)
    begins = (own + timedelta(days=chance.uniform(-1500, 1500))).replace(microsecond=0)
    ends = begins + timedelta(days=chance.choice([31, 92, 183, 366, 1096]))
    return _of_dates(chance, lambda now: begins <= now < ends, edges=(begins, ends), own=own)


def thorough_window(chance: random.Random) -> Shape:
    """Fails for a month within five years of its own date, looked for thoroughly."""
    own = _own(chance)
    begins = (own + timedelta(days=chance.uniform(-1700, 1700))).replace(microsecond=0)
    ends = begins + timedelta(days=31)
    shape = _of_dates(chance, lambda now: begins <= now < ends, edges=(begins, ends), own=own)
    shape.asked = {"effort": "thorough"}
    return shape


def sound(chance: random.Random) -> Shape:
    """Never fails."""
    return _of_dates(chance, lambda _now: False)


def always(chance: random.Random) -> Shape:
    """Fail always."""
    return _of_dates(chance, lambda _now: True)


def _rule(chance: random.Random) -> Callable[[datetime], bool]:
    day, month, hour = chance.randrange(1, 32), chance.randrange(1, 13), chance.randrange(24)
    weekdays = {chance.randrange(7)} | ({chance.randrange(7)} if chance.random() < 0.3 else set())
    zone = chance.choice([_BERLIN, _NEW_YORK])
    sunday = chance.choice([(3, 25), (10, 25)])
    return chance.choice(
        [
            lambda at: at.weekday() in weekdays,
            lambda at: at.weekday() > 4,
            lambda at: at.month == month,
            lambda at: at.month in {month, month % 12 + 1},
            lambda at: at.day == day,
            lambda at: at.day > 28,
            lambda at: at.day == monthrange(at.year, at.month)[1],
            lambda at: at.hour == hour,
            lambda at: at.hour in {hour, (hour + 1) % 24},
            lambda at: (at.month, at.day) == (2, 29),
            lambda at: (at.month, at.day) == (12, 31),
            lambda at: at.timetuple().tm_yday == 366,
            lambda at: at.isocalendar().week == 53,
            lambda at: bool(at.astimezone(zone).dst()),
            lambda at: bool(at.replace(hour=12, tzinfo=zone).dst()),  # the day's offset
            lambda at: (at.month, at.weekday()) == (sunday[0], 6) and at.day >= sunday[1],
        ]
    )


def recurring(chance: random.Random) -> Shape:
    """Fails by a rule of the calendar."""
    return _of_dates(chance, _rule(chance), recurs=True)


def shifted(chance: random.Random) -> Shape:
    """Fails on weekdays as another zone counts them."""
    weekday, hours = chance.randrange(7), chance.choice([-8, -5, 1, 2, 5.5, 9, 12])
    fails = lambda at: (at + timedelta(hours=hours)).weekday() == weekday  # noqa: E731
    return _of_dates(chance, fails, recurs=True)


def rule_and_edge(chance: random.Random) -> Shape:
    """Fails by a rule, and always from some instant on."""
    own = _own(chance)
    rule, at = _rule(chance), _instant(chance, own.year + 3, 2040)
    fails = lambda now: now >= at or rule(now)  # noqa: E731
    return _of_dates(chance, fails, recurs=True, edges=(at,), own=own)


def since(chance: random.Random) -> Shape:
    """Fails by a rule that holds since a year."""
    own = _own(chance)
    rule, at = _rule(chance), _instant(chance, own.year - 3, own.year + 6)
    return _of_dates(chance, lambda now: now >= at and rule(now), recurs=True, own=own)


def odd(chance: random.Random) -> Shape:
    """Fails on days that no rule tells."""
    much, salt = chance.choice([3, 5, 11]), chance.randrange(1 << 20)
    return _of_dates(chance, lambda at: (at.toordinal() * 7919 + salt) % much == 0, untold=True)


def _pair(chance: random.Random) -> Callable[[datetime], bool]:
    first, second = _rule(chance), _rule(chance)
    return chance.choice([lambda at: first(at) and second(at), lambda at: first(at) or second(at)])


def two_rules(chance: random.Random) -> Shape:
    """Fails by two rules at once."""
    return _of_dates(chance, _pair(chance), recurs=True)


def flaky(chance: random.Random) -> Shape:
    """Fails by chance."""
    return _of_dates(chance, lambda _now: False, noise={"flaky": chance.choice([0.02, 0.1, 0.5])})


def chance_alone(chance: random.Random) -> Shape:
    """Fails by chance, looked at along the axes of machines."""
    shape = flaky(chance)
    shape.world.flaky = chance.choice([0.1, 0.5])
    shape.axes = (Axis.CPU, Axis.KERNEL, Axis.CORES)
    return shape


def flaky_edge(chance: random.Random) -> Shape:
    """Fails by chance, and always from some instant on."""
    own = _own(chance)
    at = _instant(chance, own.year + 1, 2040)
    noise = {"flaky": chance.choice([0.02, 0.1])}
    return _of_dates(chance, lambda now: now >= at, edges=(at,), own=own, noise=noise)


def errors(chance: random.Random) -> Shape:
    """Loses guests by chance."""
    shape = chance.choice([edge, sound, recurring])(chance)
    shape.world.errors = chance.choice([0.05, 0.2])
    return shape


def lost(chance: random.Random) -> Shape:
    """Start no guest from some year on."""
    at = _instant(chance, 2027, 2038)
    shape = sound(chance)
    shape.world.breaks = lambda look: look.at >= at
    shape.untold = True
    return shape


def cpu(chance: random.Random) -> Shape:
    """Fails without an instruction set."""
    name = chance.choice(_SETS)
    world = World(passes=lambda look: name in look.features, **_noise(chance))
    names = frozenset({name})
    return Shape(world=world, own=_own(chance), axis=Axis.CPU, axes=None, names=names)


def vendor(chance: random.Random) -> Shape:
    """Fails on one maker's processors, or with AVX and without AVX2."""
    maker = chance.choice(["Intel", "AMD", "between"])

    def passes(look: Look) -> bool:
        if maker == "between":
            return not ("avx" in look.features and "avx2" not in look.features)
        return look.vendor != maker

    return Shape(world=World(passes=passes), own=_own(chance), axis=Axis.CPU, axes=None)


def kernel(chance: random.Random) -> Shape:
    """Fails on some kernels."""
    known = sorted(KERNELS.values())
    bad = frozenset(chance.sample(known, chance.randrange(1, len(known))))
    world = World(passes=lambda look: look.kernel not in bad, **_noise(chance))
    return Shape(world=world, own=_own(chance), axis=Axis.KERNEL, axes=None)


def cores(chance: random.Random) -> Shape:
    """Fails with one core, or with several."""
    least = chance.choice([2, 4])
    is_few = chance.random() < 0.7
    world = World(passes=lambda look: (look.cores < least) is not is_few, **_noise(chance))
    return Shape(world=world, own=_own(chance), axis=Axis.CORES, axes=None)


def thorough_since(chance: random.Random) -> Shape:
    """Fails by a rule that holds since a year, looked for thoroughly."""
    shape = since(chance)
    shape.asked = {"effort": "thorough"}
    return shape


SHAPES = (
    *(edge, hinted, early, window, thorough_window, sound, always, recurring, shifted),
    *(rule_and_edge, since, thorough_since, odd, two_rules, flaky, chance_alone, flaky_edge),
    *(errors, lost),
    *(cpu, vendor, kernel, cores),
)


def judge(shape: Shape, finding: Finding) -> str:
    """Say what a finding is worth: right, partly, missed or wrong."""
    if shape.axis is not Axis.DATE:
        return _judge_machines(shape, finding)
    is_flaky = shape.world.flaky > 0
    if finding.kind is FindingKind.UNDETERMINED:
        return "right" if shape.untold else "missed"
    if finding.kind is FindingKind.FLAKY:
        return ("partly" if shape.edges else "right") if is_flaky else "wrong"
    if finding.kind is FindingKind.RECURRING:
        return _judge_rule(shape, finding)
    if finding.kind is FindingKind.TIME_TRAP:
        return _judge_edges(shape, finding)
    return _judge_alike(shape, finding)


def _judge_alike(shape: Shape, finding: Finding) -> str:
    days = (datetime(2008, 1, 1, 0, 30, tzinfo=UTC) + timedelta(hours=7 * n) for n in range(40_000))
    states = {shape.fails(day) for day in days if day < datetime(2041, 7, 1, tzinfo=UTC)}
    if finding.kind is FindingKind.SOUND and states == {False}:
        return "partly" if shape.world.flaky else "right"
    if finding.kind is FindingKind.ALWAYS_FAILING and states == {True}:
        return "right"
    seen = {shape.fails(one.machine.date) for one in shape.world.ran}
    told = "taken for granted" in finding.summary or finding.assumptions
    if finding.kind is FindingKind.SOUND and seen == {False} and told:
        return "missed"
    return "wrong" if not (finding.kind is FindingKind.SOUND and told) else "missed"


def _judge_rule(shape: Shape, finding: Finding) -> str:
    if not shape.recurs:
        return "wrong"
    first = finding.studied_from or datetime(2008, 1, 1, tzinfo=UTC)
    edges = [datetime.fromisoformat(edge.first_after) for edge in finding.boundaries]
    ends = [datetime.fromisoformat(edge.last_before) for edge in finding.boundaries]
    wrong = total = 0
    for number in range(1500):
        at = first + timedelta(hours=53 * number, minutes=30)
        if finding.recurs.startswith("DTSTART:2007") and at.year < 2007:
            continue  # other rules held then, and it says so
        if any(low <= at <= high for low, high in zip(ends, edges, strict=True)):
            continue
        told = is_within(finding.recurs, at)
        windows = finding.windows
        if windows and not any(
            (w.passes_from is None or w.passes_from <= at)
            and (w.passes_until is None or at <= w.passes_until)
            for w in windows
        ):
            told = True
        total += 1
        wrong += told is not shape.fails(at)
    if wrong == 0:
        return "right" if set(edges) == set(shape.edges) or not shape.edges else "partly"
    return "right" if wrong <= total * 0.01 else "wrong"


def _judge_edges(shape: Shape, finding: Finding) -> str:
    if shape.recurs and not shape.edges:
        return "wrong"
    matched = 0
    for edge_ in finding.boundaries:
        low = datetime.fromisoformat(edge_.last_before)
        high = datetime.fromisoformat(edge_.first_after)
        if any(low < at <= high for at in shape.edges):
            matched += 1
        else:
            return "wrong"
    if shape.world.flaky:
        return "right"  # no closer than it can be told
    if shape.recurs:
        return "partly"
    inside = [at for at in shape.edges if finding.studied_from < at < finding.studied_until]
    is_exact = all(edge_.is_exact for edge_ in finding.boundaries)
    return "right" if matched == len(inside) and is_exact else "partly"


def _judge_machines(shape: Shape, finding: Finding) -> str:
    if finding.kind is FindingKind.UNDETERMINED:
        return "missed"
    if finding.axis is not shape.axis:
        states = {
            shape.world.passes(shape.world._look(one.machine, one.machine.date))  # noqa: SLF001
            for one in shape.world.ran
        }
        alike = finding.kind in {FindingKind.SOUND, FindingKind.ALWAYS_FAILING}
        if alike and len(states) == 1:
            return "missed"
        return "wrong"
    if shape.names:
        told = {*finding.features, *finding.features_needed}
        if told & shape.names:
            return "right" if told <= shape.names else "partly"
        return "partly" if not told and not finding.features_harmful else "wrong"
    return "right"


def main() -> int:
    """Print for each shape how many findings were right, partly, missed and wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument(
        "--budgets", action="store_true", help="end each diagnosis after 3 to 100 runs, by chance"
    )
    parser.add_argument("--show", action="store_true", help="print what is wrong or missed")
    known = parser.parse_args()
    shapes = [one for one in SHAPES if not known.only or one.__name__ in known.only]
    told: defaultdict[str, Counter[str]] = defaultdict(Counter)
    runs: defaultdict[str, list[int]] = defaultdict(list)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stopped = contextlib.suppress(KeyboardInterrupt)  # tells what it has, as a table
    with tempfile.TemporaryDirectory() as root, without_host(), stopped:
        for number in range(known.worlds):
            make = shapes[number % len(shapes)]
            chance = random.Random(f"{known.seed} {number}")
            shape = make(chance)
            budget = {"budget": int(3 * 33 ** chance.random())} if known.budgets else {}
            finding = diagnosed(
                shape.world,
                Path(root),
                own=shape.own,
                hints=shape.hints,
                **({"axes": shape.axes} if shape.axes else {}),
                **shape.asked,
                **budget,
            )
            verdict = judge(shape, finding)
            told[make.__name__][verdict] += 1
            runs[make.__name__].append(finding.runs)
            if known.show and verdict in {"wrong", "missed"}:
                print(
                    number,
                    make.__name__,
                    verdict,
                    finding.kind.value,
                    finding.recurs[:60],
                    finding.summary[:180],
                    [str(at) for at in shape.edges],
                    shape.own,
                )
    table = Table("shape", "right", "partly", "missed", "wrong", "median runs", "most")
    for name, counts in told.items():
        cells = [str(counts[verdict]) for verdict in ("right", "partly", "missed", "wrong")]
        cells += [f"{statistics.median(runs[name]):.0f}", str(max(runs[name]))]
        table.add_row(name, *cells)
    total = Counter[str]()
    for counts in told.values():
        total += counts
    table.add_section()
    table.add_row("all", *(str(total[v]) for v in ("right", "partly", "missed", "wrong")))
    Console().print(table)
    with contextlib.suppress(ZeroDivisionError):
        rules = told["recurring"]
        share = rules["right"] / rules.total()
        print(f"rules right: {share:.1%}; aim: 95 %; wrong: {total['wrong']}; aim: 0")
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
