"""Hints: what is worth probing first, read from source trees, logs and the calendar.

Nothing here runs anything of what it reads, and a hint is never a verdict.
"""

from buildvm_nb.hints.calendar import calendar_hints, midnights, rollovers, year_turns
from buildvm_nb.hints.found import ScanLimits
from buildvm_nb.hints.scan import scan_tree
from buildvm_nb.hints.text import text_hints

__all__ = [
    "ScanLimits",
    "calendar_hints",
    "midnights",
    "rollovers",
    "scan_tree",
    "text_hints",
    "year_turns",
]
