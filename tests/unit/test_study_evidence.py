"""None"""

import signal
from pathlib import Path

import pytest

from buildvm_nb.model.value import says, steady
from buildvm_nb.study.evidence import (
    count_tests,
    failed_tests,
    failing_lines,
    missing_part,
    name_signal,
    section_of,
    stopped_early,
)

LOG_ENDS = Path(__file__).parent / "log_ends"
"""How logs end, each with several failures.

Those of pytest, unittest, prove, make, CTest, cargo and node are of real runs, with paths changed
and long ones cut; the others are written after the documentation of their runners.
"""

PYTEST = """\
=================================== FAILURES ===================================
__________________________________ test_valid __________________________________

    def test_valid():
>       assert not expired(load("ca.pem"))
E       AssertionError: certificate expired at 2019-05-01
E       assert not True

tests/test_ca.py:7: AssertionError
=========================== short test summary info ============================
FAILED tests/test_ca.py::test_valid - AssertionError: certificate expired at 2...
========================= 1 failed, 3 passed in 0.12s ==========================
"""
TRACEBACK = """\
Traceback (most recent call last):
  File "setup.py", line 3, in <module>
    years = table[2024]
KeyError: 2024

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "setup.py", line 5, in <module>
    raise workalendar.exceptions.CalendarError("no available data for year 2024")
workalendar.exceptions.CalendarError: no available data for year 2024
"""
MAKE = """\
cc -c -o a.o a.c
a.c: In function 'main':
a.c:3:5: error: 'x' undeclared (first use in this function)
    3 |     x = 1;
make[1]: *** [Makefile:2: a.o] Error 1
make[1]: Leaving directory '/build'
make: *** [Makefile:9: all] Error 2
"""
NINJA = """\
[1/2] Compiling C object a.o
FAILED: a.o
cc -c a.c
a.c:3:5: fatal error: x.h: No such file or directory
compilation terminated.
ninja: build stopped: subcommand failed.
"""
TAP = """\
ok 1 - signs
not ok 2 - verifies a certificate
# Looks like you planned 2 tests.
1..2
"""
DMESG = """\
[    1.100000] random: crng init done
[   14.200000] traps: avx[212] trap invalid opcode ip:401136 sp:7ffe error:0 in avx[401000+1000]
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (PYTEST, "E       AssertionError: certificate expired at 2019-05-01"),
        (
            TRACEBACK,
            "workalendar.exceptions.CalendarError: no available data for year 2024",
        ),
        (MAKE, "a.c:3:5: error: 'x' undeclared (first use in this function)"),
        (NINJA, "a.c:3:5: fatal error: x.h: No such file or directory"),
        (TAP, "not ok 2 - verifies a certificate"),
        ("working\nMemoryError\n", "MemoryError"),
        ("/bin/sh: 1: cmake: not found\n", "/bin/sh: 1: cmake: not found"),
        ("step 1\nIllegal instruction\n", "Illegal instruction"),
        ("Your licence has expired.\nBye.\n", "Your licence has expired."),
        ("working\nit did not work\n\n", "it did not work"),
        ("", ""),
        ("\n \n", ""),
    ],
)
def test_the_line_that_a_person_would_look_for_is_picked(log, line):
    assert failing_lines(log) == line


def test_where_only_make_complains_its_last_words_are_shown():
    log = "cc -c a.c\nmake: *** [Makefile:9: all] Error 2\n"
    assert failing_lines(log) == "make: *** [Makefile:9: all] Error 2"


def test_what_the_kernel_says_of_a_crash_is_added():
    first, second = failing_lines("Illegal instruction\n", DMESG).splitlines()
    assert first == "Illegal instruction"
    assert second.endswith("error:0 in avx[401000+1000]")
    assert failing_lines("", DMESG) == second


def test_very_long_lines_are_cut():
    assert len(failing_lines("Error: " + "x" * 10_000)) == 400


def test_of_a_very_long_log_only_the_end_is_searched():
    log = "ValueError: long ago\n" + "all is well\n" * 100_000 + "bye\n"
    assert failing_lines(log) == "bye"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGILL, "SIGILL"), (9, "SIGKILL"), (70, "signal 70")]
)
def test_signals_are_named(number, name):
    assert name_signal(number) == name


WHY = {
    "automake": "FAIL: tests/expiry",
    "automake_log": "not after 2027-06-01: the leaf is too old",
    "cargo": 'called `Result::unwrap()` on an `Err` value: "boom"',
    "cargo_compile": "error[E0308]: mismatched types",
    "caught": "message: 'certificate has expired'",
    "cmake": "too old a clock",
    "cmake_package": 'Could not find a package configuration file provided by "OpenSSLx" with any',
    "configure": "configure: error: libgpgme was not found",
    "ctest": "assertion failed: certificate expired",
    "ctest_signal": "3 - seg (SEGFAULT)",
    "go": "verify_test.go:42: x509: certificate has expired or is not yet valid: "
    "current time 2030-01-01T00:00:01Z is after 2027-06-01T00:00:00Z",
    "go_compile": "./verify.go:7:2: undefined: tls.VersionSSL40",
    "go_module": "verify.go:5:2: no required module provides package "
    "github.com/stretchr/testify/assert: go.mod file not found in current directory or any parent "
    "directory; see 'go help modules'",
    "go_old": "years_test.go:12: got 366, want 365",
    "go_panic": "panic: runtime error: index out of range [3] with length 2 [recovered]",
    "googletest": "Value of: cert.valid_at(now())",
    "gradle": "java.security.cert.CertificateExpiredException at ChainTest.java:21",
    "jest": "expect(received).toBe(expected) // Object.is equality",
    "loader": "./chain: error while loading shared libraries: libssl.so.1.1: cannot open shared "
    "object file: No such file or directory",
    "make_header": "h.c:1:10: fatal error: nosuch.h: No such file or directory",
    "make_link": "l.c:(.text+0xa): undefined reference to `foo'",
    "make_no_rule": "make: *** No rule to make target 'nofile', needed by 'v'.  Stop.",
    "make_program": "make: frobnicate: No such file or directory",
    "make_shell": "sh: 1: cannot create /nodir/x: Directory nonexistent",
    "make_syntax": "s.c:1:13: error: \N{LEFT SINGLE QUOTATION MARK}x"
    "\N{RIGHT SINGLE QUOTATION MARK} undeclared (first use in this function)",
    "maven": "Caused by: java.security.cert.CertificateExpiredException: "
    "NotAfter: Tue Jun 01 00:00:00 UTC 2027",
    "maven_compile": "[ERROR] /build/src/main/java/org/example/Chain.java:[5,26] "
    "package javax.xml.bind does not exist",
    "maven_offline": "[ERROR] Failed to execute goal on project chain: Could not resolve "
    "dependencies for project org.example:chain:jar:1.4: Cannot access central in offline mode "
    "and the artifact junit:junit:jar:4.13 has not been downloaded from it before. -> [Help 1]",
    "meson": "expiry: ../expiry.c:14: main: Assertion `leaf_is_valid ()' failed.",
    "node_module": "Error: Cannot find module 'nosuch'",
    "node_tap": "Expected values to be strictly equal:",
    "pip": "speed.c:2:10: fatal error: Python.h: No such file or directory",
    "prove": "#   Failed test 'deep'",
    "prove_died": "cannot load cert",
    "prove_plan": "Parse errors: Bad plan.  You planned 2 tests but ran 1.",
    "prove_signal": "t/d.t (Wstat: 4 (Signal: ILL) Tests: 0 Failed: 0)",
    "prove_verbose": "not ok 3 - deep",
    "pytest": "E       KeyError: '2038'",
    "pytest_captured": "E       assert 1 == 2",
    "pytest_collection": "E   ModuleNotFoundError: No module named 'numpyy'",
    "pytest_fixture": "E       fixture 'nofix' not found",
    "pytest_line": "/build/pt/test_ssl.py:3: ssl.SSLCertVerificationError: "
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired "
    "(_ssl.c:1006)",
    "pytest_message_of_lines": "E       RuntimeError: first line",
    "pytest_no_file": "ERROR: file or directory not found: nofile.py",
    "pytest_no_traceback": "FAILED test_a.py::test_keyerror - KeyError: '2038'",
    "pytest_short": "E   ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] "
    "certificate verify failed: certificate has expired (_ssl.c:1006)",
    "pytest_syntax": "E   SyntaxError: invalid syntax",
    "testify": "Error:      \tNot equal:",
    "unittest": "AssertionError: 'a\\nb' != 'a\\nc'",
    "unittest_import": "ModuleNotFoundError: No module named 'nomod'",
}


def test_every_end_of_a_log_is_in_the_table():
    assert {path.stem for path in LOG_ENDS.iterdir()} == {*WHY, "prove_no_module"}


@pytest.mark.parametrize("name", WHY)
def test_the_line_says_why_whichever_runner_printed_it(name):
    assert failing_lines((LOG_ENDS / f"{name}.txt").read_text()) == WHY[name]


PLAIN = """\
=================================== FAILURES ===================================
__________________________________ test_year ___________________________________

    def test_year():
