"""Plots: what is on them, not how it looks."""

import io
import re
import subprocess
import sys
from datetime import timedelta

import pytest
from matplotlib.dates import num2date

from buildvm_nb import plots
from buildvm_nb.catalog import FAILURES, OUTCOMES, Catalog, empty_frame
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.schema import Kind
from buildvm_nb.errors import UsageError
from buildvm_nb.model.case import Case, Step, Window
from buildvm_nb.model.finding import Boundary, Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.machine import Environment, MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.plots.plots import COLOURS, MARKERS

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


# Plots of single findings and runs: what is on them, not how it looks.

CASE = Case(id="demo", step=[Step(name="test", run="make check")])
TURN = "2020-06-01T00:00:01Z"


def runs_an_outcome(verdict, date="2020-01-01", cpu="Haswell", features=(), **more):
    environment = None
    if features:
        environment = Environment(
            cpu=cpu,
            cpu_features=tuple(features),
            cpu_flags=(),
            cpu_count=1,
            kernel_release="6.1",
            accelerator="tcg",
            engine="qemu 7.2",
        )
    machine = MachineSpec(date=date, cpu=cpu)
    return Outcome.parse(
        {"case": CASE, "machine": machine, "verdict": verdict, "environment": environment} | more
    )


def a_finding(**changes):
    fields = {"case": CASE, "kind": "time-trap", "axis": "date", "summary": "s", "confidence": 1}
    return Finding(**{**fields, **changes})


def runs_a_trap(**changes):
    edge = Boundary(
        axis="date",
        last_before="2020-06-01T00:00:00Z",
        first_after=TURN,
        before="passed",
        after="failed",
        is_exact=True,
    )
    known = {
        "boundaries": [edge],
        "windows": [Window(passes_until="2020-06-01T00:00:00Z")],
        "studied_from": "2019-01-01",
        "studied_until": "2021-01-01",
    }
    return a_finding(**known | changes)


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_line_of_dates_has_windows_boundaries_and_a_mark_for_each_probe():
    probes = [
        runs_an_outcome("passed", "2019-06-01"),
        runs_an_outcome("passed", "2020-06-01"),
        runs_an_outcome("failed", TURN),
        runs_an_outcome("error", "2020-12-01"),
    ]
    figure = plots.date_line(runs_a_trap(), probes)
    axes = drawn(figure)
    assert legend_of(figure) == ["passes", "changes", "passed (2)", "failed (1)", "error (1)"]
    turn, *marks = axes.get_lines()
    assert [len(line.get_xdata()) for line in marks] == [2, 1, 1]
    assert turn.get_xdata()[0] == marks[1].get_xdata()[0]
    assert len({line.get_marker() for line in marks}) == 3
    assert len({line.get_color() for line in marks}) == 3
    assert [text.get_text() for text in axes.texts] == ["passes"]
    assert axes.get_title() == "s"


def test_a_recurring_rule_is_shaded_on_the_line_of_dates_and_shown_closely():
    probes = [runs_an_outcome("passed", "2020-06-01"), runs_an_outcome("failed", "2020-06-07")]
    finding = runs_a_trap(recurs="FREQ=WEEKLY;BYDAY=SU", boundaries=(), windows=())
    figure = plots.date_line(finding, probes)
    figure.canvas.draw()
    whole, close = figure.axes
    assert legend_of(figure) == ["fails by the rule", "passed (1)", "failed (1)"]
    [shaded], [days] = whole.collections, close.collections
    first, last = num2date(close.get_xlim()[0]), num2date(close.get_xlim()[1])
    assert timedelta(days=360) < last - first < timedelta(days=420)
    assert 52 <= len(days.get_paths()) <= 61
    widths = [path.vertices[:, 0].max() - path.vertices[:, 0].min() for path in days.get_paths()]
    assert sorted(widths)[len(widths) // 2] == pytest.approx(1)
    starts = {num2date(path.vertices[:, 0].min()).weekday() for path in days.get_paths()[1:]}
    assert starts == {6}
    assert shaded.get_paths()
    left, right = whole.get_xlim()
    assert all(left <= x <= right for path in shaded.get_paths() for x in path.vertices[:, 0])


def test_hours_of_a_rule_are_shown_within_a_week():
    finding = runs_a_trap(recurs="FREQ=DAILY;BYHOUR=23", boundaries=(), windows=())
    figure = plots.date_line(finding, [runs_an_outcome("failed", "2020-06-07T23:30:00Z")])
    figure.canvas.draw()
    _, close = figure.axes
    [hours] = close.collections
    assert len(hours.get_paths()) == 8
    assert close.get_xlim()[1] - close.get_xlim()[0] == pytest.approx(8)


def test_a_line_of_dates_fills_in_while_a_diagnosis_goes_on():
    span = (parse_instant("2020-01-01"), parse_instant("2020-01-01T01:00:00Z"))
    figure = plots.date_line(span=span, title="looking")
    left, right = drawn(figure).get_xlim()
    assert 1 / 24 < right - left < 2 / 24
    assert legend_of(figure) == []
    assert legend_of(plots.date_line(outcomes=[runs_an_outcome("passed")], span=span)) == [
        "passed (1)"
    ]
    with pytest.raises(UsageError, match="nothing to draw"):
        plots.date_line(a_finding())


def rows_of(figure):
    return [label.get_text() for label in drawn(figure).get_yticklabels()]


def test_a_lattice_shows_what_was_tried_and_marks_the_smallest_set():
    finding = a_finding(kind="cpu-dependent", axis="cpu", features=("avx2",))
    figure = plots.feature_lattice(
        finding,
        [
            runs_an_outcome("failed", cpu="Haswell,-avx2", features=("bmi1", "sse")),
            runs_an_outcome("passed", cpu="Haswell", features=("avx2", "bmi1", "sse")),
            runs_an_outcome("crashed", cpu="Nehalem", features=("sse",)),
        ],
    )
    axes = drawn(figure)
    assert rows_of(figure) == ["Haswell: passed", "Haswell,-avx2: failed", "Nehalem: crashed"]
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels] == ["avx2", "bmi1"]  # all have sse
    assert [label.get_fontweight() for label in labels] == ["bold", "normal"]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"][:4]
    assert [list(line.get_ydata()) for line in dots] == [[0], [1, 2], [0, 1], [2]]
    assert [line.get_markerfacecolor() for line in dots] == ["#000000", "none"] * 2
    assert legend_of(figure) == ["passed", "failed", "crashed", "smallest set that decides"]


