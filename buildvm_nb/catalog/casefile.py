"""Case files: TOML in and out, their JSON schema, and errors that name file, line and key.

Reading is strict: a text is no number, an unknown key is an error, and nothing is guessed.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import tomlkit
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from tomlkit.items import AoT, Array, Item, String, StringType, Table, Trivia

from buildvm_nb.catalog.toml_lines import KeyPath, key_lines
from buildvm_nb.errors import UsageError
from buildvm_nb.model.case import ArchiveSource, Case, GitSource, LocalSource, Source
from buildvm_nb.model.machine import ImageSpec

__all__ = [
    "LARGEST_FILE",
    "case_schema",
    "dump_case",
    "load_case",
    "new_case",
    "parse_case",
]

# The JSON schema of case files, and what it says about one place in them.

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def case_schema() -> dict[str, Any]:
    """Return the JSON schema of a case file, with the keys as the file spells them.

    Returns
    -------
    dict
        JSON Schema, draft 2020-12; editors complete and check TOML with it.
    """
    return {"$schema": _DIALECT, **Case.model_json_schema(by_alias=True)}


def known_keys(path: KeyPath, data: Mapping[str, Any]) -> list[str]:
    """Return the keys that a table of a case file may have.

    `data`: the whole file as plain data: the kind of a source decides which keys it may have.
    Returns: in the schema's order; empty where any key is allowed or none.
    """
    schema = _cached_schema()
    node: Any = data
    place = _resolve(schema, node)
    for part in path:
        if isinstance(part, int):
            place = place.get("items", {})
        else:
            place = place.get("properties", {}).get(part, {})
        node = _member(node, part)
        place = _resolve(place, node)
    return list(place.get("properties", {}))


@cache
def _cached_schema() -> dict[str, Any]:
    return case_schema()


def _member(node: object, part: str | int) -> object:
    if isinstance(node, Mapping):
        return node.get(part)
    if isinstance(node, Sequence) and isinstance(part, int) and part < len(node):
        return node[part]
    return None


def _resolve(place: dict[str, Any], node: object) -> dict[str, Any]:
    """Follow references, optional values and the kinds of a source to a plain schema."""
    while True:
        if "$ref" in place:
            name = str(place["$ref"]).rsplit("/", 1)[-1]
            place = _cached_schema()["$defs"][name]
        elif "discriminator" in place:
            kind = node.get("kind") if isinstance(node, Mapping) else None
            reference = place["discriminator"]["mapping"].get(kind)
            place = {"$ref": reference} if reference else {}
        elif "anyOf" in place:
            place = next((part for part in place["anyOf"] if part.get("type") != "null"), {})
        else:
            return place


# Case files out: a case as TOML that reads back as the same case, and a template to start from.

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


# What is wrong with a case file, in the words of the file: line, key, value, what was allowed.

_SHOWN = 120


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """One thing that is wrong with a case file."""

    line: int
    """From 1."""
    text: str
    """``KEY: what (got the value)``."""
    about_keys: bool
    """Whether a key is unknown or missing, so that the list of keys would help."""


def complaints(
    error: ValidationError, data: Mapping[str, Any], lines: Mapping[KeyPath, int]
) -> list[Complaint]:
    """Turn pydantic's findings into complaints about a file.

    Returns: in the order of the file.
    """
    details = list(_worth_telling(error.errors(include_url=False)))
    return sorted(
        (_complaint(detail, data, lines) for detail in details),
        key=lambda complaint: complaint.line,
    )


def _worth_telling(details: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out that an array is too short because its elements were refused."""
    places = [detail["loc"] for detail in details]
    for detail in details:
        own = detail["loc"]
        inner = (place for place in places if place != own and place[: len(own)] == own)
        if detail["type"] != "too_short" or not any(inner):
            yield detail


def _complaint(
    detail: ErrorDetails, data: Mapping[str, Any], lines: Mapping[KeyPath, int]
) -> Complaint:
    path = _path(detail, data)
    kind = detail["type"]
    if kind == "extra_forbidden":
        what = _unknown("key", str(path[-1]), known_keys(path[:-1], data))
    elif kind == "union_tag_invalid":
        path = (*path, "kind")
        allowed = re.findall(r"'([^']+)'", detail["ctx"]["expected_tags"])
        what = _unknown("kind", str(detail["ctx"]["tag"]), allowed)
    elif kind in {"missing", "union_tag_not_found"}:
        path = path if kind == "missing" else (*path, "kind")
        what = "required, but missing"
    elif kind == "tuple_type" and isinstance(detail["input"], Mapping):
        what = f"one of several: write [[{path[-1]}]] instead of [{path[-1]}]"
    else:
        what = _in_pydantics_words(detail)
    about_keys = kind in {"extra_forbidden", "missing", "union_tag_not_found"}
    where = _written(path)
    return Complaint(
        line=_line(path, lines), text=f"{where}: {what}" if where else what, about_keys=about_keys
    )


