"""What unit tests of studies share: boot files and a QEMU that nobody has to make."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildvm_nb.model.machine import CPU_MODELS, Environment

sys.path.append(str(Path(__file__).parent))  # for what several modules import: worlds

IMAGE, KERNEL, VERSION = "1" * 64, "2" * 64, "7.2.22"


@pytest.fixture
def made(monkeypatch):
    """Have image, kernel and QEMU, the far end of a study; return what makes outcomes of them.

    The function gets an order and returns the fields of an outcome that say what it was made with.
    """
    boot = SimpleNamespace(image_digest=IMAGE, kernel_digest=KERNEL)
    models = frozenset({*(model.name for model in CPU_MODELS), "max"})
    emulator = SimpleNamespace(models=models, version=VERSION)
    monkeypatch.setattr("buildvm_nb.study.laboratory.prepare", lambda *_, **__: boot)
    monkeypatch.setattr("buildvm_nb.study.cpus.find_emulator", lambda *_: emulator)
    monkeypatch.setattr("buildvm_nb.study.laboratory.engine_for", lambda *_: f"qemu {VERSION}")

    def fields(order, **environment):
        spec = order.machine
        known = {
            "cpu": spec.cpu,
            "cpu_features": (),
            "cpu_flags": (),
            "cpu_count": spec.cpu_count,
            "kernel_release": spec.kernel,
            "accelerator": spec.accelerator,
            "engine": f"qemu {VERSION}",
        }
        return {
            "image_digest": IMAGE,
            "kernel_digest": KERNEL,
            "environment": Environment(**known | environment),
        }

    return fields
