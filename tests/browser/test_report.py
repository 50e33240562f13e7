"""The report's page in a real browser: sorted, dark, printed, and hostile text in it inert."""

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.cli import main
from buildvm_nb.model.case import Case, Step, Window
from buildvm_nb.model.finding import Boundary, Finding
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

HOSTILE = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>"
LOG = f"building\n\x1b[31mE   failed: {HOSTILE}\x1b[0m\n</pre>{HOSTILE}\x1b]0;title\x07\n"
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 26)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write a report of three cases, one of them hostile; return its path."""
    place = tmp_path_factory.mktemp("report")
    with Catalog(place / "catalog.sqlite") as catalog:
        for number, (name, date) in enumerate(
            (("beta", "2021-06-01T00:00:00Z"), ("alpha", "2030-01-01T00:00:00Z"), ("gamma", None))
        ):
            case = Case(id=name, title=HOSTILE, step=[Step(name="test", run="true")])
            runs = [
                catalog.record(
                    Outcome(
                        case=case,
                        machine=MachineSpec(date=f"{year}-01-01", cpu=cpu),
                        verdict=verdict,
                        evidence="E   failed" if verdict == "failed" else "",
                    ),
                    LOG.encode() if verdict == "failed" else b"",
                )
                for year, cpu, verdict in (
                    (2020, "Haswell", "passed"),
                    (2031, "Nehalem", "failed"),
                )
            ]
            edge = Boundary(
                axis="date",
                last_before="2021-05-31T23:59:59Z" if number == 0 else "2029-12-31T23:59:59Z",
                first_after=date or "2030-01-01",
                before="passed",
                after="failed",
                is_exact=True,
                confirmed=(4, 12)[number % 2],
            )
            trap = {
                "kind": "time-trap",
                "axis": "date",
                "boundaries": (edge,),
                "windows": (Window(passes_until=edge.last_before),),
            }
            catalog.record_finding(
                Finding(
                    case=case,
                    summary=f"number {number}: {HOSTILE}",
                    confidence=[0.5, 0.999, 0.75][number],
                    environment=runs[0].machine,
                    evidence=tuple(run.id for run in runs),
                    **(trap if date else {"kind": "sound"}),
                )
            )
    path = place / "report.html"
    words = ["--catalog", place / "catalog.sqlite", "--quiet", "report", "--html", path]
    assert main(list(map(str, words))) == 0
    return path


@pytest.fixture
def opened(chromium, report):
    """Open the page; what it asks for and complains about is checked at the end."""
    page = chromium.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.as_uri())
    yield page
    assert page.evaluate("window.harmed") is None
    page.close()
    assert asked == [report.as_uri()]
    assert said == []


def column(page, number):
    return page.locator(f"#finding-table tbody tr td:nth-child({number})").all_inner_texts()


def test_the_table_is_sorted_by_mouse_and_keyboard(opened):
    button = opened.get_by_role("button", name="case").nth(1)
    before = column(opened, 1)
    button.click()
    assert column(opened, 1) == ["alpha", "beta", "gamma"] != before
    button.press("Enter")
    assert column(opened, 1) == ["gamma", "beta", "alpha"]
    head = opened.locator("#finding-table th[aria-sort]")
    assert head.get_attribute("aria-sort") == "descending"

    opened.keyboard.press("Tab")  # from one heading to the next
    for _ in range(3):
        opened.keyboard.press("Tab")
    opened.keyboard.press("Space")
    told = ["3 runs, all alike", "4 confirming runs", "12 confirming runs"]
    assert column(opened, 5) == told
    assert opened.locator("#finding-table th[aria-sort]").count() == 1


def test_what_is_hostile_is_shown_and_does_nothing(opened):
    assert opened.locator("img").count() == 0
    assert opened.locator("script").count() == 1
    assert opened.title() == "buildvm report"
    text = opened.locator("article pre").first.inner_text()
    assert "E   failed: <script>window.harmed = 1</script>" in text
    assert "\x1b" not in text
    assert "[31m" not in text


def test_even_a_script_that_came_through_would_not_run(chromium, report, tmp_path):
    page = chromium.new_page()
    tampered = tmp_path / "tampered.html"
    tampered.write_text(report.read_text().replace("</main>", f"{HOSTILE}</main>"))
    page.goto(tampered.as_uri())
    assert page.locator("img").count() == 1
    assert page.evaluate("window.harmed") is None
    page.close()


def test_links_lead_from_the_table_to_the_evidence(opened):
    opened.locator("#finding-table a").first.click()
    article = opened.locator("article:target")
    assert article.count() == 1
    assert "buildvm diagnose" in article.inner_text()


def test_the_page_is_dark_where_the_reader_wants_it_dark(opened):
    colour = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('figure svg text')).fill"
    opened.emulate_media(color_scheme="light")
    assert (opened.evaluate(colour), opened.evaluate(label)) == (LIGHT, "rgb(27, 27, 27)")
    opened.emulate_media(color_scheme="dark")
    assert (opened.evaluate(colour), opened.evaluate(label)) == (DARK, "rgb(232, 232, 232)")


def test_verdicts_are_told_in_words_not_by_colour_alone(opened):
    cells = opened.locator("td.verdict").all_inner_texts()
    assert {"1 passed", "1 failed", "passed → failed"} == set(cells)
    assert opened.get_by_role("img", name="Timeline").count() == 1


def test_the_page_fits_a_narrow_screen(opened):
    opened.set_viewport_size({"width": 360, "height": 700})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_prints(opened):
    assert opened.pdf()[:5] == b"%PDF-"


def test_everything_is_there_without_javascript(chromium, report):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.get_by_role("button").count() == 0
    assert page.locator("#finding-table tbody tr").count() == 3
    context.close()
