"""From timings of small system calls to costs: the arithmetic of `--measure`.

Rows are those that `--measure -o FILE.json` writes: sets `micro...` of `remote=K` (K
threads spin on other CPUs; -1: one CPU is lazy), rows of `what` and `n` pages with
`min_ns`, `median_ns`, `p90_ns`.  Each set is a round; the spread between rounds is the
range.

    shootdown   mprotect of one page with K threads, less the same without
    full flush  33 pages are flushed one by one, 34 at once (tlb_single_page_flush_ceiling)
    target      the gap in a spinning thread's clock
    wake        half a futex round trip, both ends pinned

Source: flush_tlb_mm_range(), get_flush_tlb_info() in arch/x86/mm/tlb.c, Linux 6.18.
"""

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from jaxmig.calibrate.fit import CalibrationError, Measured
from jaxmig.machine import PMD_PAGES
from jaxmig.machines import Profile

CEILING: Final = 33  # pages that are flushed one by one
LEAST: Final = 0.2  # of a number, to both sides
MOST: Final = 0.3
ALONE: Final = 0.5  # interrupts a call: fewer are no measurement of one
OTHER_NODE: Final = "micro_other_node"
PROTECT: Final = "mprotect_rw_to_r"
LONGEST_NS: Final = 10**12  # of a timing
COUNTS: Final = ("n", "pages")
# What a row of a kind must have; of other kinds nothing is used.
FIELDS: Final = {
    PROTECT: ("n", "min_ns", "median_ns"),
    "copy4k_sequential_cold": ("median_ns",),
    "fault_anon_zero_page_read": ("median_ns",),
    "page_walk": ("median_ns",),
    "futex_round_trip": ("min_ns", "median_ns", "p90_ns"),
    "target_loss": (
        "pages",
        *(f"gap_ns_{end}" for end in ("p10", "p25", "median", "p75", "p90")),
    ),
}
_ROUND: Final = re.compile(r"remote=(-?[0-9]{1,5})")
Row = Mapping[str, Any]
Rounds = Sequence[Mapping[str, Sequence[Row]]]


def read(text: str) -> dict[str, Any]:
    """The parts of such a file that are timings.

    Raises:
      CalibrationError: not JSON, without rows, or with rows of something else; one line.
    """
    try:
        doc = json.loads(text)
    except json.JSONDecodeError as error:
        raise CalibrationError(
            f"not JSON ({error}); give what --measure wrote"
        ) from None
    except (RecursionError, ValueError):
        # Python refuses to read numbers of thousands of digits.
        raise CalibrationError("numbers or nesting beyond reason") from None
    doc = doc if isinstance(doc, dict) else {}
    kept = {k: v for k, v in doc.items() if k.startswith("micro")}
    kept["target_and_futex"] = doc.get("target_and_futex", [])
    if not isinstance(kept["target_and_futex"], list):
        raise CalibrationError("target_and_futex is no list of rows")
    rows = [row for r in _rounds(kept) for rows in r.values() for row in rows]
    if not rows:
        raise CalibrationError("no `micro` rows in it; give what --measure wrote")
    for row in (*rows, *kept["target_and_futex"]):
        _check(row)
    return kept


def _check(row: Any) -> None:
    """Raises CalibrationError unless a row has what its kind is read for."""
    what = row.get("what") if isinstance(row, dict) else None
    if not isinstance(what, str):
        raise CalibrationError(f"{row!r:.80} is no row of --measure")
    kind = next((k for k in FIELDS if what.startswith(k)), "")
    lacking = [name for name in FIELDS.get(kind, ()) if name not in row]
    if lacking:
        raise CalibrationError(f"a row of {what:.40} is without {lacking[0]}")
    for name, value in row.items():
        if name in COUNTS or name.endswith("_ns") or name.startswith("gap_ns_"):
            _number(f"{what:.40}, {name:.40}", value, name in COUNTS)
    _number(f"{what:.40}, tlb_ipis_per_call", row.get("tlb_ipis_per_call", 0), False)


