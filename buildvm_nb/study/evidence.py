"""What a log tells: the line that says why a step failed, and which tests ran and failed.

References
----------
The reports of pytest, unittest, Go, cargo, CTest, GoogleTest, Automake, prove and other TAP, Maven,
Gradle, Jest and RSpec; the messages of compilers, linkers, CMake, pip, make and shells.
"""

import re
import signal
from collections.abc import Iterator, Sequence
from enum import IntEnum

__all__ = [
    "count_tests",
    "failed_tests",
    "failing_lines",
    "missing_part",
    "name_signal",
    "section_of",
    "stopped_early",
]

# How many tests a test runner says that it really ran: a skipped test is not a pass.
#
# References: The closing lines of pytest, unittest, Python's own regrtest, CTest, Automake, Meson,
# prove (TAP), cargo and Go.

_UNITTEST = re.compile(
    # what the tests themselves print may come in between
    r"^Ran (\d+) tests? in [^\n]*\n(?:(?!Ran \d)[^\n]*\n)*?"
    r"(?:OK|PASSED|FAILED|NO TESTS RAN)(?: \(([^)]*)\))?$",
    re.MULTILINE,
)
_SKIPPED = re.compile(r"skip(?:s|ped)?=(\d+)", re.IGNORECASE)
# less than no time passes by a clock that is held
_PYTEST = re.compile(
    r"^(?:=+ )?((?:\d+ [a-z -]+(?:, )?)+) in -?[\d.]+(?:s| seconds)\b", re.MULTILINE
)
_PYTEST_RAN = re.compile(r"(\d+) (?:passed|failed|errors?|xfailed|xpassed)\b")
_REGRTEST = re.compile(r"^Total tests: run=([\d,]+)(?: [^\n]*?skipped=([\d,]+))?", re.MULTILINE)
_SUMS = (
    re.compile(r"tests passed, \d+ tests? failed out of (\d+)"),
    re.compile(r"^# (?:PASS|FAIL|XPASS|XFAIL|ERROR): +(\d+)$", re.MULTILINE),
    re.compile(r"^(?:Ok|Fail|Expected Fail|Unexpected Pass|Timeout): +(\d+)\s*$", re.MULTILINE),
    re.compile(r"^Files=\d+, Tests=(\d+),", re.MULTILINE),
    re.compile(r"^test result: \w+\. (\d+) passed", re.MULTILINE),
    re.compile(r"^test result: \w+\. \d+ passed; (\d+) failed", re.MULTILINE),
)
_CTEST_SKIPPED = re.compile(r"^\s+\d+ - .+ \(Skipped\)\s*$", re.MULTILINE)
_GO = re.compile(r"^--- (?:PASS|FAIL): ", re.MULTILINE)


def count_tests(output: str) -> int | None:
    """Count the tests that ran, skipped ones not among them."""
    counts = [
        int(ran.replace(",", "")) - int(skipped.replace(",", "") or 0)
        for ran, skipped in _REGRTEST.findall(output)
    ] or [  # where regrtest gives a total, what unittest says is part of it
        int(ran) - sum(map(int, _SKIPPED.findall(rest))) for ran, rest in _UNITTEST.findall(output)
    ]
    counts += [sum(map(int, _PYTEST_RAN.findall(summary))) for summary in _PYTEST.findall(output)]
    for pattern in _SUMS:
        counts += map(int, pattern.findall(output))
    if go := len(_GO.findall(output)):
        counts.append(go)
    skipped = len(_CTEST_SKIPPED.findall(output))  # CTest counts them among those that passed
    return max(sum(counts) - skipped, 0) if counts else None


# The names of the tests that a runner says have failed.
#
# References: The reports of pytest, unittest, Python's own regrtest, Automake, prove and other TAP,
# CTest, Meson, cargo, Go, GoogleTest, Maven, Gradle and Jest.

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
_DRAWN_NAMES = re.compile(r"={10}|_{5,} ")
_VARYING = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x…"),
    (
        re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"),
        "…",
    ),
    (re.compile(r"\b\d{10}(?:\.\d+)?\b"), "…"),
)
_LONGEST_NAME = 300


def failed_tests(text: str) -> tuple[str, ...]:
    """Return the names of the tests that failed.

    Returns: in order, each once. Addresses, dates and times in a name, which no two runs have in
    common, are left out. Empty where no runner that we know names any.
    """
    return tuple(dict.fromkeys(_steady(name) for name in _names(text)))


