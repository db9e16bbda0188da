"""jaxmig.check as tests call it: each shape compiled once in a process, and quickly.

Machines of tests are small: their checks run for less time than XLA optimizes them.
"""

from jaxmig.state import xla
from jaxmig.tools import check

VIOLATIONS = xla.Program(check.violations).jitted(on=False, short=True)
LEDGER = xla.Program(check.ledger).jitted(on=False, short=True)
