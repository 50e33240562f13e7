"""Recurring traps in words and as rules of RFC 5545."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.instants import format_instant
from buildvm_nb.search import US_RULES_SINCE, Feature, Rule, State
from buildvm_nb.study.dates import DateStudy, state_of, when

__all__ = ["rule_text", "rule_words", "unexplained_finding", "with_rule"]

_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_SUNDAYS = {
    Feature.EU_SUMMER: ((3, 25), (10, 25)),
    Feature.US_SUMMER: ((3, 8), (11, 1)),
}
"""Month and earliest day of the Sundays on which summer time begins and ends."""
_CHANGES = {
    Feature.EU_CHANGE: {"begins": "BYMONTH=3;BYDAY=-1SU", "ends": "BYMONTH=10;BYDAY=-1SU"},
    Feature.US_CHANGE: {"begins": "BYMONTH=3;BYDAY=2SU", "ends": "BYMONTH=11;BYDAY=1SU"},
}
_MOST_SHOWN = 6


def rule_text(rule: Rule) -> str:
    """Write a rule as RFC 5545 does.

    Parameters
    ----------
    rule : Rule
        Any.

    Returns
    -------
    str
        One line for each rule of which any matches, after a ``DTSTART`` where one is needed. Of
        summer time whole days are told, though it begins and ends in the night.
    """
    lines = list(_lines(rule))
    since = rule.since
    if since is None and rule.feature in {Feature.US_SUMMER, Feature.US_CHANGE}:
        since = int(datetime(US_RULES_SINCE, 1, 1, tzinfo=UTC).timestamp())
    if not rule.shift_s and since is None:
        return "\n".join(lines)
    zone = ""
    if rule.shift_s:
        sign, minutes = "-" if rule.shift_s < 0 else "+", abs(rule.shift_s) // 60
        zone = f";TZID=UTC{sign}{minutes // 60:02}:{minutes % 60:02}"
    start = f"DTSTART{zone}:{when((since or 0) + rule.shift_s):%Y%m%dT%H%M%S}"
    return "\n".join([start, *(f"RRULE:{line}" for line in lines)])


def rule_words(rule: Rule) -> str:
    """Say when something fails by a rule.

    Parameters
    ----------
    rule : Rule
        Any.

    Returns
    -------
    str
        For example ``on Mondays``.
    """
    told = _words(rule.feature, sorted(rule.values))
    if rule.shift_s:
        told += f", as days are counted {_hours(rule.shift_s)} UTC"
    if rule.since is not None:
        told += f", since {format_instant(when(rule.since))}"
    return told


def with_rule(study: DateStudy, base: Finding, found: Finding | None) -> Finding:
    """Conclude from a rule, and changes beside it.

    Parameters
    ----------
    study : DateStudy
        With a rule.
    base : Finding
        What is the same whatever is found.
    found : Finding or None
        What its changes say, where there are any.

    Returns
    -------
    Finding
        Recurring.

    Raises
    ------
    AssertionError
        If there is no rule.
    """
    rule = study.rule
    if rule is None:
        raise AssertionError("a recurring finding needs a rule")
    inside = [
        (outcome, rule.covers(probe.at + study.duration // 2))
        for probe, outcome in study.outcomes.items()
        if not probe.held
    ]
    told = [one for one, hit in inside if hit and state_of(one) is not State.UNKNOWN]
    failed = [one for one in told if state_of(one) is State.BAD]
    passed = [one for one, hit in inside if not hit and state_of(one) is State.GOOD]
    kept = found or base
    summary = (
        f"fails {rule_words(rule)}: {len(failed)} of {len(told)} runs then failed, "
        f"and {len(passed)} at other times passed"
    )
    good = next(iter(passed), None)
    machine = base.environment
    if machine is None or rule.covers(int(machine.date.timestamp())):
        machine = good.machine if good else None
    changes = {
        "kind": FindingKind.RECURRING,
        "axis": Axis.DATE,
        "recurs": rule_text(rule),
        "summary": "; ".join([summary, *([found.summary] if found else [])]),
        "failing_line": failed[0].evidence if failed else kept.failing_line,
        "environment": machine,
    }
    return kept.model_copy(update=changes)


def unexplained_finding(study: DateStudy, base: Finding) -> Finding:
    """Conclude where it fails at dates that neither a window nor a rule explains.

    Parameters
    ----------
    study : DateStudy
        With such dates.
    base : Finding
        What is the same whatever is found.

    Returns
    -------
    Finding
        Undetermined, with the dates.
    """
    dates = [format_instant(when(at)) for at in study.unexplained]
    shown = ", ".join(dates[:_MOST_SHOWN]) + (", …" if len(dates) > _MOST_SHOWN else "")
    failed = [one for one in study.outcomes.values() if state_of(one) is State.BAD]
    summary = (
        f"passes at some dates and fails at others, by no rule of the calendar that was tried and "
        f"in no window with ends: it failed at {shown}"
    )
    changes = {
        "kind": FindingKind.UNDETERMINED,
        "axis": None,
        "summary": summary,
        "failing_line": failed[0].evidence if failed else "",
    }
    return base.model_copy(update=changes)


def _lines(rule: Rule) -> Iterator[str]:
    values = sorted(rule.values)
    numbers = ",".join(map(str, values))
    plain = {
        Feature.MONTH: f"FREQ=DAILY;BYMONTH={numbers}",
        Feature.MONTHDAY: f"FREQ=MONTHLY;BYMONTHDAY={numbers}",
        Feature.FROM_END: f"FREQ=MONTHLY;BYMONTHDAY={numbers}",
        Feature.HOUR: f"FREQ=DAILY;BYHOUR={numbers}",
        Feature.WEEK: f"FREQ=YEARLY;BYWEEKNO=53;BYDAY={','.join(_DAYS)}",
        Feature.YEARDAY: "FREQ=YEARLY;BYYEARDAY=366",
    }
    if rule.feature in plain:
        yield plain[rule.feature]
        return
    match rule.feature:
        case Feature.WEEKDAY:
            yield f"FREQ=WEEKLY;BYDAY={','.join(_DAYS[value] for value in values)}"
        case Feature.DATE:
            for month, day in values:
                yield f"FREQ=YEARLY;BYMONTH={month};BYMONTHDAY={day}"
        case Feature.EU_CHANGE | Feature.US_CHANGE:
            for value in values:
                yield f"FREQ=YEARLY;{_CHANGES[rule.feature][value]}"
        case _:
            yield from _summer(rule.feature, is_summer=True in rule.values)


def _summer(feature: Feature, *, is_summer: bool) -> Iterator[str]:
    """Write the days of summer time, or the others: those after a Sunday differ by weekday."""
    (first, low), (last, high) = _SUNDAYS[feature]
    months = [m for m in range(1, 13) if (first < m < last) is is_summer and m not in {first, last}]
    yield f"FREQ=DAILY;BYMONTH={','.join(map(str, months))}"
    for month, earliest, is_after in ((first, low, is_summer), (last, high, not is_summer)):
        for weekday, name in enumerate(_DAYS):
            turn = earliest + (weekday + 1) % 7
            days = range(turn, 32) if is_after else range(1, turn)
            if days:
                listed = ",".join(map(str, days))
                yield f"FREQ=YEARLY;BYMONTH={month};BYDAY={name};BYMONTHDAY={listed}"


def _words(feature: Feature, values: Sequence[Any]) -> str:
    told: dict[Feature, Callable[[], str]] = {
        Feature.WEEKDAY: lambda: f"on {_listed(_DAY_NAMES[v] + 's' for v in values)}",
        Feature.MONTH: lambda: f"in {_listed(_MONTHS[v - 1] for v in values)}",
        Feature.MONTHDAY: lambda: f"on day {_listed(map(str, values))} of a month",
        Feature.FROM_END: lambda: (
            "on the last day of a month"
            if list(values) == [-1]
            else f"on day {_listed(map(str, values))} of a month, counted from its end"
        ),
        Feature.HOUR: lambda: f"in hour {_listed(map(str, values))} of a day (UTC)",
        Feature.WEEK: lambda: "in ISO week 53",
        Feature.YEARDAY: lambda: "on the 366th day of a year",
        Feature.DATE: lambda: (
            f"on {_listed(f'{day} {_MONTHS[month - 1]}' for month, day in values)}"
        ),
        Feature.EU_CHANGE: lambda: f"on the day on which the EU's summer time {_listed(values)}",
        Feature.US_CHANGE: lambda: f"on the day on which the US's summer time {_listed(values)}",
        Feature.EU_SUMMER: lambda: f"in {_season(values)} time by the rules of the EU",
        Feature.US_SUMMER: lambda: f"in {_season(values)} time by the rules of the US",
    }
    return told[feature]()


def _season(values: Sequence[bool]) -> str:
    return "summer" if True in values else "winter"


def _hours(shift_s: int) -> str:
    minutes = abs(shift_s) // 60
    return f"{minutes // 60}:{minutes % 60:02} {'east' if shift_s > 0 else 'west'} of"


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
