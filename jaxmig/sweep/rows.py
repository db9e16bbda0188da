"""A configuration, what its call counted and what that costs, as one row of text."""

import csv
import io
import re
import zlib
from typing import Any, Final

from jaxmig.events import VMSTAT
from jaxmig.machines.terms import PHASES
from jaxmig.releases import release
from jaxmig.report.window import away, folios_a_batch
from jaxmig.sweep.axes import AXES, Configuration
from jaxmig.sweep.engine import Tally
from jaxmig.sweep.pricing import Price

Row = dict[str, Any]
# Names are those of result records, flattened; see `report.records`.
RESULTS: Final = (
    *("pages", "running", "policy", "ret", "errno"),
    *(f"vmstat.{name}" for name in VMSTAT[:6]),
    "vmstat.nr_tlb_remote_flush_received",
    *(f"vmstat.{name}" for name in VMSTAT[6:]),
    *("ipis_most", "batches", "allocs"),
    *(f"time_ns.{name}" for name in ("total", *PHASES)),
    *("time_ns_low", "time_ns_high", "stolen_ns", "pages_per_s"),
    *("stall_ns.p50", "stall_ns.p99", "stall_ns.max", "first_folio_ns"),
)
# Last: the version of jaxmig and a hash of all that rows depend on.  In every row, so
# that the file stays plain CSV and files of several sweeps can be put together.
STAMP: Final = "sweep"
# CRC-32 of the other cells, one a line: a row that was damaged since is never kept.
CHECK: Final = "crc32"
COLUMNS: Final = (*AXES, *RESULTS, CHECK, STAMP)
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")
WORDS: Final = ("kernel", "mode", "machine", "copy", "policy", "errno", STAMP)


def row(
    c: Configuration, t: Tally, p: Price, pages: int, running: int, stamp: str
) -> Row:
    """The row; every cell is a whole number or a word, so it has one spelling."""
    counts, moved = t.counts, t.counts["pgmigrate_success"]
    vmstat: dict[str, int] = {name: counts[name] for name in VMSTAT}
    vmstat["nr_tlb_remote_flush_received"] = t.ipis
    folios = t.counts["folios_moved"]
    w = away(
        p.places, folios, counts["batches"], folios_a_batch(c.batch, folios, moved)
    )
    made: Row = {name: getattr(c, name) for name in AXES} | {
        "pages": pages,
        "running": running,
        "policy": "batched" if release(c.kernel).batched else "serial",
        "ret": t.ret,
        "errno": t.errno or "",
        "ipis_most": t.ipis_most,
        "batches": counts["batches"],
        "allocs": counts["allocs"],
        "time_ns.total": p.total,
        "time_ns_low": p.low,
        "time_ns_high": p.high,
        "stolen_ns": p.stolen,
        "pages_per_s": round(moved * 1e9 / p.total) if p.total else 0,
        "stall_ns.p50": w.p50,
        "stall_ns.p99": w.p99,
        "stall_ns.max": w.most,
        "first_folio_ns": w.first,
        STAMP: stamp,
    }
    made |= {f"vmstat.{name}": n for name, n in vmstat.items()}
    made |= {f"time_ns.{name}": ns for name, ns in p.phases.items()}
    made[CHECK] = _sum([str(made[name]) for name in COLUMNS if name != CHECK])
    return {name: made[name] for name in COLUMNS}


def text(r: Row) -> str:
    """The row as a line of CSV."""
    return _line([r[name] for name in COLUMNS])


def heading() -> str:
    """The names of the columns as a line of CSV."""
    return _line(COLUMNS)


def key(c: Configuration) -> str:
    """What the line of a configuration begins with."""
    return _line([getattr(c, name) for name in AXES])[:-1] + ","


def check(line: str) -> Row:
    """The row of a line as `text` has written it.

    Raises:
      ValueError: it is not that any more; says how it is seen.
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
