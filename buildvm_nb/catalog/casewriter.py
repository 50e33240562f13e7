"""Case files out: a case as TOML that reads back as the same case, and a template to start from."""

import json
from collections.abc import Mapping
from typing import Any

import tomlkit
from tomlkit.items import AoT, Array, Item, String, StringType, Table, Trivia

from buildvm_nb.errors import UsageError
from buildvm_nb.model.case import Case, Source
from buildvm_nb.model.machine import ImageSpec

__all__ = ["dump_case", "new_case"]

_ONE_LINE = 80


def dump_case(case: Case) -> str:
    """Write a case as a case file; what has its default value is left out.

    Parameters
    ----------
    case : Case
        Any case.

    Returns
    -------
    str
        TOML; ``parse_case(dump_case(case)) == case``.
    """
    data = case.model_dump(by_alias=True, exclude_defaults=True)
    plain: dict[str, Any] = {"schema": case.schema_version, "id": case.id, **data}
    plain["image"] = {"base": case.image.base, **data.get("image", {})}
    if case.source is not None:
        plain["source"] = {"kind": case.source.kind, **data["source"]}
    for entry, written in zip(case.inputs, data.get("input", ()), strict=False):
        written["source"] = {"kind": entry.source.kind, **written["source"]}
    order = ["schema", "id", "title", "artifacts", "prepare_on", "source", "image", "input", "step"]
    document = tomlkit.document()
    for key in [*order, *(key for key in plain if key not in order)]:
        if key in plain:
            document.add(key, _item(plain[key]))
    return tomlkit.dumps(document)


def new_case(
    case_id: str,
    *,
    title: str = "",
    source: Source | None = None,
    image: ImageSpec | None = None,
    run: str = "make check",
) -> str:
    """Return a commented case file to start from; it is valid as it stands.

    Parameters
    ----------
    case_id : str
        Its identifier: lower-case letters, digits, ``.``, ``_``, ``+`` and ``-``.
    title : str
        What it is about, in one line.
    source : Source, optional
        What is built; without one the template shows how to name it.
    image : ImageSpec, optional
        What it is built in; default: Debian bookworm with a compiler.
    run : str
        Commands of the test step.

    Returns
    -------
    str
        TOML.

    Raises
    ------
    UsageError
        If the identifier is not allowed.
    """
    chosen = image or ImageSpec(packages=("gcc", "make", "libc6-dev"))
    Case.parse({"id": case_id, "step": [{"name": "test", "run": run}]})
    if "\0" in run or "\0" in title:
        raise UsageError("a case file cannot hold a NUL character")
    described = tomlkit.document()
    if source is not None:
        kind = {"kind": source.kind}
        described.add("source", _item({**kind, **source.model_dump(exclude_defaults=True)}))
    return _TEMPLATE.format(
        id=json.dumps(case_id),
        title=_item(title).as_string(),
        source=tomlkit.dumps(described).strip() or _SOURCE,
        base=_item(chosen.base).as_string(),
        packages=_item(chosen.packages).as_string(),
        run=_item(run).as_string(),
    )


def _item(value: object) -> Item:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return _table(value)
    if isinstance(value, list | tuple):
        return _tables(value) if value and isinstance(value[0], Mapping) else _array(value)
    return tomlkit.item(value)


def _string(text: str) -> String:
    """Write text over several lines only where nothing but line feeds needs it.

    A carriage return within a multi-line string would be read back as part of a line end.
    """
    plain = text.replace("\n", "").replace("\t", "").isprintable()
    if "\n" not in text or not plain:
        return tomlkit.string(text)
    inside = tomlkit.string(text, multiline=True).as_string()[3:-3]
    start = "" if inside.startswith("\n") else "\n"  # TOML drops a first line feed
    return String(StringType.MLB, text, start + inside, Trivia())


def _table(value: Mapping[str, Any]) -> Table:
    table = tomlkit.table()
    nested = {key: member for key, member in value.items() if isinstance(member, Mapping)}
    for key, member in {**{k: v for k, v in value.items() if k not in nested}, **nested}.items():
        if member is not None:
            table.add(key, _item(member))
    return table


def _tables(values: list[Any] | tuple[Any, ...]) -> AoT:
    array = tomlkit.aot()
    for value in values:
        array.append(_table(value))
    return array


def _array(values: list[Any] | tuple[Any, ...]) -> Array:
    array = tomlkit.array()
    array.extend(_string(value) if isinstance(value, str) else value for value in values)
    return array.multiline(len(array.as_string()) > _ONE_LINE)


_SOURCE = """\
# What is built. Leave it out where what is under study comes with the image.
# [source]
# kind = "git"
# url = "https://example.org/project.git"
# commit = "0123456789abcdef0123456789abcdef01234567"
# Other kinds, with their keys:
#   kind = "pypi", name = "…", version = "…", form = "sdist" or "wheel"
#   kind = "wheels", requirements = ["name==version"]
#   kind = "debian-source" or "debian-binary", name = "…", suite = "bookworm"
#   kind = "archive", url = "https://…", sha256 = "…"
#   kind = "guix", commit = "…", packages = ["hello"] (no [[step]]; see docs/guix.md)
#   kind = "local", path = "../project" (relative to this file)"""

_TEMPLATE = """\
schema = 1
id = {id}
title = {title}

# Where CPUs or kernels are compared, prepare and build run in each machine; with "once" they run
# in one, and the build directory is carried over: for software built here and run there.
# prepare_on = "once"

{source}

[image]
base = {base}
# Packages that the steps need, beside those of the base.
packages = {packages}

# Something that the steps need beside the source; it is placed at /build/lib.
# [[input]]
# path = "lib"
# [input.source]
# kind = "wheels"
# requirements = ["pytest==7.4.4"]

# Steps run as an unprivileged user, by /bin/sh -e, in the source's top directory. There may be
# one each of "prepare", "build" and "test", in this order.
# [[step]]
# name = "build"
# run = "./configure && make"

[[step]]
name = "test"
run = {run}
# A test that is skipped is no pass. Say what a pass looks like:
# expect = '(?m)^OK$'      # a regular expression that the output must match
# min_tests = 1            # or how many tests the runner must report
# timeout_s = 600
# [step.env]
# PYTHONPATH = "/build/lib:."

# [limits]
# step_timeout_s = 600
# memory_mib = 1024
# disk_mib = 8192          # a scratch disk; without it, all that steps write is kept in memory
# cpu_count = 1

# What a diagnosis must find, once it is known.
# [claim]
# kind = "time-trap"
# passes_until = 2020-10-05T23:01:55Z

# Where it was reported, by whom and when, and the licence of the text.
# [provenance]
# url = "https://example.org/issues/1"
# links = ["https://example.org/the-fix"]
# reported_by = "a name"
# reported_on = 2020-10-06

# For an entry of a curated catalog: see catalog/CONTRIBUTING.md.
# [entry]
# status = "proposed"
# description = "What goes wrong and why, in your own words."
# workaround = "How it can be built all the same."
"""
