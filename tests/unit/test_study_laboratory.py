import signal
import subprocess
import sys
from pathlib import Path

import pytest

from buildvm_nb.study.laboratory import quote_line

LOG = """\
test_a ... ok
  ssl.SSLError:   certificate has expired
FAILED (errors=1)
"""


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("certificate has expired", "ssl.SSLError:   certificate has expired"),
        ("SSLError:  certificate", "ssl.SSLError:   certificate has expired"),
        ("has expired FAILED", "has expired FAILED"),
        ("test_b", ""),
        ("", ""),
    ],
)
def test_the_line_that_says_it_is_quoted(text, quoted):
    assert quote_line(text, ["nothing here", LOG]) == quoted


_DIAGNOSIS = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from worlds import World, diagnosed, order_key, without_host
from buildvm_nb.catalog import Catalog

root, most = Path(sys.argv[2]), int(sys.argv[3])
edge = datetime(2030, 11, 27, 15, 28, 58, tzinfo=UTC)


class Dying(World):
    def answer(self, order):
        with (root / "asked").open("a") as file:
            print(os.getpid(), order_key(order), file=file, flush=True)
        if len(self.ran) >= most:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(order)


world = Dying(passes=lambda look: look.at < edge)
with without_host(), Catalog(root / "catalog.sqlite") as catalog:
    finding = diagnosed(world, root, catalog=catalog, fresh=False, axes=("date",))
    print(finding.kind, finding.boundaries[0].first_after, finding.boundaries[0].is_exact)
    print(sum(1 for _ in catalog.check()))
"""


def _diagnosis(root, most=10_000):
    tests = Path(__file__).parent
    command = [sys.executable, "-c", _DIAGNOSIS, str(tests), str(root), str(most)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _asked(root):
    """Return the questions of each process, in the order of processes."""
    asked = {}
    for line in (root / "asked").read_text().splitlines():
        process, key = line.split(" ", 1)
        asked.setdefault(process, []).append(key)
    return list(asked.values())


def test_a_diagnosis_that_was_killed_goes_on_and_runs_nothing_twice(tmp_path):
    for most in (5, 12):
        killed = _diagnosis(tmp_path, most)
        assert killed.communicate()[0] == ""
        assert killed.returncode == -signal.SIGKILL
    last = _diagnosis(tmp_path)
    assert last.communicate()[0] == "time-trap 2030-11-27T15:28:58Z True\n0\n"
    parts = _asked(tmp_path)
    assert [len(part) for part in parts[:2]] == [6, 13]
    done = [key for part in parts[:-1] for key in part[:-1]]  # the last of each was under way
    assert len(done) == len(set(done)) == 17
    assert not set(done) & set(parts[-1])
    assert len(parts[-1]) == len(set(parts[-1])) > 20


def test_two_diagnoses_of_one_case_at_once_come_to_the_same(tmp_path):
    both = [_diagnosis(tmp_path), _diagnosis(tmp_path)]
    told = [one.communicate()[0] for one in both]
    assert told == ["time-trap 2030-11-27T15:28:58Z True\n0\n"] * 2
    assert [one.returncode for one in both] == [0, 0]
