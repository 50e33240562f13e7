"""The base of all frozen values: keyword-only, validated, and JSON without loss."""

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from buildvm_nb.errors import UsageError

__all__ = ["Digest", "RelativePath", "Value"]


class Value(BaseModel):
    """A frozen value: equal by content, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate plain data and say in one line per trouble what is wrong.

        Parameters
        ----------
        data : object
            A mapping with the fields, or whatever else the type accepts.

        Returns
        -------
        Self
            The value.

        Raises
        ------
        UsageError
            If a field is unknown, missing, of the wrong type or out of range.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise UsageError(describe(error, cls.__name__)) from error

    def content_digest(self, *, exclude: set[str] | dict[str, Any] | None = None) -> str:
        """Return the SHA-256 of the canonical JSON of the value.

        Parameters
        ----------
        exclude : set of str or dict, optional
            Fields that do not count, as pydantic takes them.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        plain = self.model_dump(mode="json", exclude=exclude)
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def describe(error: ValidationError, subject: str) -> str:
    """Write pydantic's findings as lines of ``subject.field: what was expected, got what``.

    Parameters
    ----------
    error : ValidationError
        What pydantic raised.
    subject : str
        Name of the thing that was validated.

    Returns
    -------
    str
        One line for each finding.
    """
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
