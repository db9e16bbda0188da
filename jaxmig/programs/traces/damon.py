"""DAMON's records: regions of memory, and in how many of its samples each was accessed.

The input is text with damon_aggregated events, from perf script or trace-cmd, or a file
of damo (`json`, `json_compressed`, `perf_script`).  DAMON samples one page of a region
and takes it for all.  So every page of a region is loaded here as often as the samples
found an access, in rounds over all regions of a snapshot.  DAMON does not distinguish
loads from stores.  The time is the end of the aggregation; `pid` is DAMON's target_id.

Source: trace_damon_aggregated in include/trace/events/damon.h, Linux 6.12;
_damo_records.py of damo 3.4.3.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.programs.traces import damojson
from jaxmig.programs.traces.accesses import PAGE_SHIFT, Rows, TraceError, rows
from jaxmig.programs.traces.fields import nanoseconds
from jaxmig.programs.traces.source import Source

REGION: Final = (
    rb"target_id=(\d{1,20}) nr_regions=\d{1,10} (\d{1,20})-(\d{1,20}): (-?\d{1,9})"
)
LINE: Final = re.compile(
    rb"(?m)^[^\n]{1,80}?[ \t](\d{1,9}+)\.(\d{3,9}+):[ \t]++(?:"
    rb"(?:damon:)?damon_aggregated:[ \t]++" + REGION + rb"(?: \d{1,10}+)?[ \t]*+"
    rb"|(?!(?:damon:)?damon_aggregated:)[\w:.-]+:[^\n]*+)$"
    rb"|^(?:[ \t]*+(?:#[^\n]*+)?|cpus=\d++|version = \d++|CPU[^\n]*+)$"
)
ADVICE: Final = "no line of `perf script` or `trace-cmd report` with damon_aggregated"
PART: Final = 1 << 16  # accesses of a block
TOP: Final = 1 << 57  # bytes: no user address and no memory lies beyond
MOST: Final = 1 << 20  # samples in an aggregation
VISITS: Final = 1 << 18  # of regions at a time
MOST_PAGES: Final = 1 << 30  # of a snapshot: 4 TiB
MOST_REGIONS: Final = 1 << 20
MOST_ACCESSES: Final = 1 << 33  # of a snapshot
ODD: Final = "regions or counts beyond what DAMON reports"
Region = tuple[int, int, int]  # start, end, samples that found an access


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses; no more than one snapshot's regions are in memory."""
    json = source.head.lstrip()[:1] in (b"[", b"{")
    snapshots = damojson.snapshots(source) if json else _snapshots(source)
    for line, target, time, regions in snapshots:
        good = [r for r in regions if r[1] < TOP and r[2] < MOST]
        if len(good) < len(regions):
            source.notes[ODD] += len(regions) - len(good)
        kept = [r for r in good if r[0] < r[1] and r[2] > 0]
        _check(f"{source.name}:{line}", kept)
        yield from _accesses(target, time, kept)


def _check(where: str, regions: list[Region]) -> None:
    """Refuse a snapshot with more pages or accesses than can be replayed."""
    pages = [(r[1] - r[0] >> PAGE_SHIFT) + 1 for r in regions]
    loads = sum(n * r[2] for n, r in zip(pages, regions, strict=True))
    if sum(pages) > MOST_PAGES or loads > MOST_ACCESSES:
        advice = "record fewer regions or a shorter aggregation"
        raise TraceError(
            f"{where}: a snapshot of {sum(pages):,} pages and {loads:,} loads; at most "
            f"{MOST_PAGES:,} and {MOST_ACCESSES:,} are replayed: {advice}"
        )


def _snapshots(source: Source) -> Iterator[damojson.Snapshot]:
    """Snapshots from lines: one ends where addresses start again or the target changes."""
    regions: list[Region] = []
    line = target = time = 0
    for number, found in source.matches(LINE, ADVICE):
        for i, m in enumerate(found, number):
            seconds, fraction, who, start, end, samples = m
            if not who:
                continue
            region = int(start), int(end), int(samples)
            if regions and (int(who) != target or region[0] <= regions[-1][0]):
                yield line, target, time, regions
                regions = []
            regions.append(region)
            line, target, time = i, int(who), nanoseconds(seconds, fraction)
            if len(regions) > MOST_REGIONS:
                raise source.error(i, b"".join(m), "too many regions of a snapshot")
    if regions:
        yield line, target, time, regions


def _accesses(target: int, time: int, regions: list[Region]) -> Iterator[Rows]:
    """Rounds over the regions: round r goes through those accessed over r times."""
    if not regions:
        return
    start, end, samples = (np.array(column) for column in zip(*regions, strict=True))
    first = start >> PAGE_SHIFT
    pages = ((end - 1) >> PAGE_SHIFT) - first + 1
    step = max(VISITS // len(regions), 1)
    for turn in range(0, int(samples.max()), step):
        # Several rounds at once; each visit of a region is a (round, region) pair.
        rounds = turn + np.arange(step)
        _, region = np.nonzero(samples > rounds[:, None])
        ends = np.cumsum(pages[region])
        begin = first[region] - (ends - pages[region])
        for at in range(0, int(ends[-1]), PART):
            nth = np.arange(at, min(at + PART, int(ends[-1])))
            page = begin[np.searchsorted(ends, nth, side="right")] + nth
            yield rows(page << PAGE_SHIFT, time_ns=time, pid=target & 0x7FFFFFFF)