def _path(detail: ErrorDetails, data: Mapping[str, Any]) -> KeyPath:
    """Return the place in the file: pydantic's place without the kinds of sources in it."""
    path: KeyPath = ()
    node: Any = data
    tag_seen = False
    for part in detail["loc"]:
        if part == "[key]":
            continue
        if not tag_seen and path and isinstance(node, Mapping) and node.get("kind") == part:
            tag_seen = path[-1] == "source"
            if tag_seen:
                continue
        path += (part,)
        tag_seen = False
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list | tuple) and isinstance(part, int):
            node = node[part]
    if not path and detail["msg"].startswith("Value error, steps "):
        return ("step",)  # the only rule for the case as a whole is about its steps
    return path


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"unknown {what} {name!r}; did you mean {near[0]!r}?"
    return f"unknown {what} {name!r}; allowed: {', '.join(known) or 'none'}"


def _in_pydantics_words(detail: ErrorDetails) -> str:
    what = detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    shown = value.isoformat() if isinstance(value, date | time) else repr(value)
    if shown in what or not detail["loc"] or isinstance(value, Mapping):
        return what
    return f"{what} (got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'})"


def _written(path: KeyPath) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else repr(part)
            text += f".{key}" if text else key
    return text


def _line(path: KeyPath, lines: Mapping[KeyPath, int]) -> int:
    while path not in lines:
        path = path[:-1]
    return lines[path]


LARGEST_FILE = 2**20
"""Bytes that a case file may have; real ones have one or two thousand."""

_TOLD = 100


def load_case(path: Path) -> Case:
    """Read a case file.

    A `LocalSource.path` in it is relative to the file's own directory and comes back absolute; so
    do the URLs of git and archive sources that begin with ``./`` or ``../``.

    Parameters
    ----------
    path : Path
        A TOML file in UTF-8.

    Returns
    -------
    Case
        The case.

    Raises
    ------
    UsageError
        If the file cannot be read, is no TOML, or is no valid case; the message has one line for
        each trouble: ``FILE:LINE: KEY: what (got the value)``.
    """
    case = parse_case(_read(path), str(path))
    base = path.absolute().parent
    source = None if case.source is None else _resolved(case.source, base)
    inputs = tuple(
        entry.model_copy(update={"source": _resolved(entry.source, base)}) for entry in case.inputs
    )
    return case.model_copy(update={"source": source, "inputs": inputs})


def parse_case(text: str, name: str = "case") -> Case:
    """Turn the text of a case file into a case.

    Parameters
    ----------
    text : str
        TOML.
    name : str
        What error messages call the file.

    Returns
    -------
    Case
        The case; local paths are as they were written.

    Raises
    ------
    UsageError
        If the text is no TOML or no valid case.
    """
    try:
        data = tomllib.loads(text)
        lines = key_lines(text.replace("\r\n", "\n"))
        plain = _tuples(data)
    except RecursionError as error:
        raise UsageError(f"{name}: arrays or tables are nested too deeply") from error
    except ValueError as error:
        _refuse_syntax(error, text, name)
    try:
        return Case.model_validate(plain, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        found = complaints(error, data, lines)
        hint = ""
        if any(complaint.about_keys for complaint in found):
            hint = "`buildvm case schema` prints every key with its meaning"
        told = [f"{name}:{complaint.line}: {complaint.text}" for complaint in found[:_TOLD]]
        if len(found) > _TOLD:
            told.append(f"{name}: and {len(found) - _TOLD} more")
        raise UsageError("\n".join(told), hint=hint) from error


def _read(path: Path) -> str:
    if path.is_dir():
        raise UsageError(f"not a case file but a directory: {path}", hint="name a TOML file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"not a regular file: {path}")
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise UsageError(
            f"no such case file: {path}", hint="`buildvm case new` writes a template"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read the case file: {path}: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise UsageError(f"too large for a case file: {path}; allowed: up to {LARGEST_FILE} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UsageError(
            f"{path}:{line}: not UTF-8: byte 0x{byte:02x}", hint="save the file as UTF-8"
        ) from error


def _refuse_syntax(error: ValueError, text: str, name: str) -> NoReturn:
    """Say where the TOML is broken; tomllib tells it in its message only."""
    what, separator, where = str(error).rpartition(" (at ")
    if not separator:
        reason = str(error).partition(";")[0]  # Python's limit on the digits of a number
        raise UsageError(f"{name}: not valid TOML: {reason}") from error
    line, column = text.count("\n") + 1, len(text.rpartition("\n")[2]) + 1
    words = where.rstrip(")").replace(",", "").split()
    if words[0] == "line":
        line, column = int(words[1]), int(words[3])
    raise UsageError(f"{name}:{line}:{column}: not valid TOML: {what}") from error


def _tuples(value: object) -> Any:  # noqa: ANN401 - any plain TOML value
    """Turn arrays into tuples: strict validation takes no list for a tuple."""
    if isinstance(value, dict):
        return {key: _tuples(member) for key, member in value.items()}
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return value


def _resolved(source: Source, base: Path) -> Source:
    if isinstance(source, LocalSource):
        return source.model_copy(update={"path": str((base / source.path).resolve())})
    if isinstance(source, GitSource | ArchiveSource) and source.url.startswith(("./", "../")):
        return source.model_copy(update={"url": str((base / source.url).resolve())})
    return source
