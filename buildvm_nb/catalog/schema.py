"""The catalog's columns, defined once: SQL tables, frames, CSV and the data dictionary follow.

To add a column: append it to its table with ``since`` set to the new version and, if it is never
missing, `Column.default`; raise `SCHEMA_VERSION` by one, and add the step that brings an older
database there to `buildvm_nb.catalog.upgrades.UPGRADES`.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = [
    "FAILURES",
    "FINDINGS",
    "HINTS",
    "OUTCOMES",
    "SCHEMA_VERSION",
    "SUBJECT",
    "TABLES",
    "Column",
    "Kind",
    "TableSchema",
    "data_dictionary",
]

# What describes a table of the catalog: its columns, what they hold, how people are told of it.


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    JSON = "json"
    """JSON in canonical form, kept as text."""
    INTEGER = "integer"
    REAL = "real"
    BOOLEAN = "boolean"
    INSTANT = "instant"
    """Aware UTC instant, to the microsecond, from year 1 to 9999."""

    @property
    def dtype(self) -> str:
        """The pandas dtype, by name; every one of them has a missing value."""
        return _DTYPES[self]


_DTYPES = {
    Kind.TEXT: "string[pyarrow]",
    Kind.JSON: "string[pyarrow]",
    Kind.INTEGER: "Int64",
    Kind.REAL: "Float64",
    Kind.BOOLEAN: "boolean",
    Kind.INSTANT: "datetime64[us, UTC]",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: of a SQL table, a frame and a CSV file alike."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    optional: bool = True
    """Whether a value may be missing."""
    indexed: bool = False
    since: int = 1
    """The schema version that brought it."""
    default: bool | int | None = None
    """What rows have that are older than the column."""


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """A table: its columns in their stable order. The first one of a SQL table is the key."""

    name: str
    columns: tuple[Column, ...]
    meaning: str = ""
    """What a row is, in sentences."""
    gone: tuple[str, ...] = ()
    """Columns that files of an older version have, and that are left out when these are read."""

    @property
    def dtypes(self) -> dict[str, str]:
        """The pandas dtype of each column, in order."""
        return {column.name: column.kind.dtype for column in self.columns}

    @property
    def since(self) -> int:
        """The schema version that brought the table."""
        return min(column.since for column in self.columns)

    @property
    def later(self) -> dict[str, bool | int | None]:
        """What rows have in each column that files of an older version may lack."""
        return {column.name: column.default for column in self.columns if column.since > self.since}

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def data_dictionary(self) -> str:
        """Describe the columns for people.

        Returns: a Markdown table with name, dtype, unit, whether it may be missing, meaning and the
        schema version that brought it.
        """
        lines = [
            "| column | dtype | unit | missing | meaning | since |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| `{column.name}` | `{column.kind.dtype}` | {column.unit} | "
            f"{'may be' if column.optional else 'never'} | {column.meaning} | {column.since} |"
            for column in self.columns
        ]
        return "\n".join(lines) + "\n"


SCHEMA_VERSION = 5
"""Version of everything below; a database carries the one that it was written with."""


def _column(name: str, kind: Kind, meaning: str, unit: str = "", *, index: bool = False) -> Column:
    return Column(name=name, kind=kind, meaning=meaning, unit=unit, indexed=index)


def _always(name: str, kind: Kind, meaning: str, unit: str = "", *, index: bool = False) -> Column:
    return Column(name=name, kind=kind, meaning=meaning, unit=unit, optional=False, indexed=index)


def _since(version: int, *columns: Column) -> tuple[Column, ...]:
    return tuple(replace(column, since=version) for column in columns)


OUTCOMES = TableSchema(
    name="outcomes",
    columns=(
        _always("id", Kind.TEXT, "ULID of the outcome; sorts by the time it was made"),
        _always(
            "recorded_at", Kind.INSTANT, "when it was recorded, by the host's clock", index=True
        ),
        _column("study", Kind.TEXT, "study that the run belongs to", index=True),
        _column("tool_version", Kind.TEXT, "version of buildvm-nb that made it"),
        # What was built
        _always("case_id", Kind.TEXT, "id of the case", index=True),
        _always("case_digest", Kind.TEXT, "SHA-256 of all in the case that a build depends on"),
        _column("source_kind", Kind.TEXT, "git, pypi, wheels, debian-source, … or missing: none"),
        _column("source_name", Kind.TEXT, "repository, package or path"),
        _column("source_version", Kind.TEXT, "commit id or package version, as text"),
        _column("source_digest", Kind.TEXT, "SHA-256 of the source as fetched"),
        _column("source_dated_at", Kind.INSTANT, "commit or upload date of the source"),
        _column("inputs", Kind.JSON, "list of the other sources: kind, name, version, digest"),
        # Where: as asked for
        _always("image", Kind.TEXT, "root file system and extra packages, as asked for"),
        _always("date", Kind.INSTANT, "date that was asked for"),
        _always("cpu", Kind.TEXT, "CPU model and feature changes, as asked for"),
        _always("cpu_count", Kind.INTEGER, "virtual CPUs"),
        _always("memory_mib", Kind.INTEGER, "memory of the machine", "MiB"),
        _always("kernel", Kind.TEXT, "kernel, as asked for"),
        _always("accelerator", Kind.TEXT, "auto, kvm, tcg or uml, as asked for"),
        # Where: as found in the machine; missing when none came up
        _column("clock_started_at", Kind.INSTANT, "guest's clock when the deciding step started"),
        _column("clock_ended_at", Kind.INSTANT, "guest's clock when the deciding step ended"),
        _column("cpu_features", Kind.TEXT, "QEMU's names of the CPU's real features, by spaces"),
        _column("kernel_release", Kind.TEXT, "the guest's `uname -r`"),
        _column("accelerator_used", Kind.TEXT, "kvm, tcg or uml, whichever really ran the guest"),
        _column("engine", Kind.TEXT, "name and version of what ran the guest"),
        _column("image_digest", Kind.TEXT, "digest of the root file system"),
        _column("kernel_digest", Kind.TEXT, "digest of the kernel"),
        # What came out
        _always(
            "verdict",
            Kind.TEXT,
            "passed, failed, crashed, timeout, unavailable or error",
            index=True,
        ),
        _column("reason", Kind.TEXT, "why, in a sentence"),
        _column("evidence", Kind.TEXT, "the lines of the log that show it"),
        _column("failing_step", Kind.TEXT, "prepare, build or test; missing when all passed"),
        _column("exit_status", Kind.INTEGER, "exit status of the deciding step"),
        _column("signal", Kind.INTEGER, "signal that the deciding step died of"),
        _column("tests_run", Kind.INTEGER, "tests that the deciding step's runner says it ran"),
        _always("duration_s", Kind.REAL, "from the request to the verdict", "s"),
        _column("prepare_s", Kind.REAL, "duration of the prepare step", "s"),
        _column("build_s", Kind.REAL, "duration of the build step", "s"),
        _column("test_s", Kind.REAL, "duration of the test step", "s"),
        _column("log_digest", Kind.TEXT, "SHA-256 of the log's text; the catalog keeps the log"),
        _column("artifacts", Kind.JSON, "object: path of each artifact to its SHA-256"),
        _always("host", Kind.JSON, "object: facts of the host"),
        # How it was run
        *_since(
            2,
            _column(
                "prepared_at",
                Kind.INSTANT,
                "guest's clock at which prepare and build ran; missing: the test ran in no fork",
            ),
            Column(
                name="clock_held",
                kind=Kind.BOOLEAN,
                meaning="whether the guest's clock was held at the date while the test ran",
                optional=False,
                default=False,
            ),
            _column(
                "drift_s",
                Kind.REAL,
                "how far a held clock strayed from the beginning of its second, at most",
                "s",
            ),
            Column(
                name="attempt",
                kind=Kind.INTEGER,
                meaning="which repetition of the same run in the same environment it is, from 0",
                optional=False,
                default=0,
            ),
        ),
        # Why there
        *_since(
            3,
            _column(
                "chosen_by",
                Kind.TEXT,
                "ids of the findings that chose the machine, by spaces; missing: none did",
            ),
        ),
        # What the CPU said in the guest that it is; missing when an older version did not ask
        *_since(
            4,
            _column("cpu_vendor", Kind.TEXT, "vendor that the guest's CPU names: GenuineIntel, …"),
            _column("cpu_family", Kind.INTEGER, "family of the guest's CPU"),
            _column("cpu_model", Kind.INTEGER, "number of its model within the family"),
            _column("cpu_stepping", Kind.INTEGER, "its stepping"),
            _column("cpu_name", Kind.TEXT, "model name of the guest's CPU, as it says itself"),
        ),
    ),
    meaning="One row for each run of a case. The deciding step is the failing one, else the last.",
)

FINDINGS = TableSchema(
    name="findings",
    columns=_since(
        2,
        _always("id", Kind.TEXT, "ULID of the finding; sorts by the time it was made"),
        _always(
            "recorded_at", Kind.INSTANT, "when it was concluded, by the host's clock", index=True
        ),
        _column("study", Kind.TEXT, "study that concluded it", index=True),
        _column("tool_version", Kind.TEXT, "version of buildvm-nb that made it"),
        # What was studied
        _always("case_id", Kind.TEXT, "id of the case", index=True),
        _always("case_digest", Kind.TEXT, "SHA-256 of all in the case that a build depends on"),
        _column("source_kind", Kind.TEXT, "git, pypi, wheels, debian-source, … or missing: none"),
        _column("source_name", Kind.TEXT, "repository, package or path, as the case names it"),
        _column("source_version", Kind.TEXT, "commit or version, as the case names it"),
        # What was concluded
        _always("kind", Kind.TEXT, "time-trap, cpu-dependent, …, flaky, sound or undetermined"),
        _column("axis", Kind.TEXT, "date, cpu, kernel, cores, commit or missing: none explains it"),
        _always("summary", Kind.TEXT, "the conclusion in one sentence"),
        # The deciding boundary
        _column("last_before", Kind.TEXT, "last point of the axis that has `verdict_before`"),
        _column("first_after", Kind.TEXT, "first point of the axis that has `verdict_after`"),
        _column("verdict_before", Kind.TEXT, "verdict up to `last_before`"),
        _column("verdict_after", Kind.TEXT, "verdict from `first_after` on"),
        _column("is_exact", Kind.BOOLEAN, "whether nothing lies between both points"),
        _column(
            "confirmed", Kind.INTEGER, "repeated runs on both sides that agreed; none disagreed"
        ),
        _column("cause_kind", Kind.TEXT, "what changes at exactly this boundary: kind of the hint"),
        _column("cause_path", Kind.TEXT, "where it was found, in the source"),
        _column("cause_why", Kind.TEXT, "what it is, in a sentence"),
        _always("boundaries", Kind.JSON, "list of all boundaries, in the order of their axis"),
        # Along each axis
        _column(
            "passes_from", Kind.INSTANT, "first second of the window that holds the case's own date"
        ),
        _column("passes_until", Kind.INSTANT, "last second of that window"),
        _always("windows", Kind.JSON, "list of all windows: passes_from, passes_until"),
        _column("studied_from", Kind.INSTANT, "first date of the range that was studied"),
        _column("studied_until", Kind.INSTANT, "last date of the range that was studied"),
        _column("passing_cpus", Kind.TEXT, "CPU models on which it passes, by spaces"),
        _column("failing_cpus", Kind.TEXT, "CPU models on which it does not, by spaces"),
        _column(
            "features",
            Kind.TEXT,
            "smallest set of CPU features whose removal flips the verdict, by spaces",
        ),
        _column("features_base", Kind.TEXT, "CPU model that they were removed from"),
        _column(
            "features_needed",
            Kind.TEXT,
            "smallest set of CPU features that makes a failing model pass, by spaces",
        ),
        _always("passing_kernels", Kind.JSON, "list of the kernels on which it passes"),
        _always("failing_kernels", Kind.JSON, "list of the kernels on which it does not"),
        _always("varying_files", Kind.JSON, "list of the artifacts that differ along the axis"),
        _column("difference", Kind.TEXT, "first difference of such an artifact"),
        _always("reruns", Kind.JSON, "list of repetitions that disagreed: machine, verdicts"),
        # The least unusual machine in which it was seen to pass; missing when there is none
        _column("env_date", Kind.INSTANT, "date of the least unusual machine that passes"),
        _column("env_cpu", Kind.TEXT, "CPU model and feature changes of that machine"),
        _column("env_cpu_count", Kind.INTEGER, "its virtual CPUs"),
        _column("env_memory_mib", Kind.INTEGER, "its memory", "MiB"),
        _column("env_kernel", Kind.TEXT, "its kernel"),
        _column("env_accelerator", Kind.TEXT, "its accelerator: auto, kvm, tcg or uml"),
        _column("env_image", Kind.TEXT, "its root file system and extra packages"),
        # Why to believe it
        _column("failing_line", Kind.TEXT, "line of the log that shows the failure"),
        _always(
            "confidence",
            Kind.REAL,
            "the number n of confirming runs, as 1 - 0.5**n: not the chance that the finding holds",
        ),
        _always("assumptions", Kind.JSON, "list of what was taken for granted"),
        _always("evidence", Kind.JSON, "list of the outcomes that prove it, by id"),
        _always("runs", Kind.INTEGER, "runs that were made for it"),
        _column("supersedes", Kind.TEXT, "id of the earlier finding that it replaces", index=True),
    )
    # When it springs
    + _since(
        5,
        _column(
            "springs_at",
            Kind.INSTANT,
            "end of the window that holds the case's own date: first instant that is known to "
            "fail after `last_before`; missing: it ends nowhere in the range that was studied",
        ),
        _column(
            "may_spring_from",
            Kind.INSTANT,
            "a second after the last instant that is known to pass before its first spring",
            index=True,
        ),
        _column("recurs", Kind.TEXT, "recurring rule (RFC 5545) of the dates at which it fails"),
        _column(
            "covers",
            Kind.TEXT,
            "axes that a sound or always failing case was tried along, by spaces",
        ),
    ),
    meaning=(
        "One row for each conclusion on a case. The deciding boundary is that between the window "
        "that holds the case's own date and what follows, else its beginning; on other axes than "
        "the date the last one after which a passing case does not pass, else the first. The own "
        "date is that of the least unusual machine that passes."
    ),
)

_BOUNDARY = (
    "last_before",
    "first_after",
    "verdict_before",
    "verdict_after",
    "is_exact",
    "confirmed",
)

SUBJECT = _since(
    5,
    _column("ecosystem", Kind.TEXT, "where the package is from: pypi, deb, npm, github, …"),
    _column("package", Kind.TEXT, "its name there"),
    _column("version", Kind.TEXT, "its version there, as text"),
    _column("purl", Kind.TEXT, "its package URL"),
)
"""What a failure is about."""


def _may_be_missing(name: str) -> Column:
    """Return the column of a list that nobody wants to read where it is empty."""
    column = FINDINGS[name]
    return replace(column, optional=True, meaning=f"{column.meaning}; missing: none")


FAILURES = TableSchema(
    name="failures",
    columns=(
        *SUBJECT,
        FINDINGS["kind"],
        FINDINGS["axis"],
        FINDINGS["summary"],
        FINDINGS["springs_at"],
        *_since(
            5,
            _column(
                "next_springs_at",
                Kind.INSTANT,
                "first instant from now on at which it begins to fail; in a file from when it was "
                "made on, in the curated catalog's from its newest `recorded_at` on",
            ),
            _column("next_passes_at", Kind.INSTANT, "likewise, at which it begins to pass again"),
        ),
        FINDINGS["failing_cpus"],
        _may_be_missing("failing_kernels"),
        FINDINGS["cause_why"],
        *_since(
            2,
            _column("title", Kind.TEXT, "what the case is about, in a sentence"),
            _column("provenance_url", Kind.TEXT, "where the failure was reported"),
        ),
        FINDINGS["recurs"],
        # When
        FINDINGS["passes_from"],
        FINDINGS["passes_until"],
        FINDINGS["studied_from"],
        FINDINGS["studied_until"],
        *(FINDINGS[name] for name in _BOUNDARY),
        # On which machines
        FINDINGS["passing_cpus"],
        FINDINGS["features"],
        FINDINGS["features_base"],
        FINDINGS["features_needed"],
        *_since(
            2,
            _column(
                "features_harmful",
                Kind.TEXT,
                "smallest set of CPU features whose addition to `features_base` makes it fail, by "
                "spaces",
            ),
        ),
        _may_be_missing("passing_kernels"),
        _may_be_missing("varying_files"),
        FINDINGS["difference"],
        *(column for column in FINDINGS.columns if column.name.startswith("env_")),
        # Why
        FINDINGS["cause_kind"],
        FINDINGS["cause_path"],
        FINDINGS["failing_line"],
        # Why to believe it
        FINDINGS["confidence"],
        FINDINGS["runs"],
        FINDINGS["evidence"],
        FINDINGS["boundaries"],
        # Of which case and finding
        FINDINGS["case_id"],
        FINDINGS["case_digest"],
        FINDINGS["id"],
        FINDINGS["recorded_at"],
        FINDINGS["tool_version"],
    ),
    gone=("source_kind", "source_name", "source_version"),
    meaning=(
        "One row for each current finding that tells of a failure: of any kind but `sound` and "
        "`undetermined`. The deciding boundary is that of the table findings; what changes along "
        "the axis besides is in `boundaries`. Not a SQL table: derived from findings and cases."
    ),
)

HINTS = TableSchema(
    name="hints",
    columns=_since(
        2,
        _always("finding_id", Kind.TEXT, "id of the finding that names it as the cause"),
        FINDINGS["recorded_at"],
        FINDINGS["case_id"],
        FINDINGS["source_kind"],
        FINDINGS["source_name"],
        FINDINGS["source_version"],
        _always("kind", Kind.TEXT, "certificate-ends, date-constant, output-date, …"),
        _column("path", Kind.TEXT, "where it was found, in the source; missing: it is general"),
        _column("line", Kind.INTEGER, "line there, from 1, where that is text"),
        _column("instant", Kind.INSTANT, "instant that is written there"),
        _column("condition", Kind.TEXT, "CPU feature or function that it is about"),
        _always("why", Kind.TEXT, "what it is, in a sentence"),
        _always("axis", Kind.TEXT, "axis of the boundary that it explains"),
        _always("last_before", Kind.TEXT, "last point of the axis before that boundary"),
        _always("first_after", Kind.TEXT, "first point of the axis after it"),
    ),
    meaning=(
        "One row for each boundary of a current finding whose cause was found in the source: a "
        "hint that runs have borne out. Not a SQL table: derived from findings."
    ),
)

TABLES = (OUTCOMES, FINDINGS, FAILURES, HINTS)
"""All tables that are frames; the first two are SQL tables as well."""


# The data dictionary: what each column of each table means, for people.

_PREAMBLE = """\
# Data dictionary

