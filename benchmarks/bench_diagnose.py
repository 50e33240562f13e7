"""A whole diagnosis of a trap that sprang in the past, with hints and without, and by rebooting.

The case is a test of a real package whose certificate ended: requests-toolbelt 0.9.1. With hints,
dates from the package's release to now are searched. Without, a test of one second that looks at
the clock is searched for its only edge, from 1990 to 2050, to the second; once in forks, and once
with a full boot for each probe, which is what others do.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measuring import CACHE, Row, read_runs, show

from buildvm_nb.catalog import Catalog, find_case_file, load_case
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis
from buildvm_nb.model.instants import now, parse_instant
from buildvm_nb.study.diagnose import diagnose_case
from buildvm_nb.study.executors import Means
from buildvm_nb.study.questions import Questions

_EDGE = parse_instant("2021-11-27T15:28:58Z")
_LOOK = f"sleep 1; test $(date +%s) -lt {_EDGE.timestamp():.0f}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """Seconds and guest runs of one diagnosis."""

    seconds: float
    runs: int


def study(case: Case, questions: Questions, jobs: int) -> Study:
    """Diagnose in a catalog that knows nothing; the boundary must be exact and right."""
    with tempfile.TemporaryDirectory() as place, Catalog(Path(place) / "new.sqlite") as catalog:
        began = time.perf_counter()
        finding = diagnose_case(case, Means(cache=CACHE, catalog=catalog, jobs=jobs), questions)
        seconds = time.perf_counter() - began
    ends = [one for one in finding.boundaries if one.is_exact]
    if [one.first_after for one in ends] != ["2021-11-27T15:28:58Z"]:
        sys.exit(f"wrong: {finding.summary}")
    return Study(seconds=seconds, runs=finding.runs)


def looking(*, by_boot: bool) -> Case:
    """Return the test of one second; what is a build step is run anew for every probe."""
    steps = [{"name": "test", "run": _LOOK}]
    if by_boot:
        steps = [{"name": "build", "run": _LOOK}, {"name": "test", "run": "true"}]
    return Case.parse({"id": "look", "limits": {"memory_mib": 512}, "steps": steps})


def main() -> None:
    """Measure and print."""
    runs = read_runs(__doc__, 1)
    real = load_case(find_case_file("requests-toolbelt-0.9.1"))
    dates = {"axes": (Axis.DATE,)}
    released = parse_instant("2019-01-30T01:29:54Z")
    today = now().replace(hour=0, minute=0, second=0, microsecond=0)
    hinted = Questions(**dates, first=released, last=today, repeats=1)
    blind = Questions(
        **dates, first=parse_instant("1990-01-01"), last=parse_instant("2050-01-01"),
        use_hints=False, repeats=1,
    )  # fmt: skip
    studies = {
        "requests-toolbelt, with hints": [study(real, hinted, 1) for _ in range(runs)],
        "1990-2050, no hints": [study(looking(by_boot=False), blind, 2) for _ in range(runs)],
        "1990-2050, no hints, 1 job": [
            study(looking(by_boot=False), blind, 1) for _ in range(runs)
        ],
        "1990-2050, by rebooting": [study(looking(by_boot=True), blind, 2) for _ in range(runs)],
    }
    aims = {"requests-toolbelt, with hints": "≤ 10", "1990-2050, no hints, 1 job": "≤ 45"}
    rows = [
        Row(
            name=f"{name}: guest runs",
            unit="",
            values=[s.runs for s in made],
            aim=aims.get(name, ""),
        )
        for name, made in studies.items()
    ]
    rows += [
        Row(
            name=f"{name}: time",
            unit="s",
            values=[s.seconds for s in made],
            aim="≤ 90" if name == "1990-2050, no hints" else "",
        )
        for name, made in studies.items()
    ]
    ratios = [
        fork.seconds / boot.seconds
        for fork, boot in zip(
            studies["1990-2050, no hints"], studies["1990-2050, by rebooting"], strict=True
        )
    ]
    rows.append(Row(name="forks / rebooting: time", unit="", values=ratios))
    show("Whole diagnosis", rows, ["With 2 jobs a free worker asks what may come next."])


if __name__ == "__main__":
    main()
