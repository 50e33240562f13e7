"""Rules of the calendar: which days or hours fail, found by group testing.

One set of instants meets every value of every feature of the calendar, such as each weekday and
each day of the month, at least once. What fails there may be due to any feature that it has; tests
that share one feature, or lack one, tell these apart. A rule counts only if what it says of
instants that were not asked yet comes true: at both ends of two of its blocks of days or hours.
"""

from bisect import bisect_right
from calendar import monthrange
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import Any

from dateutil.relativedelta import relativedelta

from buildvm_nb.search.plan import State

__all__ = [
    "US_RULES_SINCE",
    "WHOLE_DAYS",
    "Feature",
    "Rule",
    "RuleSearch",
    "Value",
    "Verdicts",
    "covering_set",
    "describe_coverage",
    "features_of",
]

_DAY_S = 86_400
_HOUR_S = 3600
_EPOCH = date(1970, 1, 1)
_MARGIN_S = 120
"""How far from the turn of a day or hour an instant is to be, beside what durations ask for."""
_YEAR_DAYS = 366
_DAY_STRIDE = 5
"""Weeks and it meet in all weekdays."""
_LONG_WEEK = 53
_MOST_TESTS = 24
_MOST_ROUNDS = 5
_MOST_UNLIKE = 3
"""Of so few values each is asked about once more, on a day that is as unlike as can be."""
_ANOTHER_WITHIN = 3300
_MOST_DATES = 2
"""So many days of the year may be a rule of their own."""
_REPEATED_BAD = 6
_ZONES_S = 14 * _HOUR_S
"""No zone is further from UTC."""
_ZONE_STEP_S = 900
"""Zones differ from UTC by whole quarters of an hour."""
_LONGEST_FOR_ZONE = 600
"""A longer run does not tell such quarters apart, unless its clock is held."""
_YEARS_ON = 9
_YEARS = 10
_COMMON_YEARS = 9
_FAILED_FOR_ZONE = 3
US_RULES_SINCE = 2007
"""Before, summer time of the US was shorter: from April to October."""
_SPREAD = 37
"""A stride through the days of a year that meets all weekdays and months soon."""


class Feature(StrEnum):
    """What days or hours have in common; the order is that of preference.

    Summer time begins and ends in the night; software that asks for the offset of a day, and not of
    an instant, has it from midnight on.
    """

    WEEKDAY = "weekday"
    MONTH = "month"
    MONTHDAY = "day of the month"
    FROM_END = "day of the month counted from its end"
    HOUR = "hour"
    EU_SUMMER = "summer time of the EU"
    US_SUMMER = "summer time of the US"
    EU_SUMMER_DAYS = "day of summer time of the EU"
    US_SUMMER_DAYS = "day of summer time of the US"
    WEEK = "ISO week 53"
    YEARDAY = "366th day of the year"
    EU_CHANGE = "day on which summer time of the EU begins or ends"
    US_CHANGE = "day on which summer time of the US begins or ends"
    DATE = "day of the year"


_PREFERENCE = {feature: number for number, feature in enumerate(Feature)}
Value = Any
"""Of a feature: a number, a word, whether it is so, or a month and a day."""


def features_of(at: int, shift_s: int = 0) -> Mapping[Feature, Value]:
    """Return what the calendar says of an instant.

    Parameters
    ----------
    at : int
        Seconds since 1970.
    shift_s : int
        Of the zone that counts, east of UTC.

    Returns
    -------
    mapping of Feature to value
        Of each feature.
    """
    day, second = divmod(at + shift_s, _DAY_S)
    known = dict(_of_day(day))
    known[Feature.HOUR] = second // _HOUR_S
    for change, summer in (
        (Feature.EU_CHANGE, Feature.EU_SUMMER),
        (Feature.US_CHANGE, Feature.US_SUMMER),
    ):
        if known[
            change
        ]:  # summer time of the EU changes at 1:00 UTC, that of New York at 7:00, 6:00
            turn = {"EU": (1, 1), "US": (7, 6)}["EU" if summer is Feature.EU_SUMMER else "US"]
            begins = known[change] == "begins"
            is_later = second >= turn[0 if begins else 1] * _HOUR_S
            known[summer] = is_later is begins
    return known


