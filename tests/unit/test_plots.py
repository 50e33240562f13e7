"""Plots: what is on them, not how it looks."""

import io
import re
import subprocess
import sys

import pytest

from buildvm_nb import plots
from buildvm_nb.catalog import FAILURES, OUTCOMES, Catalog, empty_frame
from buildvm_nb.catalog.columns import Kind
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.errors import UsageError
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.outcome import Verdict

assert Catalog  # importing it gives frames their .traps
PLAIN = {
    Kind.TEXT: "x", Kind.JSON: "[]", Kind.INTEGER: 1, Kind.REAL: 0.5, Kind.BOOLEAN: True,
    Kind.INSTANT: parse_instant("2026-01-01"),
}  # fmt: skip


def frame_of(table, *rows):
    cells = ([row.get(column.name, PLAIN[column.kind]) for column in table.columns] for row in rows)
    return make_frame(list(cells), table)


def a_trap(case, *ends):
    boundaries = ",".join(
        f'{{"axis":"date","last_before":"{last}","first_after":"{first}","before":"{before}",'
        f'"after":"{after}","is_exact":false}}'
        for last, first, before, after in ends
    )
    return {"id": case, "case_id": case, "boundaries": f"[{boundaries}]"}


def an_outcome(date, cpu, verdict):
    return {"date": parse_instant(date), "cpu": cpu, "verdict": verdict}


def drawn(figure):
    """Draw it, since much goes wrong only then."""
    figure.savefig(io.BytesIO(), format="svg")
    (axes,) = figure.axes
    return axes


def test_a_timeline_has_a_line_for_each_case_and_a_marker_for_each_spring():
    frame = frame_of(
        FAILURES,
        a_trap("late$$", ("2037-01-01", "2038-01-01", "passed", "failed")),
        a_trap(
            "early",
            ("2019-01-01", "2020-01-01", "passed", "failed"),
            ("2020-06-01", "2021-01-01", "failed", "passed"),
            ("2029-01-01", "2030-01-01", "passed", "failed"),
        ),
        a_trap("none"),
    )
    axes = drawn(plots.timeline(frame, at="2026-01-01"))
    past, to_come, present = axes.get_lines()

    assert [label.get_text() for label in axes.get_yticklabels()] == ["early", r"late\$\$"]
    assert axes.get_xlabel() == "date (UTC)"
    assert (len(past.get_xdata()), len(to_come.get_xdata())) == (1, 2)
    assert [line.get_label() for line in (past, to_come, present)] == [
        "has sprung",
        "will spring",
        "now",
    ]
    assert past.get_marker() != to_come.get_marker()
    bars = [len(collection.get_paths()) for collection in axes.collections]
    assert bars == [1, 2]


def test_a_trap_that_springs_in_the_year_9999_can_be_drawn():
    frame = frame_of(
        FAILURES, a_trap("x", ("9999-12-31T23:59:58Z", "9999-12-31T23:59:59Z", "passed", "failed"))
    )

    assert drawn(plots.timeline(frame)).get_lines()


def test_a_matrix_has_a_cell_for_each_pair_with_a_letter_and_a_colour():
    frame = frame_of(
        OUTCOMES,
        an_outcome("2020-01-01", "max", "passed"),
        an_outcome("2020-01-01", "Haswell", "failed"),
        an_outcome("2020-01-01", "Haswell", "passed"),
        an_outcome("2030-01-01T12:00:00Z", "max", "crashed"),
    )
    figure = plots.matrix(frame, "date", "cpu")
    axes = drawn(figure)

    assert (axes.get_ylabel(), axes.get_xlabel()) == ("date", "cpu")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Haswell", "max"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "2020",
        "2030",
    ]
    assert [text.get_text() for text in axes.texts] == ["m", "p", "", "c"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "p: passed",
        "c: crashed",
        "m: mixed",
    ]


def test_each_verdict_has_a_colour_and_a_letter_of_its_own():
    assert set(plots.COLOURS) == {*Verdict, "mixed"}
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)
    assert len({name[0] for name in plots.COLOURS}) == len(plots.COLOURS)


def test_nothing_to_draw_is_told():
    with pytest.raises(UsageError, match="nothing to draw"):
        plots.timeline(empty_frame(FAILURES))
    with pytest.raises(UsageError, match="nothing to draw"):
        plots.matrix(empty_frame(OUTCOMES))


def test_no_global_state_of_pyplot_is_touched():
    code = "import sys, buildvm_nb.plots; print('matplotlib.pyplot' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_a_notebook_shows_plots_in_the_colours_of_its_page():
    outcomes = frame_of(OUTCOMES, an_outcome("2020-01-01", "max", "passed"))
    traps = frame_of(FAILURES, a_trap("x", ("2019-01-01", "2020-01-01", "passed", "failed")))
    for figure in (
        plots.matrix(outcomes, "date", "cpu"),
        plots.timeline(traps, at="2026-01-01"),
        plots.log_diff("one\ntwo", "one\nthree"),
    ):
        shown = figure._repr_html_()
        drawing = shown[shown.index("<svg") : shown.index("</svg>")]
        assert f'aria-label="{figure.get_label()}"' in drawing
        assert "color:var(--jp-content-font-color1,currentColor)" in drawing
        assert re.search("fill: *(#ffffff|white|#000000)", drawing) is None
        assert re.search("stroke: *#000000", drawing) is None
    letters = re.findall("fill: (#010101)", plots.matrix(outcomes).to_html(""))
    assert letters, "ink on a verdict's colour is dark on any page"
