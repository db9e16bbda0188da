"""Which pmbench is followed: its options, patterns and reports."""

from typing import Final

VERSION: Final = "pmbench 0.9"
