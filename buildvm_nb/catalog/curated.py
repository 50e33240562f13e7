"""The curated catalog's files: where they are, which case a user means, the proofs of its claims.

``cases/ID.toml`` is an executable case with its claim, ``proofs/ID.json`` what machines showed,
``reported.csv`` what the literature tells, and the rest follows from these.
"""

import json
import shlex
from collections.abc import Iterable, MutableMapping, Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit
from pydantic import Field, ValidationError
from pydantic_core import from_json

from buildvm_nb.catalog.casefile import load_case
from buildvm_nb.catalog.logs import replacing
from buildvm_nb.catalog.springs import spring_at
from buildvm_nb.errors import CatalogError, SchemaVersionError, UsageError
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import Value, read_plain

if TYPE_CHECKING:
    from buildvm_nb.catalog.store import Catalog

__all__ = [
    "PROJECT_FILE",
    "Proof",
    "Subject",
    "curated_cases",
    "curated_findings",
    "curated_root",
    "dump_proof",
    "find_case",
    "find_case_file",
    "gather_proof",
    "load_proof",
    "mark_verified",
    "proof_path",
    "proposed_cases",
    "read_proof",
    "write_proof",
]


def curated_root() -> Path:
    """Return the directory of the curated catalog.

    Returns
    -------
    Path
        That of the checkout, or of the installed package.

    Raises
    ------
    CatalogError
        If this installation lacks it.
    """
    package = Path(__file__).parents[1]
    for place in (package / "_catalog", package.parent / "catalog"):
        if (place / "cases").is_dir():  # the first in a wheel, the second in a checkout
            return place
    raise CatalogError(
        f"the curated case files are not installed: sought in {package / '_catalog'}",
        hint="install buildvm-nb again",
    )


def curated_cases(root: Path | None = None) -> dict[str, Path]:
    """Return the curated case files.

    Parameters
    ----------
    root : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.

    Returns
    -------
    dict of str to Path
        By the file's name, which is the case's id; sorted.

    Raises
    ------
    CatalogError
        If this installation lacks them.
    """
    place = (root or curated_root()) / "cases"
    return {path.stem: path for path in sorted(place.glob("*.toml"))}


def proof_path(case_file: Path) -> Path:
    """Return where the proof of a curated case is.

    Parameters
    ----------
    case_file : Path
        ``…/cases/ID.toml``.

    Returns
    -------
    Path
        ``…/proofs/ID.json``; it need not exist.

    Raises
    ------
    UsageError
        If the file is in no curated catalog.
    """
    place = case_file.absolute()
    if place.parent.name != "cases":
        raise UsageError(
            f"not in a curated catalog: {case_file}; allowed: a file in a directory named cases",
            hint="a proof goes into the directory proofs beside it",
        )
    return place.parents[1] / "proofs" / f"{place.stem}.json"


PROJECT_FILE = "buildvm.toml"
"""A project's own case file, at the top of its tree."""

Subject = Case | Path | str
"""A case, a case file, a directory with a `PROJECT_FILE`, or the id of a case."""


def find_case(subject: Subject, catalog: "Catalog | str | Path | None" = None) -> tuple[Case, Path]:
    """Return the case that is meant: the one way in which all who take a case find it.

    Parameters
    ----------
    subject : Case, Path or str
        A case, a case file, a directory with a ``buildvm.toml``, the id of a curated case, or of
        one that the catalog has an outcome of: then it is the newest case of that id.
    catalog : Catalog, str or Path, optional
        Which catalog; by default the user's. It is read only where nothing else has that id.

    Returns
    -------
    Case
        The case.
    Path
        The directory that its relative paths start from.

    Raises
    ------
    UsageError
        If there is none, or its file is invalid.
    CatalogError
        If the catalog cannot be read.
    """
    if isinstance(subject, Case):
        return subject, Path.cwd()
    path = _case_file(str(subject))
    if path is None:
        recorded = _recorded(str(subject), catalog)
        if recorded is None:
            raise _no_case(str(subject))
        return recorded, Path.cwd()
    return load_case(path), path.absolute().parent


def find_case_file(text: str) -> Path:
    """Return the case file that a user means: a path, or the id of a curated case.

    Parameters
    ----------
    text : str
        What the user wrote. What looks like a path is one, and so is a file that exists; for a
        directory it is the ``buildvm.toml`` in it.

    Returns
    -------
    Path
        The file; a path need not exist.

    Raises
    ------
    UsageError
        If it is no path and there is no such curated case; near ids are suggested.
    """
    path = _case_file(text)
    if path is None:
        raise _no_case(text)
    return path


def _case_file(text: str) -> Path | None:
    path = Path(text)
    if path.is_dir():
        if not (path / PROJECT_FILE).exists():
            raise UsageError(
                f"no {PROJECT_FILE} in {text}, and no command: what runs the tests?",
                hint="`buildvm case new` writes a case file; or give the command: "
                f"buildvm forecast {shlex.quote(text)} -- python3 -m unittest",
            )
        return path / PROJECT_FILE
    if "/" in text or path.suffix == ".toml" or path.exists():
        return path
    return curated_cases().get(text)


