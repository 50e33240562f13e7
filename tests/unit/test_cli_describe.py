"""A finding as a Markdown report, and the commands that build it again."""

import io
import re
import shlex
import sys

import pytest

from buildvm_nb.catalog import find_case_file, load_case
from buildvm_nb.cli.describe import (
    Mark,
    code,
    draw_timeline,
    escaped,
    failing_command,
    fenced,
    passing_command,
    show_finding,
    write_report,
)
from buildvm_nb.cli.options import SourceOptions, make_case
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.display import describe_precision, finding_html
from buildvm_nb.model.finding import Boundary, Finding, Hint, Reruns, tell_repeats
from buildvm_nb.model.machine import ImageSpec, MachineSpec

HOSTILE = "a | b `c` ``` <script>alert(1)</script> \x1b[31m @octocat [x](http://e) *b*\u202e"
CASE = Case(id="demo", title="A | demo", step=[Step(name="test", run="true")])
MACHINE = MachineSpec(date="2020-01-01", cpu="Nehalem", accelerator="tcg")


def edge(**fields):
    return Boundary.parse(
        {
            "axis": "date",
            "last_before": "2020-10-05T23:01:56Z",
            "first_after": "2020-10-05T23:01:57Z",
            "before": "passed",
            "after": "failed",
            "is_exact": True,
            "confirmed": 6,
        }
        | fields
    )


def trap(**fields):
    return Finding.parse(
        {
            "id": "01M000000000000000000000A0",
            "case": CASE,
            "kind": "time-trap",
            "axis": "date",
            "summary": "fails from 2020-10-05T23:01:57Z on",
            "boundaries": [
                edge(cause=Hint(kind="certificate-ends", path="t/c.pem", line=3, why="CN=x"))
            ],
            "studied_from": "2010-01-01",
            "studied_until": "2040-01-01",
            "environment": MACHINE,
            "failing_line": "certificate has expired",
            "confidence": 1 - 0.5**6,
            "assumptions": ["no *short* window"],
            "evidence": ["01K0000000000000000000000A"],
            "tool_version": "0.1.0",
        }
        | fields
    )


def blocks(report):
    """Split a report into what is in fenced blocks and what is not, as CommonMark reads it."""
    inside, outside, fence = [], [], None
    for line in report.splitlines():
        opening = re.match(r"^(`{3,})\w*$", line)
        if fence is None and opening:
            fence = opening[1]
        elif fence is not None and line.startswith(fence) and not line.strip("`"):
            fence = None
        else:
            (outside if fence is None else inside).append(line)
    assert fence is None
    return inside, outside


def test_a_report_has_all_that_a_bug_tracker_needs():
    report = write_report(trap(), named=["case.toml"], asked=["buildvm", "diagnose", "case.toml"])
    inside, outside = blocks(report)
    assert outside[0] == "# demo: fails from 2020-10-05T23:01:57Z on"
    headings = [line for line in outside if line.startswith("## ")]
    assert headings == [
        "## When it passes",
        "## Boundaries",
        "## Cause",
        "## The line that shows the failure",
        "## Where it passes",
        "## How to reproduce",
        "## Taken for granted",
        "## Evidence",
    ]
    row = "| date | `2020-10-05T23:01:56Z` | passed | `2020-10-05T23:01:57Z` | failed | exact | 6 |"
    assert row in outside
    assert "- `certificate-ends t/c.pem:3: CN=x`" in outside
    place = "--cpu Nehalem --kernel debian:bookworm --accelerator tcg"
    assert f"buildvm build case.toml --date 2020-01-01T00:00:00Z {place}" in inside
    assert f"buildvm build case.toml --date 2020-10-05T23:01:57Z {place}" in inside
    assert "buildvm diagnose case.toml" in inside
    assert "certificate has expired" in inside
    assert (
        "Finding `01M000000000000000000000A0`; outcomes: `01K0000000000000000000000A`." in outside
    )
    assert "Found: **time-trap**, 6 confirming runs." in report


