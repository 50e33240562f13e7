"""The base of all frozen values, their JSON documents, and text of strangers made safe."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import from_json, to_json

from buildvm_nb.errors import SchemaVersionError, UsageError

__all__ = [
    "DOCUMENT_VERSION",
    "Digest",
    "RelativePath",
    "Value",
    "clean",
    "read_document",
    "read_plain",
    "says",
    "steady",
]


class Value(BaseModel):
    """A frozen value: equal by content, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate plain data and say in one line per trouble what is wrong.

        Raises `UsageError` if a field is unknown, missing, of the wrong type or out of range.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise UsageError(describe(error, cls.__name__)) from error

    def content_digest(self, *, exclude: set[str] | dict[str, Any] | None = None) -> str:
        """Return the SHA-256 of the canonical JSON of the value."""
        plain = self.model_dump(mode="json", exclude=exclude)
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def describe(error: ValidationError, subject: str) -> str:
    """Write pydantic's findings as lines of ``subject.field: what was expected, got what``."""
    lines = []
    for detail in error.errors(include_url=False, include_context=False):
        where = ".".join([subject, *(str(part) for part in detail["loc"])])
        what = _in_words(detail["type"], detail["msg"].removeprefix("Value error, "))
        shown = repr(detail["input"])
        named = re.search(rf"(?<!\w){re.escape(shown)}(?!\w)", what)
        seen = f", got {shown:.120}" if what.startswith("expected ") else f" (got {shown:.120})"
        lines.append(f"{where}: {what}{'' if named or detail['type'] == 'missing' else seen}")
    return "\n".join(lines)


_WORDS = (
    (r"a valid integer\b.*", "a whole number"),
    (r"a valid number\b.*", "a number"),
    (r"a valid string", "text"),
    (r"a valid boolean\b.*", "true or false"),
    (r"a valid (tuple|list|set|frozenset)", "a list"),
    (r"a valid (dictionary|mapping)\b.*", "named fields"),
    (r"greater than or equal to (\S+)", r"\1 or more"),
    (r"less than or equal to (\S+)", r"\1 or less"),
    (r"greater than (\S+)", r"more than \1"),
)
"""What pydantic says an input should be, and what an engineer says."""


def _in_words(kind: str, message: str) -> str:
    """Say what pydantic says in the words of all other messages."""
    match kind:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return "no such field"
        case "string_too_short":
            return re.sub(
                r"String should have at least (\d+) char", r"expected at least \1 char", message
            )
        case "string_pattern_mismatch":
            return message.replace("String should match pattern", "expected text that matches")
    said = message.removeprefix("Input should be ")
    if said == message:
        return message
    for pattern, words in _WORDS:
        said, count = re.subn(f"^{pattern}$", words, said)
        if count:
            break
    return f"expected {said}"


def _check_relative(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text or "\n" in text or not text:
        message = "unsafe path: must be relative, without '..' and without line breaks"
        raise ValueError(message)
    return text


RelativePath = Annotated[str, AfterValidator(_check_relative)]
"""A path below the build directory: relative, without ``..``."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in 64 lower-case hexadecimal digits."""


# Outcomes and findings as documents: each says its version, so that others can read it later.
#
# A document is JSON with a field ``document_version``, ``MAJOR.MINOR``; one without it is of
# version 1.0. A minor version only adds fields: a reader of an older one leaves out what it does
# not know. A major version changes what is there: `UPCASTERS` bring a document of an older one to
# the present.

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

    Returns: without the fields that a newer minor version has: whoever hands the document on keeps
    the text itself.
    Raises `SchemaVersionError` if it is of a newer major version, or of one too old for any step.
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

    Raises `SchemaVersionError` if it is of a newer major version, or of one too old for any step.
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


# Text of strangers, such as logs and titles: made safe to show, and compared between runs.

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[P^_X][^\x1b]*(?:\x1b\\)?|.)"
)
"""Control sequences as ECMA-48 has them: CSI, OSC, strings, single ones."""
_UNITS = (
    r"[num]?s|msecs?|secs?|seconds?|milliseconds?|min|minutes?|h|hours?|wallclock secs"
    r"|usr|sys|cusr|csys|CPU"
)
_VARYING = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"\b0x[0-9a-fA-F]+\b", "0x…"),
        (r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "…"),
        # object ids and digests: letters and digits of a hexadecimal number
        (r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{7,}\b", "…"),
        (r"(?<=/tmp/)(?:pytest-of-[^/\s]+/pytest-\d+|[^/\s:,'\"`()]+)", "…"),
        (r"(\b(?:127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\])):\d+", r"\1:…"),
        (r"(?i)\b(pid|process|thread|tid|worker)([ =:#]+)\d+\b", r"\1\2…"),
        (r"(?<=\w)\[\d+\]:|==\d+==|^\[ *\d+\.\d+\]", "…"),
        (r"(thread '[^']*') \(\d+\)", r"\1"),
        (rf"(?i)-?\b\d+(?:[.,]\d+)?\s?(?:{_UNITS})\b", "… s"),
    )
)
"""What no two runs have in common: addresses, ids, temporary paths, process numbers, durations."""


def clean(text: str) -> str:
    r"""Make text of a stranger safe to show: without escape sequences and control characters.

    Returns: its lines; what cannot be printed is shown as an escape such as ``\x07``.
    """
    plain = _ESCAPES.sub("", text.replace("\r\n", "\n")).expandtabs()
    return "".join(
        letter
        if letter == "\n" or letter.isprintable()
        else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in plain
    )


def steady(text: str) -> str:
    """Leave out of a line what differs between any two runs that say the same.

    Returns: with single spaces, and with ellipses for addresses, object ids, temporary paths,
    ports, process numbers and durations. Dates stay: a guest's date is what is studied.
    """
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return " ".join(text.split())


def says(line: str, text: str) -> bool:
    """Tell whether a line of a log says a text.

    `text`: what it is claimed to say; how its words are spaced does not matter, nor do durations,
    addresses and the like.
    """
    wanted = " ".join(text.split())
    if not wanted or wanted in " ".join(line.split()):
        return bool(wanted)
    told = steady(text)
    return told != wanted and told in steady(line)  # to normalise a long log takes its time
