"""The browser of a catalog, driven without a browser window, machines or QEMU."""

import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from buildvm_nb.catalog import OUTCOMES, Catalog, read_failures
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.finding import Boundary, Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.nb.browser import CatalogBrowser

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
START = parse_instant("2026-01-01")
LONG_S = 600.0
CURATED = Path(__file__).parents[2] / "catalog" / "cases"


class PatientBrowser(CatalogBrowser):
    """Waits for every page that it reads, as somebody who looks at it does."""

    def begin(self, *given, **named):
        job = super().begin(*given, **named)
        assert job.wait(LONG_S)
        return job


def a_case(name):
    return Case(id=name, title=SCRIPT, step=[Step(name="test", run="make check")])


def an_outcome(number=0, **more):
    fields = {
        "case": a_case("demo"),
        "machine": MachineSpec(date="2020-01-01", cpu="Haswell"),
        "verdict": "failed",
        "reason": f"{number} {SCRIPT}",
        "recorded_at": START + timedelta(seconds=number),
    }
    return Outcome.parse(fields | more)


def a_finding(name, number=0, **more):
    fields = {
        "case": a_case(name),
        "kind": "time-trap",
        "axis": "date",
        "summary": f"{name} {SCRIPT}",
        "confidence": 1,
        "boundaries": [
            Boundary(
                axis="date",
                last_before="2020-01-01T00:00:00Z",
                first_after="2020-01-01T00:00:01Z",
                before="passed",
                after="failed",
                is_exact=True,
                confirmed=2,
            )
        ],
        "recorded_at": START + timedelta(days=number),
    }
    return Finding.parse(fields | more)


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no QEMU there
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        for number in range(25):
            opened.record(an_outcome(number), f"log of {number}\n{SCRIPT}\n".encode())
        key = str(opened.outcomes()["id"][3])
        opened.record_finding(a_finding("alpha", 0, evidence=[key]))
        opened.record_finding(a_finding("beta", 1, kind="cpu-dependent", axis="cpu", boundaries=[]))
        opened.record_finding(a_finding("gamma", 2, kind="sound", axis=None, boundaries=[]))
        yield opened


@pytest.fixture
def browser(catalog, tmp_path):
    made = PatientBrowser(catalog, name="test")
    made.target.value = str(tmp_path / "failures.csv")
    yield made
    made.close()


def no_markup(html):
    return "<script" not in html and "<img" not in html


def cases(browser):
    return list(browser.frame["case_id"])


def export(browser):
    browser.exporting._export.click()
    assert browser.exporting.wait(LONG_S)


def test_findings_are_shown_newest_first_and_all_text_is_escaped(browser):
    assert cases(browser) == ["gamma", "beta", "alpha"]
    assert browser.status == "1 to 3 of 3: 3 own"
    assert "2020-01-01T00:00:01Z" in browser.html
    assert "&lt;script&gt;" in browser.html
    assert no_markup(browser.html)
    assert browser.error_html == ""


def test_fields_filter_and_sort(browser):
    browser.only.value = "time-trap"
    assert cases(browser) == ["alpha"]
    browser.only.value, browser.axis.value = "", "cpu"
    assert cases(browser) == ["beta"]
    browser.axis.value, browser.text.value = "", "ALPHA <"
    assert cases(browser) == ["alpha"]
    browser.text.value, browser.case.value = "", "mm"
    assert cases(browser) == ["gamma"]
    browser.case.value, browser.since.value, browser.until.value = "", "2026-01-02", "2026-01-03"
    assert cases(browser) == ["beta"]
    browser.since.value = browser.until.value = ""
    browser.sort.value, browser.descending.value = "case_id", False
    assert cases(browser) == ["alpha", "beta", "gamma"]


def test_a_wrong_date_is_told_and_the_next_change_heals_it(browser):
    browser.since.value = SCRIPT
    assert "Since: not" in browser.error_html
    assert no_markup(browser.error_html)
    assert browser.frame is None
    browser.since.value = ""
    assert browser.error_html == ""
    assert cases(browser) == ["gamma", "beta", "alpha"]


def test_outcomes_have_pages(browser):
    browser.table.value = "outcomes"
    assert browser.status == "1 to 20 of 25"
    assert "✗ failed" in browser.html
    assert (browser._back.disabled, browser._forward.disabled) == (True, False)
    browser._forward.click()
    assert browser.status == "21 to 25 of 25"
    assert (browser._back.disabled, browser._forward.disabled) == (False, True)
    browser.only.value = "passed"
    assert browser.status == "nothing matches"
    assert no_markup(browser.html)