def test_hostile_text_forms_no_part_of_the_page():
    cause = Hint(kind="certificate-ends", path="a|b`.pem", why=HOSTILE)
    report = write_report(
        trap(
            summary=HOSTILE,
            failing_line=f"{HOSTILE}\n```\n# not a heading\n````",
            assumptions=[HOSTILE],
            boundaries=[edge(cause=cause)],
        )
    )
    inside, outside = blocks(report)
    assert "\x1b" not in report
    assert "\u202e" not in report
    assert "# not a heading" in inside
    assert not any(line.startswith("# not") for line in outside)
    titles = [line for line in outside if line.startswith("# ")]
    assert len(titles) == 1
    plain = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", "\n".join(outside).replace(r"\`", ""))
    assert not re.search(r"(?<!\\)<(?!!-- -->)", plain)
    assert not re.search(r"(?<!\w)@\w", plain)
    table = [line for line in outside if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "`plain`"),
        ("a`b", "``a`b``"),
        ("`x`", "`` `x` ``"),
        ("", "` `"),
        ("a\nb", "`a\\nb`"),
    ],
)
def test_code_within_a_line_ends_where_it_ends(text, shown):
    assert code(text) == shown


def test_a_bar_within_a_table_is_escaped_and_elsewhere_not():
    assert code("a|b", in_table=True) == r"`a\|b`"
    assert code("a|b") == "`a|b`"
    assert escaped("a|b") == r"a\|b"


def test_a_block_has_longer_fences_than_its_text():
    assert fenced("x\n````\ty") == ["`````text", "x", "````    y", "`````"]


@pytest.mark.parametrize(
    ("kind", "confidence", "confirmed", "told"),
    [
        ("time-trap", 0, [0], "no confirming run"),
        ("time-trap", 0.5, [1], "1 confirming run"),
        ("time-trap", 0.9375, [4, 6], "4 or more confirming runs at each boundary"),
        ("time-trap", 0.9375, [4, 4], "4 confirming runs at each boundary"),
        ("cpu-dependent", 1 - 0.5**12, [], "12 confirming runs"),
        ("sound", 1 - 0.5**12, [], "13 runs, all alike"),
        ("always-failing", 0, [], "one run"),
        ("undetermined", 0, [], "no confirming run"),
        ("flaky", 1, [], ""),
        ("output-varies", 1 - 0.5**2, [], "2 confirming runs"),
    ],
)
def test_what_confirms_a_finding_is_told_as_a_count_of_runs(kind, confidence, confirmed, told):
    assert tell_repeats(kind, confidence, confirmed) == told


def test_no_face_of_a_finding_tells_a_percentage_or_a_chance(capsys):
    finding = trap(confidence=0.984375, boundaries=[edge(), edge()])
    show_finding(finding)
    for face in (capsys.readouterr().out, write_report(finding), finding_html(finding)):
        assert "6 confirming runs" in face
        assert not re.search(
            r"[\d.]+\s?%|0\.98|coin|confidence", re.sub(r'style="[^"]*"', "", face)
        )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "exact"),
        ({"is_exact": False}, "within 1 s"),
        ({"first_after": "2020-10-05T23:02:05Z"}, "within 9 s"),
        ({"first_after": "2020-10-07T00:00:00Z", "is_exact": False}, "within 1 day, 0:58:04"),
        ({"axis": "kernel", "last_before": "debian:bullseye"}, "exact"),
        ({"axis": "commit", "is_exact": False}, "somewhere between"),
    ],
)
def test_no_more_precision_is_told_than_the_ends_have(fields, told):
    assert describe_precision(edge(**fields)) == told


def test_a_curated_case_is_named_by_its_id():
    case = load_case(find_case_file("chinesecalendar-1.8.0"))
    machine = MACHINE.model_copy(update={"image": case.image})
    told = passing_command(trap(case=case, environment=machine))
    assert told.startswith("buildvm build chinesecalendar-1.8.0 --date 2020-01-01T00:00:00Z --cpu")
    assert "--image" not in told


@pytest.mark.parametrize(
    "options",
    [
        {"pypi": "six==1.16.0"},
        {"git": "https://example.org/a.git", "commit": "v1"},
        {"git": "https://example.org/a.git", "before": "2020-01-01", "branch": "main"},
        {"debian": "zlib"},
        {"debian_binary": "zlib1g=1:1.2.13"},
    ],
    ids=str,
)
def test_a_case_made_from_options_is_named_by_them(options):
    image = ImageSpec.parse("debian:bookworm,python3")
    case = make_case(SourceOptions(**options), ["python3", "-c", "import x; y"], image)
    machine = MACHINE.model_copy(update={"image": image})
    words = shlex.split(passing_command(trap(case=case, environment=machine)))
    assert words[-2:] == ["--", "python3 -c 'import x; y'"]
    given = {
        word.removeprefix("--").replace("-", "_"): value
        for word, value in zip(words[2:-2:2], words[3:-2:2], strict=True)
    }
    source = {name: value for name, value in given.items() if name in options}
    assert set(source) == set(options)
    again = make_case(SourceOptions(**source), words[-1:], ImageSpec.parse(given["image"]))
    assert again.build_digest() == case.build_digest()


def test_memory_cores_image_and_network_are_told_where_they_are_not_the_cases():
    machine = MACHINE.model_copy(
        update={
            "memory_mib": 2048,
            "cpu_count": 4,
            "network": MachineSpec(date="2020-01-01", network="user").network,
            "image": ImageSpec.parse({"base": "debian:bookworm", "mirror": "http://m/"}),
        }
    )
    told = passing_command(trap(environment=machine))
    assert "--cpu-count 4 --memory 2048 --network user" in told
    assert told.endswith("--image debian:bookworm --mirror http://m/")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (
            {"axis": "cpu", "kind": "cpu-dependent", "failing_cpus": ["core2duo", "Penryn"]},
            "Penryn",
        ),
        (
            {"axis": "kernel", "kind": "kernel-dependent", "failing_kernels": ["debian:sid"]},
            "debian:sid",
        ),
        (
            {
                "axis": "cores",
                "kind": "cores-dependent",
                "boundaries": [edge(axis="cores", last_before="1", first_after="2")],
            },
            "--cpu-count 2",
        ),
        ({"boundaries": [edge(before="failed", after="passed")]}, "--date 2010-01-01T00:00:00Z"),
    ],
)
def test_the_failing_machine_differs_in_what_decides(fields, word):
    assert word in failing_command(trap(**fields))
    assert word not in passing_command(trap(**fields))


def test_the_failing_commit_is_built_by_a_sweep_of_a_case_file():
    commits = edge(axis="commit", last_before="a" * 40, first_after="b" * 40)
    case = Case.parse(
        {
            "id": "demo",
            "source": {"kind": "git", "url": "https://example.org/a.git", "commit": "main"},
            "steps": [{"name": "test", "run": "true"}],
        }
    )
    finding = trap(case=case, axis="commit", kind="commit-dependent", boundaries=[commits])
    told = failing_command(finding, ["case.toml"])
    assert told.startswith(f"buildvm sweep case.toml --commits {'b' * 40} --dates 2020-01-01T00:")
    assert f"--git https://example.org/a.git --commit {'a' * 40} " in passing_command(finding)


def test_where_nothing_passes_there_is_no_command():
    finding = trap(environment=None, kind="always-failing", axis=None, boundaries=[])
    assert passing_command(finding) == failing_command(finding) == ""
    flaky = trap(
        kind="flaky",
        boundaries=[],
        reruns=[Reruns(machine=MACHINE, verdicts={"passed": 3, "failed": 1})],
    )
    assert failing_command(flaky) == ""
    assert "- 3 passed, 1 failed: `2020-01-01T00:00:00Z, Nehalem" in write_report(flaky)