def section_of(text: str, name: str) -> str:
    """Return what a runner prints about a failed test.

    Returns: from the first line that names it as failed, up to a line that is drawn across or names
    another one; empty where there is none.
    """
    section: list[str] = []
    for line in text.splitlines():
        named = failed_tests(line)
        if section and (_DRAWN_NAMES.match(line) or (named and name not in named)):
            break
        if section or name in named:
            section.append(line)
    return "\n".join(section)


def stopped_early(text: str) -> bool:
    """Tell whether a runner says that it did not run all tests because some failed."""
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
    return name[:_LONGEST_NAME]


_LONGEST = 400
_TAIL = 200_000


class _Rank(IntEnum):
    """How much a line says about why something failed; the lowest says most."""

    EXPLAINS = 0
    """An exception, a compiler's error, a panic, something that is not there."""
    NAMES = 1
    """Which test failed."""
    HINTS = 2
    """A word such as error or expired."""
    STOPS = 3
    """Where make or ninja gave up."""
    PRINTED = 4
    SUMS_UP = 5
    """What a runner says of a whole file of tests."""
    REPEATS = 6
    """Only that something failed, how often or how long it took."""
    DRAWN = 7


def _any_of(table: str) -> str:
    """Return a pattern for a table with one pattern a line, and lines that say whose they are."""
    return "|".join(line for line in table.split("\n") if line and not line.startswith("# "))


_EXCEPTION = (
    r"(?:Caused by: |Exception in thread \"[^\"]*\" |INTERNALERROR> |Uncaught )?"
    r"[\w.$]*(?:Error|Exception|Failure|Unavailable|ExceptionGroup)"
)
_COMPILER = r"(?P<file>[^\s:]+):(?:\d+:){1,2} (?:fatal )?error: .+"

