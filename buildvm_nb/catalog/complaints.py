"""What is wrong with a case file, in the words of the file: line, key, value, what was allowed."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from buildvm_nb.catalog.caseschema import known_keys
from buildvm_nb.catalog.positions import KeyPath

__all__ = ["Complaint", "complaints"]

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

    Parameters
    ----------
    error : ValidationError
        What pydantic raised, with the keys as the file spells them.
    data : mapping
        The file as plain data.
    lines : mapping of KeyPath to int
        Where the keys stand.

    Returns
    -------
    list of Complaint
        In the order of the file.
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
