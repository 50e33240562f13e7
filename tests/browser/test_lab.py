"""Notebooks in a real browser: the tour in JupyterLab, and the panels as an app of Voila.

BUILDVM_SCREENSHOT=docs/lab.png makes the picture that the README shows.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from buildvm_nb.catalog import Catalog, read_csv

TOUR = Path(__file__).parents[2] / "notebooks" / "tour.ipynb"
SCREENSHOT = "BUILDVM_SCREENSHOT"
PATIENCE_MS = 180_000
APP = """import buildvm_nb
lab = buildvm_nb.lab(case="cityhash-0.4.10")
lab.machine.set(cpu="core2duo")
lab"""
pytestmark = [pytest.mark.vm, pytest.mark.slow]


@contextmanager
def serving(module, home, *options):
    """Run a server of notebooks with settings and a catalog of its own; give its address."""
    words = [sys.executable, "-m", module, "--no-browser", *options]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    places = {name: str(home / name.lower()) for name in (*names, "JUPYTERLAB_SETTINGS_DIR")}
    settings = Path(places["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    no_news = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(no_news))
    process = subprocess.Popen(
        words,
        env=os.environ | places | {"BUILDVM_CATALOG": str(home / "catalog.sqlite")},
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = []
    for line in process.stderr:
        told.append(line)
        if found := re.search(r"http://(127\.0\.0\.1|localhost):\d+/\S*", line):
            break
    reader = threading.Thread(target=process.stderr.read)
    reader.start()
    try:
        if not found:
            pytest.fail(f"{module} does not start: {''.join(told)}")
        # it tells its address before it listens there; tries are 0.5, 1, 2, … seconds apart
        with httpx2.Client(transport=httpx2.HTTPTransport(retries=6), trust_env=False) as client:
            client.get(found[0])
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(600)
        reader.join(600)
        process.stderr.close()


@pytest.fixture
def opened(chromium):
    page = chromium.new_page(viewport={"width": 1100, "height": 760})
    page.set_default_timeout(PATIENCE_MS)
    yield page
    page.close()


def show_tab(page, title):
    page.locator(".widget-tab .lm-TabBar-tab", has_text=title).click()


def run_cell(page, text):
    """Run the cell of code that has a text."""
    cell = page.locator(".jp-Notebook .jp-CodeCell", has_text=text).first
    cell.locator(".jp-InputArea-editor").click()
    page.keyboard.press("Shift+Enter")


def test_the_tour_from_a_commit_to_a_table(opened, tmp_path, free_port):
    (shown := tmp_path / "notebooks").mkdir()
    shutil.copy(TOUR, shown)
    options = ["--allow-root", f"--port={free_port}", f"--ServerApp.root_dir={shown}"]
    with serving("jupyterlab", tmp_path, *options) as address:
        opened.goto(address.replace("/lab?", "/lab/tree/tour.ipynb?"))
        opened.get_by_text("| Idle").wait_for()

        run_cell(opened, "import buildvm_nb")  # a guest of its own
        opened.get_by_text("Wed May  1 00:00").wait_for()
        run_cell(opened, "buildvm_nb.lab(")

        panel = opened.locator(".widget-tab")

        # a version and a date
        panel.get_by_label("Search").fill("1.8.0")
        opened.locator("select option", has_text="1.8.0").first.wait_for(state="attached")
        panel.get_by_label("Revision").select_option(index=0)
        show_tab(opened, "Machine")
        opened.get_by_text("2022-12-08T16:01:13Z").first.wait_for()
        panel.get_by_label("Date").fill("2024-02-30")
        opened.keyboard.press("Tab")
        opened.get_by_text("not a date: '2024-02-30'").first.wait_for()
        panel.get_by_label("Date").fill("2024-02-29")
        opened.keyboard.press("Tab")

        # boot, run, and the verdict
        show_tab(opened, "Build")
        opened.locator(".jupyter-button:enabled", has_text="Boot").click()
        opened.locator(".jupyter-button:enabled", has_text="Shut down").wait_for()
        opened.locator(".jupyter-button:enabled", has_text="Run").click()
        panel.get_by_text("failed").first.wait_for()
        opened.get_by_text("no available data for year 2024").first.wait_for()
        if picture := os.environ.get(SCREENSHOT):
            opened.keyboard.press("Control+b")  # without the list of files
            opened.screenshot(path=picture)
        opened.locator(".jupyter-button:enabled", has_text="Record").click()
        opened.locator(".jupyter-button:disabled", has_text="Record").wait_for()

        # the table
        run_cell(opened, "write_csv(outcomes")
        opened.locator("table.dataframe", has_text="chinesecalendar").wait_for()
    outcomes = read_csv(shown / "outcomes.csv")
    (row,) = outcomes.to_dict("records")
    assert (row["source_version"], row["verdict"]) == ("1.8.0", "failed")
    assert row["date"].isoformat() == "2024-02-29T00:00:00+00:00"
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert list(catalog.outcomes()["id"]) == [row["id"]]


def test_the_panels_are_an_app_of_voila(opened, tmp_path, free_port):
    cell = {"cell_type": "code", "execution_count": None, "outputs": [], "metadata": {}, "id": "a"}
    document = {
        "cells": [cell | {"source": APP}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "lab.ipynb").write_text(json.dumps(document))
    with serving("voila", tmp_path, "lab.ipynb", f"--port={free_port}") as address:
        opened.goto(address)
        show_tab(opened, "Build")
        opened.locator(".jupyter-button:enabled", has_text="Run").click()
        opened.locator(".widget-tab").get_by_text("crashed").first.wait_for()
        assert opened.locator(".jp-InputArea").count() == 0  # an app shows no code


LOOK = """element => {
    let ground = element, colour;
    do { colour = getComputedStyle(ground).backgroundColor; ground = ground.parentElement; }
    while (ground && colour === "rgba(0, 0, 0, 0)");
    const light = text => {
        const parts = text.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255);
        const [r, g, b] = parts.map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const [a, b] = [light(getComputedStyle(element).color), light(colour)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
"""How a text contrasts with what is behind it, as WCAG 2 defines it."""
FLAWED = """import buildvm_nb
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.nb.pictures import picture_html
from buildvm_nb.plots import date_line
lab = buildvm_nb.lab("cityhash-0.4.10")
lab.machine._fields["memory"].widget.value = "lots"
lab.show_tab("Diagnose")
machine = {"date": "2020-01-01", "cpu": "Haswell"}
ran = [Outcome.parse({"case": lab.build.case, "machine": machine, "verdict": "passed"})]
lab.panels["Diagnose"]._picture.value = picture_html(date_line(None, ran), "dates")
lab.show_tab("Machine")
lab"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_errors_and_plots_can_be_read_on_a_narrow_page_in_any_theme(
    opened, tmp_path, free_port, theme
):
    (shown := tmp_path / "notebooks").mkdir()
    document = json.loads(TOUR.read_text())
    cell = {"cell_type": "code", "execution_count": None, "outputs": [], "metadata": {}, "id": "a"}
    (shown / "flawed.ipynb").write_text(
        json.dumps(document | {"cells": [cell | {"source": FLAWED}]})
    )
    themes = tmp_path / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    options = ["--allow-root", f"--port={free_port}", f"--ServerApp.root_dir={shown}"]
    with serving("jupyterlab", tmp_path, *options) as address:
        (themes / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
        opened.set_viewport_size({"width": 700, "height": 900})
        opened.goto(address.replace("/lab?", "/lab/tree/flawed.ipynb?"))
        opened.get_by_text("| Idle").wait_for()
        opened.locator(f'body[data-jp-theme-name="{theme}"]').wait_for(state="attached")
        opened.keyboard.press("Control+b")
        run_cell(opened, "import buildvm_nb")
        told = opened.locator('[role="alert"]', has_text="memory: expected a whole number").first
        told.wait_for()
        assert told.evaluate(LOOK) >= 4.5
        box = told.bounding_box()
        assert box["width"] > 100
        assert box["x"] + box["width"] <= 700

        show_tab(opened, "Diagnose")
        label = opened.locator('svg[aria-label="dates"]')
        label.wait_for()
        assert label.evaluate(LOOK) >= 4.5
        panels = opened.locator(".widget-tab .widget-tab-contents")
        assert panels.evaluate("area => area.scrollWidth - area.clientWidth") <= 0

        # what is left of panels whose kernel has ended says what to do
        again = opened.locator(".buildvm-again")
        assert not again.is_visible()
        opened.locator(".lm-MenuBar-item", has_text="Kernel").click()
        opened.locator(".lm-Menu-item", has_text="Restart Kernel…").first.click()
        opened.locator(".jp-Dialog .jp-mod-accept").click()
        again.wait_for(state="visible")