def test_a_finding_alone_tells_of_models_and_of_the_change_that_decides():
    finding = a_finding(
        kind="cpu-dependent",
        axis="cpu",
        passing_cpus=("Haswell", "max"),
        failing_cpus=("core2duo",),
        features_base="Haswell",
        features=("avx2", "bmi1"),
    )
    assert rows_of(plots.feature_lattice(finding)) == [
        "max: passed",
        "Haswell: passed",
        "core2duo: failed",
        "Haswell,-avx2,-bmi1: failed",
    ]


def test_a_lattice_of_very_many_cpus_says_what_it_leaves_out():
    tried = [
        runs_an_outcome("passed", cpu=f"cpu{number}", features=[f"f{at}" for at in range(number)])
        for number in range(1, 60)
    ]
    axes = drawn(plots.feature_lattice(outcomes=tried))
    assert len(axes.get_yticks()) == 40
    assert len(axes.get_xticks()) == 24
    assert axes.get_xlabel() == "19 more CPUs are not shown"
    with pytest.raises(UsageError, match="nothing to draw"):
        plots.feature_lattice(a_finding())


def texts_of(figure):
    return [text.get_text() for text in drawn(figure).texts]


PASSING = "start 12:00\nconnect\nok 1\nok 2\nok 3\nok 4\ndone in 3.2s\n"
FAILING = "start 17:31\nconnect\nok 1\nok 2\nok 3\nok 4\n$x$ <script> \x1b[31mexpired 中\x1b[0m\n"


def test_a_difference_of_logs_shows_only_what_differs_with_marks():
    figure = plots.log_diff(PASSING, FAILING, names=("then", "now"))
    assert texts_of(figure) == [
        "then",
        "now",
        *["  ok 3"] * 2,
        *["  ok 4"] * 2,
        "~ done in 3.2s",
        "~ $x$ <script> expired □",
    ]


def test_what_is_only_on_one_side_is_told_apart_and_gaps_are_marked():
    left = "a\nb\nc\nd\ne\nf\ng\n"
    right = "b\nc\nd\ne\nf\ng\nh\n"
    texts = texts_of(plots.log_diff(left, right, context=1))[2:]
    assert texts == ["- a", "  b", "  b", "  …", "  …", "  g", "  g", "+ h"]


def test_logs_that_differ_in_numbers_only_are_alike_unless_numbers_count():
    logs = ("took 3 s at 0x7f12\n", "took 5 s at 0x8abc\n")
    assert texts_of(plots.log_diff(*logs))[2:] == ["no line differs"]
    assert len(texts_of(plots.log_diff(*logs, numbers=True))) == 4


def test_long_differences_are_cut_to_their_end():
    texts = texts_of(
        plots.log_diff("x\n", "\n".join(f"line {'y' * n}" for n in range(100)), rows=9)
    )
    assert texts[2] == "91 lines above are left out"
    assert len(texts) == 3 + 9
    assert texts[-1].endswith("…")


def test_logs_of_outcomes_are_read_from_their_catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        good = catalog.record(runs_an_outcome("passed"), b"fine\n")
        bad = catalog.record(runs_an_outcome("failed", TURN), b"broken\n" * 200_000)
        none = catalog.record(runs_an_outcome("failed", evidence="said this"))
        texts = texts_of(plots.log_diff(good, bad, catalog=catalog))
        assert texts[:2] == [
            "passed: 2020-01-01 00:00:00, Haswell, debian:bookworm",
            "failed: 2020-06-01 00:00:01, Haswell, debian:bookworm",
        ]
        assert texts[-1] == "+ broken"
        assert "~ said this" in texts_of(plots.log_diff(good, none, catalog=catalog))
        with pytest.raises(UsageError, match="is in a catalog"):
            plots.log_diff(good, bad)


def test_each_verdict_has_a_marker_of_its_own():
    assert set(MARKERS) == set(COLOURS) - {"mixed"}
    assert len(set(MARKERS.values())) == len(MARKERS)