>       assert year() == 2024
E       assert 2038 == 2024
E        +  where 2038 = year()

test_year.py:6: AssertionError
----------------------------- Captured stderr call -----------------------------
ValueError: a warning of no weight
=========================== short test summary info ============================
FAILED test_year.py::test_year - assert 2038 == 2024
============================== 1 failed in {} ===============================
"""


def test_the_tally_of_pytest_is_not_why_so_two_runs_have_the_same_line():
    fast, slow = (failing_lines(PLAIN.format(took)) for took in ("0.02s", "2.05s"))
    assert fast == slow == "E       assert 2038 == 2024"


def test_what_a_passing_test_logs_is_not_why():
    log = "=== RUN   TestA\n    a_test.go:3: one\n--- FAIL: TestA (0.00s)\n"
    log += "=== RUN   TestB\n    a_test.go:9: two\n--- PASS: TestB (0.00s)\nFAIL\n"
    assert failing_lines(log) == "a_test.go:3: one"


def test_where_all_lines_only_repeat_that_it_failed_one_is_shown_all_the_same():
    log = "============================== 1 failed in 2.05s ==============================="
    assert failing_lines(log) == log


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("pytest_collection", "ModuleNotFoundError: numpyy"),
        ("unittest_import", "ModuleNotFoundError: nomod"),
        ("prove_no_module", "no such Perl module: No/Such/Module.pm"),
        ("make_header", "no such header: nosuch.h"),
        ("make_program", "no such program: frobnicate"),
        ("make_no_rule", "no such file: nofile"),
        ("make_shell", "no such directory: /nodir/x"),
        ("loader", "no such library: libssl.so.1.1"),
        ("cmake_package", "no such package: OpenSSLx"),
        ("go_module", "no such package: github.com/stretchr/testify/assert"),
        ("node_module", "no such package: nosuch"),
        ("pytest_no_file", "no such file: nofile.py"),
        ("pytest", ""),
        ("make_link", ""),
    ],
)
def test_what_is_missing_is_named(name, missing):
    assert missing_part(failing_lines((LOG_ENDS / f"{name}.txt").read_text())) == missing


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("/bin/sh: 1: cmake: not found", "no such program: cmake"),
        ("bash: line 3: cargo: command not found", "no such program: cargo"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'gpg'", "no such file: gpg"),
        ("ModuleNotFoundError: No module named 'yaml.cyaml'", "ModuleNotFoundError: yaml.cyaml"),
        ("", ""),
    ],
)
def test_missing_parts_are_named_from_single_lines(line, missing):
    assert missing_part(line) == missing


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<Thing object at 0x7f2df3168f10>", "<Thing object at 0x7f4f86bba010>"),
        ("1 failed in 2.05s", "1 failed in 11.3 seconds"),
        ("/usr/bin/ld: /tmp/ccPQRjNk.o: bad", "/usr/bin/ld: /tmp/ccA1b2C3.o: bad"),
        ("/tmp/pytest-of-u/pytest-3/test_a0/f", "/tmp/pytest-of-root/pytest-11/test_a0/f"),
        ("prog[212]: segfault", "prog[9177]: segfault"),
        ("thread 'a' (5502) panicked", "thread 'a' (77) panicked"),
        ("object 3f2a9c1 is bad", "object 77ab00cdef12 is bad"),
        ("cannot connect to 127.0.0.1:33217", "cannot connect to 127.0.0.1:51002"),
        ("worker pid 31 died", "worker pid 4055 died"),
        ("id 0b5e7c0e-6a3f-4b1c-9d2e-aabbccddeeff", "id 12345678-1234-1234-1234-123456789abc"),
    ],
)
def test_what_differs_between_any_two_runs_is_left_out_of_comparisons(one, other):
    assert steady(one) == steady(other)
    assert says(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("certificate expired at 2019-05-01", "certificate expired at 2019-06-01"),
        ("KeyError: 2024", "KeyError: 2025"),
        ("no module named a", "no module named b"),
        ("exit code 3", "exit code 4"),
        ("deadbeef and effaced", "deadbeef and defaced"),
    ],
)
def test_what_makes_a_difference_stays_in_comparisons(one, other):
    assert steady(one) != steady(other)
    assert not says(one, other)


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
TESTNAMES_PYTEST = """\
=================================== FAILURES ===================================
=========================== short test summary info ============================
FAILED tests/test_a.py::TestA::test_x[a - b] - AssertionError: no - really
FAILED tests/test_a.py::test_y
ERROR tests/test_b.py - ImportError: no module
======================== 2 failed, 3 passed, 1 error in 0.12s ==================
"""
TESTNAMES_PROVE = """\
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
TESTNAMES_TAP = """\
ok 1 - fine
not ok 2 - the key is valid
not ok 3 - some day # TODO
not ok 4 # SKIP no network
not ok 5 without a dash
"""
TESTNAMES_CTEST = """\
2/4 Test #2: b ................................***Failed    0.01 sec
The following tests did not run:
\t  3 - c (Skipped)
The following tests FAILED:
\t  2 - b (Failed)
\t 14 - long name (Timeout)
"""
TESTNAMES_AUTOMAKE = "PASS: one\nFAIL: two.sh\nXFAIL: three\nERROR: four\n"
TESTNAMES_MESON = (
    " 3/12 suite / tls        FAIL             0.15s   exit status 1\n 4/12 x  OK 0.1s\n"
)
TESTNAMES_CARGO = "test tls::expired ... FAILED\ntest tls::fine ... ok\n"
TESTNAMES_GO = "--- FAIL: TestVerify (0.01s)\n    --- FAIL: TestVerify/expired (0.00s)\n"
GTEST = (
    "[  FAILED  ] Suite.Case (3 ms)\n[  FAILED  ] 1 test, listed below:\n[  FAILED  ] Suite.Case\n"
)
MAVEN = "[ERROR] com.x.FooTest.bar  Time elapsed: 0.1 s  <<< FAILURE!\n[ERROR] Failures\n"
TESTNAMES_REGRTEST = (
    "test test_httplib failed -- Traceback (most recent\ntest_httplib failed (1 error)\n"
)


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
            TESTNAMES_PYTEST,
            ("tests/test_a.py::TestA::test_x[a - b]", "tests/test_a.py::test_y", "tests/test_b.py"),
        ),
        (TESTNAMES_PROVE, ("the key is valid", "t/key.t")),
        (TESTNAMES_TAP, ("the key is valid", "without a dash")),
        (TESTNAMES_CTEST, ("b", "long name")),
        (TESTNAMES_AUTOMAKE, ("two.sh", "four")),
        (TESTNAMES_MESON, ("suite / tls",)),
        (TESTNAMES_CARGO, ("tls::expired",)),
        (TESTNAMES_GO, ("TestVerify", "TestVerify/expired")),
        ("FAIL\tx/y [build failed]\nFAIL\tx/z 0.1s\n", ("x/y",)),
        (GTEST, ("Suite.Case",)),
        (MAVEN, ("com.x.FooTest.bar",)),
        (TESTNAMES_REGRTEST, ("test_httplib",)),
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
        (TESTNAMES_PYTEST, False),
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