# The timeline of a finding: passes, failures and changes in one line of characters.

TIMELINE_CASE = Case(id="demo", step=[Step(name="test", run="true")])


def boundary(last_before, first_after, *, passes, axis="date"):
    return Boundary(
        axis=axis,
        last_before=last_before,
        first_after=first_after,
        before="failed" if passes else "passed",
        after="passed" if passes else "crashed",
        is_exact=True,
    )


def drawn(first, last, *boundaries, kind="time-trap", width=78):
    finding = Finding(
        case=TIMELINE_CASE,
        kind=kind,
        summary="",
        confidence=1,
        boundaries=boundaries,
        studied_from=first,
        studied_until=last,
    )
    return draw_timeline(finding, width)


def test_one_edge_divides_the_line_where_it_lies():
    edge = boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z", passes=False)
    timeline = drawn("2010-01-01", "2030-01-01", edge, width=40)
    assert timeline.bar() == "█" * 19 + "┃" + "░" * 20
    assert timeline.scale() == "╵2010    ╵2015     ╵2020      ╵2025"
    assert timeline.legend() == "█ passes  ░ fails  ┃ changes"


def test_in_ascii_everything_is_ascii():
    edge = boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z", passes=False)
    timeline = drawn("2010-01-01", "2030-01-01", edge, width=40)
    assert timeline.bar(ascii_only=True) == "=" * 19 + "|" + "." * 20
    assert timeline.scale(ascii_only=True) == "'2010    '2015     '2020      '2025"
    assert timeline.legend(ascii_only=True) == "= passes  . fails  | changes"


