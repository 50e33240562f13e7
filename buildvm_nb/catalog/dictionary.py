"""The data dictionary: what each column of each table means, for people."""

from buildvm_nb.catalog.schema import SCHEMA_VERSION, TABLES

__all__ = ["data_dictionary"]

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
