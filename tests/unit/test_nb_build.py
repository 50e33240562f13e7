"""The build panel and the lab without a guest: what is asked, refused, told and recorded."""

import shlex
import subprocess
import threading
from pathlib import Path

import pytest

import buildvm_nb
from buildvm_nb.catalog import Catalog, dump_case, load_case, parse_case
from buildvm_nb.cli import main
from buildvm_nb.cli.options import SourceOptions, make_case
from buildvm_nb.errors import StateError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import run_process
from buildvm_nb.model.case import PyPISource
from buildvm_nb.model.machine import ImageSpec, MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.nb import BuildPanel, CommitPicker, Lab, MachinePanel, Panel
from buildvm_nb.nb.build import Stages, verdict_html
from buildvm_nb.nb.jobs import TaskEvent
from buildvm_nb.source.history import Revision

LONG_S = 600.0
SCRIPT = "<script>alert(1)</script>"
CASE = parse_case(
    """
schema = 1
id = "sample"
[[step]]
name = "build"
run = "make"
[[step]]
name = "test"
run = "make check"
timeout_s = 90
"""
)
OUTCOME = Outcome(
    case=CASE,
    machine=MachineSpec(date="2031-01-01", cpu="Haswell", accelerator="tcg"),
    verdict="failed",
    reason=f"test: exited with 1 {SCRIPT}",
    evidence=SCRIPT,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A directory of its own: case files are written beside a notebook."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def repository(tmp_path):
    place = tmp_path / "project"
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", place]
    subprocess.run(["git", "init", "-q", "-b", "main", place], check=True)
    subprocess.run(
        [*git, "commit", "-q", "--allow-empty", "-m", "First", "--date=2019-05-01T00:00Z"],
        check=True,
        env={"GIT_COMMITTER_DATE": "2019-05-01T00:00Z", "PATH": "/usr/bin:/bin"},
    )
    return place


@pytest.fixture
def closing():
    made = []
    yield made.append
    for panel in made:
        panel.close()


@pytest.fixture
def no_qemu(monkeypatch, tmp_path):
    """A path of programs on which git is all there is."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").symlink_to("/usr/bin/git")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_nothing_is_built_before_something_is_chosen(cache, closing):
    picker = CommitPicker(cache=cache)
    build = BuildPanel(picker, cache=cache, command="make")
    closing(picker)
    closing(build)
    build._controls.run.click()
    assert "no commit is chosen" in build.error_html
    assert not build.busy


def test_a_commit_and_a_command_make_a_case(cache, closing, repository):
    picker = CommitPicker(str(repository), cache=cache)
    closing(picker)
    machine = MachinePanel(cache=cache, checks=False)
    closing(machine)
    build = BuildPanel(picker, machine, cache=cache)
    closing(build)
    picker.choose("main")
    with pytest.raises(UsageError, match="no command"):
        _ = build.case
    build._controls.command.value = "make check"
    machine.set(packages="gcc make")
    assert build.case.id == f"project-{picker.commit[:12]}"
    assert build.case.steps[0].run == "make check"
    assert build.case.image.packages == ("gcc", "make")


def test_a_wrong_field_of_the_machine_stops_the_build_and_is_told(cache, closing):
    machine = MachinePanel(cache=cache, checks=False)
    closing(machine)
    build = BuildPanel(CASE, machine, cache=cache)
    closing(build)
    machine._fields["date"].widget.value = "31.12.1999"
    build._controls.run.click()
    assert "not a date" in build.error_html


@pytest.mark.usefixtures("no_qemu")
def test_without_qemu_boot_says_what_to_install_and_run_gives_an_error(cache, closing, tmp_path):
    build = BuildPanel(CASE, {"date": "2031-01-01"}, cache=cache, catalog=tmp_path / "c.sqlite")
    closing(build)
    build._controls.boot.click()
    assert build.wait(LONG_S)
    assert "apt-get install --no-install-recommends qemu-system-x86" in build.error_html
    assert build.status == "not booted: failed"
    outcome = build.run()
    assert outcome.verdict == "error"
    assert "qemu-system-x86_64" in build.verdict_html
    recorded = build.record()
    with Catalog(tmp_path / "c.sqlite") as catalog:
        assert catalog.outcome(recorded.id).verdict == "error"
    with pytest.raises(StateError, match="recorded already"):
        build.record()


@pytest.mark.usefixtures("no_qemu")
def test_an_outcome_says_how_it_is_had_again(cache, closing, tmp_path):
    build = BuildPanel(CASE, {"date": "2031-01-01"}, cache=cache, catalog=tmp_path / "c.sqlite")
    closing(build)
    with pytest.raises(StateError, match="run the case first"):
        build.reproduce()
    build.run()
    assert (
        f"buildvm build {tmp_path}/sample.toml --date 2031-01-01T00:00:00Z --cpu"
        in build._controls.again.value
    )
    build._controls.form.value = "case file"
    assert parse_case(build._controls.again.value) == CASE
    build._controls.form.value = "papermill"
    assert (
        f"-r case {tmp_path}/sample.toml -r date 2031-01-01T00:00:00Z"
        in build._controls.again.value
    )
    with pytest.raises(UsageError, match="unknown form"):
        build.reproduce("tweet")


def test_fetching_the_source_is_cancelled_at_once(cache, closing, tmp_path):
    """A repository on a server that takes the call and says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        called = threading.Event()

        def serve():
            connection, _ = server.accept()
            with connection:
                called.set()
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/r.git"
        source = {"kind": "git", "url": url, "commit": "main"}
        case = CASE.parse(dict(CASE) | {"source": source})
        build = BuildPanel(case, {"date": "2031-01-01"}, cache=cache, catalog=tmp_path / "c")
        closing(build)
        build._controls.run.click()
        assert called.wait(LONG_S)
        assert build._controls.run.disabled
        build._controls.cancel.click()
        assert build.wait(LONG_S)
        thread.join(LONG_S)
    assert build.status == "no outcome: cancelled"
    assert build.outcome is None
    assert not build.error_html
    assert not build._controls.run.disabled
    assert build._controls.cancel.disabled


def test_a_verdict_is_told_in_words_and_escaped():
    html = verdict_html(OUTCOME)
    assert "<b>failed</b>" in html
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 2


def test_progress_tells_steps_and_the_time_left():
    stages = Stages(CASE, {"build": 1000.0})
    fetch = TaskEvent(f"fetch {SCRIPT}")
    stages.follow(fetch)
    fetch.is_over = True
    stages.follow(fetch)
    build = TaskEvent("run step build")
    stages.follow(build)
    html = stages.html()
    assert "&lt;script&gt;</" not in html
    assert "<script" not in html
    assert "s left as it took before" in html
    assert "<li>run step test: to come</li>" in html
    build.is_over = True
    stages.follow(build)
    stages.follow(TaskEvent("run step test"))
    assert "at most" in stages.html()
    download = TaskEvent("download")
    download.done, download.total = 1, 2
    stages.follow(download)
    assert "download</b> for 0 s, about" in stages.html()


@pytest.mark.usefixtures("no_qemu")
def test_the_lab_links_commit_and_machine_and_opens_without_qemu(
    cache, closing, repository, tmp_path
):
    lab = buildvm_nb.lab(
        str(repository), command="make", cache=cache, catalog=tmp_path / "c.sqlite"
    )
    closing(lab)
    lab.picker.choose("main")
    assert lab.machine.spec.date.isoformat() == "2019-05-01T00:00:00+00:00"
    assert lab.machine.spec.cpu == "Cascadelake-Server"
    assert lab.build.case.steps[0].run == "make"
    assert lab.machine.wait(LONG_S)
    assert "qemu-system-x86" in lab.machine.host_html
    assert lab.show_tab("Build") is lab.build
    assert lab.build.run().verdict == "error"


def test_the_labs_other_tabs_are_made_when_they_are_looked_at(cache, closing, tmp_path):
    lab = Lab(case=CASE, cache=cache, catalog=tmp_path / "c.sqlite")
    closing(lab)
    assert [*lab.panels] == ["Machine", "Build"]
    for title in ("Diagnose", "Catalog", "Forecast"):
        panel = lab.show_tab(title)
        assert panel is lab.tabs.children[lab.tabs.selected_index]
        assert isinstance(panel, Panel)
        assert not panel.error_html


def test_a_tab_that_cannot_be_made_says_so_in_its_place(cache, closing, tmp_path):
    (tmp_path / "c.sqlite").write_text("no catalog at all" * 100)
    lab = Lab(case=CASE, cache=cache, catalog=tmp_path / "c.sqlite")
    closing(lab)
    shown = lab.show_tab("Catalog")
    assert not isinstance(shown, Panel) or shown.wait(600)
    assert "Error:" in (shown.error_html if isinstance(shown, Panel) else shown.value)
    assert lab.show_tab("Build") is lab.build


def test_the_lab_of_a_case_has_no_picker(cache, closing):
    lab = Lab(case=CASE, cache=cache)
    closing(lab)
    assert lab.tabs.titles[:2] == ("Machine", "Build")


def test_every_control_can_be_told_by_its_words(cache, closing):
    """For the keyboard and for those who listen: a name, and a word on what it does."""
    import ipywidgets as widgets

    lab = Lab("", cache=cache)
    closing(lab)

    def controls(box):
        for child in getattr(box, "children", ()):
            yield from controls(child)
        if isinstance(box, widgets.Button | widgets.Text | widgets.Textarea | widgets.Select):
            yield box

    found = [*controls(lab)]
    assert len(found) > 15
    assert [one for one in found if not one.description or not one.tooltip] == []


def test_a_newer_panel_of_a_name_ends_the_older_ones_run(cache, tmp_path):
    older = BuildPanel(CASE, cache=cache, name="cell")
    began = threading.Event()

    def work(job):
        began.set()
        run_process(["sleep", "1000"])

    older.begin(work)
    assert began.wait(LONG_S)
    other = BuildPanel(CASE, cache=cache, name="another cell")
    assert older.job.state == "running"
    newer = BuildPanel(CASE, cache=cache, name="cell")
    assert older.job.state == "cancelled"
    for panel in (older, other, newer):
        panel.close()


def test_the_labs_studies_follow_the_commit_that_is_chosen(cache, closing, repository, tmp_path):
    lab = Lab(str(repository), command="make", cache=cache, catalog=tmp_path / "c.sqlite")
    closing(lab)
    diagnosis = lab.show_tab("Diagnose")
    closing(diagnosis)
    assert (diagnosis.command_html, diagnosis.error_html) == ("", "")
    lab.picker.choose("main")
    lab.show_tab("Commit")
    lab.show_tab("Diagnose")
    assert f"project-{lab.picker.commit[:12]}.toml" in diagnosis.command_html
    assert diagnosis.machine_fields == {}  # the commit's date follows from the source
    forecast = lab.show_tab("Forecast")
    closing(forecast)
    lab.machine.set(date="2012-05-05", cpu="Westmere")
    assert forecast.machine_fields == diagnosis.machine_fields == {"cpu": "Westmere"}


@pytest.mark.usefixtures("no_qemu")
@pytest.mark.parametrize("form", ["command", "papermill"])
def test_the_line_under_reproduce_works_as_pasted_once_its_file_is_written(
    cache, closing, tmp_path, monkeypatch, capsys, form
):
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "c.sqlite"))
    (tmp_path / "sample.toml").write_text("# of somebody else")
    build = BuildPanel(CASE, {"date": "2031-01-01", "memory_mib": 2048}, cache=cache)
    closing(build)
    build.run()
    build._controls.form.value = form
    words = shlex.split(build._controls.again.value)
    at = words.index("build" if form == "command" else "case") + 1
    monkeypatch.chdir("/")  # a terminal is anywhere
    assert main(["build", words[at]]) == 2
    assert "no such case file" in capsys.readouterr().err
    assert not build._controls.write.disabled
    build._controls.write.click()
    assert str(tmp_path / "sample-2.toml") in build.status
    assert build.reproduce(form) == build._controls.again.value  # still the same file
    case = load_case(Path(words[at]))
    assert case.limits.memory_mib == (2048 if form == "papermill" else CASE.limits.memory_mib)
    main(words[1:] if form == "command" else ["build", words[at]])
    assert "program not found on this host" in capsys.readouterr().out  # what is missing next
    assert (tmp_path / "sample.toml").read_text() == "# of somebody else"


