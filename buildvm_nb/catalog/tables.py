"""The SQL tables, made from `schema`; no SQL that only one database knows."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Table,
    Text,
    literal,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from buildvm_nb.catalog import schema
from buildvm_nb.catalog.columns import Kind, TableSchema

__all__ = [
    "METADATA",
    "cases",
    "finding_evidence",
    "findings",
    "logs",
    "meta",
    "outcomes",
    "retractions",
]


class UtcInstant(TypeDecorator[datetime]):
    """An aware UTC instant; databases without time zones keep it in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Hand an instant to the database.

        Parameters
        ----------
        value : datetime or None
            Aware.
        dialect : Dialect
            Which database it is.

        Returns
        -------
        datetime or None
            In UTC; without a zone for SQLite, which has none.
        """
        if value is None:
            return None
        utc = value if value.tzinfo is UTC else value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy hands it over
    ) -> datetime | None:
        """Take an instant from the database.

        Parameters
        ----------
        value : datetime or None
            As the driver gives it.
        dialect : Dialect
            Which database it is.

        Returns
        -------
        datetime or None
            Aware, in UTC.
        """
        return value and value.astimezone(UTC)

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], datetime | None] | None:
        """Return what takes instants from the database.

        Parameters
        ----------
        dialect : Dialect
            Which database it is.
        coltype : object
            As the driver says it.

        Returns
        -------
        callable or None
            For SQLite, which has text, half of what SQLAlchemy's own two steps take.
        """
        if dialect.name == "sqlite":
            return _from_text
        return super().result_processor(dialect, coltype)


def _from_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(f"{value}+00:00")


_SQL_TYPES: dict[Kind, TypeEngine[Any]] = {
    Kind.TEXT: Text(),
    Kind.JSON: Text(),
    Kind.INTEGER: BigInteger(),
    Kind.REAL: Double(),
    Kind.BOOLEAN: Boolean(),
    Kind.INSTANT: UtcInstant(),
}


def _columns(table: TableSchema) -> list[Column[Any]]:
    return [
        Column(
            column.name,
            _SQL_TYPES[column.kind],
            primary_key=column is table.columns[0],
            nullable=column.optional,
            server_default=None if column.default is None else literal(column.default),
            comment=column.meaning,
        )
        for column in table.columns
    ]


def _indexes(table: TableSchema) -> list[Index]:
    return [
        Index(f"ix_{table.name}_{column.name}", column.name)
        for column in table.columns
        if column.indexed
    ]


METADATA = MetaData()

meta = Table(
    "catalog_meta",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Facts about the database itself: ``schema_version``."""

cases = Table(
    "cases",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("document", Text, nullable=False),
    *(Column(column.name, Text, comment=column.meaning) for column in schema.SUBJECT),
    Column("package_key", Text, comment="name of the package by which it is looked up"),
    Column("source_name", Text, comment="repository, package or path, as the case names it"),
    Column("title", Text, comment="what the case is about, in a sentence"),
    Column("provenance_url", Text, comment="where it was reported"),
    Index("ix_cases_package", "package"),
    Index("ix_cases_package_key", "package_key"),
    Index("ix_cases_source_name", "source_name"),
)
"""Cases as they were first run: JSON, by id and build digest."""

logs = Table(
    "logs",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
)
"""Logs that were kept; the texts are files, named by digest."""

outcomes = Table(
    schema.OUTCOMES.name,
    METADATA,
    *_columns(schema.OUTCOMES),
    Column("document", Text, nullable=False, comment="the whole outcome as JSON, without loss"),
    ForeignKeyConstraint(["case_id", "case_digest"], [cases.c.id, cases.c.digest]),
    ForeignKeyConstraint(["log_digest"], [logs.c.digest]),
    *_indexes(schema.OUTCOMES),
    # with the order in it, so that no database prefers the index of a study with many outcomes
    Index("ix_outcomes_case_digest", "case_digest", "recorded_at", "id"),
)

findings = Table(
    schema.FINDINGS.name,
    METADATA,
    *_columns(schema.FINDINGS),
    Column("document", Text, nullable=False, comment="the whole finding as JSON, without loss"),
    ForeignKeyConstraint(["case_id", "case_digest"], [cases.c.id, cases.c.digest]),
    ForeignKeyConstraint(["supersedes"], ["findings.id"]),
    *_indexes(schema.FINDINGS),
    # what is newer on the same build
    Index("ix_findings_case_digest", "case_digest"),
    Index("ix_findings_build", "case_id", "case_digest", "recorded_at", "id"),
)

finding_evidence = Table(
    "finding_evidence",
    METADATA,
    Column("finding_id", Text, ForeignKey(findings.c.id), primary_key=True),
    Column("outcome_id", Text, ForeignKey(outcomes.c.id), primary_key=True),
)
"""Which outcomes prove which findings; their order is in the finding."""

retractions = Table(
    "retractions",
    METADATA,
    Column("finding_id", Text, ForeignKey(findings.c.id), primary_key=True),
    Column("recorded_at", UtcInstant(), nullable=False),
    Column("because", Text, nullable=False),
    Column("tool_version", Text),
)
"""Findings that somebody no longer believes; they stay, and are never current."""
