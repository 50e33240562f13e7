"""Wheels unpacked side by side, as ``pip install --target`` lays them out.

Scripts are made for the guest: they start the Python that is found there, nothing of this host's.

References
----------
Binary distribution format (PEP 427): the ``.data`` directory and the ``#!python`` line; entry
points specification, ``console_scripts``.
"""

import configparser
import io
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from packaging.utils import parse_wheel_filename

from buildvm_nb.errors import SourceError
from buildvm_nb.source.unpack import size_limit, unpack_zip, unpacking
from buildvm_nb.source.writer import TreeWriter

__all__ = ["lay_out"]

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

    Parameters
    ----------
    wheels : list of Path
        Wheel files; where two hold the same file, the later one wins.
    into : Path
        An empty directory; packages land in it, scripts in ``bin`` below it.

    Raises
    ------
    SourceError
        If one is damaged or unsafe.
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