def test_a_case_of_the_lab_never_takes_the_id_of_a_curated_one(cache, closing):
    picker = CommitPicker(cache=cache)
    build = BuildPanel(picker, cache=cache, command="true")
    for panel in (picker, build):
        closing(panel)
    source = PyPISource(name="chinesecalendar", version="1.8.0")
    picker._origin, picker.revision = source, Revision(id="1.8.0", dated_at=None, source=source)
    assert build.case.id == "chinesecalendar-1.8.0-own"
    assert make_case(SourceOptions(pypi="chinesecalendar==1.8.0"), ["true"], ImageSpec()).id == (
        "chinesecalendar-1.8.0-own"
    )


@pytest.mark.usefixtures("no_qemu")
def test_the_lab_begins_where_its_subject_begins_and_names_the_next_step(
    cache, closing, repository, tmp_path
):
    def shown(lab):
        return lab.tabs.titles[lab.tabs.selected_index]

    empty = Lab(cache=cache, catalog=tmp_path / "c.sqlite", name="empty")
    closing(empty)
    assert (shown(empty), empty.next_step) == ("Commit", ("Commit", "say where the source is"))
    lab = Lab(str(repository), cache=cache, catalog=tmp_path / "c.sqlite")
    closing(lab)
    assert shown(lab) == "Commit"
    lab.picker.wait(LONG_S)
    assert lab._guide.value == "Next: choose a revision."
    lab.picker.choose("main")
    assert lab._guide.value == "Next, in Build: say which command is to be run."
    lab._next.click()
    assert (shown(lab), lab._next.layout.display) == ("Build", "none")
    lab.build.command_field.value = "make"
    assert "boot a machine and run it" in lab._guide.value
    lab.build.run()
    assert lab.next_step[0] == "Diagnose"


@pytest.mark.parametrize("given", [CASE, "cityhash-0.4.10", "sample.toml"])
def test_a_lab_of_a_case_begins_with_building_it(cache, closing, tmp_path, given):
    (tmp_path / "sample.toml").write_text(dump_case(CASE))
    lab = buildvm_nb.lab(given, cache=cache, catalog=tmp_path / "c.sqlite")
    closing(lab)
    assert [*lab.panels] == ["Machine", "Build"]
    assert lab.tabs.titles[lab.tabs.selected_index] == "Build"
    assert lab.build.case.id in {"sample", "cityhash-0.4.10"}