def _number(where: str, value: Any, whole: bool) -> None:
    fits = type(value) is int or (type(value) is float and not whole)
    if not fits or not 0 <= value <= LONGEST_NS:
        kind = "whole number" if whole else "number"
        raise CalibrationError(f"{where}: {value!r:.40} is no {kind}, 0 to 10^12")


def from_micro(doc: Mapping[str, Any], source: str, base: Profile) -> list[Measured]:
    """What the timings tell of a machine of the base's architecture."""
    rounds = _rounds(doc)
    made: list[Measured] = []
    if base.arch == "x86":
        made += _shootdowns(doc, source)
        made += _full(rounds, source)
        made += _targets(doc, source)
    made += _copies(rounds, source)
    made += _access(rounds, doc, source)
    return made


def spread(
    key: str,
    values: Sequence[float],
    source: str,
    ends: Sequence[float] = (),
    least: float = LEAST,
) -> list[Measured]:
    """The median of rounds; nothing from none, nor from rounds that contradict.

    Args:
      ends: what single batches took, for the range, which is at most 30 % to both sides.
      least: what it is at least, as rounds in a row miss what a later one would show.
    """
    values = [v for v in values if v >= 0]
    if not values:
        return []
    middle = statistics.median(values)
    if max(abs(v - middle) for v in values) > MOST * middle:
        return []
    low = min(*values, *ends, middle * (1 - least))
    high = max(*values, *ends, middle * (1 + least))
    bounds = max(low, middle * (1 - MOST)), min(high, middle * (1 + MOST))
    return [Measured(key, middle, f"{source}, {len(values)} rounds", *bounds)]


def _rounds(doc: Mapping[str, Any]) -> Rounds:
    sets = [v for k, v in doc.items() if k.startswith("micro") and isinstance(v, dict)]
    return [
        {k: v for k, v in s.items() if _ROUND.fullmatch(k) and isinstance(v, list)}
        for s in sets
    ]


def _times(rows: Sequence[Row], what: str, field: str) -> dict[int, float]:
    """A field of the rows of `what`, by their number of pages."""
    return {int(r.get("n", 0)): float(r[field]) for r in rows if r["what"] == what}


def _interrupting(rows: Sequence[Row]) -> list[Row]:
    """Rows whose calls interrupted somebody, as far as it was counted."""
    return [r for r in rows if r.get("tlb_ipis_per_call", 1.0) >= ALONE]


def _shootdowns(doc: Mapping[str, Any], source: str) -> list[Measured]:
    """First and further CPUs of a shootdown, from rounds with spinning threads.

    CPUs of the same node give the number; those of another one show in its range.
    """
    rounds = _rounds(doc)
    near = _rounds({k: v for k, v in doc.items() if k != OTHER_NODE})
    extra = _extra(near) or _extra(rounds)
    # Pages beside one are other calls with the same shootdown: they show its spread.
    made = []
    if 1 in extra:
        words = f"{source}: mprotect with a thread spinning, less without"
        # The host of a guest delivers faster in one minute than in another.
        ends = _all_extra(rounds)
        made += spread("cost.flush_first", extra[1], words, ends, least=MOST)
    most = max(extra, default=0)
    if most > 1 and made:
        first = made[0].ns
        next_ = [max(ns - first, 0.0) / (most - 1) for ns in extra[most]]
        made += spread("cost.flush_next", next_, f"{source}: {most} threads, less one")
    return made


def _extra(rounds: Rounds) -> dict[int, list[float]]:
    """By spinning threads: what a call takes more with them, a figure a round."""
    extra: dict[int, list[float]] = {}
    for r in rounds:
        quiet = _times(r.get("remote=0", ()), PROTECT, "median_ns")
        for name, rows in r.items():
            busy = _times(_interrupting(rows), PROTECT, "median_ns")
            both = [n for n in quiet if n in busy and n <= CEILING + 1]
            cpus = int(name.removeprefix("remote="))
            if both and cpus > 0:
                more = statistics.median(busy[n] - quiet[n] for n in both)
                extra.setdefault(cpus, []).append(more)
    return extra