_DRAWN = r"""
[\s=_*#~^|+-]*
=+ .* =+
_+ .* _+
-+ .* -+
"""
_REPEATS = r"""
# make, compilers, and what called them
\S*make(?:\[\d+\])?: (?:Entering|Leaving) directory .*
compilation terminated\.
\S*collect2: error: .*
clang: error: linker command .*
cc1\w*: .* being treated as errors
.*\b(?:returned|failed with|exited with)(?: an?)?(?: non-zero)? exit (?:code|status)\b.*
exit (?:status|code):? \d+
[\s│╰─>]*(?:exit code: \d+|\[\d+ lines of output\]|\[end of output\]|See above for .*)
\s*error: (?:subprocess-exited-with-error|metadata-generation-failed|failed-wheel-build-.*)
.* did not run successfully\.
\s*(?:note|hint|Hint): .*
\s*ERROR: (?:Failed building|Could not build|Failed to build|InvocationError for) .*
npm ERR!.*
# pytest
(?:=+ )?(?:no tests ran|\d+ (?:failed|passed|error|skipped|deselected|x|warn).*) in -?[\d.]+ ?s.*
!+ .* !+
(?:\S+ )?[.FEsxXR]+(?: +\[ *\d+%\])?
[^\s:]+\.py:\d+: \w*
Traceback.*:
>? +(?:available fixtures: .*|use 'pytest --fixtures .*)
(?:rootdir|plugins|configfile): .*
# unittest
FAILED \((?:failures|errors|unexpected).*\)
Ran \d+ tests? in .*
# cargo
test result: .*
error: (?:test failed|doctest failed|could not compile|build failed|aborting due).*
error: (?:process didn't exit|\d+ targets? failed).*
warning: .*
failures:
For more information about .*
Some errors have detailed .*
stack backtrace:
\s+(?:\d+: [\w<].*|at \S+:\d+:\d+)
# Go
FAIL(?:\t.*)?
ok +\t.*
# prove, Test::More, and TAP as Node's runner prints it
Result: (?:FAIL|NOTESTS|PASS)
Files=\d+, Tests=.*
Failed \d+/\d+ .*
Dubious, test .*
No subtests run.*
\S+ \.{2,} *
Test Summary Report
BEGIN failed--compilation aborted.*
  (?:Failed tests?|Non-zero (?:exit|wait) status|TODO passed): .*
\#\s+(?:Looks like you failed .*|at \S+ line \d+\.)
\# (?:tests|pass|fail|cancelled|skipped|todo|suites|duration_ms) .*
1\.\.\d+(?: .*)?
ok \d+.*
# CTest, CMake, Meson
\d+% tests passed.*
Total Test time.*
The following tests (?:FAILED|did not run):
Errors while running CTest
Output from these tests .*
Use \"--rerun-failed .*
See also .*
Looked in the following places:
-- Configuring incomplete.*
Full log written to .*
(?:Ok|Fail|Expected Fail|Unexpected Pass|Skipped|Timeout): +\d+
# Automake
\# (?:TOTAL|PASS|SKIP|XFAIL|FAIL|XPASS|ERROR): +\d+
Testsuite summary for .*
See \S+\.log.*
Please report to .*
(?:FAIL|ERROR) .* \(exit status: \d+\)
# GoogleTest
\[[=-]+\].*
\[  PASSED  \].*
\[  FAILED  \] \d+ tests?.*
\s*\d+ FAILED TESTS?
# Maven
\[(?:INFO|WARNING)\].*
\[ERROR\] *(?:|Failures: *|Errors: *|COMPILATION ERROR *:? *|There are test failures\.?)
\[ERROR\] (?:Tests run: |-> \[Help |\[Help |To see |Re-run |For more |Please refer |See ).*
\[ERROR\] Failed to execute goal .*(?:There are test failures|Compilation failure).*
# Gradle
FAILURE: Build failed.*
BUILD (?:FAILED|FAILURE).*
\* (?:What went|Try|Get more).*
Execution failed for task .*
> (?:There were failing|Run with|Compilation failed).*
\d+ tests? completed, .*
\s+at [\w.$/<>@]+\(.*\)
\s+\.\.\. \d+ more
"""
_STOPS = r"""
\S*make(?:\[\d+\])?: \*\*\* (?!No rule).*
ninja: .*
"""
_SUMS_UP = r"""
\S+ +\(Wstat: (?!.*Signal).*\)
  Parse errors: .*
\# Looks like you planned .*
"""
_EXPLAINS = rf"""
[\s|+]*{_EXCEPTION}(?:(?: \[\w+\])?: .+|(?: at \S+:\d+)?)
\S+\.py:\d+: (?:{_EXCEPTION}|Failed): .+
E  +\S.*
# compilers and linkers
{_COMPILER}
error(?:\[E\d+\])?: .+
[\w./-]+: error: .+
fatal(?: error)?: .+
\s*\S+\.go:\d+(?::\d+)?: \S.*
(?:\[ERROR\] )?\S+\.(?:java|kt|scala):(?:\[\d+,\d+\]|\d+: error:) .+
.*\bundefined (?:reference to|symbol:) .*
.*: cannot find -l.*
# what is not there
(?:\S*sh: )?(?:line )?(?:\d+: )?\S.*: (?:command )?not found
\S*make(?:\[\d+\])?: (?:\*\*\* No rule .*|\S+: No such file or directory)
Can't locate \S+ in @INC.*
.*error while loading shared libraries: .*
.*cannot open shared object file.*
Unable to find executable: .*
\s+Could (?:not|NOT) find .*
ERROR: file or directory not .*
.*No module named .*
.*no required module provides package .*
.*package \S+ is not in std.*
configure: error: .*
\[ERROR\] Failed to execute goal .*
# what died
panic: .*
thread '.*panicked at '.*
(?:.*: )?(?:Illegal instruction|Segmentation fault|Bus error|Aborted|Floating point exc)(?: .*)?
Fatal Python error: .*
.*: AddressSanitizer: .*
\S.*: Assertion .* failed\.?
assertion .*failed.*
# what testify, RSpec and Jest expected, and what a TAP report says of a test
\s+Error: +\t*\S.*
\s+Failure/Error: .*
\s+expect\(.*
\s+(?:error|message): ['\"]?\w.*
"""
_NAMES = r"""
(?:FAILED|ERROR) \S+\.py\b.*
(?:FAIL|ERROR|XPASS|UNEXPECTED SUCCESS): \S.*
not ok \d+(?!.*\# (?:TODO|SKIP)).*
\#\s+Failed test\b.*
\S+ +\(Wstat: .*Signal.*\)
\s+\d+ - \S.* \((?!Skipped|Disabled)[A-Z][^()]*\)
.*\*\*\*(?:Failed|Exception|Timeout|Not R).*
\s*--- FAIL: .*
test \S.* \.\.\. FAILED
\[  FAILED  \] .*
\[ERROR\] .*<<< (?:FAILURE|ERROR)!.*
\S.* > .* FAILED
\s+● .*
"""
_WORDS = (
    "error",
    "errors",
    "fatal",
    "expired",
    "fail",
    "fails",
    "failed",
    "failure",
    "outdated",
    "not found",
    "no such file",
    "cannot",
    "denied",
)
_HINTS = rf"(?i:.*\b(?:{'|'.join(_WORDS)})\b.*)"
_ORDER = tuple(  # what only repeats, first: it has the same words
    (rank, re.compile(_any_of(table)))
    for rank, table in (
        (_Rank.DRAWN, _DRAWN),
        (_Rank.REPEATS, _REPEATS),
        (_Rank.SUMS_UP, _SUMS_UP),
        (_Rank.STOPS, _STOPS),
        (_Rank.EXPLAINS, _EXPLAINS),
        (_Rank.NAMES, _NAMES),
        (_Rank.HINTS, _HINTS),
    )
)
_TRACEBACK = re.compile(r"([\s|]*)(?:\+ Exception Group )?Traceback \(most recent call last\):$")
_ANNOUNCES = re.compile(
    r"thread '.*' (?:\(\d+\) )?panicked at \S+:\d+:\d+:$|\S+:\d+: Failure$|CMake Error at .*:$"
    r"|\s+(?:error|message): [|>]-?$"
)
"""Is followed by the words: a panic of Rust, a failure of GoogleTest, an error of CMake, YAML."""
_EXCEPTION_LINE = re.compile(rf"E +{_EXCEPTION}\b.*")
_COMPILER_LINE = re.compile(_COMPILER)
_SECTIONS = tuple(
    (re.compile(start), re.compile(end), speaks)
    for start, end, speaks in (
        # pytest; what a test printed comes last, below a line of its own
        (r"_{3,} .+ _{3,}$", r"={3,} |_{3,} .+ _{3,}$|-+ Captured .+ -+$|!{3,} ", False),
        (r"(?:FAIL|ERROR): \w+ \(.*\)", r"={70}$|Ran \d+ test|Std(?:out|err):$", False),
        (r"---- .+ stdout ----$", r"---- .+ ----$|failures:$|test result:", False),
        (r"\s*--- FAIL: ", r"\s*--- |===|FAIL\b|ok\b|PASS\b|exit status", False),
        (r"=== RUN ", r"\s*--- |=== RUN", False),
        (r"\[ RUN      \] ", r"\[       OK \]|\[  FAILED  \]|\[ RUN", False),
        (r".*<<< (?:FAILURE|ERROR)!", r"$|\[(?:INFO|ERROR)\]", False),
        (r"\S.* > .* FAILED$", r"$|\S", False),
        (r"not ok \d+(?!.*# (?:TODO|SKIP))", r"not ok |ok \d|[^\s#]", False),
        # CTest and Automake show all that a test printed
        (r".*\*\*\*(?:Fail|Exc|Time)", r"\s+Start +\d+:|\d+% tests|\s*\d+/\d+ Test ", True),
        (r"(?:FAIL|ERROR): [^\s(]+$", r"(?:FAIL|ERROR|PASS|XFAIL|SKIP)[ :]|# TOTAL:|make", True),
    )
)
"""Where a runner's report of a test starts, where it ends, and whether all of it counts."""
_PASSED = re.compile(r"\s*--- (?:PASS|SKIP): |\[       OK \]")
_KERNEL = re.compile(
    r"^.*\b(?:trap invalid opcode|segfault at|general protection|trap \w+).*$", re.MULTILINE
)
_QUOTE = "['`\"\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}]"
_NAME = rf"{_QUOTE}?(?P<name>[^\s:;,'`\"\N{{RIGHT SINGLE QUOTATION MARK}}]+){_QUOTE}?"
_MISSING = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (rf"No module named {_NAME}", "ModuleNotFoundError"),
        (rf"Can't locate {_NAME} in @INC", "no such Perl module"),
        (rf"fatal error: {_NAME}(?: file not found|: No such file)", "no such header"),
        (rf"sh: (?:line )?(?:\d+: )?{_NAME}: (?:command )?not found", "no such program"),
        (rf"(?:make(?:\[\d+\])?|env|exec): {_NAME}: No such file", "no such program"),
        (rf"Unable to find executable: {_NAME}", "no such program"),
        (rf"error while loading shared libraries: {_NAME}", "no such library"),
        (rf"{_NAME}: cannot open shared object file", "no such library"),
        (rf"cannot find -l{_NAME}", "no such library"),
        (rf"No package {_NAME} found", "no such package"),
        (rf"ackage configuration file provided by {_NAME}", "no such package"),
        (rf"Could NOT find {_NAME}", "no such package"),
        (rf"no required module provides package {_NAME}", "no such package"),
        (rf"no matching package named {_NAME}", "no such package"),
        (rf"Cannot find module {_NAME}", "no such package"),
        (rf"can't find crate for {_NAME}", "no such package"),
        (rf"No rule to make target {_NAME}", "no such file"),
        (rf"file or directory not found: {_NAME}", "no such file"),
        (rf"No such file or directory: {_NAME}", "no such file"),
        (rf"cannot create {_NAME}: Directory nonexistent", "no such directory"),
        (rf"(?:cannot (?:open|access|stat|find) |: |^){_NAME}: No such file or", "no such file"),
    )
)