@lru_cache(maxsize=65_536)
def _of_day(day: int) -> Mapping[Feature, Value]:
    on = _EPOCH + timedelta(days=day)
    days = monthrange(on.year, on.month)[1]
    yearday = on.timetuple().tm_yday
    eu = (_sunday(on.year, 3, -1), _sunday(on.year, 10, -1))
    us = (_sunday(on.year, 3, 2), _sunday(on.year, 11, 1))
    if on.year < US_RULES_SINCE:
        us = (_sunday(on.year, 4, 1), _sunday(on.year, 10, -1))
    return {
        Feature.WEEKDAY: on.weekday(),
        Feature.MONTH: on.month,
        Feature.MONTHDAY: on.day,
        Feature.FROM_END: on.day - days - 1,
        Feature.WEEK: on.isocalendar().week == _LONG_WEEK,
        Feature.YEARDAY: yearday == _YEAR_DAYS,
        **dict.fromkeys((Feature.EU_SUMMER, Feature.EU_SUMMER_DAYS), eu[0] <= on < eu[1]),
        **dict.fromkeys((Feature.US_SUMMER, Feature.US_SUMMER_DAYS), us[0] <= on < us[1]),
        Feature.EU_CHANGE: {eu[0]: "begins", eu[1]: "ends"}.get(on, ""),
        Feature.US_CHANGE: {us[0]: "begins", us[1]: "ends"}.get(on, ""),
        Feature.DATE: (on.month, on.day),
    }


@lru_cache(maxsize=4096)
def _sunday(year: int, month: int, number: int) -> date:
    """Return the first, second, … Sunday of a month; -1: the last."""
    if number < 0:
        end = date(year, month, monthrange(year, month)[1])
        return end - timedelta(days=(end.weekday() + 1) % 7)
    first = date(year, month, 1)
    return first + timedelta(days=(6 - first.weekday()) % 7 + 7 * (number - 1))


_COVERED: Mapping[Feature, frozenset[Value]] = {
    Feature.WEEKDAY: frozenset(range(7)),
    Feature.MONTH: frozenset(range(1, 13)),
    Feature.MONTHDAY: frozenset(range(1, 32)),
    Feature.FROM_END: frozenset({-1}),
    Feature.HOUR: frozenset(range(24)),
    Feature.EU_SUMMER: frozenset({False, True}),
    Feature.US_SUMMER: frozenset({False, True}),
    Feature.WEEK: frozenset({True}),
    Feature.YEARDAY: frozenset({True}),
    Feature.EU_CHANGE: frozenset({"begins", "ends"}),
    Feature.US_CHANGE: frozenset({"begins", "ends"}),
    Feature.DATE: frozenset({(2, 29), (12, 31), (1, 1)}),
}
"""What a covering set has to meet."""


