"""DAMON's records: regions of memory, and in how many of its samples each was accessed.

As text, the damon_aggregated events of perf script or trace-cmd, or as damo's files
(`json`, `json_compressed`, `perf_script`).  DAMON looks at one page a region and takes
it for all: so here every page of a region is loaded as often as its samples found an
access, in rounds over all regions of a snapshot.  It does not tell loads from stores.
The time is the end of the aggregation; `pid` is DAMON's target_id.

Source: trace_damon_aggregated in include/trace/events/damon.h, Linux 6.12;
_damo_records.py of damo 3.4.3.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.traces import damojson
from jaxmig.traces.accesses import PAGE_SHIFT, Rows, rows
from jaxmig.traces.fields import nanoseconds
from jaxmig.traces.source import Source

REGION: Final = (
    rb"target_id=(\d{1,20}) nr_regions=\d{1,10} (\d{1,20})-(\d{1,20}): (-?\d{1,9})"
)
LINE: Final = re.compile(
    rb"(?m)^[^\n]{1,80}?[ \t](\d{1,9})\.(\d{3,9}):[ \t]+(?:"
    rb"(?:damon:)?damon_aggregated:[ \t]+" + REGION + rb"(?: \d{1,10})?[ \t]*"
    rb"|(?!(?:damon:)?damon_aggregated:)[\w:.-]+:[^\n]*)$"
    rb"|^(?:[ \t]*(?:#[^\n]*)?|cpus=\d+|version = \d+|CPU[^\n]*)$"
)
ADVICE: Final = "no line of `perf script` or `trace-cmd report` with damon_aggregated"
PART: Final = 1 << 16  # accesses of a block
TOP: Final = 1 << 57  # bytes: no user address and no memory lies beyond
MOST: Final = 1 << 20  # samples in an aggregation
VISITS: Final = 1 << 18  # of regions at a time
ODD: Final = "regions or counts beyond what DAMON reports"
Region = tuple[int, int, int]  # start, end, samples that found an access


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses; no more than one snapshot's regions are in memory."""
    json = source.head.lstrip()[:1] in (b"[", b"{")
    snapshots = damojson.snapshots(source) if json else _snapshots(source)
    for target, time, regions in snapshots:
        good = [r for r in regions if r[1] < TOP and r[2] < MOST]
        if len(good) < len(regions):
            source.notes[ODD] += len(regions) - len(good)
        yield from _accesses(target, time, good)


def _snapshots(source: Source) -> Iterator[tuple[int, int, list[Region]]]:
    """Lines gathered until addresses begin anew, or another target's."""
    regions: list[Region] = []
    target, time = 0, 0
    for found in source.matches(LINE, ADVICE):
        for seconds, fraction, who, start, end, samples in found:
            if not who:
                continue
            region = int(start), int(end), int(samples)
            if regions and (int(who) != target or region[0] <= regions[-1][0]):
                yield target, time, regions
                regions = []
            regions.append(region)
            target, time = int(who), nanoseconds(seconds, fraction)
    if regions:
        yield target, time, regions


def _accesses(target: int, time: int, regions: list[Region]) -> Iterator[Rows]:
    """Rounds over the regions: round r goes through those accessed over r times."""
    kept = [region for region in regions if region[0] < region[1] and region[2] > 0]
    if not kept:
        return
    start, end, samples = (np.array(column) for column in zip(*kept, strict=True))
    first = start >> PAGE_SHIFT
    pages = ((end - 1) >> PAGE_SHIFT) - first + 1
    step = max(VISITS // len(kept), 1)
    for turn in range(0, int(samples.max()), step):
        # So many rounds at once, each visit of a region a (round, region) pair.
        rounds = turn + np.arange(step)
        _, region = np.nonzero(samples > rounds[:, None])
        ends = np.cumsum(pages[region])
        begin = first[region] - (ends - pages[region])
        for at in range(0, int(ends[-1]), PART):
            nth = np.arange(at, min(at + PART, int(ends[-1])))
            page = begin[np.searchsorted(ends, nth, side="right")] + nth
            yield rows(page << PAGE_SHIFT, time_ns=time, pid=target & 0x7FFFFFFF)
