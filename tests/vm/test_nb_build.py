"""The build panel with real guests: none is left behind, whatever is pressed or restarted."""

import threading
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from buildvm_nb.catalog import Catalog, parse_case
from buildvm_nb.nb import BuildPanel
from buildvm_nb.vm.qemu import OwnedProcess

pytestmark = [pytest.mark.vm, pytest.mark.network]

LONG_S = 600.0
MACHINE = {"date": "2019-05-01", "memory_mib": 512}
EMULATED = MACHINE | {"accelerator": "tcg"}
CASE = """
schema = 1
id = "sample"
[image]
packages = ["python3"]
[[step]]
name = "test"
run = '''
{run}
'''
"""
RED = r"printf '\033[31mred\033[0m <script>alert(1)</script>\n'; date +%Y; exit 3"
BOOT_IN_KERNEL = f"""
from buildvm_nb.catalog import parse_case
from buildvm_nb.nb import BuildPanel
case = parse_case({CASE.format(run="sleep 1000")!r})
build = BuildPanel(case, {{machine}})
"""


def is_alive(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def panel_of(cache, fastest, tmp_path):
    made = []

    def make(run, machine=MACHINE | fastest, **more):
        case = parse_case(CASE.format(run=run))
        catalog = tmp_path / "catalog.sqlite"
        made.append(BuildPanel(case, machine, cache=cache, catalog=catalog, **more))
        return made[-1]

    yield make
    for panel in made:
        panel.close()


def test_a_build_is_booted_run_judged_and_recorded(panel_of, tmp_path):
    build = panel_of(RED, EMULATED)
    build._controls.boot.click()
    assert build.wait(LONG_S)
    assert "up: 2019-05-01T00:00:00Z, Cascadelake-Server" in build.status
    assert build._controls.boot.disabled
    pid = build._booted.machine.pid
    assert build.run().verdict == "failed"
    assert not is_alive(pid)  # a run leaves its marks in a machine
    assert not build.is_up
    assert build.log_view.text == "red <script>alert(1)</script>\n2019"
    assert "<script" not in build.log_view.html
    assert '<span style="color' in build.log_view.html
    assert "<b>failed</b>: test: exited with 3" in build.verdict_html
    assert "run step test" in build._controls.progress.value
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert catalog.log(build.record().id).endswith(b"\n2019\n")


def test_cancel_ends_a_step_and_its_guest_and_no_other(panel_of):
    other = panel_of("true", name="other")
    other.boot()
    assert other.wait(LONG_S)
    build = panel_of("echo begun; sleep 1000")
    build.boot()
    assert build.wait(LONG_S)
    pid = build._booted.machine.pid
    began = threading.Event()
    build.log_view._page.observe(lambda _: began.set(), "value")
    began.clear()
    build._controls.run.click()
    while "begun" not in build.log_view.text:
        assert began.wait(LONG_S)
        began.clear()
    build._controls.cancel.click()
    assert build.wait(LONG_S)
    assert build.status == "no outcome: cancelled"
    assert build.outcome is None
    assert not is_alive(pid)
    assert is_alive(other._booted.machine.pid)
    pid = other._booted.machine.pid
    other._controls.shut_down.click()
    assert not is_alive(pid)


def test_cancel_ends_a_boot(panel_of, monkeypatch):
    launched = threading.Event()
    started = []

    class Watched(OwnedProcess):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            started.append(self)
            launched.set()

    monkeypatch.setattr("buildvm_nb.vm.instance.OwnedProcess", Watched)
    build = panel_of("true")
    build._controls.boot.click()
    assert launched.wait(LONG_S)
    build._controls.cancel.click()
    assert build.wait(LONG_S)
    assert build.status == "not booted: cancelled"
    assert not build.is_up
    assert [one.is_running for one in started] == [False]


@pytest.mark.parametrize("now", [False, True], ids=["politely", "killed"])
def test_a_kernel_that_is_restarted_leaves_no_guest(fastest, now):
    manager = KernelManager()
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=LONG_S)
        printed = []

        def take(message):
            printed.append(message["content"].get("text", ""))

        def ask(code):
            reply = client.execute_interactive(code, timeout=LONG_S, output_hook=take)
            assert reply["content"]["status"] == "ok", reply["content"]

        ask(BOOT_IN_KERNEL.format(machine=MACHINE | fastest))
        # events arrive on the kernel's loop, which this cell holds up
        ask("build.boot(); assert build.wait(); print(build._booted.machine.pid)")
        pid = int("".join(printed))
        assert is_alive(pid)
        ask("job = build.start(); print(build.job.state)")
        assert "running" in "".join(printed)
        manager.restart_kernel(now=now)
        client.wait_for_ready(timeout=LONG_S)
        assert not is_alive(pid)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
