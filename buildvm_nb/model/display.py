"""How values show in notebooks: small HTML tables, escaped, in the colours of the reader's theme.

A notebook asks a value itself, by ``_repr_html_``, so nothing has to be imported or registered
first. All that this takes is the standard library's escaping.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from buildvm_nb.model.instants import format_instant, parse_instant
from buildvm_nb.model.value import clean

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case, Window
    from buildvm_nb.model.finding import Boundary, Change, Finding, Forecast, Hint, Reruns
    from buildvm_nb.model.machine import Environment, MachineSpec
    from buildvm_nb.model.outcome import Outcome

__all__ = [
    "card",
    "describe_boundary",
    "describe_cause",
    "describe_counts",
    "describe_machine",
    "describe_precision",
    "describe_reruns",
    "describe_window",
    "environment_rows",
    "finding_html",
    "forecast_html",
    "machine_rows",
    "outcome_html",
    "titled",
    "verdict_sign",
]

_LONGEST = 2000
_NAMES_SHOWN = 12
_TESTS_SHOWN = 5
_MOST_SECONDS = 120
_SIGNS = {"passed": "✓", "failed": "✗", "crashed": "✗", "timeout": "✗"}


def card(heading: str, rows: Iterable[tuple[str, object]]) -> str:
    """Lay facts out as a table.

    `rows`: what each is called, and what it is; one without text is left out.
    Returns: HTML in which all text is escaped. It has no colours of its own; text of several lines
    keeps them, and a long one is cut.
    """
    lines = "".join(
        f'<tr><th scope="row" style="text-align:left;vertical-align:top">{_safe(name)}</th>'
        f'<td style="text-align:left">{_cell(str(value))}</td></tr>'
        for name, value in rows
        if value is not None and str(value).strip()
    )
    caption = f'<caption style="text-align:left"><b>{_safe(heading)}</b></caption>'
    return f"<table>{caption}<tbody>{lines}</tbody></table>"


def verdict_sign(verdict: str) -> str:
    """Return a verdict with a sign before it, which says the same to who does not read it.

    For example ``✓ passed``.
    """
    return f"{_SIGNS.get(verdict, '?')} {verdict}"


def describe_machine(machine: "MachineSpec | None") -> str:
    """Tell in a line what decides a machine's behaviour."""
    if machine is None:
        return ""
    return (
        f"{format_instant(machine.date)}, {machine.cpu}, kernel {machine.kernel}, "
        f"{machine.accelerator.value}"
    )


def describe_boundary(edge: "Boundary", sign: Callable[[str], str] = str) -> str:
    """Tell in a line where something changes, and how closely that is known.

    `sign`: writes a verdict.
    """
    if edge.axis.value == "timezone":  # which has no order
        return (
            f"timezone: {sign(edge.before.value)} with TZ={edge.last_before}, "
            f"{sign(edge.after.value)} with TZ={edge.first_after} "
            f"({edge.confirmed} confirming runs)"
        )
    return (
        f"{edge.axis.value}: {sign(edge.before.value)} up to {edge.last_before}, "
        f"{sign(edge.after.value)} from {edge.first_after} "
        f"({describe_precision(edge)}; {edge.confirmed} confirming runs)"
    )


def describe_precision(edge: "Boundary") -> str:
    """Tell how closely a change is known.

    Returns: ``exact`` where nothing lies between both ends, for dates else the time between them.
    """
    if edge.axis.value != "date":
        return "exact" if edge.is_exact else "somewhere between"
    between = parse_instant(edge.first_after) - parse_instant(edge.last_before)
    seconds = int(between.total_seconds())
    if edge.is_exact and seconds == 1:
        return "exact"
    return f"within {seconds} s" if seconds <= _MOST_SECONDS else f"within {between}"


def describe_cause(cause: "Hint | None") -> str:
    """Tell what changes at a boundary, and where that is written.

    For example ``certificate-ends tests/c.pem:3: CN=x ends``.
    """
    if cause is None:
        return ""
    place = f" {cause.path}" if cause.path else ""
    if cause.line is not None:
        place += f":{cause.line}" if place else f", line {cause.line} of the log"
    return f"{cause.kind.value}{place}: {cause.why}"


def describe_counts(reruns: "Reruns") -> str:
    """Tell how often which verdict came.

    For example ``3 passed, 1 failed``.
    """
    return ", ".join(f"{count} {verdict.value}" for verdict, count in reruns.verdicts.items())


def describe_reruns(reruns: "Reruns") -> str:
    """Tell how often which verdict came, and in which machine."""
    machine = reruns.machine
    where = f"{format_instant(machine.date)}, {machine.cpu}, kernel {machine.kernel}"
    return f"{describe_counts(reruns)}: {where}"


def titled(case: "Case") -> str:
    """Return a case's id with its title, where it has one."""
    return f"{case.id}: {case.title}" if case.title else case.id


def describe_window(window: "Window") -> str:
    """Tell when something passes.

    For example ``from the beginning until 2020-01-01T00:00:00Z``.
    """
    first, last = window.passes_from, window.passes_until
    begins = "from the beginning" if first is None else f"from {format_instant(first)}"
    return f"{begins} {'to the end' if last is None else f'until {format_instant(last)}'}"


def machine_rows(machine: "MachineSpec") -> list[tuple[str, object]]:
    """Tell what a machine is asked to be."""
    return [
        ("date", format_instant(machine.date)),
        ("CPU", f"{machine.cpu}, {machine.cpu_count} virtual"),
        ("kernel", machine.kernel),
        ("memory", f"{machine.memory_mib} MiB"),
        ("image", machine.image),
        ("accelerator", machine.accelerator.value),
        ("network", machine.network.value),
    ]


