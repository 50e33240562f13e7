"""The search along the date axis: plain changes, changes by chance, rules of the calendar."""

import sys
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

from buildvm_nb.errors import BudgetSpent
from buildvm_nb.search.chance import ChanceChange, locate_change
from buildvm_nb.search.plan import Answer, Ask, Plan, Probe, State, Stretch, Survey, Transition
from buildvm_nb.search.recurrence import (
    Feature,
    Rule,
    RuleSearch,
    covering_set,
    describe_coverage,
    features_of,
)
from buildvm_nb.search.sifting import Sift
from buildvm_nb.search.transitions import find_transitions

__all__ = [
    "CHECKS",
    "QUICK_CHECKS",
    "DateSurvey",
    "Thoroughness",
    "search_dates",
]

_DAY_S = 86_400
_ODD_S = 5 * 3600 + 17 * 60
"""Beside whole days, so that a check is at another hour than what it checks."""
CHECKS = ((1, 0.3, 3), (9, 4, 20), (33, 20, 100), (190, 120, 260), (380, 300, 900))
"""A day, a week, a month, half a year and a year after a change, in days; and between which days
an answer is one, too."""
QUICK_CHECKS = ((33, 0.3, 900),)
_YEAR_S = 366 * _DAY_S
_YEARS_AROUND = 5
_BEFORE = (1, 40, 200, 400)
"""So many days before a rule begins to hold, what it covers has to pass."""
_ROUNDS = 4
_MOST_SPELLS = 4
"""What fails more often than that, by no rule, is not told by windows."""
_SUSPECT_SPELLS = 2
"""What fails more often than that is no window before rules were looked for."""
_RUNS_FOR_CHANGES = 80
"""For each time at which it begins to fail: many times what locating it takes."""
_ASKED_AGAIN = 6
_DIVERSE = 3
_COARSE_S = 3600
"""What also fails by chance is located no closer: each halving takes several runs."""
_MOST_HALVINGS = 24
_CROSSED = (Feature.WEEKDAY, Feature.MONTH, Feature.MONTHDAY, Feature.FROM_END, Feature.HOUR)
_NARROW_S = 20 * _DAY_S
"""Gaps that are left alone: what is shorter is looked for by rules."""
_TRIED_IN_A_GAP = 29
"""No whole parts of a day, so that hours differ."""
_QUARTER_S = 900
"""Days of any zone begin at whole quarters of an hour."""
_SHORT_S = 8 * _DAY_S
_PARTS_INSIDE = (0.23, 0.41, 0.6, 0.77)
"""In so many parts of a window something is to have failed."""
_SHORTEST_S = 60 * _DAY_S
"""In less no rule is looked for: too few weeks and months are in it."""


@dataclass(frozen=True, kw_only=True)
class Thoroughness:
    """How hard to look for what comes and goes."""

    near: int
    """Position around which rules are looked for first: the case's own date."""
    places: tuple[int, ...] = ()
    """From which positions on to meet all features of the calendar; empty: from `near`."""
    yearly: tuple[int, ...] = ()
    """Within five years of which positions each year is looked at where nothing differs."""
    covers: bool = True
    """Whether to meet all features of the calendar where it passes."""
    checks: tuple[tuple[float, float, float], ...] = CHECKS
    """How many days after a change to look again; and within which days an answer will do."""
    places_asked: int = 0
    """So many places are looked at where nothing differs: those left over lie where the widest gaps
    around the own date are."""
    latest: int | None = None
    """Up to which position a change near the end of the range may be checked; None: that end."""


@dataclass(frozen=True, kw_only=True)
class DateSurvey:
    """What was found along the date axis."""

    survey: Survey
    """Changes; of what a rule covers it says nothing."""
    rule: Rule | None = None
    unexplained: tuple[int, ...] = ()
    """Positions that fail, as no window and no rule explains; then changes are no edges."""
    change: ChanceChange | None = None
    """Of how often it fails, where that is also by chance; the survey has it as its transition."""
    is_open: bool = False
    """Whether the budget ended before changes were confirmed and what is behind them looked at: a
    window, a rule or chance would look the same."""
    covered: tuple[str, ...] = ()
    """Features of the calendar that were met where it passes."""
    lacking: tuple[str, ...] = ()
    """Those that were not."""


