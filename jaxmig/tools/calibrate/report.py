"""`perf report --stdio` as text: shares by function, of the event that measures time.

A report may have several events, with a section for each.  Cycles of several kinds of
cores are added by their counts; of other events the first that measures time is used, and
the user is told.  With children a line has two shares: of the function with its callees,
and of its own.  Only the host kernel's functions count, whatever columns the report has.

Source: hists__fprintf_nr_sample_events() in tools/perf/builtin-report.c and
tools/perf/ui/stdio/hist.c, Linux 6.1.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Final

from jaxmig.tools.calibrate.fit import CalibrationError, Tell
from jaxmig.tools.calibrate.names import plain

_LINE: Final = re.compile(
    r"^\s*(\d{1,3}\.\d+)%(?:\s+(\d{1,3}\.\d+)%)?\s(?:.*?\s)?\[([a-zA-Z.])\]\s+(\S+)(.*)$",
    re.ASCII,
)
_SECTION: Final = re.compile(r"^(?=# Samples: )", re.MULTILINE)
_SAMPLES: Final = re.compile(
    # perf writes a blank where a small number has no unit.
    r"^# Samples: (\d{1,9}(?:\.\d{1,9})?)([KMG]?)(?=\s|$)(?: {1,2}of events? '([^'\n]*)')?"
)
_COUNT: Final = re.compile(r"^# Event count \(approx\.\): (\d{1,20})$", re.MULTILINE)
_CHILDREN: Final = re.compile(r"^#\s+Children\s+Self", re.MULTILINE)
_TIME: Final = re.compile(r"cycles|clock")
_UNITS: Final = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}
_ROUNDING: Final = 0.005  # percent, of each line


@dataclasses.dataclass(frozen=True)
class Report:
    """Percent by function: `own` without its callees, `below` with them if known.

    `filtered`: only samples below migrate_pages(), by `--parent '^migrate_pages$' -x`.
    """

    own: Mapping[str, float]
    below: Mapping[str, float] | None
    samples: int | None
    filtered: bool


@dataclasses.dataclass(frozen=True)
class _Section:
    report: Report
    event: str
    count: int | None


def is_report(text: str) -> bool:
    """Whether any line of the text is a report's."""
    return any(_LINE.match(line) for line in text.split("\n"))


def parse(text: str, tell: Tell = lambda line: None) -> Report:
    """The shares in a report's text.

    Raises:
      CalibrationError: no line of a report, no event that measures time, or shares of
        more than 100 percent.
    """
    found, first = [], 1
    for part in _SECTION.split(text):
        found.append(_section(part, first))
        first += part.count("\n")
    sections = [s for s in found if s.report.own]
    if not sections:
        raise CalibrationError(
            "no line of `perf report --stdio`; give such a report, or two /proc/vmstat"
        )
    timed = [s for s in sections if not s.event or _TIME.search(s.event)]
    if not timed:
        events = ", ".join(s.event for s in sections)
        raise CalibrationError(f"{events} measure no time; record cycles or cpu-clock")
    kind = _kind(timed[0].event)
    used = [s for s in timed if _kind(s.event) == kind]
    if len(used) < len(sections):
        left = ", ".join(s.event for s in sections if s not in used)
        tell(f"only {used[0].event} is used of the report, not {left}")
    if len(used) > 1:
        tell(f"{', '.join(s.event for s in used)} are added by their event counts")
    return _added(used)


def _kind(event: str) -> str:
    """`cycles` from `cpu_core/cycles/P`: hybrid CPUs count each kind of core apart."""
    return event.split("/")[1] if re.match(r"cpu_\w+/", event) else event


def _section(text: str, first: int) -> _Section:
    """The part of a report whose first line is line `first` of the file."""
    own: dict[str, float] = {}
    below: dict[str, float] = {}
    children = bool(_CHILDREN.search(text))
    filtered = "Parent symbol" in text
    for i, line in enumerate(text.split("\n"), first):
        found = _LINE.match(line)
        if found and max(float(found[1]), float(found[2] or 0)) > 100:
            raise CalibrationError(f"line {i}: more than 100 % of the samples")
        # [k] is this kernel; guests' kernels are [g], programs [.].
        if not found or found[3] != "k" or (filtered and "[other]" in found[5]):
            continue
        if children and not found[2]:
            raise CalibrationError(f"line {i}: one share where others have two; cut?")
        name = plain(found[4])
        own[name] = own.get(name, 0.0) + float(found[2] if children else found[1])
        if children:
            below[name] = below.get(name, 0.0) + float(found[1])
    if (whole := sum(own.values())) > 100 + _ROUNDING * text.count("\n"):
        raise CalibrationError(
            f"shares behind line {first} add up to {whole:.2f} %; give one report a file"
        )
    head, count = _SAMPLES.match(text), _COUNT.search(text)
    if text.startswith("# Samples: ") and not head:
        raise CalibrationError(f"line {first}: no number of samples")
    samples = round(float(head[1]) * _UNITS[head[2]]) if head else None
    report = Report(own, below if children else None, samples, filtered)
    event = (head[3] or "") if head else ""
    return _Section(report, event.split(",")[0], int(count[1]) if count else None)


def _added(used: list[_Section]) -> Report:
    """Sections of one kind as one, weighted by their counts."""
    if len(used) == 1:
        return used[0].report
    weights = [s.count or s.report.samples or 0 for s in used]
    if not all(weights):
        raise CalibrationError("several events without their counts; give one section")
    parts = [w / sum(weights) for w in weights]
    reports = [s.report for s in used]
    children = all(r.below is not None for r in reports)
    return Report(
        _sum([r.own for r in reports], parts),
        _sum([r.below or {} for r in reports], parts) if children else None,
        sum(r.samples or 0 for r in reports) or None,
        all(r.filtered for r in reports),
    )


def _sum(percents: list[Mapping[str, float]], parts: list[float]) -> dict[str, float]:
    names = dict.fromkeys(name for percent in percents for name in percent)
    pairs = list(zip(percents, parts, strict=True))
    return {name: sum(p.get(name, 0.0) * part for p, part in pairs) for name in names}
