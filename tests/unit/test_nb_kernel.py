"""Jobs and panels in a real kernel: its loop, its cells, its restart."""

import shutil
import subprocess

import pytest
from jupyter_client.manager import KernelManager

LONG_S = 600.0
SETUP = """
import asyncio, threading
from buildvm_nb.host.process import run_process
from buildvm_nb.nb import Job, LogView, Panel
gate = threading.Event()
threads, events = set(), []

def take(event):
    threads.add(threading.current_thread())
    events.append(event)

def work(job):
    job.tell("begun")
    gate.wait(600)
    job.tell("more")
    return 42
"""


class Kernel:
    """A kernel that is asked to run cells."""

    def __init__(self):
        self.manager = KernelManager()
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LONG_S)

    def run(self, cell):
        printed = []
        reply = self.client.execute_interactive(
            cell,
            timeout=LONG_S,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed).strip()

    def displayed(self, cell):
        """Return the texts that a cell displays, and displays in their place."""
        shown = []

        def take(message):
            if message["header"]["msg_type"] in {"display_data", "update_display_data"}:
                shown.append(message["content"]["data"]["text/plain"])

        reply = self.client.execute_interactive(cell, timeout=LONG_S, output_hook=take)
        assert reply["content"]["status"] == "ok", reply["content"]
        return shown

    def restart(self):
        self.manager.restart_kernel()
        self.client.wait_for_ready(timeout=LONG_S)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture(scope="module")
def kernel():
    started = Kernel()
    started.run(SETUP)
    yield started
    started.close()


def test_a_cell_returns_while_its_job_runs_and_events_arrive_on_the_loop(kernel):
    kernel.run("job = Job(work, on_event=take).start()")
    assert kernel.run("print(job.state)") == "running"
    kernel.run("while not events: await asyncio.sleep(0.01)")
    kernel.run("gate.set()\nwhile len(events) < 2: await asyncio.sleep(0.01)")
    kernel.run("assert job.wait(600)")
    assert kernel.run("print(events, job.result)") == "['begun', 'more'] 42"
    assert kernel.run("print(threads == {threading.main_thread()})") == "True"


def test_a_cell_that_waits_gets_events_all_the_same(kernel):
    kernel.run("gate.set(); events.clear(); threads.clear()")
    assert kernel.run("print(Job(work, on_event=take).start().wait(600), events)") == (
        "True ['begun', 'more']"
    )
    assert kernel.run("print(threads == {threading.main_thread()})") == "True"


def test_a_log_fed_without_pause_is_shown_to_its_end(kernel):
    kernel.run("log = LogView()\nfor n in range(1000): log.feed(b'line %d\\n' % n)")
    kernel.run("while 'line 999' not in log.html: await asyncio.sleep(0.01)")
    assert int(kernel.run("print(log.refresh_count)")) < 100


def test_a_cell_that_is_run_again_ends_what_its_panel_ran(kernel):
    cell = "panel = Panel(name='cell')\njob = panel.begin(lambda _: run_process(['sleep', '999']))"
    kernel.run(cell + "\nolder = job")
    kernel.run(cell)
    assert kernel.run("print(older.state, job.state)") == "cancelled running"
    kernel.run("panel.close()")


def test_a_restart_ends_what_runs(kernel, tmp_path):
    kernel.run(
        f"""
def work(job):
    try:
        run_process(["sleep", "999"])
    finally:
        open({str(tmp_path / "ended")!r}, "w").close()
job = Job(work).start()
"""
    )
    kernel.restart()
    assert (tmp_path / "ended").exists()


def test_a_call_that_takes_long_says_in_its_cell_what_it_is_doing(kernel, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for program in ("git", "qemu-system-x86_64"):  # all but what makes an image
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    subprocess.run(["git", "init", "-q", tmp_path / "project"], check=True)
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", tmp_path / "project"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "First"], check=True)
    case = {
        "id": "mine",
        "source": {"kind": "git", "url": str(tmp_path / "project"), "commit": "HEAD"},
        "steps": [{"name": "test", "run": "true"}],
    }
    places = {"BUILDVM_CACHE": tmp_path / "cache", "BUILDVM_CATALOG": tmp_path / "c.sqlite"}
    places |= {"PATH": tmp_path / "bin"}
    settings = {name: str(place) for name, place in places.items()}
    kernel.run(f"import os, buildvm_nb\nos.environ.update({settings})")
    shown = kernel.displayed(f"print(buildvm_nb.build(buildvm_nb.Case.parse({case})).verdict)")
    assert any("fetch" in text for text in shown), shown
    assert shown[-1] == ""  # what has ended is gone
    shown = kernel.displayed(
        "from buildvm_nb.errors import HostError\n"
        f"try: buildvm_nb.diagnose(buildvm_nb.Case.parse({case}), axes=['date'])\n"
        "except HostError: pass"
    )
    assert shown[0].startswith("diagnose mine")
    assert shown[-1] == ""


def test_runs_so_far_are_counted_in_the_cell(kernel):
    shown = kernel.displayed(
        "from buildvm_nb.host.progress import cell_progress\n"
        "progress = cell_progress()\n"
        "with progress.task('diagnose <x>') as task:\n"
        "    task.update(3, note='3 outcomes so far')\n"
        "    with progress.task('boot Haswell'): pass"
    )
    assert "diagnose <x>, 3 outcomes so far · boot Haswell" in shown
