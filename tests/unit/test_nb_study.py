"""Panels that study a case, driven without a browser and without machines."""

import shlex
import signal
import threading

import pytest

from buildvm_nb import nb
from buildvm_nb.catalog import Catalog, dump_case
from buildvm_nb.cli import main
from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.process import check_interruption
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.finding import Axis, Change, Finding, Forecast
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.nb.study import DiagnosisPanel, ForecastPanel

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
CASE = Case(id="demo", title=SCRIPT, step=[Step(name="test", run=f"echo '{SCRIPT}'")])
LONG_S = 600.0


def an_outcome(date, verdict="passed", **more):
    machine = MachineSpec(date=date, cpu="Haswell")
    return Outcome.parse({"case": CASE, "machine": machine, "verdict": verdict} | more)


def a_finding(**changes):
    fields = {"case": CASE, "kind": "time-trap", "axis": "date", "summary": SCRIPT, "confidence": 1}
    return Finding.parse(fields | changes)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A directory of its own: case files are written beside a notebook."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        yield opened


@pytest.fixture
def panel(catalog):
    made = DiagnosisPanel(CASE, catalog=catalog, jobs=1, name="test")
    yield made
    made.close()


@pytest.fixture
def forecaster(catalog):
    made = ForecastPanel(CASE, catalog=catalog, jobs=1, name="test")
    yield made
    made.close()


def study(panel, work):
    """Have a panel's Start do this instead of asking machines."""
    panel._prepare = lambda _subject: work


def tell(means, outcome, *, known=False):
    means.on_outcome(outcome, known)


def no_markup(html):
    return "<script" not in html and "<img src=x" not in html


def test_the_fields_are_the_questions_and_the_command(panel, here):
    assert panel.questions.axes == (Axis.DATE, Axis.CPU, Axis.KERNEL, Axis.CORES)
    assert f"buildvm diagnose {here}/demo.toml</pre>" in panel.command_html
    for axis in (Axis.CPU, Axis.KERNEL, Axis.CORES):
        panel.axes[axis].value = False
    panel.first.value, panel.last.value = "2015", "2040-06-01"
    panel.repeats.value, panel.budget.value = "0", "30"
    asked = panel.questions
    assert (asked.axes, asked.repeats, asked.budget) == ((Axis.DATE,), 0, 30)
    assert asked.last == parse_instant("2040-06-01")
    assert (
        f"buildvm diagnose {here}/demo.toml --axis date --from 2015-01-01T00:00:00Z "
        "--to 2040-06-01T00:00:00Z --repeats 0 --budget 30</pre>" in panel.command_html
    )
    assert no_markup(panel.command_html)  # the case file is folded in


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("first", "soon", "From: not"),
        ("last", "2015,2016", "To: not one date"),
        ("repeats", "-1", "Repeats: not a number"),
        ("budget", "0", "allowed: 1 and more"),
        ("budget", SCRIPT, "Budget: not a number: "),
    ],
)
def test_what_is_typed_wrong_is_told_and_nothing_is_started(panel, field, value, told):
    getattr(panel, field).value = value
    assert told in panel.error_html
    panel._start.click()
    assert told in panel.error_html
    assert no_markup(panel.error_html)
    assert panel.job is None
    getattr(panel, field).value = ""
    assert panel.error_html == ""


def test_no_axis_and_dates_that_run_backwards_are_refused(panel):
    panel.first.value, panel.last.value = "2030", "2020"
    assert "end before they begin" in panel.error_html
    for box in panel.axes.values():
        box.value = False
    assert "no axis is chosen" in panel.error_html


def test_a_case_can_be_typed(tmp_path, catalog):
    panel = DiagnosisPanel(catalog=catalog, name="typed")
    with pytest.raises(UsageError, match="no case"):
        panel.start()
    panel._case.value = "dulwich-0.20.22"
    assert "did you mean dulwich-0.20.23" in panel.error_html
    panel._case.value = "dulwich-0.20.23"
    assert panel.error_html == ""
    assert "buildvm diagnose dulwich-0.20.23</pre>" in panel.command_html
    (tmp_path / "a case.toml").write_text(dump_case(CASE))
    panel._case.value = str(tmp_path / "a case.toml")
    assert panel.subject.base == tmp_path
    assert f"buildvm diagnose &#x27;{tmp_path}/a case.toml&#x27;" in panel.command_html
    panel.close()


