"""Wheels with their dependencies, chosen for the guest's Python and unpacked side by side.

Pip chooses and downloads, wheels only, so nothing of a package runs here; we unpack. With a date,
only indexes that tell upload times are asked: pip lets files in local directories pass whatever
the date, which would be a dependency from the future without a word.
"""

import configparser
import io
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import NoReturn

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from buildvm_nb.errors import HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import run_process
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.case import WheelsSource
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.archive import size_limit, unpack_zip, unpacking
from buildvm_nb.source.download import redacted
from buildvm_nb.source.pypi import (
    IndexSettings,
    Place,
    manylinux_platforms,
    open_client,
    what_there_is,
)
from buildvm_nb.source.tree import Fetched, TreeWriter, keep, tree_digest

__all__ = [
    "fetch_wheels",
]

# Wheels unpacked side by side, as ``pip install --target`` lays them out.
#
# Scripts are made for the guest: they start the Python that is found there, nothing of this host's.
#
# References: Binary distribution format (PEP 427): the ``.data`` directory and the ``#!python``
# line; entry points specification, ``console_scripts``.

_MADE_AT = 315532800  # 1980-01-01T00:00:00Z, the earliest time that a zip archive holds
_PYTHON = b"#!/usr/bin/env python3"
_SCRIPT = """\
import sys
from {module} import {first}
if __name__ == "__main__":
    sys.exit({function}())
"""