def test_a_window_has_both_ends():
    begin = boundary("2012-06-30T23:59:59Z", "2012-07-01T00:00:00Z", passes=True)
    end = boundary("2025-06-30T23:59:59Z", "2025-07-01T00:00:00Z", passes=False)
    timeline = drawn("2010-01-01", "2030-01-01", begin, end, width=40)
    assert timeline.bar() == "░░░░┃█████████████████████████┃░░░░░░░░░"


def test_two_windows_and_a_range_of_sixty_years_fit_eighty_columns():
    edges = (
        boundary("1979-12-31T23:59:59Z", "1980-01-01T00:00:00Z", passes=True),
        boundary("1989-12-31T23:59:59Z", "1990-01-01T00:00:00Z", passes=False),
        boundary("2009-12-31T23:59:59Z", "2010-01-01T00:00:00Z", passes=True),
        boundary("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z", passes=False),
    )
    timeline = drawn("1972-01-01", "2032-01-01", *edges)
    assert timeline.bar().count("┃") == 4
    assert [len(part) for part in timeline.bar().split("┃")] == [10, 12, 25, 12, 15]
    assert timeline.scale().split() == [f"╵{year}" for year in range(1975, 2035, 5)][:11]
    assert len(timeline.bar()) == 78
    assert len(timeline.scale()) <= 78


@pytest.mark.parametrize(("kind", "sign"), [("sound", "█"), ("always-failing", "░")])
def test_without_a_boundary_the_line_is_of_one_kind(kind, sign):
    timeline = drawn("2010-01-01", "2030-01-01", kind=kind)
    assert timeline.bar() == sign * 78
    assert len(timeline.legend().split("  ")) == 1


@pytest.mark.parametrize("kind", ["flaky", "undetermined", "cpu-dependent"])
def test_where_dates_decide_nothing_there_is_no_line(kind):
    assert drawn("2010-01-01", "2030-01-01", kind=kind) is None
    assert drawn(None, None, kind="sound") is None
    kernels = boundary("debian:bullseye", "debian:bookworm", passes=False, axis="kernel")
    assert drawn("2010-01-01", "2030-01-01", kernels, kind="kernel-dependent") is None


def test_a_window_of_a_day_in_sixty_years_is_one_mark():
    edges = (
        boundary("1999-12-31T23:59:59Z", "2000-01-01T00:00:00Z", passes=True),
        boundary("2000-01-01T23:59:59Z", "2000-01-02T00:00:00Z", passes=False),
    )
    timeline = drawn("1972-01-01", "2032-01-01", *edges)
    assert timeline.bar().strip("░") == "┃"


def test_boundaries_within_a_day_have_a_scale_of_hours():
    edges = (
        boundary("2021-11-27T05:59:59Z", "2021-11-27T06:00:00Z", passes=True),
        boundary("2021-11-27T15:28:57Z", "2021-11-27T15:28:58Z", passes=False),
    )
    timeline = drawn("2021-11-27", "2021-11-27T23:59:59Z", *edges, width=48)
    assert timeline.bar() == "░" * 12 + "┃" + "█" * 17 + "┃" + "░" * 17
    assert timeline.scale() == "╵00:00      ╵06:00      ╵12:00      ╵18:00"