def environment_rows(environment: "Environment | None") -> list[tuple[str, object]]:
    """Tell what a machine was proven to be.

    `environment`: None: none came up.
    """
    if environment is None:
        return []
    return [
        ("ran on", f"{environment.engine}, {environment.accelerator.value}"),
        ("not KVM, as", environment.accelerator_reason),
        ("CPU says it is", environment.cpu_identity or ""),
        ("kernel there", environment.kernel_release),
        ("CPU features lacking", _names(environment.cpu_features_lacking)),
    ]


def outcome_html(outcome: "Outcome") -> str:
    """Show an outcome."""
    verdict = verdict_sign(outcome.verdict.value)
    return card(
        f"Outcome {outcome.id}",
        [
            ("case", titled(outcome.case)),
            ("verdict", verdict),
            ("why", outcome.reason),
            ("evidence", outcome.evidence),
            *machine_rows(outcome.machine),
            *environment_rows(outcome.environment),
            ("chosen by findings", " ".join(outcome.chosen_by)),
            ("clock", "held while the test ran" if outcome.probing.held else ""),
            ("sources", "\n".join(f"{one.name} {one.version}" for one in outcome.sources)),
            ("took", f"{outcome.duration_s:.1f} s"),
            ("recorded", format_instant(outcome.recorded_at)),
            ("log", outcome.log_digest or "none was kept"),
        ],
    )


def forecast_html(forecast: "Forecast") -> str:
    """Show a forecast: what it comes to, what changes, and which days were looked at."""
    sound = forecast.sound_until
    facts = card(
        f"Forecast of {forecast.case.id} until {format_instant(forecast.until)}",
        [
            ("status", forecast.status.value),
            ("sound until", format_instant(sound) if sound else ""),
            ("today", " ".join([verdict_sign(forecast.today.value), forecast.today_line]).strip()),
            ("do not always end alike", "\n".join(forecast.unstable)),
            ("taken for granted", "\n".join(forecast.assumptions)),
            ("runs", forecast.runs),
        ],
    )
    changes = _table(
        "What changes, day by day",
        ("day", "what", "tests", "cause", "log says"),
        [_change_row(change) for change in forecast.changes],
    )
    looks = _table(
        "Days that were looked at",
        ("day", "why", "verdict"),
        [
            (format_instant(at.at), at.why, verdict_sign(at.verdict.value) if at.verdict else "")
            for at in forecast.looks
        ],
    )
    return facts + changes + looks


def _change_row(change: "Change") -> tuple[str, ...]:
    last, first = format_instant(change.last_before), format_instant(change.first_after)
    more = len(change.tests) - _TESTS_SHOWN
    shown = ", ".join(change.tests[:_TESTS_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return (
        first if change.is_exact else f"between {last} and {first}",
        f"{change.kind.value}{'' if change.of_whole else ' (some tests)'}",
        shown,
        describe_cause(change.cause),
        change.failing_line,
    )


def _table(caption: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out under their names; empty without any."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col" style="text-align:left">{_safe(name)}</th>' for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td style=text-align:left>{_cell(text)}</td>' for text in row)}</tr>"
        for row in rows
    )
    titled = f'<caption style="text-align:left"><b>{_safe(caption)}</b></caption>'
    return (
        f'<div style="overflow-x:auto"><table>{titled}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def finding_html(finding: "Finding") -> str:
    """Show a finding."""
    studied = (finding.studied_from, finding.studied_until)
    return card(
        f"Finding {finding.id}",
        [
            ("case", titled(finding.case)),
            ("kind", finding.kind.value),
            ("axis", finding.axis.value if finding.axis else ""),
            ("summary", finding.summary),
            ("confirmed by", finding.repeats),
            ("counts", finding.support.counts if finding.support else ""),
            ("covered", finding.support.covered if finding.support else ""),
            ("fails by rule", finding.recurs),
            ("passes", "\n".join(map(describe_window, finding.windows))),
            (
                "boundaries",
                "\n".join(describe_boundary(one, verdict_sign) for one in finding.boundaries),
            ),
            (
                "causes",
                "\n".join(describe_cause(one.cause) for one in finding.boundaries if one.cause),
            ),
            ("dates studied", " to ".join(format_instant(one) for one in studied if one)),
            ("passes on CPUs", _names(finding.passing_cpus)),
            ("fails on CPUs", _names(finding.failing_cpus)),
            ("fails without", _names(finding.features)),
            ("passes when given", _names(finding.features_needed)),
            ("fails when given", _names(finding.features_harmful)),
            ("passes on kernels", _names(finding.passing_kernels)),
            ("fails on kernels", _names(finding.failing_kernels)),
            ("files that vary", _names(finding.varying_files)),
            ("difference", finding.difference),
            ("disagreed", "\n".join(map(describe_reruns, finding.reruns))),
            ("passes in", describe_machine(finding.environment)),
            ("log says", finding.failing_line),
            ("taken for granted", "\n".join(finding.assumptions)),
            ("evidence", f"{len(finding.evidence)} outcomes, {finding.runs} runs made for it"),
            ("recorded", format_instant(finding.recorded_at)),
        ],
    )


def _names(names: tuple[str, ...]) -> str:
    more = len(names) - _NAMES_SHOWN
    return " ".join([*names[:_NAMES_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _cell(text: str) -> str:
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if "\n" in shown.strip():
        return f'<pre style="white-space:pre-wrap;margin:0">{_safe(shown.rstrip())}</pre>'
    return _safe(shown)


def _safe(text: str) -> str:
    return escape(clean(text))