def test_a_row_leads_to_the_finding_its_evidence_and_the_log(browser):
    browser.row.value = 3
    assert "Finding" in browser.detail.html
    assert "date: ✓ passed up to" in browser.detail.html
    _, (label, key) = browser.detail._evidence.options
    assert label == f"1: {key}"
    browser.detail._evidence.value = key
    assert f"Outcome {key}" in browser.detail.html
    assert "log of 3" in browser.detail.log_view.text
    assert browser.detail.note == "the whole log"
    assert no_markup(browser.detail.html + browser.detail.log_view.html)
    browser.table.value = "outcomes"
    assert browser.detail.html == ""
    browser.row.value = 1
    assert "log of 24" in browser.detail.log_view.text


def test_tiers_are_told_apart_and_follow_one_another(browser):
    browser.tier.value = "curated"
    assert set(browser.frame["tier"]) == {"curated"}
    browser.row.value = 1
    assert "Finding" in browser.detail.html
    browser.tier.value = "reported"
    assert set(browser.frame["tier"]) == {"reported"}
    browser.row.value = 1
    assert "no machine of ours has proved it" in browser.detail.html
    browser.tier.value = "all tiers"
    tiers = list(browser.frame["tier"])
    assert tiers == sorted(tiers, key=["own", "curated", "reported"].index)
    assert set(tiers) >= {"own", "curated"}
    assert browser.status.count(",") == 2
    browser.text.value = "no such text anywhere"
    assert browser.status == "nothing matches: 0 own, 0 curated, 0 reported"


def test_what_is_selected_is_exported_one_file_for_each_tier(browser, tmp_path):
    browser.only.value = "time-trap"
    export(browser)
    assert browser.exporting.error_html == ""
    assert list(read_failures(tmp_path / "failures.csv")["case_id"]) == ["alpha"]
    assert 'download="failures.csv"' in browser.exporting.html
    browser.tier.value = "all tiers"
    export(browser)
    made = sorted(path.name for path in tmp_path.glob("failures-*.csv"))
    assert made == ["failures-curated.csv", "failures-own.csv", "failures-reported.csv"]
    assert set(read_failures(tmp_path / "failures-curated.csv")["kind"]) <= {"time-trap"}
    browser.table.value = "outcomes"
    browser.target.value = str(tmp_path / "outcomes.csv")
    export(browser)
    assert (tmp_path / "outcomes.csv").read_bytes().startswith(b"id,recorded_at")
    browser.target.value = str(tmp_path / "none" / "<b>.csv")
    export(browser)
    assert "&lt;b&gt;.csv" in browser.exporting.error_html
    assert browser.exporting.html == "not written: failed"


def test_a_catalog_that_is_deleted_is_told_and_the_other_tiers_stay(browser, catalog, tmp_path):
    for path in tmp_path.glob("catalog.sqlite*"):
        path.unlink()
    browser._again.click()
    assert "it may have been deleted" in browser.error_html
    assert (browser.html, browser.status) == ("", "nothing can be shown")
    browser.tier.value = "curated"
    assert browser.error_html == ""
    assert len(browser.frame)
    browser.tier.value = "own"
    browser.row.value = 0
    assert "it may have been deleted" in browser.error_html
    assert not list(tmp_path.glob("catalog.sqlite"))
    with Catalog(tmp_path / "catalog.sqlite") as anew:
        anew.record_finding(a_finding("delta"))
    browser._again.click()
    assert (browser.error_html, cases(browser)) == ("", ["delta"])


def test_a_row_of_a_catalog_that_was_deleted_meanwhile_cannot_be_opened(browser, tmp_path):
    (tmp_path / "catalog.sqlite").unlink()
    browser.row.value = 3
    assert "it may have been deleted" in browser.error_html


def test_a_catalog_that_cannot_be_opened_leaves_the_other_tiers(tmp_path):
    (tmp_path / "catalog.sqlite").write_text("no database" * 100)
    browser = PatientBrowser(tmp_path / "catalog.sqlite", name="broken")
    assert "not a database" in browser.error_html
    browser.tier.value = "reported"
    assert browser.error_html == ""
    browser.close()


def test_a_browser_of_an_empty_catalog_begins_with_the_curated_tier(tmp_path):
    with Catalog(tmp_path / "empty.sqlite") as catalog:
        browser = PatientBrowser(catalog, name="empty")
        assert browser.wait(LONG_S)
        assert browser.tier.value == "curated"
        curated = {path.stem for path in CURATED.glob("*.toml")}
        assert cases(browser)
        assert set(cases(browser)) <= curated
        browser.tier.value = "own"  # which stays, where it is asked for
        assert browser.wait(LONG_S)
        assert (browser.tier.value, cases(browser)) == ("own", [])
        browser.close()


