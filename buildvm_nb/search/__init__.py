"""Pure search: where a state changes along an ordered axis, and which items make it change.

Nothing here does I/O or looks at a clock. The search sees only a callable that answers.
"""

from buildvm_nb.search.agreement import coin_confidence
from buildvm_nb.search.answers import Answer, Ask, Probe, State
from buildvm_nb.search.calendar import (
    CHECKS,
    QUICK_CHECKS,
    DateSurvey,
    Thoroughness,
    search_dates,
)
from buildvm_nb.search.chance import LEVEL, ChanceChange, fisher_exact
from buildvm_nb.search.plan import Plan, Rhythm
from buildvm_nb.search.recurrence import (
    US_RULES_SINCE,
    Feature,
    Rule,
    RuleSearch,
    covering_set,
    features_of,
)
from buildvm_nb.search.reduction import Flips, Reduction, reduce_set
from buildvm_nb.search.survey import (
    Assumption,
    AssumptionKind,
    Disagreement,
    Stretch,
    Survey,
    Transition,
)
from buildvm_nb.search.transitions import find_transitions

__all__ = [
    "CHECKS",
    "LEVEL",
    "QUICK_CHECKS",
    "US_RULES_SINCE",
    "Answer",
    "Ask",
    "Assumption",
    "AssumptionKind",
    "DateSurvey",
    "ChanceChange",
    "Disagreement",
    "Feature",
    "Flips",
    "Plan",
    "Probe",
    "Reduction",
    "Rhythm",
    "Rule",
    "RuleSearch",
    "State",
    "Stretch",
    "Survey",
    "Thoroughness",
    "Transition",
    "coin_confidence",
    "covering_set",
    "features_of",
    "fisher_exact",
    "find_transitions",
    "reduce_set",
    "search_dates",
]
