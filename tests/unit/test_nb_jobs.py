"""Jobs: work in the background, cancelled at every stage, never left behind."""

import os
import select
import subprocess
import sys
import threading
from importlib import reload

import pytest

from buildvm_nb.errors import HostError, StateError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import (
    Interrupted,
    Interruption,
    alive_lock,
    owned_group,
    run_process,
    run_tool,
)
from buildvm_nb.nb import ownership
from buildvm_nb.nb.jobs import Job, JobState, TaskEvent
from buildvm_nb.nb.ownership import end_everything, release, take_over

LONG_S = 600.0


def waits_for(began, work):
    """A target that says that it is at work and then does it."""

    def target(job):
        began.set()
        return work(job)

    return target


def cancelled_while(work):
    began = threading.Event()
    job = Job(waits_for(began, work)).start()
    assert began.wait(LONG_S)
    job.cancel()
    assert job.wait(LONG_S)
    return job


def test_a_job_returns_a_result_and_tells_events_in_order():
    told = []

    def target(job):
        job.tell("first")
        with job.task("fetch") as task:
            task.update(1, 2)
        return 42

    job = Job(target, on_event=told.append, on_end=told.append)
    assert job.state == "idle"
    assert job.start().wait(LONG_S)
    assert (job.state, job.result, job.error) == ("done", 42, None)
    assert told[0] == "first"
    assert isinstance(told[1], TaskEvent)
    assert told[1].is_over
    assert told[-1] is job


def test_an_error_is_kept_for_whoever_asks():
    def target(job):
        raise HostError("no disk", hint="buy one")

    job = Job(target).start()
    job.wait(LONG_S)
    assert job.state is JobState.FAILED
    assert job.error.hint == "buy one"
    with pytest.raises(StateError, match="it is failed"):
        _ = job.result


def test_a_job_is_started_once():
    job = Job(lambda _: None).start()
    job.wait(LONG_S)
    with pytest.raises(StateError, match="started before"):
        job.start()


def test_a_job_cancelled_before_its_start_never_runs():
    job = Job(lambda _: pytest.fail("it ran"))
    job.cancel()
    assert job.wait(LONG_S)
    assert job.state == "cancelled"


def test_cancel_stops_work_that_reports_progress():
    def work(job):
        while True:
            with job.task("download") as task:
                task.update(1)

    assert cancelled_while(work).state == "cancelled"


def test_cancel_ends_a_program_and_what_it_started(tmp_path):
    """As git with its transport, which holds the pipe open that we read."""
    os.mkfifo(tmp_path / "pid")
    script = f"sleep 1000 & echo $! >{tmp_path}/pid; wait"
    job = Job(lambda _: run_process(["/bin/sh", "-c", script])).start()
    descriptor = os.pidfd_open(int((tmp_path / "pid").read_text()))
    try:
        job.cancel()
        assert job.wait(LONG_S)
        assert job.state == "cancelled"
        assert select.select([descriptor], [], [], LONG_S)[0]  # readable: it has ended
    finally:
        os.close(descriptor)


def test_a_program_is_ended_whole_that_was_cancelled_while_it_started(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pid")
    interruption, descriptors = Interruption(), []

    class Started(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            descriptors.append(os.pidfd_open(int((tmp_path / "pid").read_text())))
            interruption.request()

    monkeypatch.setattr(subprocess, "Popen", Started)
    script = f"sleep 1000 & echo $! >{tmp_path}/pid; wait"
    with interruption.covering(), pytest.raises(Interrupted):
        run_process(["/bin/sh", "-c", script])
    assert select.select(descriptors, [], [], LONG_S)[0]  # readable: it has ended
    os.close(descriptors[0])


def test_cancel_ends_the_making_of_an_image(tmp_path):
    began = threading.Event()

    def target(job):
        with alive_lock(tmp_path / "lock") as hold:
            argv = ["sh", "-c", "echo begun >&2; sleep 1000"]

            def listen(stream):
                stream.readline()
                began.set()
                stream.read()

            env = {**os.environ, "TMPDIR": str(tmp_path)}
            with owned_group(argv, hold=hold, listen=listen, env=env) as process:
                process.wait()

    job = Job(target).start()
    assert began.wait(LONG_S)
    job.cancel()
    assert job.wait(LONG_S)
    assert job.state == "cancelled"


def test_cancel_ends_waiting_for_another_builder(tmp_path):
    cache = Cache(tmp_path)
    with cache.lock("images", "key"):

        def work(job):
            with cache.lock("images", "key"):
                pytest.fail("two have the lock")

        assert cancelled_while(work).state == "cancelled"


def test_a_failing_program_is_a_failure_where_nobody_cancels():
    job = Job(lambda _: run_tool(["sh", "-c", "echo bad >&2; exit 3"])).start()
    job.wait(LONG_S)
    assert isinstance(job.error, HostError)
    assert "exited with 3" in str(job.error)


def test_interrupted_is_nothing_that_a_handler_of_failures_catches():
    assert not issubclass(Interrupted, Exception)


def test_a_newer_job_ends_the_older_one_of_its_name():
    began = threading.Event()
    older = Job(waits_for(began, lambda _: run_process(["sleep", "1000"])), name="build").start()
    assert began.wait(LONG_S)
    newer = Job(lambda _: older.state, name="build").start()
    newer.wait(LONG_S)
    assert newer.result == "cancelled"


def test_a_reload_forgets_nothing_that_runs():
    ended = []
    take_over("panel", lambda: ended.append("older"))
    reload(ownership)
    ownership.take_over("panel", lambda: ended.append("newer"))
    assert ended == ["older"]
    ownership.end_everything()
    assert ended == ["older", "newer"]


def test_what_has_ended_is_forgotten_but_its_successor_is_not():
    ended = []

    def older():
        ended.append("older")

    def newer():
        ended.append("newer")

    take_over("panel", older)
    take_over("panel", newer)
    release("panel", older)
    end_everything()
    assert ended == ["older", "newer"]
    release("panel", newer)


def test_the_end_of_the_process_ends_jobs_and_does_not_wait_for_their_work(tmp_path):
    script = f"""
import threading
from buildvm_nb.host.process import run_process
from buildvm_nb.nb.jobs import Job
began = threading.Event()
def work(job):
    began.set()
    try:
        run_process(["sleep", "1000"])
    finally:
        open({str(tmp_path / "ended")!r}, "w").close()
Job(work).start()
began.wait()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert (tmp_path / "ended").exists()
