"""Panels and logs, driven without a browser."""

import threading

import ipywidgets as widgets
import pytest

from buildvm_nb.errors import HostError
from buildvm_nb.host.process import Interrupted
from buildvm_nb.nb.log import LogView
from buildvm_nb.nb.panel import Panel

LONG_S = 600.0
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def panel():
    with_end = Panel(name="test")
    yield with_end
    with_end.close()


def test_an_error_of_a_handler_is_shown_with_its_hint(panel):
    button = widgets.Button()

    def handler(_button):
        raise HostError("no disk", hint="buy one")

    button.on_click(panel.guarded(handler))
    button.click()
    assert "no disk" in panel.error_html
    assert "<b>Hint:</b> buy one" in panel.error_html
    panel.show_error(None)
    assert not panel.error_html


def test_an_unexpected_error_is_shown_with_its_traceback(panel):
    panel.guarded([].pop)()
    assert "IndexError: pop from empty list" in panel.error_html
    assert "Traceback (most recent call last)" in panel.error_html


@pytest.mark.parametrize("error", [HostError(SCRIPT, hint=SCRIPT), ValueError(SCRIPT)])
def test_what_an_error_says_never_becomes_a_tag(panel, error):
    panel.show_error(error)
    assert "<script" not in panel.error_html
    assert "<img" not in panel.error_html
    assert "&lt;script&gt;" in panel.error_html


def test_a_panel_is_busy_while_its_job_runs_and_shows_what_made_it_fail(panel):
    gate = threading.Event()

    def work(job):
        gate.wait(LONG_S)
        raise HostError("no network")

    panel.begin(work)
    assert panel.busy
    gate.set()
    panel.wait(LONG_S)
    assert not panel.busy
    assert "no network" in panel.error_html


def test_a_newer_job_of_a_panel_does_not_wait_for_the_older_one(panel):
    began, gate = threading.Event(), threading.Event()

    def stubborn(job):
        began.set()
        gate.wait(LONG_S)
        raise HostError("too late")

    older = panel.begin(stubborn)
    assert began.wait(LONG_S)
    newer = panel.begin(lambda _: 42)
    assert newer.wait(LONG_S)
    assert older.state == "cancelling"
    gate.set()
    assert older.wait(LONG_S)
    assert not panel.busy
    assert not panel.error_html  # of what nobody waits for any more


def test_a_panel_made_again_ends_what_the_older_one_runs():
    began, ended = threading.Event(), threading.Event()

    def work(job):
        began.set()
        try:
            while True:
                job.check()
        except Interrupted:
            ended.set()
            raise

    older = Panel(name="cell")
    older.begin(work)
    assert began.wait(LONG_S)
    newer = Panel(name="cell")
    assert ended.is_set()
    assert older.job.wait(LONG_S)
    newer.close()
    older.close()


def test_a_log_keeps_colours_and_escapes_everything_else():
    log = LogView()
    log.feed(f"\x1b[31mred\x1b[0m {SCRIPT} & more\n".encode())
    log.flush()
    assert '<span style="color: #' in log.html
    assert "<script" not in log.html
    assert "<img" not in log.html
    assert "&lt;script&gt;" in log.html
    assert log.text == f"red {SCRIPT} & more"


def test_escapes_that_are_no_colours_leave_nothing_behind():
    log = LogView()
    log.feed(
        b'\x1b]8;;javascript:alert(1)\x1b\\link\x1b]8;;\x1b\\ \x1b[2Kdone\x07 10%\r100%\r\n"\xff'
    )
    log.flush()
    assert "javascript" not in log.html
    assert "100%" in log.html
    assert "10%\r" not in log.html
    assert log.html.count("\n") == 1


def test_a_log_of_200_mb_is_bounded_in_memory_and_in_what_a_browser_gets():
    log = LogView(shown=500, kept=20_000)
    piece = b"".join(b"line %7d of a build that says far too much\n" % n for n in range(1000))
    pieces = 200 * 10**6 // len(piece) + 1
    for _ in range(pieces):
        log.feed(piece)
    log.flush()
    assert log.line_count == pieces * 1000
    assert f"{pieces * 1000 - 500} lines above not shown" in log.html
    assert len(log.html) < 100_000
    assert len(log.text) < 2_000_000
    assert log.refresh_count < pieces / 10


def test_200_mb_without_a_line_end_are_one_short_line():
    log = LogView()
    for _ in range(200):
        log.feed(b"x" * 10**6)
    log.flush()
    assert len(log.html) < 10_000


def test_find_shows_the_lines_with_a_text_and_marks_it():
    log = LogView(shown=10)
    log.feed(b"".join(b"test %d \x1b[32mok\x1b[0m\n" % number for number in range(1000)))
    log.feed(b"Test 7 <FAILED>\nmore\n")
    assert log.find("failed") == 1
    assert "   1001  Test 7 &lt;<mark>FAILED</mark>&gt;" in log.html
    assert log.find("T 7 O") == 1
    assert log.find("absent") == 0
    assert log.find("") == 1002
    assert "992 lines above" in log.html