def search_dates(
    ask: Ask, plan: Plan, known: Mapping[Probe, Answer], how: Thoroughness
) -> DateSurvey:
    """Find all changes along the date axis, and rules by which days or hours fail.

    Parameters
    ----------
    ask : callable
        As for `find_transitions`.
    plan : Plan
        What to search.
    known : mapping of Probe to Answer
        Answers from before.
    how : Thoroughness
        How hard to look.

    Returns
    -------
    DateSurvey
        What was found, also when the budget ended first.
    """
    return _Search(ask=ask, plan=plan, answers=dict(known), how=how).run()


@dataclass(kw_only=True)
class _Search:
    ask: Ask
    plan: Plan
    answers: dict[Probe, Answer]
    how: Thoroughness
    rule: Rule | None = None
    is_spent: bool = False
    asked: int = 0
    unexplained: tuple[int, ...] = ()
    change: ChanceChange | None = None
    is_covered: bool = False
    is_sought: bool = False
    """Whether rules were looked for wherever it comes and goes."""

    def run(self) -> DateSurvey:
        survey = None
        try:
            self._scan()
            survey = self._converge()
            if survey.is_flaky and not self.unexplained:
                survey = self._by_counts(survey)
        except BudgetSpent:
            self.is_spent = True
        survey = survey or self._transitions(budget=0)
        return self._conclude(survey)

    def _is_open(self, survey: Survey) -> bool:
        if not (self.is_spent or survey.exhausted) or self.unexplained or survey.is_flaky:
            return False
        if any(not one.is_exact or one.confirmed < self.plan.repeats for one in survey.transitions):
            return True
        try:
            return self._is_contradicted(survey) or self._is_like_a_rule(survey)
        except BudgetSpent:
            return True

    def _by_counts(self, survey: Survey) -> Survey:
        """Keep of the changes among answers by chance only the one that counts show."""
        counts: dict[int, tuple[int, int]] = {}
        for probe, answer in self.answers.items():
            if not probe.held and answer.state is not State.UNKNOWN:
                passed, failed = counts.get(probe.at, (0, 0))
                is_good = answer.state is State.GOOD
                counts[probe.at] = (passed + is_good, failed + (not is_good))
        change = locate_change(
            counts,
            lambda at, times: [self._states_anew([at])[0] for _ in range(times)],
            resolution=max(self.plan.resolution, _COARSE_S),
            most_runs=_RUNS_FOR_CHANGES,
        )
        self.change = change
        if change is None:
            return replace(survey, transitions=())
        before = State.GOOD if change.fails_after else State.BAD
        transition = Transition(
            last_before=change.low,
            first_after=change.high + self._duration(),
            before=before,
            after=before.opposite,
            is_exact=False,
            confirmed=0,
            hint=None,
        )
        stretches = [
            Stretch(state=before, first=min(counts), last=change.low),
            Stretch(state=before.opposite, first=change.high, last=max(counts)),
        ]
        disagreements = self._transitions(budget=0).disagreements
        return replace(
            survey,
            transitions=(transition,),
            stretches=tuple(stretches),
            disagreements=disagreements,
        )

    def _scan(self) -> None:
        """Ask the coarse scan; suspect a rule at once where answers come and go."""
        self._run([Probe(at=at) for at in self.plan.scanned])
        states = {state for _at, state in self._told()}
        if states == {State.BAD} and self.how.covers:
            self._run([Probe(at=at) for at in self._diverse()])
            states = {state for _at, state in self._told()}
        if states >= {State.GOOD, State.BAD} and self.how.covers:
            found = self._seek(self.plan.first, self.plan.last, covers=False)
            if not found and self._is_short():
                found = self._seek_around()
            if not found and self._spells() > _SUSPECT_SPELLS:
                self._seek_between()

    def _is_short(self) -> bool:
        """Tell whether what fails between two places of the scan that pass is over in days."""
        told = self._told()
        alone = [
            here[0]
            for before, here, after in zip(told, told[1:], told[2:], strict=False)
            if (before[1], here[1], after[1]) == (State.GOOD, State.BAD, State.GOOD)
        ]
        near = [at + sign * (_DAY_S + _ODD_S) for at in alone[:2] for sign in (1, -1)]
        near = [at for at in near if self.plan.first <= at <= self.plan.last - self._duration()]
        return State.GOOD in self._states(near)

    def _diverse(self) -> list[int]:
        """Choose instants that share no feature with each other, for what fails throughout."""
        first, last, near = self.plan.first, self.plan.last, self.how.near
        steps = [(153, 7), (247, 13), (401, 19)][:_DIVERSE]
        wanted = [near + days * _DAY_S + hours * 3600 for days, hours in steps]
        wanted = [at if at <= last else near - (at - near) for at in wanted]
        return [at for at in wanted if first <= at <= last]

    def _converge(self) -> Survey:
        """Locate changes, look for rules where they are none, and else name what is unexplained."""
        survey = self._settled()
        is_odd = self._is_unlike_windows(survey)
        if not is_odd and (survey.exhausted or self.unexplained or survey.is_flaky):
            return survey  # what comes and goes by chance is no rule
        if self._is_plain(survey):
            return survey
        if not survey.is_flaky and self._seek_between():
            survey = self._settled()
            if self._is_plain(survey):
                return survey
        self._give_up()
        return self._transitions(budget=0)

    def _settled(self) -> Survey:
        """Locate changes, check them, cover where it passes, and again with what that shows."""
        survey = self._transitions()
        for _ in range(_ROUNDS):
            is_over = survey.exhausted or self.unexplained or survey.is_flaky
            if is_over or self._is_unlike_windows(survey):
                break
            count = len(self.answers)
            if self._is_contradicted(survey):
                self._seek_around()
            elif self.how.covers and not self.is_covered:
                self._cover(survey)
            if len(self.answers) == count:
                break
            survey = self._transitions()
        return survey

    def _is_plain(self, survey: Survey) -> bool:
        """Tell whether windows and a rule explain what was seen."""
        return not (self._is_contradicted(survey) or self._is_unlike_windows(survey))

    def _is_unlike_windows(self, survey: Survey) -> bool:
        """Tell whether it fails too often for windows, or in windows that look like a rule's."""
        if survey.exhausted and self._spells() > _MOST_SPELLS:
            return True
        is_covered = self.is_covered or not self.how.covers
        return is_covered and self._is_like_a_rule(survey)

    def _is_like_a_rule(self, survey: Survey) -> bool:
        """Tell whether windows look like instances of a rule that was not found.

        That a look falls into a window of some days by chance is a wonder, unless a hint led there;
        and that two windows are as long as each other, or begin on the same day of the year.
        """
        if self.plan.last - self.plan.first < _SHORTEST_S:
            return False  # so short a range was chosen around what was to be located
        changes = survey.transitions
        windows = [
            (begins.first_after, ends.first_after)
            for begins, ends in pairwise(changes)
            if begins.after is State.BAD
        ]
        hints = {at + more for at in self.plan.hints for more in (0, 1)}
        blind = [one for one in windows if not hints & set(one)]
        if any(after - first < _SHORT_S for first, after in blind):
            return True
        if self._is_at_an_end(changes, hints):
            return True
        blind = [one for one in blind if one[1] - one[0] < 2 * _YEAR_S]  # rules come more often
        lengths = [after - first for first, after in blind]
        alike = any(abs(a - b) < _DAY_S for a, b in combinations(lengths, 2))
        days = [features_of(first)[Feature.DATE] for first, _ in blind]
        return alike or len(set(days)) < len(days)

    def _is_at_an_end(self, changes: Sequence[Transition], hints: set[int]) -> bool:
        """Tell whether what fails is so near an end of the range that nobody looked beyond."""
        first, last = self.plan.first, self.plan.last
        if not changes or not self.how.covers:
            return False
        if any(probe.at > last and one.state is State.BAD for probe, one in self.answers.items()):
            last = self._latest()
        near = [
            (changes[-1].after, last - changes[-1].first_after, changes[-1].first_after),
            (changes[0].before, changes[0].last_before - first, changes[0].first_after),
        ]
        return any(s is State.BAD and d < 2 * _DAY_S and at not in hints for s, d, at in near)

    def _give_up(self) -> None:
        """Name what fails as unexplained, unless it passes when asked again: then it is chance."""
        failed = [at for at, state in self._told() if state is State.BAD and not self._ruled(at)]
        again = failed[:: max(1, len(failed) // _ASKED_AGAIN)][:_ASKED_AGAIN]
        if State.GOOD not in self._states_anew(again):
            self.unexplained = tuple(failed)

    def _cover(self, survey: Survey) -> None:
        """Meet all features where it passes, and look for a rule where something fails there."""
        self.is_covered = True
        stretch = self._passing(survey)
        if stretch is None:
            return
        for near in self.how.places or (self.how.near,):
            chosen = self._covering(stretch, near)
            if State.BAD in self._states(chosen):
                found = self.rule is not None
                found = found or self._seek(stretch.first, stretch.last, covers=False)
                self._sift(stretch.first, stretch.last, is_new=found)
                return
        if not survey.transitions:
            self._states(self._yearly())
            self._states(self._in_gaps())

    def _yearly(self) -> list[int]:
        """Choose a place of each year around some positions, where none was looked at."""
        told = [at for at, _state in self._told()]
        chosen: list[int] = []
        for near in self.how.yearly:
            for years in range(-_YEARS_AROUND, _YEARS_AROUND + 1):
                at = self._unruled(near + years * 365 * _DAY_S + _ODD_S)
                is_inside = self.plan.first <= at <= self.plan.last - self._duration()
                if is_inside and all(abs(at - one) > _YEAR_S // 2 for one in (*told, *chosen)):
                    chosen.append(at)
        return chosen

    def _in_gaps(self) -> list[int]:
        """Choose places in the widest gaps around the own date, as many as are left to be asked.

        A window of months has no sign by which to look for it. Within the middle of a gap the day
        and hour are taken that meet the most pairs of features of the calendar that were not met.
        """
        low = max(self.plan.first, self.how.near - _YEARS_AROUND * _YEAR_S)
        high = min(self.plan.last - self._duration(), self.how.near + _YEARS_AROUND * _YEAR_S)
        told = [at for at, _state in self._told()]
        met = {pair for at in told for pair in _crossings(at)}
        places = sorted({low, high, *(at for at in told if low < at < high)})
        chosen: list[int] = []
        for _ in range(self.how.places_asked - len(told)):
            width, begins = max((b - a, a) for a, b in pairwise(places))
            if width < _NARROW_S:
                break
            middle = (begins + width * 2 // 5, begins + width * 3 // 5)
            inside = range(*middle, max(1, (middle[1] - middle[0]) // _TRIED_IN_A_GAP))
            free = [at for at in inside if not self._ruled(at)]
            if not free:
                break
            best = max(free, key=lambda at: len(_crossings(at) - met))
            met |= _crossings(best)
            chosen.append(best)
            insort(places, best)
        return chosen

    def _covering(self, stretch: Stretch, near: int) -> tuple[int, ...]:
        """Choose what is still to be asked of a stretch, from about a position on."""
        near = min(max(near, stretch.first), stretch.last)
        since = stretch.first if near <= self.how.near else near - _YEAR_S
        asked = [
            at
            for at, state in self._told()
            if since <= at <= stretch.last
            and (self.rule is None or (state is State.GOOD and not self._ruled(at)))
        ]
        return covering_set(
            stretch.first,
            stretch.last,
            near,
            asked,
            duration=self._duration(),
            avoid=self._ruled,
        )

    def _seek_around(self) -> bool:
        """Look for a rule where the scan passes around the own date."""
        span = self._scan_span()
        found = self._seek(*span, covers=True)
        return self._sift(*span, is_new=found) or found

    def _seek_between(self) -> bool:
        """Look for rules from where it first fails to where it last passes, once.

        A rule may hold only since then, or an edge may hide it after that.
        """
        if self.is_sought or self.rule is not None or not self.how.covers:
            return False
        self.is_sought = True
        told = self._told()
        first = min((at for at, state in told if state is State.BAD), default=self.plan.last)
        last = max((at for at, state in told if state is State.GOOD), default=self.plan.first)
        last += self._duration()
        found = self._seek(first, last, covers=True)
        found = self._sift(first, last, is_new=found) or found
        self.is_covered = self.is_covered and not found  # what its days hide is to be met elsewhere
        return found

    def _scan_span(self) -> tuple[int, int]:
        """Return the span around the own date within which no place of the scan fails."""
        scan = sorted(self.plan.scanned)
        failed = [at for at in scan if self._state(at) is State.BAD and not self._ruled(at)]
        before = [at for at in failed if at < self.how.near]
        after = [at for at in failed if at > self.how.near]
        low = max(before, default=self.plan.first)
        high = min(after, default=self.plan.last)
        inside = [at for at in scan if low <= at <= high and at not in failed]
        return min(inside, default=low), max(inside, default=high)

    def _seek(self, first: int, last: int, *, covers: bool) -> bool:
        """Look for a rule in a span; tell whether there is a new one."""
        if self.rule is not None or last - first < _SHORTEST_S:
            return False
        duration = self._duration()
        known = {at: state for at, state in self._told() if first <= at <= last - duration}
        search = RuleSearch(
            ask=self._states_anew,
            ask_held=self._states_held if self.plan.can_hold else None,
            first=first,
            last=last,
            answers=known,
            duration=duration,
        )
        if not covers:
            if not search.settle():
                return False
            search.repeat_failures()  # what fails by chance looks like anything
            if not search.settle():
                return False
        near = min(max(self.how.near, first), last)
        search.look(covering_set(first, last, near, search.answers, duration=duration))
        search.repeat_failures()
        if not search.settle():
            if not search.leave_out_before():
                return False
            chosen = covering_set(search.first, last, near, search.answers, duration=duration)
            search.look(chosen)
            if not search.settle():
                return False
        rule = search.conclude()
        self.rule = self._anchored(rule) if rule else None
        return self.rule is not None

    def _sift(self, first: int, last: int, *, is_new: bool) -> bool:
        """Look for several rules at once where one does not do, or may hide others.

        `is_new`: whether a rule was found just now; what else fails on its days is not known.
        """
        if (self.rule is not None and not is_new) or last - first < _SHORTEST_S:
            return False
        duration = self._duration()
        told = [(at, state) for at, state in self._told() if first <= at <= last - duration]
        failed = [at for at, state in told if state is State.BAD and not self._ruled(at)]
        again = failed[:: max(1, len(failed) // _ASKED_AGAIN)][:_ASKED_AGAIN]
        if State.GOOD in self._states_anew(again):
            return False  # what fails by chance looks like anything
        if self.rule and (self.rule.shift_s or self.rule.since is not None):
            return False  # rules are written with one zone and one beginning
        sift = Sift(
            ask=self._states_anew,
            first=first,
            last=last,
            near=min(max(self.how.near, first), last),
            answers=dict(told),
            duration=duration,
            known=self.rule,
        )
        rule = sift.find()
        if rule is None:
            return False
        parts = [self._anchored(part) for part in (replace(rule, also=()), *rule.also)]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts) or len({part.since for part in whole}) > 1:
            return False
        self.rule = replace(whole[0], also=tuple(whole[1:]))
        return True

    def _anchored(self, rule: Rule) -> Rule | None:
        """Find since when a rule holds; None: it does not hold to the end."""
        failed = [at for at, state in self._told() if state is State.BAD and rule.covers(at)]
        earliest = self._covered_after(rule, self.plan.first, failed[0])
        latest = self._covered_before(rule, self.plan.last - self._duration(), failed[-1])
        states = dict(zip((earliest, latest), self._states([earliest, latest]), strict=True))
        if states[latest] is State.GOOD:
            return None
        passed = [at for at, state in self._told() if state is State.GOOD and self._is_in(rule, at)]
        if any(at > failed[0] for at in passed):
            return None
        if not passed:
            return rule
        low, high = passed[-1], failed[0]
        for _ in range(_MOST_HALVINGS):
            middle = (low + high) // 2
            at = self._covered_after(rule, middle, high)
            if at == high:
                at = self._covered_before(rule, middle, low)
            if at == low:
                break
            state = self._states([at])[0]
            if state is State.UNKNOWN:
                return None
            low, high = (at, high) if state is State.GOOD else (low, at)
        is_exception = self._failed_before(rule, low)  # what passed there
        return None if is_exception else replace(rule, since=low + self._duration() + 1)

    def _failed_before(self, rule: Rule, since: int) -> bool:
        """Look at what a rule covers before it begins to hold, and tell whether that fails."""
        first = self.plan.first
        before = [self._covered_before(rule, since - days * _DAY_S, first) for days in _BEFORE]
        return State.BAD in self._states([at for at in before if at > first])

    def _is_in(self, rule: Rule, at: int) -> bool:
        """Tell whether a run from an instant on is wholly in what a rule covers."""
        return rule.covers(at) and rule.covers(at + self._duration())

    def _covered_after(self, rule: Rule, at: int, high: int) -> int:
        """Return the first instant from one on that a rule covers wholly; `high`: none before."""
        step = 1800 if rule.is_of_hours else _DAY_S // 2
        instants = (one + 900 for one in range(at - at % step, high - 1800, step) if one >= at)
        return next((one for one in instants if self._is_in(rule, one)), high)

    def _covered_before(self, rule: Rule, at: int, low: int) -> int:
        """Return the last instant up to one that a rule covers wholly; `low`: none after."""
        step = 1800 if rule.is_of_hours else _DAY_S // 2
        instants = (one + 900 for one in range(at - at % step - step, low + step, -step))
        return next((one for one in instants if self._is_in(rule, one)), low)

    def _is_contradicted(self, survey: Survey) -> bool:
        """Look a day, a week, a month and a year into what fails; tell whether it passes there."""
        wanted: dict[int, State] = {}
        for low, high, state, forwards in self._eras(survey):
            for days, nearest, furthest in self.how.checks:
                distance = int(days * _DAY_S) + _ODD_S
                at = low + distance if forwards else high - distance
                if not low < at < high - self._duration():
                    continue
                ends = (nearest * _DAY_S, furthest * _DAY_S)
                base = low if forwards else high
                near = [
                    one
                    for one, told in self._told()
                    if ends[0] <= (one - base if forwards else base - one) <= ends[1]
                    and low < one < high
                    and told is state
                ]
                if not near:
                    wanted[self._unruled(at)] = state
        wanted |= dict.fromkeys(self._inside(survey), State.BAD)
        wanted |= dict.fromkeys(self._years_apart(survey), State.GOOD)
        wanted |= dict.fromkeys(self._other_years(survey), State.BAD)
        states = self._states(list(wanted))
        return any(
            state is not expected and state is not State.UNKNOWN
            for expected, state in zip(wanted.values(), states, strict=True)
        )

    def _inside(self, survey: Survey) -> Iterator[int]:
        """Iterate over places inside windows of days or weeks: both ends may be days of a rule."""
        told = [at for at, _state in self._told()]
        for begins, ends in pairwise(survey.transitions if self.how.covers else ()):
            low, width = begins.first_after, ends.last_before - begins.first_after
            if begins.after is not State.BAD or width > _SHORTEST_S:
                continue
            for part in _PARTS_INSIDE:
                at = low + int(part * width)
                if all(abs(at - one) > width // 12 for one in told):
                    yield self._unruled(at)

    def _years_apart(self, survey: Survey) -> Iterator[int]:
        """Iterate over places a year before and after windows, which a rule would have, too."""
        changes = survey.transitions
        windows = [
            (begins.first_after, ends.last_before)
            for begins, ends in pairwise(changes)
            if begins.after is State.BAD
        ]
        fails = [*windows]
        if changes and changes[0].before is State.BAD:
            fails.append((self.plan.first, changes[0].last_before))
        if changes and changes[-1].after is State.BAD:
            fails.append((changes[-1].first_after, self.plan.last))
        for begins, ends in windows if self.how.covers else ():
            if ends - begins > _YEAR_S:
                continue
            for at in ((begins + ends) // 2 + sign * 365 * _DAY_S for sign in (1, -1)):
                is_inside = self.plan.first <= at <= self.plan.last - self._duration()
                if is_inside and not any(
                    low - _DAY_S <= at <= high + _DAY_S for low, high in fails
                ):
                    yield self._unruled(at)

    def _other_years(self, survey: Survey) -> Iterator[int]:
        """Iterate over the same day of other years than one in which alone it passes.

        Software that knows the days of one year passes in each whose days fall alike. What begins
        and ends in the midst of an hour has another reason.
        """
        told = [at for at, _state in self._told()]
        for begins, ends in pairwise(survey.transitions if self.how.covers else ()):
            first, after = begins.first_after, ends.first_after
            is_of_days = not first % _QUARTER_S and not after % _QUARTER_S
            if begins.after is not State.GOOD or after - first > _YEAR_S:
                continue
            middle = (first + after) // 2
            years = range(-(middle - self.plan.first) // _YEAR_S, self.plan.last // _YEAR_S)
            for at in (middle + years_ * 1461 * _DAY_S // 4 for years_ in years if is_of_days):
                is_inside = self.plan.first <= at <= self.plan.last - self._duration()
                if is_inside and all(abs(at - one) > _YEAR_S // 4 for one in told):
                    yield self._unruled(at)

    def _eras(self, survey: Survey) -> Iterator[tuple[int, int, State, bool]]:
        """Iterate over what fails, from where it begins to where it ends; else the other way."""
        changes = survey.transitions
        for number, change in enumerate(changes):
            ends = changes[number + 1].last_before if number + 1 < len(changes) else self._latest()
            begins = changes[number - 1].first_after if number else self.plan.first
            if change.after is State.BAD:
                yield change.first_after, ends, State.BAD, True
            elif not number:
                yield begins, change.last_before, State.BAD, False
            if change.after is State.GOOD and number + 1 < len(changes):  # between two that fail
                yield change.first_after, ends, State.GOOD, True

    def _latest(self) -> int:
        """Return up to where changes are checked: a rule may hide behind the end of the range."""
        is_short = self.plan.last - self.plan.first < _SHORTEST_S
        beyond = None if is_short or not self.how.covers else self.how.latest
        return self.plan.last if beyond is None else max(beyond, self.plan.last)

    def _passing(self, survey: Survey) -> Stretch | None:
        """Return the passing stretch with the own date, or else the longest."""
        passing = [
            replace(
                one,
                first=max([one.first, *(c.first_after for c in survey.transitions[:number][-1:])]),
                last=min([one.last, *(c.last_before for c in survey.transitions[number:][:1])]),
            )
            for number, one in enumerate(survey.stretches)
            if one.state is State.GOOD
        ]
        passing = [one for one in passing if one.first < one.last]
        near = self.how.near
        own = [one for one in passing if one.first <= near <= one.last]
        return max(own or passing, key=lambda one: one.last - one.first, default=None)

    def _transitions(self, budget: int | None = None) -> Survey:
        """Search for changes among what the rule leaves."""
        if budget is None:
            is_often = self._spells() > _MOST_SPELLS
            if is_often and not (self._seek_between() and self._spells() <= _MOST_SPELLS):
                self._give_up()
                budget = 0
            else:
                budget = _RUNS_FOR_CHANGES * (1 + self._spells())
            budget = min(budget, sys.maxsize if self.plan.budget is None else self.plan.budget)
        plan = replace(self.plan, budget=budget)
        duration = self._duration()
        rule = self.rule
        if rule is None:
            survey = find_transitions(self._recorded, plan, self.answers)
        else:
            scan = [self._unruled(at) for at in plan.scanned]
            scan = [at for at in scan if plan.first <= at <= plan.last]

            def ask(probes: Sequence[Probe]) -> list[Answer]:
                free = [p for p in probes if not rule.touches(p.at, p.at + duration)]
                told = dict(zip(free, self._recorded(free), strict=True)) if free else {}
                return [told.get(p) or _nothing(p) for p in probes]

            known = {
                probe: answer
                for probe, answer in self.answers.items()
                if not rule.touches(answer.first, answer.last)
            }
            survey = find_transitions(ask, replace(plan, scan=scan, scan_ends=False), known)
        return survey

    def _spells(self) -> int:
        """Return how often it begins to fail, as far as is known."""
        states = [state for at, state in self._told() if not self._ruled(at)]
        return sum(b is State.BAD and a is not b for a, b in pairwise([State.GOOD, *states]))

    def _recorded(self, probes: Sequence[Probe]) -> Sequence[Answer]:
        for start in range(0, len(probes), self.plan.workers):
            some = probes[start : start + self.plan.workers]
            self.answers.update(zip(some, self.ask(some), strict=True))
            self.asked += len(some)
        return [self.answers[probe] for probe in probes]

    def _run(self, probes: Sequence[Probe]) -> None:
        missing = [probe for probe in dict.fromkeys(probes) if probe not in self.answers]
        if missing:
            self._recorded(missing)

    def _states(self, instants: Sequence[int]) -> list[State]:
        """Return the states of instants, asked where they were not."""
        self._run([Probe(at=at) for at in instants])
        return [self._state(at) for at in instants]

    def _states_anew(self, instants: Sequence[int]) -> list[State]:
        """Ask instants once more each."""
        probes = []
        for at in instants:
            attempt = 0
            while Probe(at=at, attempt=attempt) in self.answers:
                attempt += 1
            probes.append(Probe(at=at, attempt=attempt))
        self._run(probes)
        return [self.answers[probe].state for probe in probes]

    def _states_held(self, instants: Sequence[int]) -> list[State]:
        """Return the states of instants under a held clock."""
        probes = [Probe(at=at, held=True) for at in instants]
        self._run(probes)
        return [self.answers[probe].state for probe in probes]

    def _state(self, at: int) -> State:
        """Return what a clock that runs shows from a position on; UNKNOWN: not always alike."""
        told = {
            answer.state
            for probe, answer in self.answers.items()
            if probe.at == at and not probe.held
        } - {State.UNKNOWN}
        return told.pop() if len(told) == 1 else State.UNKNOWN

    def _told(self) -> list[tuple[int, State]]:
        """Return what a running clock showed, each position once; not what came out both ways."""
        states: dict[int, set[State]] = {}
        for probe, answer in self.answers.items():
            inside = self.plan.first <= probe.at <= self.plan.last
            if not probe.held and inside and answer.state is not State.UNKNOWN:
                states.setdefault(probe.at, set()).add(answer.state)
        return sorted((at, next(iter(told))) for at, told in states.items() if len(told) == 1)

    def _duration(self) -> int:
        return max(
            (
                answer.last - answer.first
                for probe, answer in self.answers.items()
                if not probe.held and answer.state is not State.UNKNOWN
            ),
            default=0,
        )

    def _ruled(self, at: int) -> bool:
        return self.rule is not None and self.rule.touches(at, at + self._duration())

    def _unruled(self, at: int) -> int:
        """Return the next position, in steps of some hours, that the rule leaves."""
        for step in range(1600):
            moved = at + step * 6 * 3600 + step * 1800
            if not self._ruled(moved):
                return moved if moved <= self._latest() else at
        return at

    def _conclude(self, survey: Survey) -> DateSurvey:
        is_open = self._is_open(survey)
        met = [at for at, _state in self._told()]
        passing = self._passing(survey)
        inside = [at for at in met if passing and passing.first <= at <= passing.last]
        covered, lacking = describe_coverage(inside)
        answers = {**self.answers, **survey.answers}
        survey = replace(
            survey,
            answers=answers,
            asked=self.asked,
            exhausted=survey.exhausted or self.is_spent,
        )
        return DateSurvey(
            survey=survey,
            rule=self.rule,
            unexplained=self.unexplained,
            change=self.change,
            is_open=is_open,
            covered=covered,
            lacking=lacking,
        )


def _crossings(at: int) -> set[tuple[Feature, object, Feature, object]]:
    """Return the pairs of features of the calendar that an instant has."""
    said = features_of(at)
    return {(a, said[a], b, said[b]) for a, b in combinations(_CROSSED, 2)}


def _nothing(probe: Probe) -> Answer:
    return Answer(state=State.UNKNOWN, first=probe.at, last=probe.at)
