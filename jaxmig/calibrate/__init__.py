"""A machine profile from a user's own measurements.

    perf.py     a `perf report --stdio` of a migration: shares of its time by function
    vmstat.py   /proc/vmstat before and after one, and how long it took
    measure.py  copies, page walks and wake-ups timed on this machine
    fit.py      from measured ns to a profile

A measurement replaces numbers of a profile that is taken as a base.  Where it gives one
figure for several numbers they keep their proportions; every number says what it was
taken from, and how far it may be off as far as the measurement tells.
"""

from jaxmig.calibrate.fit import CalibrationError, Fit, Measured, fit
from jaxmig.calibrate.measure import measure
from jaxmig.calibrate.perf import from_perf
from jaxmig.calibrate.vmstat import from_vmstat

__all__ = [
    "CalibrationError",
    "Fit",
    "Measured",
    "fit",
    "from_perf",
    "from_vmstat",
    "measure",
]
