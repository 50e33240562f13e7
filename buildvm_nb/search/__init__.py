"""Pure search: where a state changes along an ordered axis, and which items make it change.

Nothing here does I/O or looks at a clock. The search sees only a callable that answers.
"""

from buildvm_nb.search.calendar import (
    CHECKS,
    QUICK_CHECKS,
    DateSurvey,
    Thoroughness,
    search_dates,
)
from buildvm_nb.search.chance import LEVEL, ChanceChange, fisher_exact
from buildvm_nb.search.plan import (
    Answer,
    Ask,
    Assumption,
    AssumptionKind,
    Disagreement,
    Plan,
    Probe,
    Rhythm,
    State,
    Stretch,
    Survey,
    Transition,
    coin_confidence,
)
from buildvm_nb.search.recurrence import (
    US_RULES_SINCE,
    Feature,
    Rule,
    RuleSearch,
    covering_set,
    features_of,
)
from buildvm_nb.search.reduction import Flips, Reduction, reduce_set
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