def covering_set(
    first: int,
    last: int,
    near: int,
    answered: Iterable[int] = (),
    *,
    duration: int = 0,
    avoid: Callable[[int], bool] | None = None,
) -> tuple[int, ...]:
    """Choose instants that together meet every feature of the calendar.

    Parameters
    ----------
    first, last : int
        Between which instants they are to lie, seconds since 1970.
    near : int
        From about which on years are searched first.
    answered : iterable of int
        Instants that have an answer: what they meet need not be met again.
    duration : int
        How long the clock runs on, in seconds.
    avoid : callable, optional
        Tells which instants are not to be chosen.

    Returns
    -------
    tuple of int
        About thirty, in order of time; fewer where the span is too short for all.
    """
    met = _met(at for at in answered if first <= at <= last)
    missing = {
        (feature, value)
        for feature, values in _COVERED.items()
        for value in values
        if (feature, value) not in met
    }
    hours = sorted(value for feature, value in missing if feature is Feature.HOUR)
    missing -= {(Feature.HOUR, hour) for hour in hours}
    days = _days(first, last, near)
    years: Counter[int] = Counter()
    chosen: list[int] = []
    while missing and days:
        best = max(
            days,
            key=lambda day: (
                len(missing & _pairs(day)),
                day if _is_rare(day) else 0,  # a rule may hold only since some time
                -years[_year(day)],
                day,
            ),
        )
        gained = missing & _pairs(best)
        if not gained:
            break
        days.remove(best)
        left = list(hours)
        at = _at_hour(best, left, gained, duration)
        if not first <= at <= last - duration or (avoid and avoid(at)):
            continue
        hours = left
        years[_year(best)] += 1
        missing -= _pairs(best)
        chosen.append(at)
    stride = max(1, len(days) // (len(hours) + 1))
    for day in (*days[::stride], *days):
        if not hours:
            break
        left = list(hours)
        at = _at_hour(day, left, set(), duration)
        if first <= at <= last - duration and not (avoid and avoid(at)):
            chosen.append(at)
            hours = left
    return tuple(sorted(chosen))


def _met(instants: Iterable[int]) -> set[tuple[Feature, Value]]:
    return {pair for at in instants for pair in features_of(at).items()}


@lru_cache(maxsize=65_536)
def _pairs(day: int) -> frozenset[tuple[Feature, Value]]:
    return frozenset(_of_day(day).items())


@lru_cache(maxsize=65_536)
def _year(day: int) -> int:
    return (_EPOCH + timedelta(days=day)).year


def _at_hour(day: int, hours: list[int], gained: set[tuple[Feature, Value]], duration: int) -> int:
    """Take an hour that was not taken yet; on a day of change, the hour in which clocks change."""
    change = {
        Feature.EU_CHANGE: {"begins": 1, "ends": 0},
        Feature.US_CHANGE: {"begins": 7, "ends": 5},
    }
    wanted = [change[f][v] for f, v in gained if f in change and v]
    hour = wanted[0] if wanted else (hours[len(hours) // 2] if hours else 12)
    if hour in hours:
        hours.remove(hour)
    return day * _DAY_S + hour * _HOUR_S + max(0, _HOUR_S - duration) // 2


def _days(first: int, last: int, near: int) -> list[int]:
    """Return days to choose from: some of the years from a day on, and all rare ones further on.

    A rule may hold only since some time. Earlier ones are taken where the span ends too soon.
    """
    low, high = first // _DAY_S + 1, last // _DAY_S - 1
    ends = min(high, max(near // _DAY_S, low) + _YEARS_ON * _YEAR_DAYS)
    begins = max(low, min(near // _DAY_S - _YEAR_DAYS, ends - _YEARS * _YEAR_DAYS))
    wide = range(begins, ends)
    around = wide[: _COMMON_YEARS * _YEAR_DAYS]
    every = 1 if len(around) <= _YEAR_DAYS else _DAY_STRIDE
    common = list(around[::every])
    rare = [day for day in wide if _is_rare(day)]
    return list(dict.fromkeys([*rare, *common]))


@lru_cache(maxsize=65_536)
def _is_rare(day: int) -> bool:
    of = _of_day(day)
    return bool(
        of[Feature.WEEK]
        or of[Feature.YEARDAY]
        or of[Feature.EU_CHANGE]
        or of[Feature.US_CHANGE]
        or of[Feature.DATE] in {(2, 29), (12, 31), (1, 1)}
        or of[Feature.MONTHDAY] == 31  # noqa: PLR2004 - the longest months' last day
        or (of[Feature.FROM_END] == -1 and of[Feature.MONTH] == 2)  # noqa: PLR2004 - the shortest's
    )


def describe_coverage(passing: Iterable[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Say which features of the calendar were met, and which were not.

    `passing`: the instants that were looked at, seconds since 1970.
    """
    met = _met(passing)
    whole: list[str] = []
    lacking: list[str] = []
    for feature, values in _COVERED.items():
        if feature is Feature.DATE:
            continue
        missed = [value for value in values if (feature, value) not in met]
        (lacking if missed else whole).append(_COVER_WORDS[feature])
    for value, words in (((2, 29), "29 February"), ((12, 31), "31 December")):
        (whole if (Feature.DATE, value) in met else lacking).append(words)
    return tuple(whole), tuple(lacking)


_COVER_WORDS = {
    Feature.WEEKDAY: "every weekday",
    Feature.MONTH: "every month",
    Feature.MONTHDAY: "every day of the month",
    Feature.FROM_END: "the last day of a month",
    Feature.HOUR: "every hour of the day",
    Feature.EU_SUMMER: "summer and winter time of the EU",
    Feature.US_SUMMER: "summer and winter time of the US",
    Feature.WEEK: "ISO week 53",
    Feature.YEARDAY: "the 366th day of a year",
    Feature.EU_CHANGE: "both changes of summer time in the EU",
    Feature.US_CHANGE: "both changes of summer time in the US",
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Days or hours that fail, again and again."""

    feature: Feature
    values: frozenset[Value]
    """Those of the feature that fail."""
    shift_s: int = 0
    """Of the zone that counts, east of UTC."""
    since: int | None = None
    """First position, seconds since 1970, from which on it holds; None: throughout."""
    confirmed: int = 0
    """Answers that failed as it says."""
    refuted: int = 0
    """Answers that passed as it says."""
    also: tuple["Rule", ...] = ()
    """Further rules by which it fails: any of them suffices."""

    def covers(self, at: int) -> bool:
        """Tell whether an instant is one that fails by it, or by what else it has."""
        if any(rule.covers(at) for rule in self.also):
            return True
        if self.since is not None and at < self.since:
            return False
        return features_of(at, self.shift_s)[self.feature] in self.values

    @property
    def is_of_hours(self) -> bool:
        """Whether any of it tells hours."""
        return Feature.HOUR in {self.feature, *(rule.feature for rule in self.also)}

    def touches(self, first: int, last: int) -> bool:
        """Tell whether it bears on a stretch; a day is never stepped over, nor is an hour."""
        step = _HOUR_S if self.is_of_hours else _DAY_S // 2
        return any(self.covers(at) for at in (*range(first, last, step), last))


_ONCE_A_YEAR = frozenset(
    {Feature.DATE, Feature.WEEK, Feature.YEARDAY, Feature.EU_CHANGE, Feature.US_CHANGE}
)
_YEARS_ASKED = 4
_DATES_WITH_KIN = 2
_TO_THE_END = relativedelta(day=31)
"""To the last day of a month."""
WHOLE_DAYS = frozenset({Feature.EU_SUMMER_DAYS, Feature.US_SUMMER_DAYS})
"""What is so wherever a season is, but for hours of two nights."""
Verdicts = Callable[[Sequence[int]], Sequence[State]]
"""Answers instants in their order, by a clock that runs."""


@dataclass(kw_only=True)
class RuleSearch:
    """Looks for the rule behind answers that come and go."""

    ask: Verdicts
    """Asks anew, also what was asked before."""
    first: int
    last: int
    answers: dict[int, State]
    """What is known; the search adds to it."""
    duration: int = 0
    most_tests: int = _MOST_TESTS
    asked: int = 0
    split: set[int] = field(default_factory=set)
    """Instants that were answered in two ways."""
    shift_s: int = 0
    only: Feature | None = None
    """The one feature to think of; None: all."""
    ask_held: Verdicts | None = None
    """Asks with a clock that is held, where one can be."""
    is_zone_held: bool = False
    """Whether such a clock told the zone."""
    is_free: Callable[[int], bool] = lambda _at: True
    """Which instants may be asked about: at others something else fails."""

    def alive(self) -> dict[Feature, tuple[frozenset[Value], frozenset[Value]]]:
        """Return the features that explain all answers, with the values that fail and that pass."""
        states: dict[Feature, defaultdict[Value, set[State]]]
        states = defaultdict(lambda: defaultdict(set))
        for at, state in self._told():
            ends = features_of(at + self.duration, self.shift_s)
            for feature, value in features_of(at, self.shift_s).items():
                if ends[feature] == value:  # else nobody knows of which it tells
                    states[feature][value].add(state)
        found = {}
        for feature, values in sorted(states.items(), key=lambda one: _PREFERENCE[one[0]]):
            bad = frozenset(value for value, told in values.items() if told == {State.BAD})
            good = frozenset(value for value, told in values.items() if told == {State.GOOD})
            is_told_apart = len(bad) + len(good) == len(values) and bad and good
            if self.only not in {None, feature}:
                continue
            if is_told_apart and self._may_tell(feature, bad):
                found[feature] = (bad, good)
        return found

    def _may_tell(self, feature: Feature, bad: frozenset[Value]) -> bool:
        if feature is Feature.HOUR:
            return self.duration <= _HOUR_S // 3
        return feature is not Feature.DATE or len(bad) <= _MOST_DATES

    def leave_out_before(self) -> bool:
        """Leave out what passed before it first failed, as a rule may hold only since then."""
        told = self._told()
        failed = [at for at, state in told if state is State.BAD]
        before = [at for at, _ in told if failed and at < failed[0]]
        if not before or failed[0] > self.last - 366 * _DAY_S:
            return False
        self.first = failed[0]
        self.answers = {at: state for at, state in self.answers.items() if at >= failed[0]}
        return True

    def settle(self) -> bool:
        """Ask on until no feature explains all answers, or one is left; tell whether one is."""
        for _ in range(self.most_tests):
            alive = self.alive()
            if not alive and self._try_zones():
                alive = self.alive()
            if not alive:
                return False
            at = self._most_telling(alive)
            if at is None:
                return self._is_supported(next(iter(alive)))
            self._look([at])
        return len(self.alive()) == 1

    def conclude(self) -> Rule | None:
        """Check the feature that is left at both ends of two of its blocks; None: it is none."""
        is_shifted = False
        for _ in range(_MOST_ROUNDS):
            alive = self.alive()
            if not alive:
                return None
            feature = next(iter(alive))
            bad, _good = alive[feature]
            if self.shift_s and self.duration > _LONGEST_FOR_ZONE and not self.is_zone_held:
                if not (self.ask_held and self._find_zone(feature, bad)):
                    return None  # its ends cannot be told from those of a neighbouring zone
                continue
            if self._is_each_confirmed(feature, bad) and self._holds_at_ends(feature, bad):
                return self._rule(feature, bad)
            if self._is_another(feature, bad):
                continue
            if is_shifted or not self._find_zone(feature, bad):
                return None
            is_shifted = True
        return None

    def _is_another(self, feature: Feature, bad: frozenset[Value]) -> bool:
        """Tell whether more of a feature fails than was known, or whole days of its season do."""
        alive = self.alive()
        if feature in alive:
            return alive[feature][0] != bad
        return bool(WHOLE_DAYS & set(alive))

    def repeat_failures(self) -> None:
        """Ask again what failed: what fails by chance is no sign of a rule.

        What failed while an hour turned is asked again in the midst of both hours.
        """
        turned = [
            at
            for at, state in self._told()
            if state is State.BAD and at // _HOUR_S != (at + self.duration) // _HOUR_S
        ]
        if self.duration <= _HOUR_S // 3:
            clear = (_HOUR_S - self.duration) // 2
            hours = [(at + more) // _HOUR_S for at in turned[:2] for more in (0, self.duration)]
            self._look([hour * _HOUR_S + clear for hour in hours])
        failed = sorted(at for at, state in self.answers.items() if state is State.BAD)
        again = [at for at in failed if at not in self.split][
            :: max(1, len(failed) // _REPEATED_BAD)
        ]
        for at, state in zip(again, self._ask(again), strict=True):
            if state is State.GOOD:
                self.split.add(at)

    def _rule(self, feature: Feature, bad: frozenset[Value]) -> Rule:
        told = Counter(state for _at, state in self._told())
        return Rule(
            feature=feature,
            values=bad,
            shift_s=self.shift_s,
            confirmed=told[State.BAD],
            refuted=told[State.GOOD],
        )

    def _told(self) -> list[tuple[int, State]]:
        return sorted(
            (at, state)
            for at, state in self.answers.items()
            if state is not State.UNKNOWN and at not in self.split
        )

    def _ask(self, instants: Sequence[int]) -> Sequence[State]:
        self.asked += len(instants)
        return self.ask(instants)

    def _look(self, instants: Sequence[int]) -> None:
        new = [at for at in dict.fromkeys(instants) if at not in self.answers]
        self.answers.update(zip(new, self._ask(new), strict=True))

    def look(self, instants: Sequence[int]) -> None:
        """Ask what was not asked yet."""
        self._look(instants)

    def _is_supported(self, feature: Feature) -> bool:
        """Tell whether a feature fails in two blocks at least, with what passes between."""
        told = [state for _at, state in self._told()]
        turns = sum(a is State.BAD and b is State.GOOD for a, b in pairwise(told))
        bad = sum(state is State.BAD for state in told)
        return bad > 1 and turns + (told[-1] is State.BAD) > 1 and feature is not None

    def _most_telling(
        self, alive: Mapping[Feature, tuple[frozenset[Value], frozenset[Value]]]
    ) -> int | None:
        """Return the instant about which the features, and a plain era, say the most different."""
        told = self._told()
        best, most = None, 0.0
        for at in self._pool(told):
            if at in self.answers or not self.first <= at <= self.last - self.duration:
                continue
            said = features_of(at + self.duration // 2, self.shift_s)
            votes = Counter[State]()
            for feature, (bad, good) in alive.items():
                if said[feature] in bad:
                    votes[State.BAD] += 1
                elif said[feature] in good or feature is Feature.DATE:
                    votes[State.GOOD] += 1
            era = _era(told, at)
            votes[era] += 1
            score = votes[State.BAD] * votes[State.GOOD] + 0.1 * (era is not State.UNKNOWN)
            if votes[State.BAD] * votes[State.GOOD] and score > most:
                best, most = at, score
        return best

    def _pool(self, told: Sequence[tuple[int, State]]) -> Iterator[int]:
        """Iterate over instants to choose a test from: near what failed, and in other years."""
        failed = [at for at, state in told if state is State.BAD]
        passed = [at for at, state in told if state is State.GOOD]
        hours = {at % _DAY_S for at in (*failed[:2], *passed[:: max(1, len(passed) // 3)])}
        anchors = failed[:: max(1, len(failed) // 4)]
        for anchor in anchors:
            day = anchor // _DAY_S
            for step in _STEPS:
                for hour in hours:
                    yield (day + step) * _DAY_S + hour
        middle = (failed[0] if failed else self.first) // _DAY_S
        for number in range(1, 120):
            day = middle + (number * _SPREAD % 2921) - 1460
            yield day * _DAY_S + sorted(hours)[number % len(hours)]
        low, high = (
            max(self.first // _DAY_S, middle - 3650),
            min(self.last // _DAY_S, middle + 3650),
        )
        for day in range(low, high):
            if _is_rare(day):
                yield day * _DAY_S + min(hours)

    def _is_each_confirmed(self, feature: Feature, bad: frozenset[Value]) -> bool:
        """Ask about each value that fails on a second day: one may fail for another reason."""
        for value in bad:
            days = {at // _DAY_S for at, state in self._told() if self._has(at, feature, value)}
            if len(days) > 1 and len(bad) > _MOST_UNLIKE:
                continue
            another = self._another(feature, value, min(days))
            if another is not None:
                self._look([another])
        if feature is Feature.DATE:
            self._look(self._kin())
        if feature in _ONCE_A_YEAR:
            self._look([at for value in bad for at in self._in_years(feature, value)])
        if feature is Feature.FROM_END:
            self._look([at for value in bad for at in self._by_length(value)])
        return feature in self.alive() and self.alive()[feature][0] == bad

    def _in_years(self, feature: Feature, value: Value) -> list[int]:
        """Choose years from all of the span in which a day of the year is looked at.

        Of days that fail by no rule some fall on the same date in one year and the next.
        """
        found = list(self._noons(feature, value))
        return found[:: max(1, len(found) // _YEARS_ASKED)][:_YEARS_ASKED]

    def _noons(self, feature: Feature, value: Value) -> Iterator[int]:
        """Iterate over a run about noon of each day that has a value, the first one first."""
        for day in range(self.first // _DAY_S + 1, (self.last - self.duration) // _DAY_S):
            at = day * _DAY_S + _DAY_S // 2 - self.duration // 2
            if self._has(at, feature, value) and self._may_ask(at):
                yield at

    def _may_ask(self, at: int) -> bool:
        return self.first <= at <= self.last - self.duration and self.is_free(at)

    def _by_length(self, value: int) -> list[int]:
        """Choose a month of each length in which a day counted from its end is looked at.

        The last three days are the 29th to the 31st, but for those of shorter months.
        """
        found: dict[int, int] = {}
        for at in self._noons(Feature.FROM_END, value):
            month = features_of(at, self.shift_s)
            found[month[Feature.MONTHDAY] - month[Feature.FROM_END] - 1] = at
        return list(found.values())

    def _kin(self) -> list[int]:
        """Choose what is as a date that fails in the months beside it.

        Where 30 June is all that was seen to fail, it may be the last of each month in summer.
        """
        found = []
        for at in [at for at, state in self._told() if state is State.BAD][-_DATES_WITH_KIN:]:
            on = _EPOCH + timedelta(days=(at + self.shift_s + self.duration // 2) // _DAY_S)
            alike = [on + relativedelta(months=step) for step in (-1, 1)]
            if on == on + _TO_THE_END:
                alike += [day + _TO_THE_END for day in alike]
            found += [at + (day - on).days * _DAY_S for day in alike]
        return [at for at in found if self._may_ask(at)]

    def _has(self, at: int, feature: Feature, value: Value) -> bool:
        return bool(features_of(at + self.duration // 2, self.shift_s)[feature] == value)

    def _another(self, feature: Feature, value: Value, day: int) -> int | None:
        """Return an instant with a value that shares as little else as can be with a day."""
        hours = [7, 12, 17] if feature is not Feature.HOUR else [value]
        first, last = self.first // _DAY_S + 1, self.last // _DAY_S - 1
        near = [day + sign * step for step in range(20, _ANOTHER_WITHIN) for sign in (1, -1)]
        told = features_of(day * _DAY_S + _DAY_S // 2, self.shift_s)
        best, most = None, -1
        for number, one in enumerate(near):
            if not first <= one <= last:
                continue
            at = one * _DAY_S + hours[number % len(hours)] * _HOUR_S + (_HOUR_S - 1) // 2
            if not self._has(at, feature, value) or not self.is_free(at):
                continue
            said = features_of(at, self.shift_s)
            unlike = sum(said[other] != told[other] for other in Feature)
            if unlike > most:
                best, most = at, unlike
        return best

    def _holds_at_ends(self, feature: Feature, bad: frozenset[Value]) -> bool:
        """Tell whether the first and the last moments of two blocks fail, and those beside pass."""
        failed = [at for at, state in self._told() if state is State.BAD]
        rule = Rule(feature=feature, values=bad, shift_s=self.shift_s)
        blocks = dict.fromkeys(filter(None, (self._block(rule, at) for at in failed)))
        blocks = {block: None for block in blocks if self._is_askable(block)}
        if len(blocks) < 2:  # noqa: PLR2004 - one may be a plain window
            blocks |= dict.fromkeys(filter(None, self._further(rule, blocks)))
        if len(blocks) < 2:  # noqa: PLR2004
            return False
        first, *_, last = blocks
        wanted = self._ends(first) | self._ends(last)
        self._look(list(wanted))
        if feature not in self.alive() or self.alive()[feature][0] != bad:
            return False
        return all(self.answers[at] in {wanted[at], State.UNKNOWN} for at in wanted) and (
            sum(self.answers[at] is State.BAD for at in wanted) > 1
            and sum(self.answers[at] is State.GOOD for at in wanted) > 1
        )

    def _is_askable(self, block: tuple[int, int]) -> bool:
        """Tell whether something at an end inside a block may be asked about, and outside."""
        return len({*self._ends(block).values()}) > 1

    def _ends(self, block: tuple[int, int]) -> dict[int, State]:
        """Return what a block's ends are to show, inside and outside, where they may be asked."""
        begins, ends = block
        clear = _MARGIN_S + self.duration
        wanted = dict.fromkeys((begins - clear, ends + _MARGIN_S), State.GOOD)
        wanted |= dict.fromkeys((begins + _MARGIN_S, ends - clear), State.BAD)
        return {at: state for at, state in wanted.items() if self._may_ask(at)}

    def _block(self, rule: Rule, at: int) -> tuple[int, int] | None:
        """Return where the days or hours in a row begin and end that an instant is among."""
        step = _HOUR_S if rule.feature is Feature.HOUR else _DAY_S
        low = high = at + self.duration // 2
        if not rule.covers(low):
            return None
        for _ in range(400):
            if not rule.covers(low):
                break
            low -= step
        for _ in range(400):
            if not rule.covers(high):
                break
            high += step
        if rule.covers(low) or rule.covers(high):
            return None
        return _turn(rule, low, low + step), _turn(rule, high, high - step)

    def _further(
        self, rule: Rule, known: Mapping[tuple[int, int], object]
    ) -> Iterator[tuple[int, int] | None]:
        """Find another block, in another year."""
        step = _HOUR_S if rule.feature is Feature.HOUR else _DAY_S
        for begins, ends in known:
            for at in (
                *range(ends + step, self.last, step),
                *range(begins - step, self.first, -step),
            ):
                block = self._block(rule, at) if rule.covers(at) else None
                if block and self._is_askable(block):
                    yield block
                    break

    def _try_zones(self) -> bool:
        """Count days as elsewhere where that explains what UTC does not; tell whether it does."""
        failed = [at for at, state in self._told() if state is State.BAD]
        if len(failed) < _FAILED_FOR_ZONE:
            return False
        found: dict[Feature, list[int]] = {}
        was = self.shift_s
        for step in (_HOUR_S, _ZONE_STEP_S):  # most zones are whole hours from UTC
            for self.shift_s in range(-12 * _HOUR_S, _ZONES_S + 1, step):
                for feature in self.alive() if self.shift_s else ():
                    if feature not in {Feature.HOUR, Feature.DATE}:
                        found.setdefault(feature, []).append(self.shift_s)
            if found:
                break
        self.shift_s = was
        if found:
            best = next(iter(sorted(found, key=list(Feature).index)))
            self.shift_s = found[best][len(found[best]) // 2]
        return bool(found)

    def _find_zone(self, feature: Feature, bad: frozenset[Value]) -> bool:
        """Find by how much days begin earlier or later than in UTC; False: that is not it."""
        rule = Rule(feature=feature, values=bad, shift_s=self.shift_s)
        failed = [at for at, state in self._told() if state is State.BAD]
        blocks = [block for at in failed if (block := self._block(rule, at))]
        if not blocks or feature is Feature.HOUR:
            return False
        begins, _ = blocks[0]
        low, high = begins - _ZONES_S, begins + _ZONES_S
        known = [self.answers.get(at) for at in (low, high)]
        self._look([at for at, state in zip((low, high), known, strict=True) if state is None])
        if self.answers[low] is not State.GOOD or self.answers[high] is not State.BAD:
            return False
        is_held = self.ask_held is not None and self.duration > _LONGEST_FOR_ZONE
        while high - low > _ZONE_STEP_S:
            middle = (low + high) // 2 // _ZONE_STEP_S * _ZONE_STEP_S
            state = self._before(middle, is_held=is_held)
            if state is State.UNKNOWN:
                return False
            low, high = (middle, high) if state is State.GOOD else (low, middle)
        self.shift_s += (begins - low) // _ZONE_STEP_S * _ZONE_STEP_S
        self.is_zone_held = is_held
        return True

    def _before(self, at: int, *, is_held: bool) -> State:
        """Return what a run shows that ends, or whose clock stands, shortly before an instant."""
        if is_held and self.ask_held:
            return self.ask_held([at - _MARGIN_S])[0]
        start = at - _MARGIN_S - self.duration
        self._look([start])
        return self.answers[start]


_STEPS = tuple(
    sign * days
    for days in (
        *(
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            13,
            14,
            15,
            21,
            28,
            29,
            30,
            31,
            35,
            45,
            61,
            75,
            91,
            122,
            152,
            183,
        ),
        *(364, 365, 366, 371, 730, 731, 1095, 1096, 1461, 2922),
    )
    for sign in (1, -1)
)


def _era(told: Sequence[tuple[int, State]], at: int) -> State:
    """Return what a plain window says of an instant: what its neighbours say, if they agree."""
    place = bisect_right(told, at, key=itemgetter(0))
    before = told[place - 1][1] if place else None
    after = told[place][1] if place < len(told) else None
    if before is None or after is None:
        return before or after or State.UNKNOWN
    return before if before is after else State.UNKNOWN


def _turn(rule: Rule, outside: int, inside: int) -> int:
    """Return where a rule's block begins, or the first second after it, by halving."""
    while abs(inside - outside) > 1:
        middle = (inside + outside) // 2
        if rule.covers(middle):
            inside = middle
        else:
            outside = middle
    return max(inside, outside)
