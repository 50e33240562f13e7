"""Real guests: one cached image and kernel, and one shared machine for what does not harm it."""

import pytest

from buildvm_nb.host.cache import Cache
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.study import open_machine

IMAGE = "debian:bookworm,python3"


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


@pytest.fixture(scope="module")
def machine(machine_at):
    with machine_at(cpu="Westmere") as running:
        yield running


def output_of(machine, command, **options):
    """Run a command and return its result and what it printed."""
    printed = bytearray()
    result = machine.run(command, stdout=printed.extend, stderr=printed.extend, **options)
    return result, printed.decode(errors="replace")
