"""``buildvm doctor``, ``cache``, ``image``, ``kernels`` and ``cpus``: what this host has."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.command import Command, ExitStatus, Session, command, complete_kernel
from buildvm_nb.cli.options import choose_image
from buildvm_nb.cli.output import write_fields, write_json, write_line, write_table
from buildvm_nb.errors import BuildVMError, UsageError

if TYPE_CHECKING:
    from buildvm_nb.host.cache import Kept
    from buildvm_nb.image import Image
    from buildvm_nb.study.host_checks import Check

__all__ = [
    "CACHE_COMMANDS",
    "IMAGE_COMMANDS",
    "LEVELS",
    "cpus",
    "doctor",
    "kernels",
]

# ``buildvm cache``: what it holds, and room made in it.

_MIB = 2**20
_UNUSED_FOR = "30d"
_AGES = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="KIND", help="Only these, as `cache show` calls them."),
]


@command("show", examples=("buildvm cache show", "buildvm cache show --json"))
def show(session: Session) -> None:
    """Show what the cache holds, by kind."""
    from buildvm_nb.host.cache import survey
    from buildvm_nb.model.instants import format_instant

    cache = session.cache()
    found = survey(cache)
    kinds: list[dict[str, Any]] = [
        {
            "kind": kind,
            "entries": len(members),
            "size_bytes": sum(each.size_bytes for each in members),
            "oldest_use": format_instant(members[0].used_at),
            "partial": sum(each.is_partial for each in members),
        }
        for kind, members in _by_kind(found)
    ]
    if session.as_json:
        write_json({"path": str(cache.root), "kinds": kinds})
        return
    rows = [
        (each["kind"], each["entries"], _mib(each["size_bytes"]), each["oldest_use"][:10])
        for each in kinds
    ]
    total = sum(each.size_bytes for each in found)
    write_table(
        ("kind", "entries ", "MiB ", "oldest use"), [*rows, ("all", len(found), _mib(total), "")]
    )


@command(
    "prune",
    examples=(
        "buildvm cache prune --dry-run",
        "buildvm cache prune --older-than 2w",
        "buildvm cache prune --max-size 10G",
        "buildvm cache prune --kind sources --kind git-mirrors --older-than 0d",
    ),
)
def prune(
    session: Session,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Remove what was not used for so long: 12h, 30d, 8w. Without --max-size: "
            f"{_UNUSED_FOR}.",
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Remove more until the rest fits: 500M, 10G."),
    ] = None,
    kind: Kinds = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
) -> None:
    """Make room in the cache: what was unused for longest goes first.

    What a process uses now stays, and so do outcomes, findings and logs, which are in the catalog.
    What goes is fetched or made again when it is asked for, as long as its origin still has it.
    """
    from buildvm_nb.host import cache as care

    age = older_than or (None if max_size else _UNUSED_FOR)
    pruned = care.prune(
        session.cache(),
        kinds=kind or (),
        unused_for=_age(age) if age else None,
        most_bytes=_size(max_size) if max_size else None,
        dry_run=dry_run,
    )
    freed = sum(each.size_bytes for each in pruned.removed)
    if session.as_json:
        removed, in_use = (
            [_plain(each) for each in some] for some in (pruned.removed, pruned.in_use)
        )
        sizes = {"freed_bytes": freed, "left_bytes": pruned.left_bytes}
        write_json({"dry_run": dry_run, **sizes, "removed": removed, "in_use": in_use})
        return
    rows = [
        (name, len(members), _mib(sum(each.size_bytes for each in members)))
        for name, members in _by_kind(pruned.removed)
    ]
    if rows:
        write_table(("kind", "entries ", "MiB "), rows)
    verb = "would free" if dry_run else "freed"
    write_line(f"{verb} {_mib(freed)} MiB; {_mib(pruned.left_bytes)} MiB are left")
    if pruned.in_use:
        kinds = ", ".join(name for name, _ in _by_kind(pruned.in_use))
        session.note(f"{len(pruned.in_use)} stay because they are in use now: {kinds}")


CACHE_COMMANDS: tuple[Command, ...] = (show, prune)


def _by_kind(found: Iterable["Kept"]) -> list[tuple[str, list["Kept"]]]:
    """Group entries; within each kind they keep their order."""
    groups: dict[str, list[Kept]] = {}
    for each in found:
        groups.setdefault(each.kind, []).append(each)
    return sorted(groups.items())


def _plain(kept: "Kept") -> dict[str, Any]:
    from buildvm_nb.model.instants import format_instant

    return {**vars(kept), "used_at": format_instant(kept.used_at)}


def _age(text: str) -> timedelta:
    if not (match := re.fullmatch(r"(\d{1,6})([hdw])", text)):
        raise UsageError(f"--older-than: not an age: {text!r}; allowed: 12h, 30d, 8w")
    return int(match[1]) * _AGES[match[2]]


def _size(text: str) -> int:
    if not (match := re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([KMGT])(?:iB)?", text)):
        raise UsageError(f"--max-size: not a size: {text!r}; allowed: 500M, 10G, 0.5T")
    return int(float(match[1]) * _SIZES[match[2]])


def _mib(size_bytes: int) -> int:
    return round(size_bytes / _MIB)


# ``buildvm cpus``: the CPU models and when they went on sale.
#
# References: x86-64 psABI, "Micro-Architecture Levels"; QEMU, docs/system/cpu-models-x86-abi.csv.

LEVELS = {
    "x86-64-v1": "Opteron_G1 core2duo Opteron_G2 Opteron_G3 Penryn",
    "x86-64-v2": "Nehalem Westmere SandyBridge IvyBridge Opteron_G4 Opteron_G5",
    "x86-64-v3": "Haswell Broadwell Skylake-Client EPYC EPYC-Rome EPYC-Milan SierraForest",
    "x86-64-v4": "Skylake-Server Cascadelake-Server Icelake-Server SapphireRapids GraniteRapids "
    "EPYC-Genoa EPYC-Turin",
}
"""Which level each model reaches: what a compiler may assume with ``-march``."""


@command(
    "cpus",
    examples=(
        "buildvm cpus",
        "buildvm cpus --date 2012-06-01",
        "buildvm cpus --vendor AMD --json",
    ),
)
def cpus(
    session: Session,
    date: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Mark what was current then. Left out: today."),
    ] = None,
    vendor: Annotated[
        str | None, typer.Option(metavar="Intel|AMD", help="Only this vendor's.")
    ] = None,
) -> None:
    """List CPU models and when they went on sale.

    A star marks each vendor's current model at the date. A machine without --cpu gets Intel's.
    Any other model of the installed QEMU can be named as well, such as qemu64 or max.
    """
    from buildvm_nb.model.instants import parse_instant
    from buildvm_nb.model.machine import CPU_MODELS, OLDEST_QEMU, Vendor, cpu_at

    chosen = _vendors(vendor)
    instant = parse_instant(date or "today")
    current = {cpu_at(instant, vendor=each).name for each in Vendor}
    levels = {name: level for level, names in LEVELS.items() for name in names.split()}
    models = [model for model in CPU_MODELS if model.vendor in chosen]
    rows = [
        {
            "name": model.name,
            "vendor": model.vendor.value,
            "since": f"{model.since:%Y-%m-%d}",
            "product": model.product,
            "level": levels.get(model.name, ""),
            "qemu": ".".join(map(str, model.qemu)),
            "current": model.name in current,
            "source": model.source,
        }
        for model in models
    ]
    if session.as_json:
        write_json(rows)
        return
    columns = ("name", "vendor", "since", "product", "level", "qemu")
    newer = {model.name for model in models if model.qemu > OLDEST_QEMU}
    for row in rows:
        row["qemu"] = f"{row['qemu']} and later" if row["name"] in newer else ""
    table = [("*" if row["current"] else "", *(row[column] for column in columns)) for row in rows]
    write_table(("", "model", "vendor", "since", "first product", "level", "needs QEMU"), table)


def _vendors(text: str | None) -> set[str]:
    from buildvm_nb.model.machine import Vendor

    known = {vendor.casefold(): vendor.value for vendor in Vendor}
    if text is None:
        return set(known.values())
    if text.casefold() not in known:
        raise UsageError(f"unknown vendor: {text!r}; allowed: {', '.join(Vendor)}")
    return {known[text.casefold()]}


# ``buildvm doctor``: what this host can do, what is missing, how to get it.


@command("doctor", examples=("buildvm doctor", "buildvm doctor --json"))
def doctor(session: Session) -> None:
    """Tell what this host can do and what is missing.

    Each thing that is missing comes with how to get it. Exits with 1 if something that is
    needed is missing.
    """
    from buildvm_nb.study.host_checks import State

    checks = [*_checks(session)]
    if session.as_json:
        write_json([asdict(check) for check in checks])
    else:
        rows = [(check.state.value, check.subject, check.found) for check in checks]
        write_table(("", "what", "found"), rows)
        for check in checks:
            if check.hint:
                write_line(f"{check.subject}: {check.hint}")
    if any(check.state is State.MISSING for check in checks):
        raise typer.Exit(ExitStatus.TROUBLE)


def _checks(session: Session) -> Iterator["Check"]:
    from buildvm_nb.study.host_checks import Check, State, check_host, check_space

    try:
        cache = session.cache()
    except BuildVMError as error:
        yield from check_host(None)
        yield Check(subject="cache", state=State.MISSING, found=error.message, hint=error.hint)
    else:
        yield from check_host(cache)
        yield check_space(cache.root)
        found = f"{cache.root}, {_room([cache.root])} MiB"
        yield Check(subject="cache", state=State.OK, found=found)
    yield _check_catalog(session)


def _check_catalog(session: Session) -> "Check":
    """Look where the catalog is, without making one."""
    from buildvm_nb.debian import without_password
    from buildvm_nb.study.host_checks import Check, State

    place = session.catalog_place or _default_catalog()
    if "://" in place:
        return Check(subject="catalog", state=State.OK, found=without_password(place))
    path = Path(place).absolute()
    if not path.exists():
        return Check(subject="catalog", state=State.OK, found=f"{path}, not made yet")
    found = f"{path}, {_room([path, path.parent / 'logs'])} MiB with its logs"
    return Check(subject="catalog", state=State.OK, found=found)


def _default_catalog() -> str:
    from buildvm_nb.catalog.database import default_place

    return default_place()


def _room(places: Iterable[Path]) -> int:
    """Add up the files in some places, in MiB; what vanishes meanwhile does not count."""
    total = 0
    for place in places:
        files = [place] if place.is_file() else _files(place)
        for file in files:
            try:
                total += file.lstat().st_size
            except OSError:
                continue
    return total // _MIB


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        yield from (Path(folder) / name for name in names)


# ``buildvm image`` and ``buildvm kernels``: what machines boot from.

_SHORT = 12

ImageName = Annotated[
    str, typer.Argument(metavar="IMAGE", help="What was asked for, or the start of its key.")
]


@command(
    "build",
    examples=(
        "buildvm image build debian:bookworm",
        "buildvm image build debian:trixie,gcc,make",
        "buildvm image build debian:bookworm --package python3 --package openssl",
    ),
)
def build(
    session: Session,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="debian:SUITE[,PACKAGE…]")],
    package: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Add a package; repeatable.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Package mirror, such as a dated archive.")
    ] = None,
) -> None:
    """Make a root file system, unless it is in the cache."""
    from buildvm_nb.image import build_image
    from buildvm_nb.model.machine import ImageSpec

    spec = choose_image(image, package, mirror) or ImageSpec()
    _show(session, build_image(spec, session.cache(), session.progress()))


@command("list", examples=("buildvm image list", "buildvm image list --json"))
def list_(session: Session) -> None:
    """List the root file systems in the cache."""
    from buildvm_nb.image import list_images

    images = list_images(session.cache())
    if session.as_json:
        write_json([_plain_image(image) for image in images])
        return
    rows = [
        (image.spec, image.key[:_SHORT], image.size // _MIB, len(image.packages), _made(image))
        for image in images
    ]
    write_table(("image", "key", "MiB ", "packages ", "archive as of"), rows)


@command("show", examples=("buildvm image show debian:bookworm",))
def show_image(
    session: Session,
    image: ImageName,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the file and compare its digest.")
    ] = False,
) -> None:
    """Show how a root file system was made.

    From which mirrors, as of which dates, with which version of each package.
    """
    from buildvm_nb.image import find_image, verify_image

    found = find_image(image, session.cache())
    if verify:
        verify_image(found)
    _show(session, found)
    if not session.as_json:
        write_line()
        write_table(("package", "version"), sorted(found.packages.items()))


@command("rm", examples=("buildvm image rm debian:bookworm",))
def rm(
    session: Session,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE…", help="Names, or starts of their keys.")
    ],
) -> None:
    """Remove root file systems from the cache.

    They can be made again.
    """
    from buildvm_nb.image import remove_image

    cache = session.cache()
    for name in images:
        gone = remove_image(name, cache)
        session.note(f"removed {gone.spec} ({gone.key[:_SHORT]}), {gone.size // _MIB} MiB")


IMAGE_COMMANDS: tuple[Command, ...] = (build, list_, show_image, rm)


@command(
    "kernels",
    examples=(
        "buildvm kernels",
        "buildvm kernels --fetch debian:bookworm --fetch debian:bullseye",
        "buildvm kernels --fetch all",
    ),
)
def kernels(
    session: Session,
    fetch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|all",
            autocompletion=complete_kernel,
            help="Fetch this kernel first; repeatable.",
        ),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="With --fetch: take a newer version if there is one.")
    ] = False,
) -> None:
    """List the kernels that guests can run, and fetch them."""
    from buildvm_nb.image import DEBIAN_KERNELS, fetch_kernel, list_kernels

    if refresh and not fetch:
        raise UsageError("--refresh says nothing without --fetch")
    cache, wanted = session.cache(), list(fetch or ())
    if "all" in wanted:
        wanted = [*DEBIAN_KERNELS, *(name for name in wanted if name != "all")]
    for name in dict.fromkeys(wanted):
        fetch_kernel(name, cache, session.progress(), refresh=refresh)
    listings = list_kernels(cache)
    if session.as_json:
        write_json([vars(listing) for listing in listings])
        return
    rows = [
        (listing.name, listing.release, listing.version, "yes" if listing.cached else "no")
        for listing in listings
    ]
    write_table(("kernel", "release", "package version", "cached"), rows)


def _show(session: Session, image: "Image") -> None:
    if session.as_json:
        write_json(_plain_image(image))
        return
    write_fields(
        [
            ("image", str(image.spec)),
            ("key", image.key),
            ("digest", image.digest),
            ("file", str(image.path)),
            ("size", f"{image.size // _MIB} MiB, {len(image.packages)} packages"),
            ("mirrors", "\n".join(image.mirrors)),
            ("as of", _made(image)),
            ("made by", f"mmdebstrap {image.mmdebstrap}"),
        ]
    )


def _made(image: "Image") -> str:
    return ", ".join(f"{suite} {date[:10]}" for suite, date in image.release_dates.items())


def _plain_image(image: "Image") -> dict[str, Any]:
    spec = {"spec": image.spec.model_dump(mode="json"), "path": str(image.path)}
    return {"image": str(image.spec), **vars(image), **spec}
