"""Build real cases in virtual build machines and show what came of it.

Uses nothing of buildvm-nb but its command line, as any script could.
"""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).parents[1]
BUILDVM = Path(sys.executable).with_name("buildvm")
TODAY = datetime.now(UTC).date().isoformat()
AT_ONCE = 2
CONSOLE = Console(width=None if sys.stdout.isatty() else 120)
STYLES = {"passed": "green", "failed": "red", "crashed": "red", "timeout": "red"}


@dataclass
class Run:
    """One build of one case, and the verdict it is known to get."""

    label: str
    case: str
    expected: str
    options: tuple[str, ...] = ()
    engines: tuple[str, ...] = ("auto",)
    """Accelerators to take, the first that works on this host."""
    outcome: dict[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def verdict(self) -> str:
        """What the run came to."""
        return str(self.outcome.get("verdict", "error"))

    @property
    def engine(self) -> str:
        """What the guest ran on."""
        environment = self.outcome.get("environment") or {}
        names = {"tcg": "emulated", "kvm": "KVM", "uml": "user-mode Linux"}
        return names.get(environment.get("accelerator", ""), "")


# user-mode Linux is several times faster than emulation, and does not choose the CPU
DATED = ("uml", "auto")
RUNS = [
    Run("today", "requests-toolbelt-0.9.1", "failed", ("--date", TODAY), DATED),
    Run("2019", "requests-toolbelt-0.9.1", "passed", ("--date", "2019-06-01"), DATED),
    Run("Nehalem", "cityhash-0.4.10", "passed", ("--date", TODAY, "--cpu", "Nehalem")),
    Run("core2duo", "cityhash-0.4.10", "crashed", ("--date", TODAY, "--cpu", "core2duo")),
]


def output_directory() -> Path:
    """Return where the results go: in the checkout or, if that is not writable, right here."""
    base = ROOT if os.access(ROOT, os.W_OK) else Path.cwd()
    path = base / "demo-output"
    path.mkdir(exist_ok=True)
    return path


async def buildvm(label: str, *arguments: str) -> str:
    """Run `buildvm`, pass on what it reports line by line, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        str(BUILDVM), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )

    async def pass_on(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            sys.stderr.write(f"[{label}] {line.decode(errors='replace')}")

    try:
        stdout, stderr = process.stdout, process.stderr
        if stdout is None or stderr is None:
            raise RuntimeError("the pipes were asked for")
        printed, _ = await asyncio.gather(stdout.read(), pass_on(stderr))
        await process.wait()
    finally:  # also when interrupted: it shuts its machine down
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
    return printed.decode(errors="replace")


async def build(run: Run, catalog: Path, free: asyncio.Semaphore) -> None:
    """Build one case as soon as there is room."""
    case = str(ROOT / "catalog" / "cases" / f"{run.case}.toml")
    words = ("--catalog", str(catalog), "build", case, *run.options, "--json")
    async with free:
        started = time.monotonic()
        for engine in run.engines:
            printed = await buildvm(run.label, *words, "--accelerator", engine)
            with suppress(ValueError):
                run.outcome = json.loads(printed)
            if run.verdict != "error":
                break
        run.wall_s = time.monotonic() - started
    sys.stderr.write(f"[{run.label}] {run.verdict} after {run.wall_s:.0f} s\n")


def table() -> Table:
    """Return the table of all runs."""
    heads = ("case", "date", "CPU", "engine", "verdict", "wall time", "failing line")
    shown = Table(*heads, show_lines=True)
    for run in RUNS:
        machine = run.outcome.get("machine", {})
        verdict = f"[{STYLES.get(run.verdict, 'yellow')}]{run.verdict}[/]"
        if run.verdict != run.expected:
            verdict += f" (expected: {run.expected})"
        said = run.outcome.get("evidence") or run.outcome.get("reason") or ""
        line = "" if run.verdict == "passed" else said.strip().rpartition("\n")[2]
        date = str(machine.get("date", ""))[:10]
        cells = date, machine.get("cpu", ""), run.engine, verdict, f"{run.wall_s:.0f} s"
        shown.add_row(run.case, *cells, escape(line))
    return shown


async def demo() -> int:
    """Build everything, show it, and return the exit code: 0 if all verdicts are as expected."""
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    started = time.monotonic()
    output = output_directory()
    catalog, failing = output / "catalog.sqlite", output / "failures.csv"
    free = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for run in RUNS:
            group.create_task(build(run, catalog, free))
    failing.unlink(missing_ok=True)
    verdicts = ("--verdict", "failed", "--verdict", "crashed", "--verdict", "timeout")
    export = ("catalog", "export", str(failing), *verdicts)
    await buildvm("export", "--catalog", str(catalog), *export)
    CONSOLE.print(table())
    CONSOLE.print(
        f"catalog: {catalog}\nfailing outcomes: {failing}", highlight=False, soft_wrap=True
    )
    right = all(run.verdict == run.expected for run in RUNS) and failing.exists()
    said = "all verdicts are as expected" if right else "NOT as expected: see above"
    CONSOLE.print(f"{said}, {time.monotonic() - started:.0f} s in all", highlight=False)
    return 0 if right else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(demo()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
