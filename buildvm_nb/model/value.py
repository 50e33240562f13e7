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
    """Write pydantic's findings as lines of ``subject.field: what (value seen)``.

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
        what = detail["msg"].removeprefix("Value error, ")
        shown = repr(detail["input"])
        named = re.search(rf"(?<!\w){re.escape(shown)}(?!\w)", what)
        seen = "" if named or detail["type"] == "missing" else f" (got {shown:.120})"
        lines.append(f"{where}: {what}{seen}")
    return "\n".join(lines)


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
