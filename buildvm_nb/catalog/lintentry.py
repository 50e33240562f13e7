"""The rules for one entry of the curated catalog: its case file and its proof."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buildvm_nb.catalog.casefile import load_case
from buildvm_nb.catalog.claimrules import claim_troubles
from buildvm_nb.catalog.curated import proof_path
from buildvm_nb.catalog.positions import KeyPath, key_lines
from buildvm_nb.catalog.proofs import Proof, load_proof
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.agreement import Agreement, claim_agrees
from buildvm_nb.model.case import Case, LocalSource, PyPISource, WheelsSource
from buildvm_nb.model.entry import Claim, Entry, Provenance, is_page
from buildvm_nb.model.finding import Finding

__all__ = ["ID_SCHEME", "LintTrouble", "is_id", "lint_entry"]

ID_SCHEME = (
    "PACKAGE-VERSION[-WHAT]: lower-case letters, digits, '.' and '+', in words joined by '-'"
)
_ID = re.compile(r"[a-z0-9][a-z0-9.+]*(-[a-z0-9.+]+)+")
_TOML_ERROR = re.compile(r"(\d+)(?::\d+)?: (?:([\w.\[\]-]+): )?(.*)")


@dataclass(frozen=True, kw_only=True)
class LintTrouble:
    """One thing that is wrong with a file of the curated catalog."""

    file: str
    line: int | None = None
    """From 1; None: it is about the file as a whole."""
    key: str = ""
    """Of the file, or the column of a table."""
    text: str
    """What is wrong, the value seen, what is allowed."""

    def __str__(self) -> str:
        parts = [self.file if self.line is None else f"{self.file}:{self.line}", self.key]
        return ": ".join([*filter(None, parts), self.text])


def is_id(text: str) -> bool:
    """Tell whether a text fits the scheme of ids.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    bool
        For both tiers alike.
    """
    return _ID.fullmatch(text) is not None


def lint_entry(path: Path) -> list[LintTrouble]:
    """Check one entry.

    Parameters
    ----------
    path : Path
        ``…/cases/ID.toml``; its proof is sought beside it.

    Returns
    -------
    list of LintTrouble
        Where the file is no valid case, only that.
    """
    try:
        case = load_case(path)
    except UsageError as error:
        return list(_unreadable(path, error))
    lines = key_lines(path.read_text(encoding="utf-8-sig"))
    troubles = _Entry(path, case, lines).troubles()
    return sorted(troubles, key=lambda one: (one.file, one.line or 0))


def _unreadable(path: Path, error: UsageError) -> Iterator[LintTrouble]:
    for line in error.message.splitlines():
        told = line.removeprefix(f"{path}:")
        match = _TOML_ERROR.fullmatch(told) if told != line else None
        if match:
            key = match[2] or ""
            yield LintTrouble(file=str(path), line=int(match[1]), key=key, text=match[3])
        else:
            yield LintTrouble(file=str(path), text=line)


class _Entry:
    """A case file under the rules."""

    def __init__(self, path: Path, case: Case, lines: dict[KeyPath, int]) -> None:
        self._path = path
        self._case = case
        self._lines = lines

    def troubles(self) -> Iterator[LintTrouble]:
        yield from self._id()
        yield from self._sources()
        if not self._case.title.strip():
            yield self._at("title", "missing: what it is about, in one line")
        if self._case.about is None:
            text = "missing: its source does not tell; allowed: ecosystem, name, version"
            yield self._at("subject", text)
        claim, entry = self._case.claim, self._case.entry
        if claim is None:
            yield self._at("claim", "missing: what must a diagnosis find?")
        else:
            for key, text in claim_troubles(claim):
                yield self._at(f"claim.{key}", text)
        if entry is None:
            yield self._at(
                "entry", "missing; allowed: [entry] with status, description, workaround"
            )
        else:
            yield from self._texts(entry, claim)
            yield from self._proof(entry, claim)

    def _id(self) -> Iterator[LintTrouble]:
        case_id, stem = self._case.id, self._path.stem
        if case_id != stem:
            yield self._at("id", f"{case_id!r} is not the file's name; allowed: {stem!r}")
        if not is_id(case_id):
            yield self._at("id", f"{case_id!r} does not fit; allowed: {ID_SCHEME}")
        source = self._case.source
        if isinstance(source, PyPISource):
            name, version = (_slug(text) for text in (source.name, source.version))
            expected = f"{name}-{version}"
            if not re.match(rf"{re.escape(expected)}(-|$)", case_id):
                yield self._at("id", f"{case_id!r}; allowed: {expected}, or {expected}-WHAT")

    def _sources(self) -> Iterator[LintTrouble]:
        case = self._case
        places = [(f"input[{at}].source", one.source) for at, one in enumerate(case.inputs)]
        for key, source in [("source", case.source), *places]:
            if isinstance(source, LocalSource):
                yield self._at(key, f"of this host: {source.path}; allowed: what anyone can fetch")
            if isinstance(source, WheelsSource):
                for text in source.requirements:
                    if "==" not in text:
                        yield self._at(key, f"not pinned: {text!r}; allowed: NAME==VERSION")

    def _texts(self, entry: Entry, claim: Claim | None) -> Iterator[LintTrouble]:
        provenance = self._case.provenance or Provenance()
        if provenance.url and not is_page(provenance.url):
            yield self._at("provenance.url", f"not a public page: {provenance.url!r}")
        if entry.status == "verified":
            if not provenance.url:
                yield self._at("provenance.url", "missing: a verified entry says where it is from")
            if not entry.description.strip():
                yield self._at("entry.description", "missing: a verified entry explains itself")
            if not entry.workaround.strip() and (claim is None or claim.kind != "sound"):
                yield self._at("entry.workaround", "missing: how can it be built all the same?")
        is_withdrawn = entry.status == "withdrawn"
        if is_withdrawn and not entry.withdrawn_because.strip():
            yield self._at("entry.withdrawn_because", "missing: why is it not believed any more?")
        if not is_withdrawn and entry.withdrawn_because:
            yield self._at("entry.withdrawn_because", f"given, but the status is {entry.status!r}")

    def _proof(self, entry: Entry, claim: Claim | None) -> Iterator[LintTrouble]:
        place = proof_path(self._path)
        if entry.status == "proposed" and place.exists():
            yield self._at(
                "entry.status", f"'proposed', but there is a proof: {place}; allowed: 'verified'"
            )
        if entry.status != "verified":
            return
        remedy = f"`buildvm catalog verify {self._case.id} --write` makes it"
        if not place.exists():
            yield self._at("entry.status", f"'verified', but there is no proof: {place}; {remedy}")
            return
        try:
            proof = load_proof(place)
        except CatalogError as error:
            yield LintTrouble(file=str(place), text=error.message)
            return
        yield from self._evidence(place, proof)
        yield from self._compare(place, proof.findings, claim)

    def _evidence(self, place: Path, proof: Proof) -> Iterator[LintTrouble]:
        """Tell what is missing in a proof; one of the first version has none, see `lint_notes`."""
        missing = proof.missing if proof.outcomes else ()
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            text = f"evidence that is not in it: {missing[0]}{more}"
            yield LintTrouble(file=str(place), key="outcomes", text=text)
        for at, finding in enumerate(proof.findings):
            if proof.outcomes and not finding.runs:
                text = "no run was made for it; allowed: what `--write` runs anew"
                yield LintTrouble(file=str(place), key=f"findings[{at}].runs", text=text)
            if finding.supersedes:
                text = f"{finding.supersedes}, which is in nobody's catalog; allowed: null"
                yield LintTrouble(file=str(place), key=f"findings[{at}].supersedes", text=text)

    def _compare(
        self, place: Path, findings: tuple[Finding, ...], claim: Claim | None
    ) -> Iterator[LintTrouble]:
        expected = (self._case.id, self._case.build_digest())
        for at, finding in enumerate(findings):
            seen = (finding.case.id, finding.case.build_digest())
            if seen != expected:
                text = f"on another build: {' '.join(seen)}; allowed: {' '.join(expected)}"
                yield LintTrouble(file=str(place), key=f"[{at}].case", text=text)
        if claim is None:
            return
        checks = [claim_agrees(claim, finding) for finding in findings]
        if not any(check.agreement is Agreement.AGREES for check in checks):
            why = "; ".join(dict.fromkeys(text for check in checks for text in check.why))
            text = f"does not bear out the claim ({checks[0].claimed}): {why}"
            yield LintTrouble(file=str(place), text=text)

    def _at(self, key: str, text: str) -> LintTrouble:
        parts = re.findall(r"[^.\[\]]+", key)
        path: KeyPath = tuple(int(part) if part.isdigit() else part for part in parts)
        while path not in self._lines:
            path = path[:-1]
        return LintTrouble(file=str(self._path), line=self._lines[path], key=key, text=text)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", text.lower())
