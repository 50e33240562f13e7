"""The catalog's columns, said once: SQL tables, frames, CSV and the data dictionary follow.

To add a column: append it to its table with ``since`` set to the new version, raise
`SCHEMA_VERSION` by one, and add the step that brings an older database there to
`buildvm_nb.catalog.upgrades.UPGRADES`.
"""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["OUTCOMES", "SCHEMA_VERSION", "Column", "Kind", "TableSchema"]

SCHEMA_VERSION = 1
"""Version of everything below; a database carries the one that it was written with."""


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


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """A table: its columns in their stable order. The first one is the key."""

    name: str
    columns: tuple[Column, ...]

    @property
    def dtypes(self) -> dict[str, str]:
        """The pandas dtype of each column, in order."""
        return {column.name: column.kind.dtype for column in self.columns}

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def data_dictionary(self) -> str:
        """Describe the columns for people.

        Returns
        -------
        str
            A Markdown table with name, dtype, unit, whether it may be missing, meaning and the
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


def _column(name: str, kind: Kind, meaning: str, unit: str = "") -> Column:
    return Column(name=name, kind=kind, meaning=meaning, unit=unit)


def _always(name: str, kind: Kind, meaning: str, unit: str = "", *, index: bool = False) -> Column:
    return Column(name=name, kind=kind, meaning=meaning, unit=unit, optional=False, indexed=index)


OUTCOMES = TableSchema(
    name="outcomes",
    columns=(
        _always("id", Kind.TEXT, "ULID of the outcome; sorts by the time it was made"),
        _always(
            "recorded_at", Kind.INSTANT, "when it was recorded, by the host's clock", index=True
        ),
        Column(name="study", kind=Kind.TEXT, meaning="study that the run belongs to", indexed=True),
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
        _always("accelerator", Kind.TEXT, "auto, kvm or tcg, as asked for"),
        # Where: as found in the machine; missing when none came up
        _column("clock_started_at", Kind.INSTANT, "guest's clock when the deciding step started"),
        _column("clock_ended_at", Kind.INSTANT, "guest's clock when the deciding step ended"),
        _column("cpu_features", Kind.TEXT, "QEMU's names of the CPU's real features, by spaces"),
        _column("kernel_release", Kind.TEXT, "the guest's `uname -r`"),
        _column("accelerator_used", Kind.TEXT, "kvm or tcg, whichever really ran the guest"),
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
    ),
)
"""One row for each run of a case. The deciding step is the failing one, else the last."""
