"""From `buildvm run -- true` to its exit, against virtme-ng; `buildvm --help` against bare Python.

Both run on the same host, one after the other in turns, with QEMU's emulation, one core and 1 GiB.
virtme-ng needs a root file system over 9p, which Debian's cloud kernel lacks, so it gets the
general kernel of the very same version. That and kmod, where the host has none, are fetched as
Debian packages into the cache. virtme-ng boots this host's root directory, read-only, as it is
made to do; without udev on the host it runs the command on the console and exits with 255.
"""

import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import CACHE, Row, read_runs, show

from buildvm_nb.debian import PackageArchive, unpack_deb
from buildvm_nb.host.process import run_tool
from buildvm_nb.image import fetch_guest_tools, fetch_kernel

_SUITE = "bookworm"
_WORD = "the guest has run this"
_SCRIPTS = Path(sysconfig.get_path("scripts"))
_OUR_PARAMETERS = ("mitigations=off", "cryptomgr.notests", "nowatchdog", "audit=0")
_KMOD = """\
#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$here/../usr/lib/x86_64-linux-gnu exec "$here/kmod/{name}" "$@"
"""


@dataclass(kw_only=True)
class Contender:
    """A command to be timed."""

    name: str
    argv: list[str]
    allowed: frozenset[int] = frozenset({0})
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def run(self, cwd: str, *more: str) -> str:
        """Run it once and return what it printed."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [*self.argv, *more],
            cwd=cwd,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        self.seconds.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.cpu_seconds.append(used)
        said = done.stdout.decode(errors="replace")
        if done.returncode not in self.allowed:
            sys.exit(f"{' '.join(self.argv)} exited with {done.returncode}:\n{said[-3000:]}")
        return said


def general_kernel() -> Path:
    """Return a tree with the kernel for virtme-ng, with kmod for a host that has none."""
    kernel = fetch_kernel(f"debian:{_SUITE}", CACHE)
    release = kernel.release.replace("-cloud", "")
    packages = [f"linux-image-{release}={kernel.version}", "kmod", "libkmod2"]

    def make(work: Path) -> dict[str, Any]:
        for deb in PackageArchive(_SUITE, cache=CACHE).download(packages):
            unpack_deb(deb, work)
        programs, links = work / "sbin", work / "sbin/kmod"
        for link in programs.iterdir():
            link.unlink()
        links.mkdir()
        for name in ("modprobe", "depmod"):
            (links / name).symlink_to("../../bin/kmod")
            (programs / name).write_text(_KMOD.format(name=name))
            (programs / name).chmod(0o755)
        run_tool([programs / "depmod", "-b", work, release])
        return {"release": release}

    recipe = {"packages": packages, "recipe": 1}
    return CACHE.entry("benchmark-kernels", recipe, make, label="fetch virtme-ng's kernel")


def contenders() -> tuple[Contender, Contender, Contender]:
    """Return `buildvm`, virtme-ng as it is, and virtme-ng with kernel parameters of ours."""
    tree = general_kernel()
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    vng = [str(_SCRIPTS / "vng"), "--run", str(kernel), "--disable-kvm", "--force-9p"]
    vng += ["--cpus", "1", "--memory", "1G"]
    vng += ["--busybox", str(fetch_guest_tools(CACHE) / "bin/busybox")]
    path = f"{_SCRIPTS}:{os.environ['PATH']}:/usr/sbin:/sbin:{tree / 'sbin'}"
    theirs = {"allowed": frozenset({0, 255}), "environment": {"PATH": path}}
    tuned = [*vng, *(word for option in _OUR_PARAMETERS for word in ("--append", option))]
    ours = [str(_SCRIPTS / "buildvm"), "--quiet", "run", "--accelerator", "tcg", "--", "true"]
    return (
        Contender(name="buildvm run -- true", argv=ours),
        Contender(name="vng --exec true", argv=vng, **theirs),
        Contender(name="vng, with our kernel parameters", argv=tuned, **theirs),
    )


def help_ratios(cwd: str, runs: int) -> list[float]:
    """Return how many times as long as an empty program `buildvm --help` takes."""
    bare = Contender(name="python -c pass", argv=[sys.executable, "-c", "pass"])
    page = Contender(name="buildvm --help", argv=[str(_SCRIPTS / "buildvm"), "--help"])
    for _ in range(4 * runs):
        bare.run(cwd)
        page.run(cwd)
    return [mine / theirs for mine, theirs in zip(page.seconds, bare.seconds, strict=True)]


def main() -> None:
    """Measure and print."""
    runs = read_runs(__doc__, 5)
    ours, plain, tuned = contenders()
    with tempfile.TemporaryDirectory() as empty:
        helped = help_ratios(empty, runs)
        for vng in (plain, tuned):  # also warms the page cache
            if _WORD not in vng.run(empty, "--verbose", "--exec", f"echo {_WORD}"):
                sys.exit("virtme-ng did not run its command")
        ours.run(empty)
        for contender in (ours, plain, tuned):
            contender.seconds.clear()
            contender.cpu_seconds.clear()
        for _ in range(runs):
            ours.run(empty)
            plain.run(empty, "--exec", "true")
            tuned.run(empty, "--exec", "true")
    rows = [Row(name=one.name, unit="s", values=one.seconds) for one in (ours, plain, tuned)]
    rows += [
        Row(name=f"{one.name}: CPU time", unit="s", values=one.cpu_seconds)
        for one in (ours, plain, tuned)
    ]
    for peer in (plain, tuned):
        ratios = [mine / theirs for mine, theirs in zip(ours.seconds, peer.seconds, strict=True)]
        aim = "≤ 0.5" if peer is plain else ""
        rows.append(Row(name=f"buildvm / {peer.name}", unit="", values=ratios, aim=aim))
    rows.append(Row(name="buildvm --help / python -c pass", unit="", values=helped, aim="≤ 10"))
    show("Start to exit", rows, ["Each is one cold boot; files are in the page cache."])


if __name__ == "__main__":
    main()
