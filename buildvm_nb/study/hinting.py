"""Hints for a case: read from its sources, from the packages of its image and from failing logs."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from debian.deb822 import Packages

from buildvm_nb.errors import BuildVMError
from buildvm_nb.hints import calendar_hints, scan_tree, text_hints
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.tools import find_tool, run_tool
from buildvm_nb.image import build_image
from buildvm_nb.model.hint import VALIDITIES, Hint
from buildvm_nb.model.machine import ImageSpec
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.steps import STEP_MARK

__all__ = [
    "collect_hints",
    "dates_in_logs",
    "validities_among",
    "worth_revealing",
]

_KIND = "package-hints"
_RECIPE = 1


def collect_hints(lab: Laboratory, image: ImageSpec, first: datetime, last: datetime) -> list[Hint]:
    """Read all hints on dates for a case.

    Parameters
    ----------
    lab : Laboratory
        Has the case's sources.
    image : ImageSpec
        Its explicitly named packages are looked through too.
    first, last : datetime
        What is told lies in this span.

    Returns
    -------
    list of Hint
        Each has an instant.
    """
    places = [entry.path for entry in lab.case.inputs]
    if lab.case.source:
        places.insert(0, "")
    found: list[Hint] = []
    for place, fetched in zip(places, lab.inputs.fetched, strict=True):
        with lab.progress.task(f"look for dates in {fetched.record.name}"):
            prefix = f"{place}/" if place else ""
            found += (
                hint.model_copy(update={"path": f"{prefix}{hint.path}"})
                for hint in scan_tree(fetched.tree)
            )
    if image.packages:
        with lab.progress.task("look for dates in the image's packages"):
            found += _in_packages(image, lab.cache)
    found += calendar_hints(first, last)
    return [hint for hint in found if hint.instant and first <= hint.instant <= last]


def dates_in_logs(texts: Iterable[str]) -> list[Hint]:
    """Read the dates that failing steps printed.

    Parameters
    ----------
    texts : iterable of str
        What they printed.

    Returns
    -------
    list of Hint
        Each has an instant.
    """
    printed = (
        "\n".join(line for line in text.splitlines() if not line.startswith(STEP_MARK))
        for text in texts
    )
    return [hint for text in printed for hint in text_hints(text)]


def validities_among(hints: Iterable[Hint], named: Iterable[Hint]) -> list[datetime]:
    """Choose the hints that a failing run named itself.

    Parameters
    ----------
    hints : iterable of Hint
        Known ones.
    named : iterable of Hint
        Read from logs.

    Returns
    -------
    list of datetime
        Ends and beginnings of validities that are among the instants named, in order.
    """
    said = {hint.instant for hint in named}
    found = {h.instant for h in hints if h.kind in VALIDITIES and h.instant in said}
    return sorted(instant for instant in found if instant)


def worth_revealing(
    hints: Iterable[Hint], around: datetime, beside: Iterable[str] = ()
) -> list[datetime]:
    """Choose the hints behind which a short window may begin.

    Parameters
    ----------
    hints : iterable of Hint
        Known ones.
    around : datetime
        Aware; near it a window matters most.
    beside : iterable of str
        Directories of what the case only uses: what ends there is seldom what it depends on.

    Returns
    -------
    list of datetime
        Ends and beginnings of validities, the nearest first. What an overflow breaks stays broken,
        so that the scan sees it.
    """
    others = tuple(f"{place}/" for place in beside)
    instants = {
        hint.instant
        for hint in hints
        if hint.instant and hint.kind in VALIDITIES and not hint.path.startswith(others)
    }
    return sorted(instants, key=lambda instant: abs(instant - around))


def _in_packages(image: ImageSpec, cache: Cache) -> list[Hint]:
    """Look through the packages that an image was asked to have, once for each image."""
    built = build_image(image, cache)
    names = sorted(package.split("=", maxsplit=1)[0] for package in image.packages)

    def make(work: Path) -> dict[str, Any]:
        found = _scan_packages(built.path, names, work)
        return {"hints": [hint.model_dump(mode="json") for hint in found]}

    recipe = {"recipe": _RECIPE, "image": built.digest, "packages": names}
    place = cache.entry(_KIND, recipe, make)
    return [Hint.model_validate(hint) for hint in cache.record(place)["facts"]["hints"]]


def _scan_packages(root: Path, names: list[str], work: Path) -> Iterator[Hint]:
    with TemporaryDirectory(prefix="packages-", dir=work) as scratch:
        listed = Path(scratch) / "listed"
        tree = Path(scratch) / "tree"
        listed.write_text("\n".join(_files(root, names)))
        unpack = [find_tool("unsquashfs"), "-quiet", "-no-progress", "-no-xattrs", "-force"]
        try:
            run_tool([*unpack, "-dest", tree, "-ef", listed, root])
        except BuildVMError:
            return  # hints are a help, no more
        yield from scan_tree(tree)


def _files(root: Path, packages: list[str]) -> Iterator[str]:
    """Name the files of packages and of those that they depend on directly; no directories."""
    for package in _with_dependencies(root, packages):
        for name in (f"{package}.list", f"{package}:amd64.list"):
            paths = _read(root, f"var/lib/dpkg/info/{name}").splitlines()
            parents = {str(PurePosixPath(path).parent) for path in paths}
            yield from (path.lstrip("/") for path in paths if path not in parents and path != "/.")


def _with_dependencies(root: Path, packages: list[str]) -> list[str]:
    wanted = set(packages)
    status = _read(root, "var/lib/dpkg/status")
    for paragraph in Packages.iter_paragraphs(status, use_apt_pkg=False):
        if paragraph["Package"] in packages:
            groups = paragraph.relations["depends"] or ()
            wanted |= {alternative["name"] for group in groups for alternative in group}
    return sorted(wanted)


def _read(root: Path, name: str) -> str:
    try:
        return run_tool([find_tool("unsquashfs"), "-cat", root, name]).decode(errors="replace")
    except BuildVMError:
        return ""  # hints are a help, no more
