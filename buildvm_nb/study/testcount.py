"""How many tests a test runner says that it really ran: a skipped test is not a pass.

References
----------
The closing lines of pytest, unittest, Python's own regrtest, CTest, Automake, Meson, prove (TAP),
cargo and Go.
"""

import re

__all__ = ["count_tests"]

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
    """Count the tests that ran, skipped ones not among them.

    Parameters
    ----------
    output : str
        What the step printed.

    Returns
    -------
    int or None
        None when no runner that we know says how many.
    """
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
