"""A tree of 200 MB into a guest and out of it again, against tar through the SSH channel.

In: from its packing on the host until a command in the guest has summed the sizes of all files and
digested a few, and a second figure until another has read every byte; the boot between packing and
the command is not counted. Out: `BuildMachine.export` from its call to its return. The peer moves a
small sample, as it is slow, with `tar` on both ends and the machine's standard input and output.
"""

import io
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from measuring import CACHE, Row, machine_spec, read_runs, show

from buildvm_nb.study import open_machine
from buildvm_nb.vm import Provision
from buildvm_nb.vm.transfer import pack_inputs

_MB = 1_000_000
_SMALL_FILES = 2000
_BIG_FILES = 4
_SIZES = (
    "find tree -type f -printf '%s\\n' | awk '{ n += $1 } END { printf \"%d\\n\", n }'"
    "; sha256sum tree/d0/f0 tree/d1/f1"
)
_CONTENTS = "find tree -type f -exec cat {} + | wc -c"


def make_tree(place: Path, size: int) -> int:
    """Write files that do not compress: four fifths in a few, the rest in 2,000; in bytes."""
    source = random.Random(1)
    sizes = [size // 5 // _SMALL_FILES] * _SMALL_FILES + [size * 4 // 5 // _BIG_FILES] * _BIG_FILES
    for number, length in enumerate(sizes):
        path = place / f"d{number % 20}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(length))
    return sum(sizes)


def size_of(tree: Path) -> int:
    """Return how many bytes the files of a tree have."""
    return sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())


class Run:
    """One machine, and what was measured with it."""

    def __init__(self, work: Path, tree: Path, sample: Path) -> None:
        self.work, self.tree, self.sample = work, tree, sample
        self.size, self.sample_size = size_of(tree), size_of(sample)

    def measure(self) -> tuple[float, float, float, float, float]:
        """Return the rates in MB/s: in, in and all read, out, and the peer's in and out."""
        began = time.perf_counter()
        pack_inputs({"tree": self.tree}, self.work / "packed", newest=datetime.now(UTC))
        packing_s = time.perf_counter() - began
        (self.work / "packed").unlink()
        provision = Provision(inputs={"tree": self.tree})
        spec = machine_spec()
        with open_machine(spec, cache=CACHE, provision=provision) as self.machine:
            looking_s = self._timed_look(_SIZES)
            reading_s = self._timed_look(_CONTENTS)
            out_s = self._timed_export()
            peer_in_s, peer_out_s = self._peer_in(), self._peer_out()
        return (
            self.size / _MB / (packing_s + looking_s),
            self.size / _MB / (packing_s + reading_s),
            self.size / _MB / out_s,
            self.sample_size / _MB / peer_in_s,
            self.sample_size / _MB / peer_out_s,
        )

    def _timed_look(self, command: str) -> float:
        said = bytearray()
        began = time.perf_counter()
        self.machine.run(command, stdout=said.extend, check=True)
        seconds = time.perf_counter() - began
        if int(said.split()[0]) != self.size:
            sys.exit(f"the guest has read {said.decode()}; expected {self.size} bytes")
        return seconds

    def _timed_export(self) -> float:
        with tempfile.TemporaryDirectory(dir=self.work) as into:
            began = time.perf_counter()
            self.machine.export(["tree"], Path(into))
            seconds = time.perf_counter() - began
            if size_of(Path(into)) != self.size:
                sys.exit("what came out is not what went in")
        return seconds

    def _peer_in(self) -> float:
        began = time.perf_counter()
        packed = subprocess.run(
            ["tar", "-c", "-C", self.sample, "."], stdout=subprocess.PIPE, check=True
        )
        self.machine.run("mkdir peer; tar -x -C peer", stdin=io.BytesIO(packed.stdout), check=True)
        return time.perf_counter() - began

    def _peer_out(self) -> float:
        with tempfile.TemporaryDirectory(dir=self.work) as into:
            began = time.perf_counter()
            said = bytearray()
            self.machine.run("tar -c -C peer .", stdout=said.extend, check=True)
            subprocess.run(["tar", "-x", "-C", into], input=said, check=True)
            seconds = time.perf_counter() - began
            if size_of(Path(into)) != self.sample_size:
                sys.exit("what came out through the channel is not what went in")
        return seconds


def main() -> None:
    """Measure and print."""
    runs = read_runs(__doc__, 3)
    names = ("in", "in, every byte read", "out", "peer in: tar over SSH", "peer out: tar over SSH")
    aims = ("≥ 100", "", "≥ 100", "", "")
    rows = [Row(name=n, unit="MB/s", aim=a) for n, a in zip(names, aims, strict=True)]
    ratios = [
        Row(name="in, every byte read / peer in", unit=""),
        Row(name="out / peer out", unit=""),
    ]
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        make_tree(work / "tree", 200 * _MB)
        make_tree(work / "sample", 2 * _MB)
        run = Run(work, work / "tree", work / "sample")
        for _ in range(runs):
            rates = run.measure()
            for row, rate in zip(rows, rates, strict=True):
                row.values.append(rate)
            for row, mine, theirs in zip(ratios, rates[1:3], rates[3:], strict=True):
                row.values.append(mine / theirs)
    show("Transfer of 200 MB", [*rows, *ratios], ["The peer moves a sample of 2 MB."])


if __name__ == "__main__":
    main()