def test_outcomes_show_as_they_come_and_then_the_finding(panel):
    shown, during = [], []

    def work(means):
        tell(means, an_outcome("2020-01-01"), known=True)
        tell(means, an_outcome("2021-01-01", "failed", reason=SCRIPT))
        shown.append((panel.status, panel._list.value, panel.picture_html))
        with means.progress.task("fetch debian:sid"):
            during.append(panel.status)
        return a_finding(studied_from="2019-01-01", studied_until="2022-01-01")

    study(panel, work)
    panel._start.click()
    assert panel.wait(LONG_S)
    assert panel.error_html == ""
    ((status, listed, picture),) = shown
    assert during == ["2 outcomes, 1 of them from the catalog; fetch debian:sid … "]
    assert status == "2 outcomes, 1 of them from the catalog"
    assert "2021-01-01T00:00:00Z, Haswell, debian:bookworm: ✗ failed &lt;script&gt;" in listed
    assert 'aria-label="1 outcomes so far"' in picture  # the next one comes too soon after it
    assert panel.status == "done: 2 outcomes, 1 of them from the catalog"
    assert panel.finding.kind == "time-trap"
    assert panel.finding.id in panel.result_html
    assert 'aria-label="&lt;script&gt;' in panel.picture_html
    assert all(map(no_markup, (listed, panel.result_html, panel.picture_html)))
    assert (panel._start.disabled, panel._cancel.disabled) == (False, True)


def test_cancel_ends_it_and_start_goes_on(panel):
    began = threading.Event()
    starts = []

    def work(means):
        starts.append(means.fresh)
        tell(means, an_outcome("2020-01-01"), known=len(starts) > 1)
        if len(starts) == 1:
            began.set()
            means.executor.submit(signal.pause).result()  # until the process is killed
        return a_finding()

    study(panel, work)
    panel.start()
    assert began.wait(LONG_S)
    panel._cancel.click()
    assert panel.wait(LONG_S)
    assert panel.status == (
        "cancelled: 1 outcomes, 0 of them from the catalog; Start goes on where it was"
    )
    assert (panel.finding, panel.error_html, panel.result_html) == (None, "", "")
    panel._fresh.value = True
    panel.start()
    assert panel.wait(LONG_S)
    assert starts == [False, True]
    assert panel.status == "done: 1 outcomes, 1 of them from the catalog"


def test_cancel_works_while_something_is_prepared_too(panel):
    began = threading.Event()

    def work(means):
        with means.progress.task(f"fetch {SCRIPT}") as task:
            while True:
                task.update(1, note="piece")
                began.set()
                check_interruption()

    study(panel, work)
    panel.start()
    assert began.wait(LONG_S)
    panel.cancel()
    assert panel.wait(LONG_S)
    assert panel.job.state == "cancelled"


def test_an_error_of_a_study_is_shown_with_what_to_do(panel):
    def work(means):
        raise HostError(f"no QEMU {SCRIPT}", hint="apt install qemu-system-x86")

    study(panel, work)
    panel.start()
    assert panel.wait(LONG_S)
    assert "apt install qemu-system-x86" in panel.error_html
    assert no_markup(panel.error_html)
    assert panel.status.startswith("failed: 0 outcomes")
    assert not panel._start.disabled


