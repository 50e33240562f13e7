import signal

import pytest

from buildvm_nb.study.evidence import failing_lines, name_signal

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
