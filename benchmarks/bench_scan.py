"""A tree of source text looked through for hints, against grep for the same words.

The tree is this host's Python, copied until it has 200 MB, with a certificate in each hundredth
file. The peer is one `grep -rE` with the fixed beginnings of all that the scan looks for; it opens
no archives, decodes nothing and tells no dates, so that it is what reading and matching cost at the
least. Both run after a first pass that is not counted, so that the tree is in memory.
"""

import shutil
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

from measuring import Row, read_runs, show

from buildvm_nb.hints import scan_tree

_MB = 1_000_000
_SIZE = 200 * _MB
_WORDS = (
    "-----BEGIN |MII[A-Za-z0-9+/]{2}[DTjz]CC|eyJ[A-Za-z0-9_-]+\\.eyJ|-cert-v01@openssh|0x30, ?0x82"
    "|20[0-9]{2}-[0-9]{2}-[0-9]{2}|date(time)?\\(20[0-9]{2}|[0-9]{12}Z|[12][0-9]{9}|:[0-9]{2} GMT"
    "|-march=|-mtune=native|-mavx|-msse|target-cpu=|__builtin_cpu|_feature_detected|__AVX|cpuid"
    "|getauxval|/proc/cpuinfo|cpu_features|uname|os\\.release|platform\\.(release|version)"
    "|LINUX_VERSION_CODE|KERNEL_VERSION|/proc/version|/proc/sys/kernel"
)
_PEM = Path(__file__).parent.parent / "tests" / "unit" / "hints" / "data" / "rsa.asc"


def make_tree(place: Path) -> int:
    """Copy Python's own files again and again; return their bytes."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    size = copied = 0
    while size < _SIZE:
        (place / str(copied // len(files))).mkdir(parents=True, exist_ok=True)
        path = files[copied % len(files)]
        target = place / str(copied // len(files)) / f"{copied}.py"
        shutil.copyfile(path, target)
        if copied % 100 == 0:
            with target.open("a", encoding="utf-8") as stream:
                stream.write(_PEM.read_text(encoding="utf-8"))
        size += target.stat().st_size
        copied += 1
    return size


def timed_scan(tree: Path) -> float:
    """Return how long a scan takes."""
    began = time.perf_counter()
    found = sum(1 for _ in scan_tree(tree))
    seconds = time.perf_counter() - began
    if not found:
        raise SystemExit("the scan has found nothing")
    return seconds


def timed_grep(tree: Path) -> float:
    """Return how long grep takes."""
    began = time.perf_counter()
    subprocess.run(
        ["grep", "-rE", "-e", _WORDS, tree],
        stdout=subprocess.DEVNULL,
        check=True,
        env={"LC_ALL": "C"},
    )
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    runs = read_runs(__doc__, 3)
    rates = [Row(name="scan", unit="MB/s"), Row(name="grep -rE", unit="MB/s")]
    ratio = Row(name="scan / grep", unit="")
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place)
        size = make_tree(tree)
        timed_grep(tree)
        for _ in range(runs):
            scanning_s, grepping_s = timed_scan(tree), timed_grep(tree)
            for row, seconds in zip(rates, (scanning_s, grepping_s), strict=True):
                row.values.append(size / _MB / seconds)
            ratio.values.append(grepping_s / scanning_s)
    show(f"A tree of {size // _MB} MB", [*rates, ratio])


if __name__ == "__main__":
    main()