def test_without_qemu_a_diagnosis_says_what_to_install(panel, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    panel.start()
    assert panel.wait(LONG_S)
    assert panel.job.state == "failed"
    assert "Hint:" in panel.error_html
    assert "apt" in panel.error_html


def a_forecast(**changes):
    machine = MachineSpec(date="2026-01-01", cpu="Haswell")
    fields = {
        "case": CASE,
        "machine": machine,
        "start": "2026-01-01",
        "until": "2040-01-01",
        "status": "breaks",
        "today": "passed",
        "today_outcome": "A",
    }
    return Forecast.parse(fields | changes)


def test_a_forecast_narrows_down_live_and_ends_with_a_list_of_days(forecaster):
    shown = []

    def work(means):
        for date, verdict in (
            ("2030-01-01", "failed"),
            ("2026-01-01", "passed"),
            ("2040-01-01", "passed"),
        ):
            tell(means, an_outcome(date, verdict, reason=SCRIPT))
        shown.append(forecaster._list.value)
        change = Change(
            kind="breaks",
            last_before="2029-05-05T00:00:00Z",
            first_after="2029-05-05T00:00:01Z",
            is_exact=True,
            of_whole=True,
            verdict="failed",
            tests=[SCRIPT, *(f"t{number}" for number in range(9))],
            failing_line=SCRIPT,
        )
        return a_forecast(changes=[change], sound_until="2029-05-05T00:00:00Z")

    study(forecaster, work)
    forecaster.start()
    assert forecaster.wait(LONG_S)
    assert forecaster.error_html == ""
    (live,) = shown
    assert "breaks between 2026-01-01T00:00:00Z and 2030-01-01T00:00:00Z: &lt;script&gt;" in live
    assert "passes again between 2030-01-01T00:00:00Z and 2040-01-01T00:00:00Z" in live
    html = forecaster.result_html
    for part in ("sound until", "2029-05-05T00:00:01Z", "and 7 more", 'scope="col"'):
        assert part in html
    assert no_markup(html + live)
    assert forecaster.forecast.status == "breaks"


def test_how_far_to_look_is_checked_and_is_in_the_command(forecaster, here):
    assert f"buildvm forecast {here}/demo.toml --until 2040</pre>" in forecaster.command_html
    forecaster.until.value = "10y"
    forecaster.budget.value = "5"
    assert "--until 10y --budget 5</pre>" in forecaster.command_html
    forecaster.until.value = "2001"
    assert "2001" in forecaster.error_html


def test_the_case_of_what_builds_it_is_studied_where_none_is_typed(catalog):
    class Builder:
        case = CASE

    panel = DiagnosisPanel(catalog=catalog, build=Builder(), name="built")
    assert panel.subject.case == CASE
    panel._case.value = "dulwich-0.20.23"
    assert panel.subject.case.id == "dulwich-0.20.23"
    panel.close()


class Built:
    """What is built, and where, as a lab's other tabs have it."""

    def __init__(self):
        self.case = CASE
        self.chosen = {}


@pytest.fixture
def built():
    return Built()


@pytest.mark.parametrize("kind", [DiagnosisPanel, ForecastPanel])
def test_case_and_machine_are_those_of_the_moment_of_starting(kind, catalog, built, here):
    panel = kind(catalog=catalog, build=built, machine=built, jobs=1, name="moment")
    built.case = CASE.model_copy(update={"id": "later"})
    built.chosen = {"date": parse_instant("2010-05-05"), "cpu": "Haswell", "memory_mib": 2048}
    seen = []

    def work(means):
        seen.append(panel.command_html)
        span = {"studied_from": "2020-01-01", "studied_until": "2030-01-01"}
        return a_finding(**span) if kind is DiagnosisPanel else a_forecast()

    assert panel.subject.case.id == "later"
    assert panel.machine_fields == {"cpu": "Haswell", "memory_mib": 2048}
    study(panel, work)
    panel.start()
    assert panel.wait(LONG_S)
    assert panel.error_html == ""
    assert f"{here}/later.toml" in seen[0]
    assert "--cpu Haswell --memory 2048</pre>" in seen[0]
    assert "The date of the machine is left out: this study varies it." in seen[0]
    built.chosen = {"cpu": "Westmere"}
    panel.look_again()
    ran, _, would = panel.command_html.partition("Start would now do this")
    assert ("--cpu Haswell" in ran, "--cpu Westmere" in would) == (True, True)
    panel.close()


def test_a_machines_date_holds_where_dates_are_not_varied(catalog, built):
    built.chosen = {"date": parse_instant("2010-05-05")}
    panel = DiagnosisPanel(catalog=catalog, build=built, machine=built, name="fixed")
    panel.axes[Axis.DATE].value = False
    assert panel.machine_fields == built.chosen
    assert (
        "--axis cpu --axis kernel --axis cores --date 2010-05-05T00:00:00Z</pre>"
        in panel.command_html
    )
    panel._fresh.value = True
    assert "--date 2010-05-05T00:00:00Z --fresh</pre>" in panel.command_html
    panel.close()


@pytest.mark.parametrize("kind", [DiagnosisPanel, ForecastPanel])
def test_a_date_that_is_given_for_every_machine_of_a_study_of_dates_is_refused(kind, catalog):
    panel = kind(CASE, catalog=catalog, overrides={"date": "2010-05-05"}, name="refused")
    panel._start.click()
    assert "the study varies the date itself" in panel.error_html
    assert panel.job is None
    panel.close()


def test_the_command_that_is_shown_is_one_that_the_command_line_takes(catalog, built, capsys):
    built.chosen = {"cpu": "Westmere", "cpu_count": 2, "kernel": "debian:sid", "memory_mib": 2048}
    built.chosen |= {"accelerator": "tcg", "image": "debian:trixie,gcc"}
    for kind in (DiagnosisPanel, ForecastPanel):
        panel = kind(catalog=catalog, build=built, machine=built, name="words")
        words = shlex.split(panel.command_html.partition("</pre>")[0].partition(">")[2])
        assert words.pop(0) == "buildvm"
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"no such case file: {words[1]}" in error  # all that is wrong with it
        panel.close()


def test_all_panels_are_had_by_name_without_an_error(catalog):
    for panel in (
        nb.DiagnosisPanel(CASE, catalog=catalog),
        nb.ForecastPanel(CASE, catalog=catalog),
        nb.CatalogBrowser(catalog),
    ):
        assert panel.error_html == ""
        panel.close()
