"""A case made of a source and one command, for those who write no case file."""

import re

from buildvm_nb.model.case import Case, Source
from buildvm_nb.model.machine import ImageSpec

__all__ = ["one_step_case"]

_LONGEST_ID = 100
_SHORT_COMMIT = 12


def one_step_case(source: Source, run: str, image: ImageSpec) -> Case:
    """Make a case of one step.

    Parameters
    ----------
    source : Source
        What to build.
    run : str
        Shell text, run in the source's directory.
    image : ImageSpec
        What to build it in.

    Returns
    -------
    Case
        Its id follows from the source.

    Raises
    ------
    UsageError
        If a value is none.
    """
    step = {"name": "test", "run": run}
    return Case.parse({"id": _case_id(source), "source": source, "image": image, "steps": [step]})


def _case_id(source: Source) -> str:
    """Derive an id that people recognise from a source."""
    plain = source.model_dump(mode="json")
    name = str(plain.get("name") or plain.get("url") or plain.get("path"))
    name = name.rstrip("/").removesuffix(".git").removesuffix("/").rpartition("/")[2]
    version = plain.get("version") or plain.get("commit") or ""
    if re.fullmatch(r"[0-9a-f]{40}", version):
        version = version[:_SHORT_COMMIT]
    if plain.get("before"):
        version = f"before-{plain['before'][:10]}"
    text = "-".join(part for part in (name, version) if part).lower()
    slug = re.sub(r"[^a-z0-9._+-]+", "-", text).strip("-._+")
    return slug[:_LONGEST_ID] or str(plain["kind"])
