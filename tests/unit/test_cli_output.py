"""What is written: nothing that steers a terminal, tables that line up, progress on stderr."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.cli.command import Session
from buildvm_nb.cli.output import (
    LineProgress,
    printable,
    printable_lines,
    write_fields,
    write_json,
    write_table,
)

ROOT = Path(__file__).parents[2]
NASTY = "[red]no markup[/red] \x1b[2J\x07 \u202e \udcff"


@given(st.text())
def test_printable_text_has_no_control_characters(text):
    assert printable(text).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_letters_numbers_and_signs_stay_as_they_are(text):
    assert printable(text) == text


def test_lines_stay_lines():
    assert printable_lines("a\tb\r\n\x1b[31mc\n\n") == ["a       b", "\\x1b[31mc"]


def test_a_table_in_a_pipe_lines_up_and_is_never_cut(capsys):
    write_table(("name", "MiB "), [("x" * 200, 7), (None, 12345)])
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines] == [207, 207, 207]
    assert lines[1] == "x" * 200 + "      7"


def test_a_table_shows_control_characters_and_markup_as_text(capsys):
    write_table(("what",), [(NASTY,)])
    shown = capsys.readouterr().out.splitlines()[1]
    assert shown == "[red]no markup[/red] \\x1b[2J\\x07 \\u202e \\udcff"


def test_fields_without_a_value_are_left_out_and_lines_are_indented(capsys):
    write_fields([("verdict", "failed"), ("why", ""), ("log", "a\nb")])
    assert capsys.readouterr().out == "verdict  failed\nlog      a\n         b\n"


def test_json_is_ascii(capsys):
    write_json({"text": NASTY})
    assert capsys.readouterr().out.isascii()


def test_line_progress_tells_start_and_end(capsys):
    with LineProgress().task("make image\x1b[2J") as task:
        task.update(1, 2, "ignored")
    started, ended = capsys.readouterr().err.splitlines()
    assert started == "buildvm: make image\\x1b[2J …"
    assert re.fullmatch(r"buildvm: make image\\x1b\[2J: done in \d+\.\d s", ended)


def test_line_progress_tells_that_work_was_cut_short(capsys):
    with pytest.raises(KeyboardInterrupt), LineProgress().task("fetch"):
        raise KeyboardInterrupt
    assert "fetch: stopped after" in capsys.readouterr().err


def on_terminal(code):
    """Run code with its standard output and standard error on a terminal; return what it shows."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    argv = [sys.executable, "-W", "error", "-c", code]
    with subprocess.Popen(argv, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the terminal is closed
                break
            if not piece:
                break
            shown += piece
        os.close(ours)
    assert process.wait(timeout=600) == 0, shown
    return shown.decode()


def test_progress_on_a_terminal_shows_notes_as_text_and_is_gone_in_the_end():
    shown = on_terminal(
        "from buildvm_nb.cli.command import Session\n"
        "from threading import Event\n"
        "with Session().progress().task('make [bold]image[/bold]') as task:\n"
        "    with Session().progress().task('inner'):\n"
        "        pass\n"
        "    task.update(1, 2, 'unpack \\x1b]0;title\\x07[link=x]')\n"
        "    Event().wait(0.3)\n"
        "print('end')\n"
    )
    assert "make [bold]image[/bold]" in shown
    assert "unpack \\x1b]0;title\\x07[link=x]" in shown
    assert "\x1b]0;" not in shown
    assert shown.rstrip().endswith("end")


def test_progress_of_several_threads_shares_one_display():
    shown = on_terminal(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from buildvm_nb.cli.output import TerminalProgress\n"
        "progress = TerminalProgress()\n"
        "def work(n):\n"
        "    with progress.task(f'job {n}') as task:\n"
        "        for i in range(50):\n"
        "            task.update(i, 50)\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    list(pool.map(work, range(20)))\n"
        "print('end')\n"
    )
    assert "Traceback" not in shown
    assert shown.rstrip().endswith("end")


def test_a_table_on_a_terminal_shows_control_characters_and_markup_as_text():
    shown = on_terminal(
        "from buildvm_nb.cli.output import write_table\n"
        "write_table(('name', 'MiB '), [('[red]x[/red] :smile: \\x1b[2J', 12)])\n"
    )
    assert "[red]x[/red] :smile: \\x1b[2J" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_who_stops_long_work_is_told_how_to_go_on(ending, capsys):
    with pytest.raises(ending), Session().resumable(scheduler="tcp://127.0.0.1:8786"):
        raise ending
    assert capsys.readouterr().err == (
        "buildvm: what has ended is recorded; the same command goes on from there\n"
        "buildvm: workers finish the runs that they are at\n"
    )