class _EntryPoints(configparser.ConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr  # names keep their case


def lay_out(wheels: list[Path], into: Path) -> None:
    """Unpack wheels into one directory.

    `wheels`: wheel files; where two hold the same file, the later one wins.
    `into`: an empty directory; packages land in it, scripts in ``bin`` below it.
    """
    writer = TreeWriter(into, "wheels", limit=size_limit(*wheels))
    for wheel in wheels:
        writer.what = wheel.name
        distribution = str(parse_wheel_filename(wheel.name)[0])
        with unpacking(wheel.name):
            unpack_zip(wheel, writer, rename=partial(_place, distribution))
            with zipfile.ZipFile(wheel) as packed:
                for name, text in (*_scripts(packed), *_entry_points(packed)):
                    writer.file(f"bin/{name}", io.BytesIO(text), mode=0o755, mtime=_MADE_AT)
    with unpacking("wheels"):
        writer.finish()


def _place(distribution: str, name: str) -> str:
    """Return where a file of a wheel goes; empty for scripts, which are not copied as they are."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    section, _, inside = rest.partition("/")
    places = {
        "purelib": inside,
        "platlib": inside,
        "data": inside,
        "headers": f"include/{distribution}/{inside}",
    }
    return places.get(section, "") if inside else ""


def _scripts(packed: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for info in packed.infolist():
        top, _, rest = info.filename.partition("/")
        section, _, name = rest.partition("/")
        if top.endswith(".data") and section == "scripts" and name and not info.is_dir():
            text = packed.read(info)
            if text.startswith(b"#!python"):
                text = _PYTHON + b"\n" + text.partition(b"\n")[2]
            yield name, text


def _entry_points(packed: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for member in packed.namelist():
        top, _, rest = member.partition("/")
        if not top.endswith(".dist-info") or rest != "entry_points.txt":
            continue
        points = _EntryPoints(delimiters=("=",), interpolation=None, strict=False)
        try:
            points.read_string(packed.read(member).decode(errors="replace"))
        except configparser.Error as error:
            raise SourceError(f"damaged entry_points.txt in {packed.filename}: {error}") from error
        for section in {"console_scripts", "gui_scripts"} & set(points.sections()):
            for name, target in points[section].items():
                if "/" not in name:
                    yield name, _starter(target)


def _starter(target: str) -> bytes:
    """Return a script that calls an entry point such as ``package.module:object.method``."""
    module, _, function = target.partition("[")[0].strip().partition(":")
    first = function.partition(".")[0]
    text = _SCRIPT.format(module=module.strip(), first=first, function=function)
    return _PYTHON + b"\n" + text.encode()


_SKIPPED = re.compile(r"Could not fetch URL (\S+): (?!40[34] |410 )(.*?) - skipping")
"""What pip says, if asked to say more, before it goes on without an index.

Some indexes answer 403 for what they do not have, so that alone does not stop who has it elsewhere.
"""
_FORBIDDEN = re.compile(r"Could not fetch URL (\S+): (403 .*?) - skipping")
_COMPLAINT = re.compile(r"^ *(ERROR: .*)$", re.MULTILINE)
_MISSING = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+)")
_NO_TIMES = "does not provide upload-time metadata"
_TAIL = 1500


def fetch_wheels(source: WheelsSource, cache: Cache, *, progress: Progress) -> Fetched:
    """Fetch wheels and unpack them side by side.

    `cache`: keeps them. Without a date, what was newest when first asked for stays until the entry
    is removed: pin what others are to verify.
    Returns: packages directly in `Fetched.tree`, scripts in ``bin``; the record's `version` lists
    ``name==version`` of each, sorted, to be pinned.
    Raises `SourceError` if one cannot be met with wheels for that Python at that date.
    """
    requirements = sorted({_normal(text) for text in source.requirements})
    as_of = source.as_of.astimezone(UTC).isoformat() if source.as_of else None

    def make(tree: Path, scratch: Path) -> tuple[SourceRecord, str]:
        settings = IndexSettings.of_this_host()
        places = settings.places
        if as_of:
            places = tuple(place for place in places if not place.is_local)
            _require_dated(places, settings.places, as_of)
        wanted = _options(source, as_of, scratch / "wheels")
        settings = IndexSettings(places=places, transport=settings.transport)
        _run_pip(source, [*wanted, "--", *requirements], settings)
        wheels = sorted((scratch / "wheels").glob("*.whl"))
        lay_out(wheels, tree)
        named = (parse_wheel_filename(wheel.name)[:2] for wheel in wheels)
        record = SourceRecord(
            kind=source.kind,
            name=" ".join(requirements),
            version=" ".join(sorted(f"{name}=={version}" for name, version in named)),
            digest=tree_digest(tree),
            dated_at=source.as_of,
            origin=", ".join(redacted(place.url) for place in places),
        )
        return record, ""

    recipe = {
        "kind": source.kind,
        "requirements": requirements,
        "python": source.python,
        "as_of": as_of,
        "dependencies": source.dependencies,
    }
    return keep(cache, recipe, make, label=f"fetch {' '.join(requirements)}", progress=progress)


def _normal(text: str) -> str:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise UsageError(f"not a requirement: {text!r}: {error}") from error
    if requirement.url:
        raise UsageError(
            f"a requirement by URL cannot be checked: {text!r}; allowed: name and versions",
            hint="make the file an input of kind archive",
        )
    requirement.name = canonicalize_name(requirement.name)
    return str(requirement)


def _require_dated(dated: tuple[Place, ...], all_: tuple[Place, ...], as_of: str) -> None:
    if not dated:
        raise SourceError(
            f"no index tells when files were uploaded, which is needed for wheels as of {as_of}",
            sought=tuple(redacted(place.url) for place in all_),
            hint="pin all versions and leave as_of out, or configure an index with upload times",
        )


def _options(source: WheelsSource, as_of: str | None, into: Path) -> list[str]:
    options = [
        "download",
        "-vv",
        "--dest",
        str(into),
        "--only-binary",
        ":all:",
        "--progress-bar",
        "off",
    ]
    options += ["--python-version", source.python, "--implementation", "cp"]
    for platform in manylinux_platforms():
        options += ["--platform", platform]
    if not source.dependencies:
        options.append("--no-deps")
    if as_of:
        options += ["--uploaded-prior-to", as_of]
    return options


def _environment(settings: IndexSettings) -> dict[str, str]:
    """Return variables that give pip our choice of places and nothing else of its configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    told = {
        f"PIP_{key.upper().replace('-', '_')}": text for key, text in settings.transport.items()
    }
    indexes = [place.url for place in settings.places if place.is_index]
    if indexes:
        told["PIP_INDEX_URL"] = indexes[0]
        told["PIP_EXTRA_INDEX_URL"] = " ".join(indexes[1:])
    else:
        told["PIP_NO_INDEX"] = "1"
    told["PIP_FIND_LINKS"] = " ".join(place.url for place in settings.places if not place.is_index)
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return kept | {name: text for name, text in told.items() if text} | own


def _run_pip(source: WheelsSource, arguments: list[str], settings: IndexSettings) -> None:
    script = Path(__file__).with_name("guest_pip.py")
    result = run_process(
        [sys.executable, "-P", str(script), source.python, *arguments], env=_environment(settings)
    )
    said = (result.stdout + result.stderr).decode(errors="replace")
    silent = _SKIPPED.search(said) or (result.returncode and _FORBIDDEN.search(said))
    if silent:
        raise Unreachable(
            f"a package index does not answer: {redacted(silent[1])}: {silent[2]}",
            hint="check this host's network and `pip config list`",
        )
    if result.returncode != 0:
        _raise(said, " ".join(arguments[arguments.index("--") + 1 :]), source, settings)


def _raise(said: str, wanted: str, source: WheelsSource, settings: IndexSettings) -> NoReturn:
    complaint = "\n".join(dict.fromkeys(_COMPLAINT.findall(said)))[-_TAIL:] or said[-_TAIL:]
    sought = tuple(redacted(place.url) for place in settings.places)
    if _NO_TIMES in said:
        raise SourceError(
            f"an index does not tell when files were uploaded, so wheels of {wanted} as of a date "
            f"cannot be chosen: {complaint}",
            sought=sought,
            hint="pin all versions and leave as_of out, or configure an index with upload times",
        )
    if missing := _MISSING.search(said):
        with open_client(settings) as client:
            hint = what_there_is(client, settings, missing[1], source.python, as_of=source.as_of)
        if "there is as sdist" in hint:
            hint += (
                "; only wheels can be unpacked without running their code on this host, an sdist "
                "can be an input of kind pypi"
            )
    elif "ResolutionImpossible" in said:
        hint = "the requirements contradict each other; loosen one"
    else:
        raise HostError(f"pip failed; it said at last:\n{said.strip()[-_TAIL:]}")
    uploaded = f" uploaded before {format_instant(source.as_of)}" if source.as_of else ""
    raise SourceError(
        f"no wheels for {wanted} that fit Python {source.python}{uploaded}: {complaint}",
        sought=sought,
        hint=hint,
    )
