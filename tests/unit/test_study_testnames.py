from pathlib import Path

import pytest

from buildvm_nb.study.testnames import failed_tests, section_of, stopped_early

UNITTEST = """\
test_b (test_x.TestX.test_b) ... ok
======================================================================
ERROR: test_a (test_x.TestX.test_a)
----------------------------------------------------------------------
Traceback (most recent call last):
ValueError: expired
======================================================================
FAIL: test_c (test_x.TestX.test_c) (i=3)
----------------------------------------------------------------------
======================================================================
ERROR: setUpClass (test_x.TestY)
----------------------------------------------------------------------
Ran 3 tests in 0.001s

FAILED (failures=1, errors=2)
"""
PYTEST = """\
=================================== FAILURES ===================================
=========================== short test summary info ============================
FAILED tests/test_a.py::TestA::test_x[a - b] - AssertionError: no - really
FAILED tests/test_a.py::test_y
ERROR tests/test_b.py - ImportError: no module
======================== 2 failed, 3 passed, 1 error in 0.12s ==================
"""
PROVE = """\
#   Failed test 'the key is valid'
#   at t/key.t line 3.
# Looks like you failed 1 test of 2.
t/key.t .. Dubious, test returned 1 (wstat 256, 0x100)
Test Summary Report
-------------------
t/key.t (Wstat: 256 Tests: 2 Failed: 1)
  Failed test:  1
t/todo.t (Wstat: 0 Tests: 2 Failed: 0)
  TODO passed:   1
"""
TAP = """\
ok 1 - fine
not ok 2 - the key is valid
not ok 3 - some day # TODO
not ok 4 # SKIP no network
not ok 5 without a dash
"""
CTEST = """\
2/4 Test #2: b ................................***Failed    0.01 sec
The following tests did not run:
\t  3 - c (Skipped)
The following tests FAILED:
\t  2 - b (Failed)
\t 14 - long name (Timeout)
"""
AUTOMAKE = "PASS: one\nFAIL: two.sh\nXFAIL: three\nERROR: four\n"
MESON = " 3/12 suite / tls        FAIL             0.15s   exit status 1\n 4/12 x  OK 0.1s\n"
CARGO = "test tls::expired ... FAILED\ntest tls::fine ... ok\n"
GO = "--- FAIL: TestVerify (0.01s)\n    --- FAIL: TestVerify/expired (0.00s)\n"
GTEST = (
    "[  FAILED  ] Suite.Case (3 ms)\n[  FAILED  ] 1 test, listed below:\n[  FAILED  ] Suite.Case\n"
)
MAVEN = "[ERROR] com.x.FooTest.bar  Time elapsed: 0.1 s  <<< FAILURE!\n[ERROR] Failures\n"
REGRTEST = "test test_httplib failed -- Traceback (most recent\ntest_httplib failed (1 error)\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            UNITTEST,
            (
                "test_a (test_x.TestX.test_a)",
                "test_c (test_x.TestX.test_c) (i=3)",
                "setUpClass (test_x.TestY)",
            ),
        ),
        (
            PYTEST,
            ("tests/test_a.py::TestA::test_x[a - b]", "tests/test_a.py::test_y", "tests/test_b.py"),
        ),
        (PROVE, ("the key is valid", "t/key.t")),
        (TAP, ("the key is valid", "without a dash")),
        (CTEST, ("b", "long name")),
        (AUTOMAKE, ("two.sh", "four")),
        (MESON, ("suite / tls",)),
        (CARGO, ("tls::expired",)),
        (GO, ("TestVerify", "TestVerify/expired")),
        ("FAIL\tx/y [build failed]\nFAIL\tx/z 0.1s\n", ("x/y",)),
        (GTEST, ("Suite.Case",)),
        (MAVEN, ("com.x.FooTest.bar",)),
        (REGRTEST, ("test_httplib",)),
        ("FAILED test_a\n", ("test_a",)),
        ("", ()),
        ("ERROR: something went wrong at noon\nFAILED (failures=1)\nFAILED\n", ()),
    ],
)
def test_the_names_that_runners_print_are_found_in_order(text, names):
    assert failed_tests(text) == names


def test_what_no_two_runs_have_in_common_is_left_out_of_a_name():
    one = "FAILED t/test_a.py::test_x[2028-01-01T00:00:00Z-0x7f00-1851949501]\n"
    other = "FAILED t/test_a.py::test_x[2031-05-06 01:02-0xdead-1941148800.25]\n"
    assert failed_tests(one) == failed_tests(other) != ()


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ("!!!!!!!!!! stopping after 1 failures !!!!!!!!!!!", True),
        ("!!!!!! Interrupted: 1 error during collection !!!!!!", True),
        ("Bail out!  no server", True),
        (PYTEST, False),
    ],
)
def test_a_runner_that_stops_early_says_so(text, stopped):
    assert stopped_early(text) is stopped


def test_the_section_about_a_test_ends_at_a_line_across_or_another_test():
    assert section_of(UNITTEST, "test_a (test_x.TestX.test_a)").endswith("\nValueError: expired")
    assert section_of("FAILED a\nError: x\nFAILED b\nError: y\n", "a") == "FAILED a\nError: x"
    assert section_of("FAILED a\n", "b") == ""


@pytest.mark.parametrize(
    ("log", "names"),
    [
        ("maven", ("leafIsValid",)),
        ("gradle", ("ChainTest > leafIsValid",)),
        ("jest", ("leaf is valid",)),
        ("go_old", ("TestCertificate", "TestYears", "TestYears/leap")),
        ("node_tap", ("certificate is valid", "sum")),
    ],
)
def test_the_names_are_found_at_the_ends_of_logs_of_many_runners(log, names):
    text = (Path(__file__).parent / "log_ends" / f"{log}.txt").read_text()
    assert failed_tests(text) == names