def test_a_path_is_opened_and_closed_by_the_browser(tmp_path):
    browser = PatientBrowser(str(tmp_path / "catalog.sqlite"), name="path")
    assert browser.status.endswith("curated")
    browser.tier.value = "own"
    assert browser.status == "nothing matches: 0 own"
    browser.close()
    browser._again.click()
    assert "closed" in browser.error_html


def test_a_log_of_200_mb_is_read_in_part_and_its_end_in_the_background(browser, catalog, tmp_path):
    big = tmp_path / "big.log"
    with big.open("wb") as stream:
        line = b"x" * 1023 + b"\n"
        for number in range(200):
            stream.write(b"piece %d\n" % number + line * 1024)
    outcome = catalog.record(an_outcome(99), big)
    browser.table.value = "outcomes"
    browser.row.value = 1
    assert outcome.id in browser.detail.html
    assert browser.detail.note == "the first 1024 KiB of the log"
    assert browser.detail.log_view.text.startswith("piece 0\n")
    assert len(browser.detail.log_view.text) <= 1024 * 1024

    browser.detail._end.click()
    assert browser.detail.wait(LONG_S)
    assert browser.detail.note == "the end of the log"
    assert len(browser.detail.log_view.text) <= 1024 * 1024
    assert browser.detail.log_view.text.endswith("x")

    packed = LogStore(tmp_path / "logs").path(outcome.log_digest)
    packed.write_bytes(packed.read_bytes()[:-100])
    browser.detail.show_outcome(catalog, outcome.id)  # reads nothing of the damaged end
    assert browser.detail.error_html == ""
    browser.detail._end.click()
    assert browser.detail.wait(LONG_S)
    assert "log is corrupt" in browser.detail.error_html


def test_fifty_thousand_outcomes_are_looked_through_page_by_page(catalog, tmp_path):
    columns = [*OUTCOMES.dtypes, "document"]
    copied = {"id": "printf('M%05d', i)", "recorded_at": "datetime('2026-02-01', i || ' minutes')"}
    chosen = ", ".join(copied.get(name, name) for name in columns)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as direct, direct:
        direct.execute(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 49999) "
            f"INSERT INTO outcomes ({', '.join(columns)}) SELECT {chosen} FROM n, "
            "(SELECT * FROM outcomes ORDER BY id LIMIT 1)"
        )
    browser = PatientBrowser(catalog, name="many")
    browser.table.value = "outcomes"
    assert browser.status == "1 to 20 of 50025"
    assert len(browser.frame) == 20
    browser.text.value = "M4999"
    assert browser.status == "1 to 10 of 10"
    browser.text.value, browser.sort.value = "", "date"
    assert len(browser.frame) == 20
    assert len(browser.html) < 20_000
    browser.close()


class SlowCatalog(Catalog):
    """Makes SQLite compute for hours when a page of outcomes with a text is asked for."""

    def page(self, wanted, **more):
        if wanted.text.startswith("slow"):
            self.has_begun.set()
            endless = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) "
            with self._database.reading() as connection:
                connection.exec_driver_sql(f"{endless} SELECT max(i) FROM n")
        return super().page(wanted, **more)


@pytest.fixture
def slow(catalog, tmp_path):
    with SlowCatalog(tmp_path / "catalog.sqlite") as opened:
        opened.has_begun = threading.Event()
        browser = CatalogBrowser(opened, name="slow")
        browser.table.value = "outcomes"
        assert browser.wait(LONG_S)
        yield browser
        browser.close()


def test_a_slow_query_leaves_the_kernel_free_and_a_newer_one_ends_it(slow):
    slow.text.value = "slow"
    older = slow.job
    assert slow.catalog.has_begun.wait(LONG_S)
    assert (slow.status, slow.busy, slow.frame) == ("loading …", True, None)
    assert not slow.job.state.is_over

    slow.text.value = "24 <"
    assert slow.job is not older
    assert older.wait(LONG_S)  # its query would take hours
    assert older.state == "cancelled"
    assert slow.wait(LONG_S)
    assert (slow.status, slow.busy, slow.error_html) == ("1 to 1 of 1", False, "")


def test_a_wrong_field_ends_a_slow_query_which_then_shows_nothing(slow):
    slow.text.value = "slow"
    older = slow.job
    slow.since.value = "never"
    assert older.wait(LONG_S)
    assert (slow.status, slow.busy, slow.frame) == ("nothing can be shown", False, None)
    assert "Since: not" in slow.error_html


def test_a_query_that_is_cancelled_says_so_and_closing_ends_it(slow):
    slow.text.value = "slow"
    slow.cancel()
    assert slow.wait(LONG_S)
    assert (slow.status, slow.busy) == ("not read: cancelled", False)
    slow._again.click()
    last = slow.job
    slow.close()
    assert last.state.is_over