def failing_lines(output: str, kernel_log: str = "") -> str:
    """Return the line of a log that best says why a step failed.

    Returns: one line, or two where the kernel has something to say; empty where nothing was
    printed.
    """
    lines = [line.rstrip()[: 2 * _LONGEST] for line in output[-_TAIL:].splitlines()]
    found = [_reported(lines) or _chosen(lines, _Rank.DRAWN)]
    if crashes := _KERNEL.findall(kernel_log):
        found.append(str(crashes[-1]))
    return "\n".join(filter(None, (line.strip()[:_LONGEST] for line in found)))


def missing_part(line: str) -> str:
    """Name the module, program or file that a failing line says is not there.

    For example ``ModuleNotFoundError: numpy``; empty where nothing is said to be missing.
    """
    for pattern, what in _MISSING:
        if found := pattern.search(line):
            return f"{what}: {found['name']}"
    return ""


def name_signal(number: int) -> str:
    """Return a signal's name.

    For example ``SIGILL``; ``signal 70`` where it has none.
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _reported(lines: Sequence[str]) -> str:
    """Return why the last test failed of which a runner reports that; empty where none does."""
    for body, speaks in reversed(list(_sections(lines))):
        if found := _chosen(body, _Rank.PRINTED if speaks else _Rank.EXPLAINS):
            return found
    return ""


def _sections(lines: Sequence[str]) -> Iterator[tuple[Sequence[str], bool]]:
    """Iterate over what runners report of tests that did not pass."""
    for at, line in enumerate(lines):
        for start, end, speaks in _SECTIONS:
            if start.match(line):
                left = range(at + 1, len(lines))
                stop = next((n for n in left if end.match(lines[n])), len(lines))
                if not any(map(_PASSED.match, lines[stop : stop + 1])):
                    yield lines[at + 1 : stop], speaks


def _chosen(lines: Sequence[str], most: _Rank) -> str:
    """Return the last of the lines that say most; empty where all say less than is asked for."""
    ranked = [(rank, -at) for at, rank in enumerate(_ranks(lines)) if lines[at]]
    rank, at = min(ranked, default=(_Rank.DRAWN, 0))
    if rank > most or not lines:
        return ""
    return _head(lines, -at) if rank is _Rank.EXPLAINS else lines[-at]


def _ranks(lines: Sequence[str]) -> Iterator[_Rank]:
    """Iterate over what each line says, in view of those before it."""
    indent: str | None = None  # of the traceback that we are in
    announced = False
    for line in lines:
        rank = next((rank for rank, sign in _ORDER if sign.fullmatch(line)), _Rank.PRINTED)
        if line and announced and rank is not _Rank.DRAWN:
            rank, announced = _Rank.EXPLAINS, False
        elif started := _TRACEBACK.match(line):
            indent = started[1]
        elif line and indent is not None and not line.startswith(f"{indent} "):
            indent = None
            rank = rank if rank is _Rank.REPEATS else _Rank.EXPLAINS
        announced = announced or bool(_ANNOUNCES.match(line))
        yield rank


def _head(lines: Sequence[str], at: int) -> str:
    """Return the first line of the message that a line belongs to.

    What pytest says of an exception goes on for several lines, and a compiler's first error in a
    file brings about the others.
    """
    if lines[at].startswith("E "):
        first = at
        while first and lines[first - 1].startswith("E"):
            first -= 1
        block = lines[first : at + 1]
        return next(filter(_EXCEPTION_LINE.match, block), block[0])
    if error := _COMPILER_LINE.fullmatch(lines[at]):
        same = (
            one
            for one in lines
            if (other := _COMPILER_LINE.fullmatch(one)) and other["file"] == error["file"]
        )
        return next(same)
    return lines[at]
