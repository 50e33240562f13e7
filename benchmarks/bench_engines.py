"""Five real workloads on the bare host and on each engine, and a whole diagnosis on two of them.

The host runs the same programs, out of the same image, in a name space (bubblewrap): what differs
is the engine alone. Each workload must end alike everywhere.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from measuring import CACHE, Row, machine_spec, read_runs, show

from buildvm_nb.catalog import Catalog
from buildvm_nb.host.process import find_tool
from buildvm_nb.image import build_image
from buildvm_nb.model.case import Case, DebianSource, PyPISource, Source
from buildvm_nb.model.finding import Axis
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import ImageSpec
from buildvm_nb.source import fetch
from buildvm_nb.study import open_machine
from buildvm_nb.study.diagnose import diagnose_case
from buildvm_nb.study.executors import Means
from buildvm_nb.study.questions import Questions
from buildvm_nb.study.run import kvm_status, uml_status
from buildvm_nb.study.scouting import SEARCH_KERNEL
from buildvm_nb.vm import Provision

_IMAGE = ImageSpec.model_validate(
    "debian:bookworm,gcc,libc6-dev,make,python3-pytest,perl,python3-six"
)
_SOURCES: dict[str, Source] = {
    "hello": DebianSource(name="hello"),
    "dateutil": PyPISource(name="python-dateutil", version="2.8.2"),
    "csv": DebianSource(name="libtext-csv-perl"),
}
_WORKLOADS = {
    "configure (forks)": "cd hello/* && ./configure >/dev/null",
    "C: make check": "cd hello/* && make >/dev/null 2>&1 && make check >/dev/null 2>&1",
    "Python: pytest": "cd dateutil/* && python3 -m pytest -q -p no:cacheprovider"
    " -o filterwarnings=ignore dateutil/test/test_parser.py >/dev/null",
    "Perl: prove": "cd csv/* && prove -l t/[1-4]*.t >/dev/null",
    "unpack (files)": "for n in 1 2 3; do cp -r /usr/lib/python3.11 copy && rm -rf copy; done",
}
"""In this order: the second builds what the first has configured."""
_EDGE = parse_instant("2024-11-27T15:28:58Z")
_TRAP = (
    'python3 -c "import time; sum(n * n for n in range(5 * 10**6)); '
    f'assert time.time() < {_EDGE.timestamp():.0f}"'
)

Run = Callable[[str], float]
"""Runs a command in the build directory and returns how long it took, in seconds."""


def native(stack: ExitStack, trees: dict[str, Path]) -> Run:
    """Have the image's files on the host, with the sources beside them."""
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
    root, build = work / "root", work / "build"
    image = build_image(_IMAGE, CACHE).path
    subprocess.run(
        [find_tool("unsquashfs"), "-q", "-n", "-no-xattrs", "-d", root, image],
        check=False,  # device nodes need root
        capture_output=True,
    )
    build.mkdir()
    for name, tree in trees.items():
        subprocess.run(["cp", "-a", tree, build / name], check=True)
    inside = [find_tool("bwrap"), "--unshare-all", "--die-with-parent", "--bind", root, "/"]
    inside += ["--bind", build, "/build", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    inside += ["--chdir", "/build", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin"]

    def run(command: str) -> float:
        began = time.perf_counter()
        subprocess.run([*inside, "/bin/sh", "-c", command], check=True)
        return time.perf_counter() - began

    return run


def guest(stack: ExitStack, trees: dict[str, Path], accelerator: str) -> Run:
    """Boot a machine with the sources; under user-mode Linux as searches have it."""
    fields = {"cpu": "host", "kernel": SEARCH_KERNEL} if accelerator == "uml" else {}
    spec = machine_spec(accelerator=accelerator, image=_IMAGE, memory_mib=2048, **fields)
    provision = Provision(inputs=trees)
    machine = stack.enter_context(open_machine(spec, cache=CACHE, provision=provision))

    def run(command: str) -> float:
        began = time.perf_counter()
        machine.run(command, check=True)
        return time.perf_counter() - began

    return run


def diagnosis(accelerator: str | None) -> float:
    """Find a trap of the past to the second; None: as users get it who ask for no engine."""
    case = Case.parse(
        {"id": "trap", "image": str(_IMAGE), "steps": [{"name": "test", "run": _TRAP}]}
    )
    given = {} if accelerator is None else {"accelerator": accelerator}
    questions = Questions(axes=(Axis.DATE,), use_hints=False)
    with tempfile.TemporaryDirectory() as place, Catalog(Path(place) / "new.sqlite") as catalog:
        began = time.perf_counter()
        found = diagnose_case(case, Means(cache=CACHE, catalog=catalog), questions, given)
        seconds = time.perf_counter() - began
    if [parse_instant(one.first_after) for one in found.boundaries] != [_EDGE]:
        sys.exit(f"wrong: {found.summary}")
    return seconds


def main() -> None:
    """Measure and print."""
    runs = read_runs(__doc__, 1)
    works, why = uml_status(CACHE)
    if not works:
        sys.exit(f"user-mode Linux cannot be measured here: {why}")
    engines = ["uml", "tcg", *(["kvm"] if kvm_status(CACHE)[0] else [])]
    trees = {name: fetch(source, CACHE).tree for name, source in _SOURCES.items()}
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for engine in ["native", *engines]:
            with ExitStack() as stack:
                is_bare = engine == "native"
                run = native(stack, trees) if is_bare else guest(stack, trees, engine)
                for name, command in _WORKLOADS.items():
                    taken.setdefault((engine, name), []).append(run(command))
    rows, ratios = [], {}
    for engine in engines:
        for name in _WORKLOADS:
            values = [
                slow / fast
                for slow, fast in zip(taken[engine, name], taken["native", name], strict=True)
            ]
            rows.append(Row(name=f"{name}: {engine} / native", unit="", values=values))
            ratios[engine, name] = median(values)
    near = [ratios["uml", name] for name in _WORKLOADS]
    gain = [ratios["tcg", name] / ratios["uml", name] for name in _WORKLOADS]
    rows += [
        Row(name="uml / native, median of the five", unit="", values=[median(near)], aim="≤ 3.5"),
        Row(name="tcg / uml, median of the five", unit="", values=[median(gain)], aim="≥ 5"),
        Row(
            name="diagnosis of a past trap: tcg / as asked for nothing",
            unit="",
            values=[diagnosis("tcg") / diagnosis(None) for _ in range(runs)],
            aim="≥ 4",
        ),
    ]
    show("Engines", rows)


if __name__ == "__main__":
    main()
