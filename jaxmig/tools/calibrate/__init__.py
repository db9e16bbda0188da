"""A machine profile from a user's own measurements.

    report.py   `perf report --stdio` as text, of any layout
    names.py    what the kernel's functions are part of
    run.py      the migration that was measured, and what is inside its time
    perf.py     a report of a migration: shares of its time by function
    vmstat.py   /proc/vmstat before and after one, and how long it took
    timings.py  system calls, copies and wake-ups timed on this machine, unprivileged
    probe.py    the timing loops as machine code
    micro.py    from those timings to costs
    combine.py  reports and timings together
    fit.py      from measured ns to a profile

A measurement replaces only those numbers of a base profile that it determines.  Every
number has its source, and a range if the measurements give one.  The user is told which
numbers could not be determined.
"""

from jaxmig.tools.calibrate.combine import combined
from jaxmig.tools.calibrate.fit import CalibrationError, Fit, Measured, fit, together
from jaxmig.tools.calibrate.micro import from_micro, read
from jaxmig.tools.calibrate.perf import calls, from_perf
from jaxmig.tools.calibrate.profiled import ProfiledRun
from jaxmig.tools.calibrate.report import is_report
from jaxmig.tools.calibrate.timings import measure
from jaxmig.tools.calibrate.vmstat import from_vmstat

__all__ = [
    "CalibrationError",
    "Fit",
    "Measured",
    "ProfiledRun",
    "calls",
    "combined",
    "fit",
    "from_micro",
    "from_perf",
    "from_vmstat",
    "is_report",
    "measure",
    "read",
    "together",
]
