"""Advice on where to build something: findings looked up, then an environment chosen."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from buildvm_nb.catalog import find_case_file, load_case
from buildvm_nb.catalog.proofs import curated_findings, proposed_cases
from buildvm_nb.catalog.reported import reported_rows
from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import ArchiveSource, Case, LocalSource, Source, WheelsSource
from buildvm_nb.model.entry import plain_name
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.study.choice import Choice, Unproved
from buildvm_nb.study.choosing import choose_environment
from buildvm_nb.study.packages import Package, package_of, packages_of
from buildvm_nb.study.showing import this_host

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = ["environment"]


def environment(
    subject: Case | Source | str | Path,
    version: str | None = None,
    *,
    catalog: "Catalog | None" = None,
    cache: Cache | None = None,
    base: Path | None = None,
    progress: Progress = SILENT,
) -> Choice:
    """Choose the environment in which something was shown to build.

    Findings of the user's own catalog and the verified ones of the curated catalog are consulted;
    nothing is run. The source is only fetched where its date is needed.

    Parameters
    ----------
    subject : Case, Source, str or Path
        A case or its file, the id of a curated case, a source, or the name of a package.
    version : str, optional
        Of the package that is named.
    catalog : Catalog, optional
        The user's own findings; by default those of the user's catalog.
    cache : Cache, optional
        Keeps the source.
    base : Path, optional
        Directory that relative paths of the case are below; by default that of its file, else
        the current one.
    progress : Progress
        Shows what is fetched.

    Returns
    -------
    Choice
        What to choose, the finding that says so, and an explanation.

    Raises
    ------
    UsageError
        If a version is given of something that is no package's name, or a case file is wrong.
    CatalogError
        If a catalog cannot be read.
    """
    wanted, source, beside = _read(subject, version)
    with ExitStack() as stack:
        if catalog is None:
            from buildvm_nb.catalog import Catalog  # noqa: PLC0415 - imports pandas

            catalog = stack.enter_context(Catalog())
        packages = packages_of(wanted) if isinstance(wanted, Case) else (wanted,)
        digest = wanted.build_digest() if isinstance(wanted, Case) else ""
        own = _own_findings(catalog, packages, digest)
    curated = curated_findings()
    if isinstance(wanted, Package) and not wanted.version:
        wanted = _only_version(wanted, (*own, *curated))
    host = this_host()
    unproved = _unproved(packages)
    choice = choose_environment(wanted, own, curated, host=host)
    choice = choice.model_copy(update={"unproved": unproved})
    is_known = choice.because is not None or bool(choice.conflict)
    needs_date = not is_known or Axis.DATE in choice.axes
    if source is None or not needs_date:
        return choice
    dated_at = _date_of(source, cache or Cache(), base or beside, progress)
    choice = choose_environment(wanted, own, curated, host=host, own_date=dated_at)
    return choice.model_copy(update={"unproved": unproved})


def _read(
    subject: Case | Source | str | Path, version: str | None
) -> tuple[Case | Package, Source | None, Path]:
    """Return what is meant, its source where there is one, and where relative paths start."""
    if version is not None:
        if not isinstance(subject, str):
            raise UsageError(f"a version belongs to a package's name; got {type(subject).__name__}")
        return Package(name=subject, version=version), None, Path()
    if isinstance(subject, str) and "/" not in subject and Path(subject).is_dir():
        return Package(name=subject), None, Path()  # as in a checkout of that package
    if isinstance(subject, str | Path):
        try:
            path = find_case_file(str(subject))
        except UsageError:
            return Package(name=str(subject)), None, Path()
        return (case := load_case(path)), case.source, path.absolute().parent
    if isinstance(subject, Case):
        return subject, subject.source, Path()
    package = package_of(subject)
    if package is None:
        raise UsageError(f"a source without a name of its own: {subject.kind}; give a case")
    return package, subject, Path()


def _own_findings(catalog: "Catalog", packages: Sequence[Package], digest: str) -> list[Finding]:
    """Return the findings that may be on a subject: what decides reads only few whole."""
    found = {one.id: one for one in catalog.finding_documents(case_digest=digest)} if digest else {}
    for name in {plain_name(package.name): package.name for package in packages}.values():
        found |= {one.id: one for one in catalog.finding_documents(package=name)}
    return sorted(found.values(), key=lambda one: (one.recorded_at, one.id))


def _only_version(package: Package, findings: tuple[Finding, ...]) -> Package:
    """Fill in the version where findings are on one alone."""
    others = [other for finding in findings for other in packages_of(finding.case)]
    versions = {other.version for other in others if other.is_same(package)}
    return package.model_copy(update={"version": versions.pop()}) if len(versions) == 1 else package


def _unproved(packages: Sequence[Package]) -> tuple[Unproved, ...]:
    """Return what is proposed or reported on packages, in any version."""
    found = []
    for case in proposed_cases():
        about = next((one for one in packages_of(case) if _is_any(one, packages)), None)
        if about and case.claim:
            url = case.provenance.url if case.provenance else ""
            found.append(
                Unproved(
                    id=case.id,
                    tier="proposed",
                    package=str(about),
                    kind=case.claim.kind,
                    told=case.title,
                    url=url,
                )
            )
    for entry in reported_rows():
        names = (entry.name, entry.words)
        if any(_is_any(Package(name=name, kind=entry.ecosystem), packages) for name in names):
            about_it = f"{entry.words} {entry.version}".strip()
            found.append(
                Unproved(
                    id=entry.id,
                    tier="reported",
                    package=about_it,
                    kind=entry.kind,
                    told=entry.symptom,
                    url=entry.source_url,
                )
            )
    return tuple(found)


def _is_any(package: Package, others: Sequence[Package]) -> bool:
    return any(package.is_same(other) for other in others)


def _date_of(source: Source, cache: Cache, base: Path, progress: Progress) -> datetime | None:
    match source:
        case LocalSource() | ArchiveSource():
            return None  # they have none, so there is no need to copy them
        case WheelsSource():
            return source.as_of
    from buildvm_nb.source import fetch  # noqa: PLC0415 - 0.1 s that most choices do without

    try:
        return fetch(source, cache, base=base, progress=progress).record.dated_at
    except (SourceError, HostError):
        return None  # it is a preference only, and building will tell
