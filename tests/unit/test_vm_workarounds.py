"""Workarounds are used where a fault is known, and nowhere else."""

import pytest

from buildvm_nb.model.machine import Accelerator
from buildvm_nb.vm.workarounds import kernel_workarounds


@pytest.mark.parametrize(
    ("release", "accelerator", "qemu", "needed"),
    [
        ("6.12.95+deb12-cloud-amd64", "tcg", "7.2.22", True),
        ("6.12.95+deb12-cloud-amd64", "tcg", "10.0.13", False),
        ("6.12.95+deb12-cloud-amd64", "kvm", "7.2.22", False),
        ("6.1.0-56-cloud-amd64", "tcg", "7.2.22", False),
        ("7.2.13+deb14-cloud-amd64", "tcg", "7.2.22", False),
        ("custom", "tcg", "7.2.22", False),
    ],
)
def test_slabs_are_checked_only_where_emulation_breaks_them(release, accelerator, qemu, needed):
    assert bool(kernel_workarounds(release, Accelerator(accelerator), qemu)) is needed
