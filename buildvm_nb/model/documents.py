"""Outcomes and findings as documents: each says its version, so that others can read it later.

A document is JSON with a field ``document_version``, ``MAJOR.MINOR``; one without it is of version
1.0. A minor version only adds fields: a reader of an older one leaves out what it does not know. A
major version changes what is there: `UPCASTERS` bring a document of an older one to the present.
"""

import re
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from buildvm_nb.errors import SchemaVersionError
from buildvm_nb.model.value import Value

__all__ = ["DOCUMENT_VERSION", "UPCASTERS", "Upcaster", "read_document", "read_plain"]

DOCUMENT_VERSION = "1.2"
"""Of what this buildvm-nb writes.

1.1 added this field, ``subject`` of cases, and ``recurs``; 1.2 ``support`` and the kind recurring.
"""

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: Mapping[int, Upcaster] = {}
"""The step from each major version to the next, for outcomes and findings alike."""

_ALIASES = {"step": "steps", "input": "inputs"}
"""Keys of case files, by which pydantic calls what documents have by its name."""
_UNTOLD = "1.0"
_FIELD = "document_version"


V = TypeVar("V", bound=Value)


def read_document(
    kind: type[V], text: str | bytes, upcasters: Mapping[int, Upcaster] = UPCASTERS
) -> V:
    """Read a document of this version, an older one, or a newer minor one.

    Parameters
    ----------
    kind : type
        What it is of: `Outcome` or `Finding`.
    text : str or bytes
        JSON.
    upcasters : mapping
        The step from each older major version to the next.

    Returns
    -------
    Outcome or Finding
        Without the fields that a newer minor version has: whoever hands the document on keeps the
        text itself.

    Raises
    ------
    ValidationError
        If it is no such thing.
    SchemaVersionError
        If it is of a newer major version, or of one too old for any step.
    """
    try:
        read = kind.model_validate_json(text)
    except ValidationError:
        data = _plain(text)
        if data is None or _version(data) in {_split(DOCUMENT_VERSION), _split(_UNTOLD), None}:
            raise
    else:
        if _split(read.document_version) == _split(DOCUMENT_VERSION):  # type: ignore[attr-defined]
            return read
        data = _plain(text) or {}
    return _read_other(kind, data, upcasters)


def read_plain(kind: type[V], data: dict[str, Any]) -> V:
    """Read a document that is plain JSON already; see `read_document`.

    Parameters
    ----------
    kind : type
        What it is of: `Outcome` or `Finding`.
    data : dict
        Plain JSON.

    Returns
    -------
    Outcome or Finding
        As of `read_document`.

    Raises
    ------
    ValidationError
        If it is no such thing.
    SchemaVersionError
        If it is of a newer major version, or of one too old for any step.
    """
    return read_document(kind, to_json(data))


def _read_other(kind: type[V], data: dict[str, Any], upcasters: Mapping[int, Upcaster]) -> V:
    version, ours = _version(data) or (0, 0), _split(DOCUMENT_VERSION) or (0, 0)
    noun = kind.__name__.lower()
    if version[0] > ours[0]:
        raise SchemaVersionError(
            f"{noun} {data.get('id')!r} is a document of version {data[_FIELD]}; this buildvm-nb "
            f"reads up to {ours[0]}.x",
            hint="upgrade buildvm-nb",
        )
    for major in range(version[0], ours[0]):
        if major not in upcasters:
            raise SchemaVersionError(
                f"{noun} {data.get('id')!r} is a document of version {version[0]}.{version[1]}, "
                f"which cannot be brought to {DOCUMENT_VERSION}",
                hint="read it with the buildvm-nb that wrote it",
            )
        data = upcasters[major](data)
    data = {**data, _FIELD: DOCUMENT_VERSION}
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        unknown = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
        if version < ours or not unknown:
            raise
    for place in unknown:
        _remove(data, place)
    return kind.model_validate(data)


def _plain(text: str | bytes) -> dict[str, Any] | None:
    try:
        data = from_json(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _version(data: dict[str, Any]) -> tuple[int, int] | None:
    return _split(data.get(_FIELD, _UNTOLD))


def _split(version: object) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", version) if isinstance(version, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _remove(data: object, place: tuple[int | str, ...]) -> None:
    """Remove a field; pydantic names the member of a union, too, which is in no document."""
    *path, field = place
    for part in path:
        if isinstance(part, int):
            data = data[part] if isinstance(data, MutableSequence) else data
        elif isinstance(data, MutableMapping):
            data = data.get(part if part in data else _ALIASES.get(part, part), data)
    if isinstance(data, MutableMapping):
        data.pop(field, None)
