"""How values show: in a notebook as escaped HTML, elsewhere in a line."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.model.case import Case, PyPISource, Step, Window
from buildvm_nb.model.display import card
from buildvm_nb.model.finding import Boundary, Finding, Hint
from buildvm_nb.model.machine import CpuIdentity, Environment, MachineSpec
from buildvm_nb.model.outcome import Outcome, SourceRecord, Verdict
from buildvm_nb.study.choice import Basis, Choice

EVIL = "<script>alert(1)</script> & \x1b[31mred\x1b[0m \u202e\0"
CASE = Case(
    id="demo",
    title=EVIL,
    source=PyPISource(name="demo", version="1"),
    step=[Step(name="test", run="make check")],
)
MACHINE = MachineSpec(date="2030-01-01", cpu="Haswell", accelerator="tcg")
OUTCOME = Outcome(
    case=CASE,
    machine=MACHINE,
    verdict="failed",
    reason=EVIL,
    evidence=f"{EVIL}\n{EVIL}",
    sources=[SourceRecord(kind="local", name=EVIL, version="1", digest="0" * 64)],
    environment=Environment(
        cpu="Haswell",
        cpu_features=("avx2",),
        cpu_features_lacking=("hle", "rtm"),
        cpu_flags=(),
        cpu_identity=CpuIdentity(vendor="GenuineIntel", family=6, model=60, stepping=4, name=EVIL),
        accelerator_reason=f"under KVM it is {EVIL}",
        cpu_count=1,
        kernel_release="6.1.0",
        accelerator="tcg",
        engine="qemu 7.2",
    ),
)
FINDING = Finding(
    case=CASE,
    kind="time-trap",
    axis="date",
    summary=EVIL,
    boundaries=[
        Boundary(
            axis="date",
            last_before="2020-01-01T00:00:00Z",
            first_after="2020-01-01T00:00:01Z",
            before="passed",
            after="failed",
            is_exact=True,
            confirmed=4,
            cause=Hint(kind="certificate-ends", path=EVIL, why=EVIL),
        )
    ],
    windows=[Window(passes_until="2020-01-01T00:00:00Z")],
    failing_line=EVIL,
    environment=MACHINE,
    confidence=0.9375,
    assumptions=[EVIL],
)


class Reader(HTMLParser):
    """Reads what a browser would: tags, attributes, text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += f"{data}\n"


def shown(value):
    html = value._repr_html_()
    read = Reader(html)
    assert set(read.tags) <= {"table", "caption", "b", "tbody", "tr", "th", "td", "pre"}
    assert read.attributes <= {"style", "scope"}
    assert not re.search(r"colou?r|background", html)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", html)
    return read.text


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "<b>catalog.sqlite") as opened:
        yield opened


def test_an_outcome_shows_its_verdict_why_and_where():
    text = shown(OUTCOME)
    for part in ("✗ failed", "<script>alert(1)</script> & red", "2030-01-01T00:00:00Z", "Haswell"):
        assert part in text
    assert repr(OUTCOME) == (
        f"Outcome(id='{OUTCOME.id}', case='demo', verdict='failed', "
        "date='2030-01-01T00:00:00Z', cpu='Haswell', kernel='debian:bookworm')"
    )


def test_a_finding_shows_what_was_concluded_and_how_sure_it_is():
    text = shown(FINDING)
    for part in (
        (
            "date: ✓ passed up to 2020-01-01T00:00:00Z, ✗ failed from 2020-01-01T00:00:01Z "
            "(exact; 4 confirming runs)"
        ),
        "from the beginning until 2020-01-01T00:00:00Z",
        "certificate-ends <script>alert(1)</script>",
        "4 confirming runs",
    ):
        assert part in text
    assert repr(FINDING).startswith(f"Finding(id='{FINDING.id}', case='demo', kind='time-trap'")
    assert len(repr(FINDING)) < 300


def test_a_choice_shows_what_it_rests_on():
    choice = Choice(
        basis=Basis.OWN_FINDING,
        subject=EVIL,
        axes=("date",),
        environment=MACHINE,
        because=FINDING,
    )
    text = shown(choice)
    assert "own-finding" in text
    assert f"buildvm catalog show {FINDING.id}" in text
    assert FINDING.id in repr(choice)
    assert len(repr(choice)) < 500


def test_a_catalog_shows_how_much_is_in_it(catalog):
    assert "none" in shown(catalog)
    outcome = catalog.record(OUTCOME)
    catalog.record(OUTCOME.model_copy(update={"id": "B", "verdict": Verdict.PASSED}))
    catalog.record_finding(FINDING.model_copy(update={"evidence": (outcome.id,)}))
    text = shown(catalog)
    assert "1 failed, 1 passed" in text
    assert "1 time-trap" in text
    assert "<b>catalog.sqlite" in text


def test_a_catalog_that_is_gone_says_so_and_does_not_come_back_empty(catalog, tmp_path):
    for file in tmp_path.glob("<b>catalog.sqlite*"):
        file.unlink()
    assert "unable to open database file" in shown(catalog)
    assert not (tmp_path / "<b>catalog.sqlite").exists()


def test_a_long_text_is_cut_and_an_empty_one_left_out():
    html = card("x", [("long", "y" * 10_000), ("none", ""), ("nothing", None), ("no", 0)])
    assert html.count("y") == 2000 + html.count("style") + html.count("tbody")
    assert Reader(html).tags.count("tr") == 2


def test_nothing_is_imported_to_show_a_value():
    code = (
        "import sys; from buildvm_nb.model import outcome;"
        "print({'IPython', 'ipywidgets', 'jinja2', 'markupsafe'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"
