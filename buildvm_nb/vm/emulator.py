"""The QEMU on this host: where it is, its version, the CPU models and features it knows."""

import difflib
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ulid import ULID

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.tools import find_tool, run_tool
from buildvm_nb.model.cpu import OLDEST_QEMU, find_model
from buildvm_nb.model.machine import MachineSpec

__all__ = ["QEMU", "Emulator", "check_cpu", "check_wishes", "find_emulator"]

QEMU = "qemu-system-x86_64"
"""Its program."""

_OF_THE_HOST = frozenset({"base", "host", "max"})
"""Models that stand for no processor of their own."""


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """A QEMU program for x86-64 guests."""

    path: str
    version: str
    """For example ``7.2.22``."""
    models: frozenset[str]
    """CPU models that it knows."""
    features: frozenset[str]
    """CPU features that it knows, by QEMU's names."""
    vendors: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Each model's vendor, as CPUID says it; those that stand for the host's CPU have none."""

    def vendor_of(self, cpu: str) -> str:
        """Return the vendor of a CPU's model; empty for one that stands for the host's CPU."""
        return self.vendors.get(cpu.partition(",")[0], "")


@lru_cache
def find_emulator(cache_root: Path | None = None, program: str = QEMU) -> Emulator:
    """Find QEMU on this host and learn what it knows.

    Parameters
    ----------
    cache_root : Path, optional
        Where the answer is remembered until the program changes.
    program : str
        Its name or path.

    Returns
    -------
    Emulator
        The program.

    Raises
    ------
    HostError
        If QEMU is missing, does not run, or is too old.
    """
    path = find_tool(program)
    status = Path(path).stat()
    stamp = [path, status.st_size, status.st_mtime_ns]
    memo = cache_root / "emulator.json" if cache_root else None
    remembered = _remembered(memo, stamp)
    known = remembered or _ask(path)
    version = str(known["version"])
    if tuple(map(int, version.split(".")[:2])) < OLDEST_QEMU:
        oldest = ".".join(map(str, OLDEST_QEMU))
        raise HostError(
            f"QEMU is too old: {path} is {version}; allowed: {oldest} or newer",
            hint="upgrade qemu-system-x86; Debian 12 has 7.2",
        )
    if memo and not remembered:
        _remember(memo, {"stamp": stamp, "known": known})
    return Emulator(
        path=path,
        version=version,
        models=frozenset(known["models"]),
        features=frozenset(known["features"]),
        vendors=known["vendors"],
    )


def _remembered(memo: Path | None, stamp: list[object]) -> dict[str, Any] | None:
    try:
        content = json.loads(memo.read_bytes()) if memo else {}
        # an older version did not ask for vendors
        usable = content.get("stamp") == stamp and "vendors" in content["known"]
        return content["known"] if usable else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remember(memo: Path, content: dict[str, Any]) -> None:
    """Write a memo, where that can be done: it only saves time."""
    partial = memo.with_suffix(f".{ULID()}")
    with suppress(OSError):
        try:
            partial.write_text(json.dumps(content))
            partial.replace(memo)
        finally:
            partial.unlink(missing_ok=True)


def _ask(path: str) -> dict[str, Any]:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise HostError(
            f"QEMU does not run: {path}: {error.strerror}",
            hint="reinstall the package qemu-system-x86",
        ) from error
    match = re.search(r"version (\d+\.\d+(?:\.\d+)?)", said.stdout)
    if said.returncode != 0 or not match:
        raise HostError(
            f"QEMU does not run: {path} --version exited with {said.returncode}: "
            f"{(said.stderr or said.stdout).strip()[:500]}",
            hint="reinstall the package qemu-system-x86",
        )
    models, _, features = run_tool([path, "-cpu", "help"]).decode().partition("CPUID flags:")
    names = re.findall(r"^(?:x86 |\s{2})(\S+)", models, re.MULTILINE)
    return {
        "version": match[1],
        "models": names,
        "features": features.split(),
        "vendors": _ask_vendors(path, [name for name in names if name not in _OF_THE_HOST]),
    }


def _ask_vendors(path: str, models: list[str]) -> dict[str, str]:
    """Ask a QEMU that has no machine; under emulation a model's vendor is its own."""
    orders: list[dict[str, object]] = [{"execute": "qmp_capabilities"}]
    orders += [
        {
            "execute": "query-cpu-model-expansion",
            "arguments": {"type": "full", "model": {"name": name}},
            "id": name,
        }
        for name in models
    ]
    argv = [path, "-machine", "none,accel=tcg", "-nodefaults", "-no-user-config"]
    # to a file: what a pipe does not take at once, QEMU drops when it quits
    with tempfile.TemporaryFile() as stream, tempfile.TemporaryFile() as said:
        stream.write("\n".join(map(json.dumps, [*orders, {"execute": "quit"}])).encode())
        stream.seek(0)
        run_tool([*argv, "-display", "none", "-qmp", "stdio"], stdin=stream, stdout=said)
        said.seek(0)
        answers = [json.loads(line) for line in said if b'"return"' in line]
    vendors = {
        answer["id"]: answer["return"]["model"]["props"]["vendor"]
        for answer in answers
        if "id" in answer
    }
    if silent := sorted(set(models) - set(vendors)):
        raise HostError(f"QEMU does not tell the vendor of its CPU models: {' '.join(silent)}")
    return vendors


def check_cpu(text: str, emulator: Emulator) -> str:
    """Check a CPU as users write it, and spell it as QEMU does.

    Parameters
    ----------
    text : str
        Model, then features added (``+x``, ``x=on``) or taken away (``-x``, ``x=off``).
    emulator : Emulator
        Whose models and features count.

    Returns
    -------
    str
        Model and features, with features as ``+x`` or ``-x``.

    Raises
    ------
    UsageError
        If QEMU knows no such model or feature; near names are suggested.
    """
    model = find_model(text, emulator.models)
    changes = []
    for part in text.split(",")[1:]:
        name, _, value = part.partition("=")
        sign = "-" if name.startswith("-") or value == "off" else "+"
        feature = name.lstrip("+-").replace("_", "-")
        if feature not in emulator.features or value not in {"", "on", "off"}:
            near = difflib.get_close_matches(feature, emulator.features, n=3, cutoff=0.5)
            raise UsageError(
                f"unknown CPU feature: {part!r} in {text!r}; allowed: +FEATURE or -FEATURE",
                hint=f"did you mean {', '.join(near)}?"
                if near
                else "see qemu-system-x86_64 -cpu help",
            )
        changes.append(f"{sign}{feature}")
    return ",".join([model, *changes])


def check_wishes(spec: MachineSpec, lacking: tuple[str, ...], emulator: Emulator) -> None:
    """Make sure that a running machine's CPU has what was asked for by name.

    Parameters
    ----------
    spec : MachineSpec
        The machine.
    lacking : tuple of str
        Features that the accelerator cannot give, as `Monitor.cpu_features` told.
    emulator : Emulator
        The QEMU that runs it.

    Raises
    ------
    HostError
        If it lacks one.
    """
    wishes = {part[1:] for part in spec.cpu.split(",")[1:] if part[0] == "+"}
    if missed := sorted(wishes & set(lacking)):
        raise HostError(
            f"the accelerator cannot give the CPU {', '.join(missed)}: "
            f"{spec.accelerator} of QEMU {emulator.version}, asked for by {spec.cpu!r}",
            hint="a newer QEMU may; AVX-512 is in none's emulation",
        )
