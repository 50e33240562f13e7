"""Several rules of the calendar at once: which single features suffice to fail.

What a passing instant has in common with a failing one does not suffice to fail. What is left of a
failing instant is suspect, and is tried by itself, at an instant that has nothing else suspect:
group testing, with passing groups. What fails there is a cause; values of one feature make a rule.
Each rule is then checked at its ends like one that stands alone, where the others do not hold.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildvm_nb.search.plan import State
from buildvm_nb.search.recurrence import (
    WHOLE_DAYS,
    Feature,
    Rule,
    RuleSearch,
    Value,
    Verdicts,
    covering_set,
    features_of,
)

__all__ = ["Sift"]

_DAY_S = 86_400
_HOUR_S = 3600
_Pair = tuple[Feature, Value]
_NOTHING = frozenset({False, ""})
"""Values that mean that a day is not special."""
_MOST_TESTS = 60
_MOST_ROUNDS = 4
_MOST_CHECKS = 3
_MOST_CAUSES = 8
_MOST_RULES = 3
_MOST_DATES = 2
_YEARS_BACK, _YEARS_ON = 5, 9
"""So far from a failing instant others with what it has are looked for."""


@dataclass(kw_only=True)
class Sift:
    """Looks for the rules, of which any may hold, behind answers that come and go."""

    ask: Verdicts
    first: int
    last: int
    near: int
    answers: dict[int, State]
    """What is known; the search adds to it."""
    duration: int = 0
    known: Rule | None = None
    """A rule that was found before."""
    asked: int = 0
    _causes: dict[_Pair, None] = field(default_factory=dict)

    def find(self) -> Rule | None:
        """Return the rules as one; None: single features do not explain what fails."""
        if self.duration > _HOUR_S or State.BAD not in self.answers.values():
            return None
        for _ in range(_MOST_CHECKS):
            rules = self._settled()
            if not 0 < len(rules) <= _MOST_RULES:
                return None
            count = len(self.answers)
            if found := self._checked(rules):
                return found
            if len(self.answers) == count:
                break
            self._drop_cleared()  # what a check refuted is no suspect any more
        return None

    def _settled(self) -> list[Rule]:
        """Return rules for what fails, also among what these rules hid; empty: there are none."""
        if not self._sift():
            return []
        rules = self._rules()
        for _ in range(_MOST_ROUNDS):
            whole = _joined(rules)
            self._look(self._covering(whole))
            if not self._sift():
                return []
            rules = self._rules()
            if _joined(rules) == whole:
                break
        return rules

    def _drop_cleared(self) -> None:
        cleared = self._cleared()
        self._causes = {pair: None for pair in self._causes if pair not in cleared}

    def _covering(self, whole: Rule) -> tuple[int, ...]:
        """Choose instants that meet what was met only where the rules hold."""

        def is_ruled(at: int) -> bool:
            return whole.touches(at, at + self.duration)

        answered = [at for at in self._passed() if not is_ruled(at)]
        return covering_set(
            self._since(),
            self.last,
            self.near,
            answered,
            duration=self.duration,
            avoid=is_ruled,
        )

    def _sift(self) -> bool:
        """Find causes of all that fails; tell whether there are some for each."""
        for _ in range(_MOST_TESTS):
            self._settle_proven()
            failed = self._unexplained()
            if not failed:
                return True
            suspects = {at: self._suspects(at) for at in failed}
            if not all(suspects.values()) or len(self._causes) > _MOST_CAUSES:
                return False
            at = self._next_test(suspects)
            if at is None:
                return False
            self._look([at])
        return False

    def _settle_proven(self) -> None:
        """Take as a cause what is the only suspect of two failing instants on different days."""
        alone = defaultdict(set)
        for at in self._unexplained():
            suspects = self._suspects(at)
            if len(suspects) == 1:
                alone[next(iter(suspects))].add(at // _DAY_S)
        for pair, days in sorted(alone.items(), key=lambda one: -len(one[1])):
            if len(days) > 1:
                self._causes[pair] = None
                return self._settle_proven()
        return None

    def _unexplained(self) -> list[int]:
        rules = self._rules()
        whole = _joined(rules) if rules else None
        return [
            at
            for at, state in sorted(self.answers.items())
            if state is State.BAD
            and self._is_inside(at)
            and not (whole and whole.touches(at, at + self.duration))
        ]

    def _is_inside(self, at: int) -> bool:
        """Tell whether a run lies within one hour, so that its calendar is known."""
        return at // _HOUR_S == (at + self.duration) // _HOUR_S

    def _since(self) -> int:
        failed = [at for at, state in self.answers.items() if state is State.BAD]
        return min(failed, default=self.first)

    def _passed(self) -> list[int]:
        since = self._since()
        return [at for at, state in self.answers.items() if state is State.GOOD and at >= since]

    def _cleared(self) -> set[_Pair]:
        """Return what passes: it does not suffice to fail."""
        return {pair for at in self._passed() for pair in self._pairs(at)}

    def _pairs(self, at: int) -> set[_Pair]:
        begins, ends = features_of(at), features_of(at + self.duration)
        return {
            (feature, value)
            for feature, value in begins.items()
            if ends[feature] == value
            and feature not in WHOLE_DAYS  # no test would have one of them alone
            and (feature in _SEASONS or value not in _NOTHING)
        }

    def _suspects(self, at: int) -> set[_Pair]:
        """Return what may make it fail; a date of the year only where nothing else may."""
        pairs = self._pairs(at) - self._cleared()
        plain = {pair for pair in pairs if pair[0] is not Feature.DATE}
        return plain or pairs

    def _next_test(self, suspects: Mapping[int, set[_Pair]]) -> int | None:
        """Choose an instant with one suspect alone, or as little else as can be."""
        shared = Counter(pair for pairs in suspects.values() for pair in pairs)
        order = list(Feature)
        wanted = sorted(shared, key=lambda pair: (-shared[pair], order.index(pair[0])))
        cleared = self._cleared()
        best: tuple[int, int] | None = None
        for pair in wanted[:8]:
            at = next(one for one, pairs in suspects.items() if pair in pairs)
            found = self._with(pair, at, cleared)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
            if best and not best[0]:
                break
        return best[1] if best else None

    def _with(self, pair: _Pair, near: int, cleared: set[_Pair]) -> tuple[int, int] | None:
        """Return the instant with a suspect that has the fewest others, and how many."""
        feature, value = pair
        free = [hour for hour in range(24) if (Feature.HOUR, hour) in cleared]
        hours = [value] if feature is Feature.HOUR else free or [12]
        day = near // _DAY_S
        low = max(self._since() // _DAY_S, day - _YEARS_BACK * 366)
        high = min(self.last // _DAY_S - 1, day + _YEARS_ON * 366)
        rules = self._rules()
        whole = _joined(rules) if rules else None
        best: tuple[int, int, int] | None = None
        for number, one in enumerate(_outwards(day, low, high)):
            hour = hours[number % len(hours)]
            at = one * _DAY_S + hour * _HOUR_S + max(0, _HOUR_S - self.duration) // 2
            if at in self.answers or not self.first <= at <= self.last - self.duration:
                continue
            said = features_of(at)
            if said[feature] != value or (whole and whole.touches(at, at + self.duration)):
                continue
            others = self._pairs(at) - cleared - {pair}
            count = sum(other[0] is not Feature.DATE for other in others)
            if best is None or count < best[0]:
                best = count, number, at
                if not count:
                    break
        return (best[0], best[2]) if best else None

    def _rules(self) -> list[Rule]:
        """Return a rule for each feature that has causes, with those that were known."""
        values: defaultdict[Feature, set[Value]] = defaultdict(set)
        for feature, value in self._causes:
            values[feature].add(value)
        rules = [Rule(feature=f, values=frozenset(some)) for f, some in values.items()]
        if self.known:
            rules = _with_known(rules, self.known)
        return rules

    def _needed(self, rules: Sequence[Rule]) -> list[Rule]:
        """Leave out rules without which all that fails is still explained."""
        failed = [at for at, state in self.answers.items() if state is State.BAD]
        kept = list(rules)
        for rule in sorted(rules, key=lambda one: -list(Feature).index(one.feature)):
            rest = [one for one in kept if one is not rule]
            if rest and all(_joined(rest).touches(at, at + self.duration) for at in failed):
                kept = rest
        return kept

    def _checked(self, rules: Sequence[Rule]) -> Rule | None:
        """Check each rule at its ends, where no other one holds."""
        rules = self._needed(rules)
        checked = []
        for rule in rules:
            if rule.feature is Feature.DATE and len(rule.values) > _MOST_DATES:
                return None
            if self.known and rule == replace(self.known, also=()):
                checked.append(rule)
                continue
            others = [one for one in rules if one is not rule]
            found = self._checked_alone(rule, _joined(others) if others else None)
            if found is None or found.feature is not rule.feature or found.shift_s:
                return None
            checked.append(found)
        return _joined(checked)

    def _checked_alone(self, rule: Rule, others: Rule | None) -> Rule | None:
        def is_free(at: int) -> bool:
            return not (others and others.touches(at, at + self.duration))

        since = self._since()
        known = {at: s for at, s in self.answers.items() if at >= since and is_free(at)}
        search = RuleSearch(
            ask=self._asked,
            first=since,
            last=self.last,
            answers=known,
            duration=self.duration,
            is_free=is_free,
            only=rule.feature,
        )
        return search.conclude()

    def _asked(self, instants: Sequence[int]) -> Sequence[State]:
        self.asked += len(instants)
        states = self.ask(instants)
        self.answers.update(zip(instants, states, strict=True))
        return states

    def _look(self, instants: Sequence[int]) -> None:
        new = [at for at in dict.fromkeys(instants) if at not in self.answers]
        if new:
            self._asked(new)


_SEASONS = frozenset({Feature.EU_SUMMER, Feature.US_SUMMER})


def _joined(rules: Sequence[Rule]) -> Rule:
    first, *others = rules
    return replace(first, also=tuple(others))


def _with_known(rules: list[Rule], known: Rule) -> list[Rule]:
    """Add a rule that was found before, and what belongs to it."""
    before = [replace(known, also=()), *known.also]
    fresh = []
    for rule in rules:
        same = next((one for one in before if one.feature is rule.feature), None)
        if same is None:
            fresh.append(rule)
        else:
            before[before.index(same)] = replace(same, values=same.values | rule.values)
    return [*before, *fresh]


def _outwards(middle: int, low: int, high: int) -> Iterator[int]:
    """Iterate over days around one, the later one first."""
    for step in range(1, max(high - middle, middle - low) + 1):
        if middle + step <= high:
            yield middle + step
        if middle - step >= low:
            yield middle - step
