"""A program's threads and a migration on one timeline."""

from jaxmig.time.timeline.play import Run, Totals, costs_of, no_migration
from jaxmig.time.timeline.timetable import Timetable, TimetableError, alike, timetable

__all__ = [
    "Run",
    "Timetable",
    "TimetableError",
    "Totals",
    "alike",
    "costs_of",
    "no_migration",
    "timetable",
]
