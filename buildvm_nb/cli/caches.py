"""``buildvm cache``: what it holds, and room made in it."""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import write_json, write_line, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.host.care import Kept

__all__ = ["CACHE_COMMANDS"]

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
    from buildvm_nb.host.care import survey
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
    from buildvm_nb.host import care

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
