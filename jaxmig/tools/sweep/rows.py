"""A configuration with its call's counts and their price, as one row of text."""

import csv
import io
import re
import zlib
from typing import Any, Final

from jaxmig.linux.releases import release
from jaxmig.report.window import away, folios_a_batch
from jaxmig.state.events import VMSTAT
from jaxmig.time.machines.terms import PHASES
from jaxmig.tools.sweep.axes import AXES, Configuration
from jaxmig.tools.sweep.engine import CallTally
from jaxmig.tools.sweep.pricing import Price

Row = dict[str, Any]
# Names are those of result records, flattened; see `report.records`.
RESULTS: Final = (
    *("pages", "running", "policy", "ret", "errno"),
    *(f"vmstat.{name}" for name in VMSTAT[:6]),
    "vmstat.nr_tlb_remote_flush_received",
    *(f"vmstat.{name}" for name in VMSTAT[6:]),
    *("ipis_most", "batches", "allocs", "copies_wasted"),
    *(f"time_ns.{name}" for name in ("total", *PHASES)),
    *("time_ns_low", "time_ns_high", "stolen_ns", "pages_per_s"),
    *("stall_ns.p50", "stall_ns.p99", "stall_ns.max", "first_folio_ns"),
)
# The version of jaxmig and a hash of everything that rows depend on.  It is in every row,
# so that the file stays plain CSV and files of several sweeps can be concatenated.
STAMP: Final = "sweep"
# CRC-32 of the other cells, with which damaged rows are found.
CHECK: Final = "crc32"
COLUMNS: Final = (*AXES, *RESULTS, CHECK, STAMP)
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")
WORDS: Final = ("kernel", "mode", "machine", "copy", "policy", "errno", STAMP)


def row(
    config: Configuration,
    tally: CallTally,
    price: Price,
    pages: int,
    running: int,
    stamp: str,
) -> Row:
    """The row of a configuration.

    Args:
      tally: the counts of its call.
      price: of the counts on its machine.
      pages: base pages of the target.
      running: CPUs that run the target.
      stamp: of the sweep.
    Returns:
      Cells by column, all whole numbers or words, so that each has one spelling.
    """
    counts, moved = tally.counts, tally.counts["pgmigrate_success"]
    vmstat: dict[str, int] = {name: counts[name] for name in VMSTAT}
    vmstat["nr_tlb_remote_flush_received"] = tally.ipis
    folios = tally.counts["folios_moved"]
    w = away(
        price.places,
        folios,
        counts["batches"],
        folios_a_batch(config.batch, folios, moved),
    )
    made: Row = {name: getattr(config, name) for name in AXES} | {
        "pages": pages,
        "running": running,
        "policy": "batched" if release(config.kernel).batched else "serial",
        "ret": tally.ret,
        "errno": tally.errno or "",
        "ipis_most": tally.ipis_most,
        "batches": counts["batches"],
        "allocs": counts["allocs"],
        "copies_wasted": counts["copies_lost"],
        "time_ns.total": price.total,
        "time_ns_low": price.low,
        "time_ns_high": price.high,
        "stolen_ns": price.stolen,
        "pages_per_s": round(moved * 1e9 / price.total) if price.total else 0,
        "stall_ns.p50": w.p50,
        "stall_ns.p99": w.p99,
        "stall_ns.max": w.most,
        "first_folio_ns": w.first,
        STAMP: stamp,
    }
    made |= {f"vmstat.{name}": n for name, n in vmstat.items()}
    made |= {f"time_ns.{name}": ns for name, ns in price.phases.items()}
    made[CHECK] = _sum([str(made[name]) for name in COLUMNS if name != CHECK])
    return {name: made[name] for name in COLUMNS}


def text(row: Row) -> str:
    """The row as a line of CSV."""
    return _line([row[name] for name in COLUMNS])


def heading() -> str:
    """The names of the columns as a line of CSV."""
    return _line(COLUMNS)


def key(config: Configuration) -> str:
    """The beginning of the line of a configuration."""
    return _line([getattr(config, name) for name in AXES])[:-1] + ","


def check(line: str) -> Row:
    """The row of a line that `text` has written.

    Raises:
      ValueError: the line has changed since; the text says how that shows.
    """
    try:
        cells = next(csv.reader([line], strict=True), [])
        pairs = list(zip(COLUMNS, cells, strict=True))
        made = {n: cell if n in WORDS else _number(cell) for n, cell in pairs}
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if made[CHECK] != _sum([cell for n, cell in pairs if n != CHECK]):
        raise ValueError(f"{CHECK} is not the sum of its cells")
    return made


def _number(cell: str) -> int:
    if not _WHOLE.fullmatch(cell):
        raise ValueError(f"{cell[:20]!r} is no number")
    return int(cell)


def _sum(cells: list[str]) -> int:
    return zlib.crc32("\n".join(cells).encode())


def _line(cells: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