<!-- made by `buildvm catalog schema`; change buildvm_nb/catalog/schema.py, then make it anew -->

The tables of a catalog, schema version {version}. Its methods `outcomes()`, `findings()`,
`failures()` and `hints()` return them as pandas frames with just these columns, in this order and
with these dtypes, whatever is in them. "Since" is the schema version that brought a column; in the
tables outcomes and findings, new ones come at the end.

- Instants are UTC, to the microsecond, from year 1 to year 9999.
- Ids are ULIDs: text that sorts by the time at which it was made.
- Text is text: a commit `0012345` or `12e4567` is no number, and `NA` is not missing. SQL text
  cannot hold a NUL character, which is shown as `␀`; JSON Lines of outcomes and findings hold it.
- Columns of JSON hold it as text, with sorted keys and without spaces.

## Files

`buildvm catalog export FILE` writes outcomes, with `--findings` findings and with `--failures`
failures, as CSV, JSON Lines or Parquet. `read_table` and `read_failures` of `buildvm_nb.catalog`
read all of them back as they were written.

**CSV**, such as `failures.csv`: UTF-8, a header line, commas, line feeds, and quotes, doubled
inside, around cells that need them. It is safe to open in a spreadsheet, because no cell begins
with a formula's sign: `=`, `+`, `-`, `@`, their full-width forms, tab, carriage return, line feed.

