"""How values show in notebooks: small HTML tables, escaped, in the colours of the reader's theme.

A notebook asks a value itself, by ``_repr_html_``, so nothing has to be imported or registered
first.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from dateutil.relativedelta import relativedelta

from buildvm_nb.model.instants import format_instant, parse_instant
from buildvm_nb.model.value import clean

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case, Window
    from buildvm_nb.model.finding import Boundary, Change, Finding, Forecast, Hint, Reruns
    from buildvm_nb.model.machine import Environment, MachineSpec
    from buildvm_nb.model.outcome import Outcome

__all__ = [
    "card",
    "change_table",
    "describe_boundary",
    "describe_cause",
    "describe_counts",
    "describe_machine",
    "describe_precision",
    "describe_reruns",
    "describe_window",
    "distance",
    "environment_rows",
    "finding_html",
    "forecast_fields",
    "forecast_heading",
    "forecast_html",
    "machine_rows",
    "outcome_html",
    "table",
    "titled",
    "verdict_sign",
]

_LONGEST = 2000
_NAMES_SHOWN = 12
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


# A forecast, told to people: fields and a table, the same in text, Markdown and HTML.

_COLUMNS = ("when", "from today", "what", "why", "shown by")
_MOST_NAMES = 3
_LONGEST_LINE = 120
_HEADINGS = {
    "sound": "Nothing breaks",
    "breaks": "Something breaks",
    "fails-today": "No forecast: it fails today already",
    "undetermined": "It cannot be told",
}


def forecast_heading(told: "Forecast") -> str:
    """Tell what a forecast comes to."""
    return _HEADINGS[told.status.value]


def forecast_fields(told: "Forecast", sign: Callable[[str], str] = str) -> list[tuple[str, str]]:
    """Tell what a forecast is about and what was taken for granted.

    Returns: names and values; an empty value says that there is nothing to tell.
    """
    machine = told.machine
    sound = told.sound_until
    return [
        ("case", titled(told.case)),
        ("forecast", forecast_heading(told)),
        ("today", f"{sign(told.today.value)} ({format_instant(told.start)})"),
        ("shown by", told.today_line),
        ("looked until", format_instant(told.until) if told.looks else ""),
        ("sound until", format_instant(sound) if sound else ""),
        ("unstable", ", ".join(told.unstable)),
        (
            "machine",
            f"{machine.cpu}, {machine.accelerator.value}, kernel {machine.kernel}, {machine.image}",
        ),
        ("assumed", "\n".join(told.assumptions)),
        ("runs", f"{told.runs} made, {len(told.evidence)} looked at"),
        ("finding", told.finding or ""),
        ("log", f"buildvm catalog log {told.today_outcome}" if told.today_line else ""),
    ]


def change_table(
    told: "Forecast", present: datetime
) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Make a table of what breaks and heals.

    Returns: headings and rows, ordered by time.
    """
    return _COLUMNS, [_row(change, present) for change in told.changes]


def forecast_html(forecast: "Forecast") -> str:
    """Show a forecast: what it comes to, what changes, and which days were looked at."""
    until = format_instant(forecast.until)
    fields = forecast_fields(forecast, verdict_sign)
    facts = card(f"Forecast of {forecast.case.id} until {until}", fields)
    changes = table("What changes, day by day", *change_table(forecast, forecast.start))
    looks = table(
        "Days that were looked at",
        ("day", "why", "verdict"),
        [
            (format_instant(at.at), at.why, verdict_sign(at.verdict.value) if at.verdict else "")
            for at in forecast.looks
        ],
    )
    return facts + changes + looks


def _row(change: "Change", present: datetime) -> tuple[str, ...]:
    first = change.first_after
    when = format_instant(first)
    if not change.is_exact:
        when = f"{format_instant(change.last_before)} to {when}"
    line = change.failing_line.partition("\n")[0]
    shown = line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"
    return when, distance(first, present), _what(change), _why(change), shown


def _what(change: "Change") -> str:
    """Tell what changes: the whole, and tests by name."""
    verb = {"breaks": "fails", "heals": "passes again", "fails-otherwise": "fails otherwise"}[
        change.kind.value
    ]
    names = ", ".join(change.tests[:_MOST_NAMES])
    more = len(change.tests) - _MOST_NAMES
    if more > 0:
        names += f" and {more} more"
    if not names:
        return f"the whole {verb}" if change.of_whole else verb
    return f"{verb}: {names}" if change.of_whole else f"{verb}: {names} (others fail already)"


def _why(change: "Change") -> str:
    if change.cause is not None:
        others = len(change.suspects)
        return _told(change.cause) + (f" (and {others} more end then)" if others else "")
    if change.suspects:
        return "perhaps " + "; or ".join(map(_told, change.suspects[:_MOST_NAMES]))
    # one who sees the failing line can go on from there
    return "nothing in the source says so" if change.is_exact else ""


def _told(hint: "Hint") -> str:
    line = "" if hint.line is None else f":{hint.line}"
    return f"{hint.path}{line}: {hint.why}" if hint.path else hint.why


def distance(instant: datetime, today: datetime) -> str:
    """Tell how far an instant is, in at most two units.

    For example ``in 1 year 7 months``, ``5 years ago``, ``now``.
    """
    early, late = sorted((instant, today))
    apart = relativedelta(late, early)
    parts = [_count(apart.years, "year"), _count(apart.months, "month")]
    if not any(parts):
        parts = [_count(apart.days, "day") or _count(apart.hours, "hour")]
    text = " ".join(part for part in parts if part)
    if not text:
        return "now"
    return f"in {text}" if instant > today else f"{text} ago"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' * (number > 1)}" if number else ""


def table(caption: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
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
