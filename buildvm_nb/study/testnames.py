"""The names of the tests that a runner says have failed.

References
----------
The reports of pytest, unittest, Python's own regrtest, Automake, prove and other TAP, CTest, Meson,
cargo, Go, GoogleTest, Maven, Gradle and Jest.
"""

import re
from collections.abc import Iterator

__all__ = ["failed_tests", "section_of", "stopped_early"]

_PATTERNS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        # pytest's short summary
        r"^(?:FAILED|ERROR) (\S+\.py(?:::[^\[\n]+?(?:\[.*?\])?)?)(?: - .*)?$",
        r"^FAILED:? ([\w./:+-]*\w)$",  # scripts
        # unittest; Automake and many scripts; a single word, lest a sentence is taken for a name
        r"^(?:FAIL|ERROR|UNEXPECTED SUCCESS): (\S+ \([\w.<>]+\)(?: .+)?|[\w./+-]+)$",
        r"^test (\S+) (?:failed|crashed) -- ",  # CPython's regrtest, by module
        r"^not ok \d+(?: -)? +([^#\n]*?[^#\s])\s*$",  # TAP; with # TODO or # SKIP it is none
        r"^#\s+Failed test '(.+)'$",  # Test::More
        r"^(\S+)\s+\(Wstat: (?:[1-9].*|0 .*Failed: [1-9]\d*)\)$",  # prove
        r"^\s+\d+ - (\S.*?) \((?!Skipped|Disabled)[A-Z][^()\n]*\)",  # CTest
        r"^\s*\d+/\d+ (\S.*?)\s+(?:FAIL|TIMEOUT|ERROR)\s+[\d.]+\s?s\b",  # Meson
        r"^test (\S.*?) \.\.\. FAILED$",  # cargo
        r"^\s*--- FAIL: (\S+)",  # Go
        r"^FAIL\t(\S+) \[.*\]$",  # Go: a package that cannot be built
        r"^\[  FAILED  \] ([\w/]+\.[\w/]+)",  # GoogleTest
        r"^\[ERROR\] (?!Tests run: )([\w.$]+).*<<< (?:FAILURE|ERROR)!",  # Maven
        r"^(\w\S* > .+) FAILED$",  # Gradle
        r"^  ● (?!Console$|Test suite failed)(\S.*)$",  # Jest
    )
)
_STOPPED = re.compile(
    r"^!+ (?:stopping after \d+ failures|Interrupted: |xdist\.dsession\.Interrupted)"
    r"|^Bail out!|^FAILED--Further testing stopped",
    re.MULTILINE,
)
_DRAWN = re.compile(r"={10}|_{5,} ")
_VARYING = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x…"),
    (
        re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"),
        "…",
    ),
    (re.compile(r"\b\d{10}(?:\.\d+)?\b"), "…"),
)
_LONGEST = 300


def failed_tests(text: str) -> tuple[str, ...]:
    """Return the names of the tests that failed.

    Parameters
    ----------
    text : str
        What a step printed, without colours.

    Returns
    -------
    tuple of str
        In order, each once. Addresses, dates and times in a name, which no two runs have in
        common, are left out. Empty where no runner that we know names any.
    """
    return tuple(dict.fromkeys(_steady(name) for name in _names(text)))


def section_of(text: str, name: str) -> str:
    """Return what a runner prints about a failed test.

    Parameters
    ----------
    text : str
        What a step printed, without colours.
    name : str
        As `failed_tests` returns it.

    Returns
    -------
    str
        From the first line that names it as failed, up to a line that is drawn across or names
        another one; empty where there is none.
    """
    section: list[str] = []
    for line in text.splitlines():
        named = failed_tests(line)
        if section and (_DRAWN.match(line) or (named and name not in named)):
            break
        if section or name in named:
            section.append(line)
    return "\n".join(section)


def stopped_early(text: str) -> bool:
    """Tell whether a runner says that it did not run all tests because some failed.

    Parameters
    ----------
    text : str
        What a step printed.

    Returns
    -------
    bool
        False also where it stops without a word.
    """
    return bool(_STOPPED.search(text))


def _names(text: str) -> Iterator[str]:
    found = (
        (match.start(), match[1].strip())
        for pattern in _PATTERNS
        for match in pattern.finditer(text)
    )
    yield from (name for _, name in sorted(found))


def _steady(name: str) -> str:
    for pattern, instead in _VARYING:
        name = pattern.sub(instead, name)
    return name[:_LONGEST]