@pytest.mark.parametrize(
    ("first", "last", "tick"),
    [
        ("2021-11-27T15:28:00Z", "2021-11-27T15:29:00Z", "15:28:15"),
        ("2021-11-27T15:00:00Z", "2021-11-27T17:00:00Z", "16:00"),
        ("2021-11-20", "2021-12-10", "12-01"),
        ("2021-01-01", "2022-01-01", "2021-07"),
        ("2021-01-01", "2026-01-01", "2023"),
        ("1970-01-02", "2232-04-18", "2100"),
    ],
)
def test_the_scale_fits_the_range(first, last, tick):
    timeline = drawn(first, last, kind="sound")
    assert f"╵{tick}" in timeline.scale().split()
    assert len(timeline.scale()) <= 78
    columns = [column for column, _ in timeline.ticks]
    assert columns == sorted(set(columns))


def test_what_lies_between_the_ends_of_a_wide_boundary_is_not_known():
    vague = boundary("2015-01-01T00:00:00Z", "2020-01-01T00:00:00Z", passes=False)
    timeline = drawn("2010-01-01", "2030-01-01", vague, width=40)
    assert timeline.bar() == "█" * 9 + "?" * 11 + "░" * 20
    assert Mark.UNKNOWN in timeline.marks
    assert "? not known" in timeline.legend()


def test_a_change_at_an_end_of_the_range_is_drawn():
    early = boundary("2009-12-31T23:59:59Z", "2010-01-01T00:00:00Z", passes=True)
    late = boundary("2029-12-31T23:59:58Z", "2029-12-31T23:59:59Z", passes=False)
    timeline = drawn("2010-01-01", "2029-12-31T23:59:59Z", early, late, width=40)
    assert timeline.bar() == "┃" + "█" * 38 + "┃"


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "█"), ("ascii", "="), ("latin-1", "=")])
def test_a_terminal_gets_only_characters_that_it_has(monkeypatch, encoding, sign):
    finding = Finding(
        case=TIMELINE_CASE,
        kind="sound",
        summary="passes\x1b[2J everywhere",
        confidence=0.5,
        studied_from="2010-01-01",
        studied_until="2030-01-01",
    )
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    show_finding(finding)
    shown.seek(0)
    headline, _, bar, *_ = shown.read().splitlines()
    assert headline == r"sound: passes\x1b[2J everywhere"
    assert bar == sign * 78


WHOLE = Finding(
    case=Case(id="demo", step=[Step(name="test", run="true")]),
    kind="cpu-dependent",
    axis="cpu",
    summary="it-is-so",
    confidence=1,
    boundaries=[
        edge(cause=Hint(kind="certificate-ends", path="a.pem", line=41, why="it ends")),
        edge(first_after="2020-10-05T23:05:57Z", is_exact=False),
    ],
    recurs="FREQ=YEARLY",
    passing_cpus=("Haswell",),
    failing_cpus=("Nehalem",),
    features=("avx2",),
    features_needed=("sse4.2",),
    features_harmful=("avx512f",),
    passing_kernels=("debian:sid",),
    failing_kernels=("debian:trixie",),
    varying_files=("out/a.so",),
    difference="-built-then",
    failing_line="no-such-rule",
    assumptions=("nothing-else",),
    reruns=(Reruns(machine=MachineSpec(date="2021-02-03"), verdicts={"timeout": 2}),),
)


@pytest.mark.parametrize("medium", ["text", "Markdown", "HTML"])
def test_no_medium_leaves_out_what_a_finding_says(medium, capsys):
    show_finding(WHOLE)
    told = {"text": capsys.readouterr().out, "Markdown": write_report(WHOLE)}
    told["HTML"] = finding_html(WHOLE)
    for fact in (
        *("it-is-so", "FREQ=YEARLY", "Haswell", "Nehalem", "avx2", "sse4.2", "avx512f"),
        *("debian:sid", "debian:trixie", "out/a.so", "-built-then", "no-such-rule"),
        *("nothing-else", "2 timeout", "2021-02-03", "certificate-ends a.pem:41: it ends"),
        *("within 0:04:01", "exact"),
    ):
        assert fact in told[medium], fact
