"""The JSON schema of case files, and what it says about one place in them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from buildvm_nb.catalog.positions import KeyPath
from buildvm_nb.model.case import Case

__all__ = ["case_schema", "known_keys"]

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

    Parameters
    ----------
    path : KeyPath
        Where the table is.
    data : mapping
        The whole file as plain data: the kind of a source decides which keys it may have.

    Returns
    -------
    list of str
        In the schema's order; empty where any key is allowed or none.
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