def _all_extra(rounds: Rounds) -> list[float]:
    found = []
    for r in rounds:
        quiet = _times(r.get("remote=0", ()), PROTECT, "median_ns")
        busy = _times(_interrupting(r.get("remote=1", ())), PROTECT, "median_ns")
        found += [busy[n] - quiet[n] for n in quiet if n in busy and n <= CEILING + 1]
    return found


def _full(rounds: Rounds, source: str) -> list[Measured]:
    """A full flush: 34 pages, less what they would take without it."""
    found = []
    for r in rounds:
        for name in ("remote=0", "remote=-1"):
            # The least: interference only adds.
            least = _times(r.get(name, ()), PROTECT, "min_ns")
            ones = {n: ns for n, ns in least.items() if n <= CEILING}
            beyond = [n for n in least if n > CEILING + 1]
            if CEILING + 1 not in least or len(ones) < 2 or not beyond:
                continue
            n = min(beyond, key=lambda n: abs(n - 128))
            entry = (least[n] - least[CEILING + 1]) / (n - CEILING - 1)
            own = np.polyfit(list(ones), list(ones.values()), 1)[1]
            found.append(least[CEILING + 1] - own - (CEILING + 1) * entry)
    words = f"{source}: mprotect of 34 pages, less its own time and that of its entries"
    return spread("cost.local_full", [ns for ns in found if ns > 0], words)


def _targets(doc: Mapping[str, Any], source: str) -> list[Measured]:
    made = []
    losses = [r for r in doc["target_and_futex"] if r["what"] == "target_loss"]
    for r in losses:
        key = "target.page" if r["pages"] <= CEILING else "target.full"
        words = f"{source}: gaps in the clock of a spinning thread"
        ends = [r[f"gap_ns_{end}"] for end in ("p10", "p25", "p75", "p90")]
        # Fewer than half of the gaps alike: other things interrupted the thread, too.
        if ends[2] < (1 + MOST) * ends[1]:
            made += spread(key, [r["gap_ns_median"]], words, ends[1:3])
    return made


def _copies(rounds: Rounds, source: str) -> list[Measured]:
    words = f"{source}: copies in order from and to memory"
    page, ends = _batches(rounds, "copy4k_sequential_cold")
    huge, outer = ([PMD_PAGES * ns for ns in some] for some in (page, ends))
    return [
        *spread("cost.copy_4k", page, words, ends),
        *spread("cost.copy_2m", huge, f"{words}, 512 of 4 KiB", outer),
    ]


def _access(rounds: Rounds, doc: Mapping[str, Any], source: str) -> list[Measured]:
    made = []
    for key, what, words in (
        ("access.fault", "fault_anon_zero_page_read", "a read fault of the zero page"),
        ("access.walk", "page_walk", "a load from another page, less from a next line"),
    ):
        found, ends = _batches(rounds, what)
        made += spread(key, found, f"{source}: {words}", ends)
    for r in doc["target_and_futex"]:
        if r["what"].startswith("futex_round_trip"):
            words = f"{source}: half a futex round trip, both ends pinned"
            ends = [r[end] / 2 for end in ("min_ns", "p90_ns")]
            made += spread("access.wake", [r["median_ns"] / 2], words, ends)
    return made


def _batches(rounds: Rounds, what: str) -> tuple[list[float], list[float]]:
    """Medians of the rows of `what`, and what nearly all of their batches lie within."""
    rows = [r for some in rounds for rows in some.values() for r in rows]
    rows = [r for r in rows if r["what"] == what]
    ends = [r[end] for r in rows for end in ("p10_ns", "p90_ns") if end in r]
    return [r["median_ns"] for r in rows], ends
