"""Real guests: one cached image and kernel, and one shared machine for what does not harm it."""

from pathlib import Path

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.study import open_machine
from buildvm_nb.study.diagnose import diagnose_case
from buildvm_nb.study.executors import LocalExecutor, Means
from buildvm_nb.study.questions import Questions
from buildvm_nb.study.run import kvm_status, uml_status

IMAGE = "debian:bookworm,python3"
QUESTIONS = set(Questions.__dataclass_fields__)


@pytest.fixture(scope="session")
def cache():
    return Cache()


@pytest.fixture(scope="session")
def machine_at(cache):
    """Make machines: ``machine_at("2019-05-01", cpu="Westmere")``."""

    def make(date="2019-05-01", *, share=None, provision=None, **fields):
        fields = {"image": IMAGE, "accelerator": "tcg", "memory_mib": 512} | fields
        spec = MachineSpec.parse({"date": date} | fields)
        return open_machine(spec, cache=cache, share=share, provision=provision)

    return make


@pytest.fixture(scope="session", params=["tcg", "kvm"])
def accelerator(request, cache):
    """Each accelerator, KVM where it is proven on this host."""
    if request.param == "kvm":
        works, seen = kvm_status(cache)
        if not works:
            pytest.skip(seen)
    return request.param


@pytest.fixture(scope="module")
def machine_on_each(machine_at, accelerator):
    """A machine under each accelerator, for what must hold under all."""
    with machine_at(cpu="Westmere", accelerator=accelerator) as running:
        yield running


@pytest.fixture(scope="session")
def fastest(cache):
    """Fields of a machine on the fastest engine proven here, for what is not about engine or CPU.

    What is said of each engine is proved by the tests that take ``engine``, and by `test_uml`.
    """
    if kvm_status(cache)[0]:
        return {"accelerator": "kvm"}
    return {"accelerator": "uml" if uml_status(cache)[0] else "tcg"}


@pytest.fixture(scope="session", params=["qemu", "uml"])
def engine(request, cache):
    """Fields of a machine on each engine, for what must hold on all."""
    if request.param == "qemu":
        return {"cpu": "Westmere", "accelerator": "tcg"}
    works, seen = uml_status(cache)
    if not works:
        pytest.skip(seen)
    return {"accelerator": "uml"}


@pytest.fixture(scope="module")
def machine(machine_at):
    with machine_at(cpu="Westmere") as running:
        yield running


def output_of(machine, command, **options):
    """Run a command and return its result and what it printed."""
    printed = bytearray()
    result = machine.run(command, stdout=printed.extend, stderr=printed.extend, **options)
    return result, printed.decode(errors="replace")


@pytest.fixture(scope="module")
def executor():
    with LocalExecutor(1) as opened:
        yield opened


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        yield opened


@pytest.fixture
def find_out(cache, catalog, executor, tmp_path):
    """Diagnose a case given by its test; dates are the only axis unless others are asked for."""

    def find(test, *, axes=(Axis.DATE,), overrides=None, fresh=False, on_outcome=None, **rest):
        fields = {"id": "tiny", "image": IMAGE, "limits": {"memory_mib": 512}}
        steps = [{"name": "test", "run": test}] if isinstance(test, str) else test
        questions = {name: rest.pop(name) for name in list(rest) if name in QUESTIONS}
        questions = {"repeats": 1} | questions
        for end in ("first", "last"):
            if end in questions:
                questions[end] = parse_instant(questions[end])
        return diagnose_case(
            Case.parse(fields | {"steps": steps} | rest),
            Means(
                cache=cache,
                catalog=catalog,
                executor=executor,
                jobs=1,  # the tests themselves run two at a time
                base=tmp_path,
                on_outcome=on_outcome,
                fresh=fresh,
            ),
            Questions(axes=axes, **questions),
            overrides,
        )

    return find


def below(pid):
    """Return the processes below one, whatever their environment."""
    found = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child, *below(child)}
    return found


def is_running(pid):
    """Tell whether a process is there and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
