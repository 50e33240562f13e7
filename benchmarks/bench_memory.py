"""What QEMU occupies of the host's memory beyond what its guest has touched.

The guest's memory is one mapping of QEMU's of exactly that size; what is resident there is the
guest's own. All the rest of QEMU's resident set counts: its code, its heap, the instructions that
it has translated, the devices.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from measuring import CACHE, Row, machine_spec, read_runs, show

from buildvm_nb.study import open_machine

_MIB = 2**20
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) .*")
_RSS = re.compile(r"Rss: +(\d+) kB")
_WORK = "i=0; while [ $i -lt 200 ]; do find /usr /etc | sort | cksum; i=$((i+40)); done"


def mappings(pid: int) -> Iterator[tuple[int, int]]:
    """Iterate over size and resident size of a process's mappings, in bytes."""
    size = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := _HEADER.fullmatch(line):
            size = int(match[2], 16) - int(match[1], 16)
        elif match := _RSS.fullmatch(line):
            yield size, int(match[1]) * 1024


def main() -> None:
    """Measure and print."""
    runs = read_runs(__doc__, 3)
    spec = machine_spec()
    booted = Row(name="QEMU beyond its guest, booted", unit="MiB", aim="≤ 80")
    worked = Row(name="QEMU beyond its guest, after work", unit="MiB", aim="≤ 80")
    guest = Row(name="the guest's own, booted", unit="MiB")
    for _ in range(runs):
        with open_machine(spec, cache=CACHE) as machine:
            machine.run("true")
            for row in (booted, worked):
                found = list(mappings(machine.pid))
                # a mapping of the same kind right behind it is shown as one with it
                guests = [m for m in found if m[0] >= spec.memory_mib * _MIB]
                size, memory = min(guests, default=(0, 0))
                if not size:
                    raise SystemExit("QEMU has no mapping of the size of its guest's memory")
                row.values.append((sum(rss for _, rss in found) - memory) / _MIB)
                if row is booted:
                    guest.values.append(memory / _MIB)
                    machine.run(_WORK, check=True)
    show("Memory", [booted, worked, guest])


if __name__ == "__main__":
    main()
