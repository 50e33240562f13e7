import signal
from pathlib import Path

import pytest

from buildvm_nb.model.plaintext import says, steady
from buildvm_nb.study.evidence import failing_lines, missing_part, name_signal

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
