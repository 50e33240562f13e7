"""A probe in a fork, against a full boot of the same machine and against virtme-ng.

All three run `true` under emulation with one core and 1 GiB, in turns, in one run of this program.
virtme-ng gets what it gets in bench_start.py. Probes per minute are counted with one and with two
jobs, in the worker processes that studies use.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta

from bench_start import contenders
from measuring import CACHE, Row, machine_spec, read_runs, show

from buildvm_nb.model.case import Case
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.outcome import Probing, Verdict
from buildvm_nb.study.executors import LocalExecutor
from buildvm_nb.study.laboratory import Order, run_probe

_FIRST = parse_instant("2015-01-01")
_COUNTED = 12
_CASE = Case.parse({"id": "true", "steps": [{"name": "test", "run": "true"}]})


def order(number: int, *, forked: bool) -> Order:
    """Return an order at a date that nobody asked for before."""
    spec = machine_spec(date=_FIRST + timedelta(days=number), cpu="Haswell")
    return Order(case=_CASE, machine=spec, probing=Probing(prepared_at=_FIRST if forked else None))


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def probe(number: int, *, forked: bool) -> None:
    """Run one probe here, which must pass."""
    outcome = run_probe(order(number, forked=forked), CACHE.root).outcome
    if outcome.verdict is not Verdict.PASSED:
        sys.exit(f"a probe did not pass: {outcome.reason}")


def per_minute(jobs: int) -> float:
    """Return how many probes run in a minute."""
    with LocalExecutor(jobs) as executor:
        warm = [executor.submit(run_probe, order(0, forked=True), CACHE.root) for _ in range(jobs)]
        for future in warm:
            future.result()
        began = time.perf_counter()
        futures = [
            executor.submit(run_probe, order(number, forked=True), CACHE.root)
            for number in range(_COUNTED)
        ]
        if any(future.result().outcome.verdict is not Verdict.PASSED for future in futures):
            sys.exit("a probe did not pass")
        return 60 * _COUNTED / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    runs = read_runs(__doc__, 5)
    _, vng, _ = contenders()
    probe(0, forked=True)
    probe(0, forked=False)
    forks, boots = [], []
    with tempfile.TemporaryDirectory() as empty:
        vng.run(empty, "--exec", "true")
        vng.seconds.clear()
        for number in range(runs):
            forks.append(timed(lambda at=number: probe(at, forked=True)))
            boots.append(timed(lambda at=number: probe(at, forked=False)))
            vng.run(empty, "--exec", "true")
    by_boot = [fork / boot for fork, boot in zip(forks, boots, strict=True)]
    by_vng = [fork / other for fork, other in zip(forks, vng.seconds, strict=True)]
    rates = {jobs: [per_minute(jobs)] for jobs in (1, 2)}
    rows = [
        Row(name="probe in a fork", unit="s", values=forks),
        Row(name="probe by a full boot", unit="s", values=boots),
        Row(name="vng --exec true", unit="s", values=vng.seconds),
        Row(name="fork / full boot", unit="", values=by_boot, aim="≤ 0.35"),
        Row(name="fork / virtme-ng", unit="", values=by_vng, aim="≤ 0.15"),
        Row(name="probes per minute, 1 job", unit="/min", values=rates[1]),
        Row(name="probes per minute, 2 jobs", unit="/min", values=rates[2]),
    ]
    show("One probe", rows, ["A probe is from the order to its outcome, artifacts and log."])


if __name__ == "__main__":
    main()
