import pytest

from buildvm_nb.study.testcount import count_tests

CTEST = """\
1/4 Test #1: a ................................   Passed    0.01 sec
2/4 Test #2: b ................................***Failed    0.01 sec
3/4 Test #3: c ................................***Skipped   0.01 sec
4/4 Test #4: d ................................***Not Run (Disabled)   0.00 sec

67% tests passed, 1 tests failed out of 3

Total Test time (real) =   0.02 sec

The following tests did not run:
\t  3 - c (Skipped)
\t  4 - d (Disabled)

The following tests FAILED:
\t  2 - b (Failed)
Errors while running CTest
"""
AUTOMAKE = """\
============================================================================
Testsuite summary for GNU hello 2.12
============================================================================
# TOTAL: 9
# PASS:  5
# SKIP:  2
# XFAIL: 1
# FAIL:  1
# XPASS: 0
# ERROR: 0
============================================================================
"""
MESON = """\
Ok:                 12
Expected Fail:      1
Fail:               0
Unexpected Pass:    0
Skipped:            3
Timeout:            1
"""
PROVE = """\
t/a.t .. ok
t/b.t .. skipped: no network
All tests successful.
Files=2, Tests=3,  0 wallclock secs ( 0.00 usr +  0.01 sys =  0.01 CPU)
Result: PASS
"""
CARGO = """\
running 5 tests
test a ... ok
test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
"""
GO = """\
=== RUN   TestA
--- PASS: TestA (0.00s)
=== RUN   TestB
    --- PASS: TestB/inner (0.00s)
--- FAIL: TestB (0.00s)
=== RUN   TestC
    c_test.go:8: no network
--- SKIP: TestC (0.00s)
FAIL
exit status 1
FAIL\texample.org/a\t0.002s
"""
REGRTEST = """\
0:00:03 load avg: 0.57 [2/2] test_ssl
Ran 25 tests in 0.120s

OK (skipped=2)

== Tests result: SUCCESS ==

Total duration: 3.1 sec
Total tests: run=1,225 skipped=1,002
Total test files: run=2/2
Result: SUCCESS
"""


@pytest.mark.parametrize(
    ("output", "count"),
    [
        ("======== 3 passed, 1 skipped in 0.12s ========\n", 3),
        ("==== 1 failed, 2 passed, 3 warnings, 1 error in 1.23s ====\n", 4),
        ("=== 2 passed, 1 xfailed, 1 xpassed, 4 deselected in 75.34s (0:01:15) ===\n", 4),
        ("3 passed in 0.01s\n", 3),
        ("3 passed in -0.01s\n", 3),
        ("2 skipped in 0.01s\n", 0),
        ("=== 3 passed, 2 subtests passed in 0.10s ===\n", 3),
        ("=== 3 passed, 1 skipped in 0.12 seconds ===\n", 3),
        ("=== 2 failed, 5 passed, 1 pytest-warnings in 0.50 seconds ===\n", 7),
        ("Ran 3 tests in 0.001s\n\nOK\n", 3),
        ("Ran 1 test in 0.001s\n\nOK (skipped=1)\n", 0),
        ("Ran 9 tests in 0.010s\n\nFAILED (failures=1, errors=1, skipped=2)\n", 7),
        ("Ran 4 tests in 0.010s\n\nOK (expected failures=1)\n", 4),
        ("Ran 0 tests in 0.000s\n\nNO TESTS RAN\n", 0),
        ("Ran 30 tests in 2.110s\n\nOK (KNOWNFAIL=3, SKIP=5)\n", 25),
        ("Ran 12 tests in 0.345s\n\nPASSED (skips=2, successes=10)\n", 10),
        ("Ran 83 tests in 1.555s\nlun\nmar\n\nOK\n", 83),
        ("Ran 1 test in 0.1s\nRan 2 tests in 0.1s\n\nOK (skipped=1)\n", 1),
        (REGRTEST, 223),
        ("Total tests: run=12 failures=1\n", 12),
        (CTEST, 2),
        ("100% tests passed, 0 tests failed out of 12\n", 12),
        (AUTOMAKE, 7),
        (MESON, 14),
        (PROVE, 3),
        (CARGO, 9),
        (GO, 2),
    ],
)
def test_the_closing_lines_of_each_runner_tell_what_really_ran(output, count):
    assert count_tests(f"compiling...\n{output}") == count


@pytest.mark.parametrize(
    "output",
    [
        "",
        "make: Nothing to be done for 'check'.\n",
        "no tests ran in 0.01s\n",
        "ok  \texample.org/a\t0.002s\n",
        "All tests passed\n",
        "Ran 3 tests in",
        "it took 3 passed exams in 1990s fashion\n",
    ],
)
def test_where_no_runner_says_how_many_the_number_is_unknown(output):
    assert count_tests(output) is None


def test_several_runs_are_added():
    assert count_tests("2 passed in 0.1s\n===\nRan 3 tests in 0.1s\n\nOK\n") == 5
