"""``buildvm doctor``: what this host can do, what is missing, how to get it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from buildvm_nb.cli.exits import ExitStatus
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import write_json, write_line, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import BuildVMError

if TYPE_CHECKING:
    from buildvm_nb.study.host_checks import Check

__all__ = ["doctor"]

_MIB = 2**20


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
        found = f"{cache.root}, {_size([cache.root])} MiB"
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
    found = f"{path}, {_size([path, path.parent / 'logs'])} MiB with its logs"
    return Check(subject="catalog", state=State.OK, found=found)


def _default_catalog() -> str:
    from buildvm_nb.catalog.database import default_place

    return default_place()


def _size(places: Iterable[Path]) -> int:
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
