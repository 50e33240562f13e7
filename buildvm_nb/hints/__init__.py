"""Hints: what is worth probing first, read from source trees, logs and the calendar.

Nothing here runs anything of what it reads, and a hint is never a verdict.
"""

from buildvm_nb.hints.calendar import calendar_hints as calendar_hints
from buildvm_nb.hints.calendar import midnights as midnights
from buildvm_nb.hints.calendar import rollovers as rollovers
from buildvm_nb.hints.calendar import year_turns as year_turns
from buildvm_nb.hints.found import ScanLimits as ScanLimits
from buildvm_nb.hints.scan import scan_tree as scan_tree
from buildvm_nb.hints.text import text_hints as text_hints