- A missing value is an empty cell; an empty text is an apostrophe.
- Text that begins with a formula's sign or with an apostrophe has an apostrophe put before it:
  `=1+1` is written `'=1+1`.
- Some spreadsheets part cells at semicolons or tabs. So within a text each semicolon, tab, carriage
  return and line feed has an apostrophe put behind it, if a formula's sign comes next, or quotes,
  apostrophes or spaces and then such a sign: `a;=1+1` is written `a;'=1+1`.
- To undo this, take away the apostrophe at the beginning of a cell, and the one at each such place
  within it.
- Integers are decimal, numbers as exact as they are, truth values `TRUE` and `FALSE`, instants
  ISO 8601 with `Z`: `2020-10-05T23:01:57Z`.
- A spreadsheet may show `0012345` as a number, and would save it so; the file has it as it is.

**JSON Lines**: one object on each line. Failures have the columns below, with JSON as it is.
Outcomes and findings are whole, with more in them than the tables have.

**Parquet**: one file, or with `--partition` a directory with a part for each `year` (that of
`recorded_at`), `kind`, `axis` or `verdict`. Meaning and unit of each column are in its metadata.
"""


def data_dictionary() -> str:
    """Describe all tables and their files for people.

    Returns
    -------
    str
        Markdown: what holds for all, then for each table its name, what a row is, its columns.
    """
    sections = (
        f"## {table.name}\n\n{table.meaning}\n\n{table.data_dictionary()}" for table in TABLES
    )
    return "\n".join((_PREAMBLE.format(version=SCHEMA_VERSION), *sections))