def _recorded(name: str, catalog: "Catalog | str | Path | None") -> Case | None:
    # SQLAlchemy takes long to import, and most cases are files
    from buildvm_nb.catalog.database import Database, default_place  # noqa: PLC0415
    from buildvm_nb.catalog.query import newest_case  # noqa: PLC0415

    if catalog is not None and not isinstance(catalog, str | Path):
        return catalog.newest_case(name)
    try:
        database = Database(catalog or default_place(), is_reader=True)
    except UsageError:  # nothing was recorded yet: do not make an empty one
        return None
    with closing(database):
        return newest_case(database, name)


def _no_case(text: str) -> UsageError:
    known = curated_cases()
    near = get_close_matches(text, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"curated cases: {', '.join(known)}"
    return UsageError(f"no such case: {text!r} is no file and no curated case's id", hint=hint)


# Proofs: what machines showed on the verified entries of the curated catalog.
#
# A proof is a JSON object: ``proof``, the version of its form; ``findings``; ``outcomes``, which
# are those that the findings name as their evidence, without the case, which is the findings'; and
# ``excerpts``, the ends of the logs of those that decide, by id. One of version 1 is only a list of
# findings.

PROOF_VERSION = 2
_REMEDY = "`buildvm catalog verify {} --write` makes it anew"


class Proof(Value):
    """What machines showed on one entry, and what they were seen to do."""

    findings: tuple[Finding, ...] = Field(min_length=1)
    outcomes: tuple[Outcome, ...] = ()
    """The evidence of the findings; none: it was made by a version that left them out."""
    excerpts: dict[str, str] = Field(default={})
    """Ends of logs, by the id of the outcome."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of the evidence that is not in it."""
        there = {one.id for one in self.outcomes}
        named = dict.fromkeys(key for one in self.findings for key in one.evidence)
        return tuple(key for key in named if key not in there)


def curated_findings(root: Path | None = None) -> tuple[Finding, ...]:
    """Return what was shown on the verified entries of the curated catalog.

    Parameters
    ----------
    root : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.

    Returns
    -------
    tuple of Finding
        In the order of the entries' ids. Proposed and withdrawn entries give none.

    Raises
    ------
    UsageError
        If a case file is invalid.
    CatalogError
        If a proof is missing or invalid, or is on another build than its case.
    """
    found: list[Finding] = []
    for name, path in curated_cases(root).items():
        case = load_case(path)
        if case.entry is None or case.entry.status != "verified":
            continue
        proof = read_proof(proof_path(path))
        digest = case.build_digest()
        for finding in proof:
            if (finding.case.id, finding.case.build_digest()) != (name, digest):
                raise CatalogError(
                    f"the proof of {name} is on another build: {finding.case.id} with digest "
                    f"{finding.case.build_digest()}; the case's is {digest}",
                    hint=_REMEDY.format(name),
                )
        # what the case tells, and no build depends on, may be newer than its proof
        found += [finding.model_copy(update={"case": case}) for finding in proof]
    return tuple(found)


def proposed_cases(root: Path | None = None) -> tuple[Case, ...]:
    """Return the cases of the curated catalog that nobody has proved.

    `root`: a curated catalog; default: the one that comes with buildvm-nb.
    Returns: in the order of their ids.
    """
    cases = map(load_case, curated_cases(root).values())
    return tuple(one for one in cases if one.entry and one.entry.status == "proposed")


def read_proof(path: Path) -> tuple[Finding, ...]:
    """Read the findings of a proof.

    Parameters
    ----------
    path : Path
        ``…/proofs/ID.json``.

    Returns
    -------
    tuple of Finding
        At least one.

    Raises
    ------
    CatalogError
        If it cannot be read, or is no proof.
    """
    return load_proof(path).findings


def load_proof(path: Path) -> Proof:
    """Read a proof.

    Returns: with at least one finding.
    """
    remedy = _REMEDY.format(path.stem)
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise CatalogError(f"no such proof: {path}", hint=remedy) from error
    except OSError as error:
        raise CatalogError(f"cannot read the proof: {path}: {error.strerror}") from error
    try:
        return _proof(from_json(text))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        what = f"{where}: {detail['msg']}" if where else detail["msg"]
        raise CatalogError(f"not a proof: {path}: {what}", hint=remedy) from error
    except SchemaVersionError as error:
        raise SchemaVersionError(f"{path}: {error.message}", hint=error.hint) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CatalogError(f"not a proof: {path}: {error}", hint=remedy) from error


def _proof(plain: Any) -> Proof:  # noqa: ANN401 - any JSON
    if isinstance(plain, list):
        plain = {"proof": 1, "findings": plain}
    if not isinstance(plain, dict) or not isinstance(plain.get("findings"), list):
        message = "no list of findings in it"
        raise TypeError(message)
    if plain.get("proof", 0) > PROOF_VERSION:
        raise SchemaVersionError(
            f"a proof of version {plain['proof']}; this buildvm-nb reads up to {PROOF_VERSION}",
            hint="upgrade buildvm-nb",
        )
    if not plain["findings"]:
        message = "no finding in it"
        raise ValueError(message)
    findings = [read_plain(Finding, one) for one in plain["findings"]]
    case = plain["findings"][0]["case"]
    outcomes = [read_plain(Outcome, {"case": case, **one}) for one in plain.get("outcomes", ())]
    return Proof(findings=findings, outcomes=outcomes, excerpts=plain.get("excerpts", {}))


# Proofs out: findings with their evidence, as text that stays the same for the same proof.

_LINES = 30
_LETTERS = 3000


def gather_proof(catalog: "Catalog", findings: Iterable[Finding]) -> Proof:
    """Gather what proves findings: their outcomes, and the ends of the logs that decide.

    Parameters
    ----------
    catalog : Catalog
        That has the findings' evidence.
    findings : iterable of Finding
        On one case.

    Returns
    -------
    Proof
        It refers to nothing outside: outcomes without their logs' digests and without the mirrors
        that their sources came from, and findings that supersede none.

    Raises
    ------
    UsageError
        If an outcome is not there.
    CatalogError
        If the catalog cannot be read.
    """
    given = [one.model_copy(update={"supersedes": None}) for one in findings]
    keys = dict.fromkeys(key for one in given for key in one.evidence)
    outcomes = [catalog.outcome(key) for key in keys]
    excerpts = {
        one.id: _end_of(catalog.log(one.id)) for one in _deciding(given, outcomes) if one.log_digest
    }
    shipped = map(_without_places, outcomes)
    return Proof(findings=tuple(given), outcomes=tuple(shipped), excerpts=excerpts)


def _without_places(outcome: Outcome) -> Outcome:
    """Leave out what only the host that ran it has; a source is known by its digest."""
    sources = tuple(one.model_copy(update={"origin": ""}) for one in outcome.sources)
    return outcome.model_copy(update={"log_digest": "", "sources": sources})


def _deciding(findings: Iterable[Finding], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Choose the first outcome of each verdict, and those nearest to each boundary of dates."""
    chosen = {one.verdict: one for one in reversed(outcomes)}
    found = {one.id: one for one in chosen.values()}
    edges = [edge for one in findings for edge in one.boundaries if edge.axis is Axis.DATE]
    for edge in edges:
        last, first = spring_at(edge.last_before), spring_at(edge.first_after)
        before = [one for one in outcomes if last and one.verdict is edge.before]
        after = [one for one in outcomes if first and one.verdict is edge.after]
        for side, at in ((before, last), (after, first)):
            if side and at:
                nearest = min(side, key=lambda one: abs(one.machine.date - at))
                found[nearest.id] = nearest
    return [one for one in outcomes if one.id in found]


def _end_of(log: bytes) -> str:
    """Return the last lines of a log, with nothing in them that a terminal would obey."""
    lines = log.decode(errors="replace").splitlines()[-_LINES:]
    shown = "\n".join(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
        for line in (line.replace("\t", "    ") for line in lines)
    )
    return shown[-_LETTERS:]


def dump_proof(proof: Proof) -> str:
    """Write a proof as text.

    Parameters
    ----------
    proof : Proof
        On one case.

    Returns
    -------
    str
        JSON, the same for the same proof whatever the order of its findings; an outcome a line.
    """
    ordered = sorted(proof.findings, key=lambda one: (one.axis or "", one.id))
    findings = [_indented(finding.model_dump(mode="json")) for finding in ordered]
    outcomes = [
        json.dumps(
            one.model_dump(mode="json", exclude={"case"}), sort_keys=True, ensure_ascii=False
        )
        for one in sorted(proof.outcomes, key=lambda one: one.id)
    ]
    parts = {
        "proof": str(PROOF_VERSION),
        "findings": _listed(findings),
        "outcomes": _listed(outcomes),
        "excerpts": _indented(proof.excerpts),
    }
    body = ",\n".join(f'"{name}": {text}' for name, text in parts.items())
    return f"{{\n{body}\n}}\n"


def _listed(items: Sequence[str]) -> str:
    return "\n".join(["[", ",\n".join(items), "]"]) if items else "[]"


def _indented(plain: object) -> str:
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)


def write_proof(path: Path, proof: Proof) -> None:
    """Write a proof; what is there is replaced as a whole.

    Parameters
    ----------
    path : Path
        ``…/proofs/ID.json``; its directory is made.
    proof : Proof
        On one case.

    Raises
    ------
    CatalogError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise CatalogError(f"cannot write {path}: {error.strerror}") from error
    with replacing(path) as stream:
        stream.write(dump_proof(proof))


def mark_verified(case_file: Path) -> None:
    """Say in a case file that its entry is verified; everything else in it stays as it is.

    Parameters
    ----------
    case_file : Path
        A valid one with an ``[entry]``.

    Raises
    ------
    CatalogError
        If it cannot be read or written.
    """
    try:
        text = case_file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read {case_file}: {error}") from error
    document = tomlkit.parse(text)
    entry = document.get("entry")
    if not isinstance(entry, MutableMapping):
        raise CatalogError(f"no [entry] in {case_file}")
    entry["status"] = "verified"
    if (changed := tomlkit.dumps(document)) != text:
        with replacing(case_file) as stream:
            stream.write(changed)
