"""The test reference: Linux page migration in plain Python, one folio at a time.

``play(document, kernel)`` takes a scenario as tomllib reads it and returns the
records and the final world.  It shares no code with the package it checks.
"""

from .folio import Refused, SleepsForever
from .play import Play, play, play_both
from .releases import RELEASES, expand
from .world import World

__all__ = [
    "RELEASES",
    "Play",
    "Refused",
    "SleepsForever",
    "World",
    "expand",
    "play",
    "play_both",
]
