"""From timings of small system calls to costs: the arithmetic of `--measure`.

Rows are those that `--measure -o FILE.json` writes: sets `micro...` of `remote=K` (K
threads spin on other CPUs; -1: one CPU is lazy), rows of `what` and `n` pages with
`min_ns`, `median_ns`, `p90_ns`.  Each set is a round.  A number is the median over the
rounds; its range covers the rounds and their batches.

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

from jaxmig.state.machine import PMD_PAGES
from jaxmig.time.machines import Profile
from jaxmig.tools.calibrate.fit import CalibrationError, Measured

CEILING: Final = 33  # pages that are flushed one by one
LEAST: Final = 0.2  # the least range, as a part of the number, to both sides
MOST: Final = 0.3
ALONE: Final = 0.5  # interrupts per call that a measurement of interrupts needs
OTHER_NODE: Final = "micro_other_node"
PROTECT: Final = "mprotect_rw_to_r"
IN_ORDER: Final = "copy4k_sequential_cold"
FROM_CACHE: Final = "copy4k_from_cache"
WARM: Final = "copy4k_warm"
ALONE_COLD: Final = "copy4k_random_cold"
FAULT: Final = "fault_anon_zero_page_read"
WALK: Final = "page_walk"
LOSS: Final = "target_loss"
TRIP: Final = "futex_round_trip"
LONGEST_NS: Final = 10**12  # of a timing
COUNTS: Final = ("n", "pages")
# Fields that a row of each kind must have; rows of other kinds are not used.
FIELDS: Final = {
    PROTECT: ("n", "min_ns", "median_ns"),
    IN_ORDER: ("median_ns",),
    **dict.fromkeys((FROM_CACHE, WARM, ALONE_COLD, FAULT, WALK), ("median_ns",)),
    TRIP: ("min_ns", "median_ns", "p90_ns"),
    LOSS: (
        "pages",
        *(f"gap_ns_{end}" for end in ("p10", "p25", "median", "p75", "p90")),
    ),
}
_ROUND: Final = re.compile(r"remote=(-?[0-9]{1,5})")
Row = Mapping[str, Any]
Rounds = Sequence[Mapping[str, Sequence[Row]]]


def read(text: str) -> dict[str, Any]:
    """The timings in a file of `--measure`.

    Raises:
      CalibrationError: not JSON, without rows, or with rows that are not valid; one line.
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
    kept["guest"] = doc.get("guest", True)
    if not isinstance(kept["target_and_futex"], list):
        raise CalibrationError("target_and_futex is no list of rows")
    rows = [row for r in _rounds(kept) for rows in r.values() for row in rows]
    if not rows:
        raise CalibrationError("no `micro` rows in it; give what --measure wrote")
    for row in (*rows, *kept["target_and_futex"]):
        _check(row)
    return kept


def _check(row: Any) -> None:
    """Raise CalibrationError unless a row has the fields of its kind."""
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
    """The numbers that timings determine, for a machine of the base's architecture."""
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
    """The median of the rounds with a range.

    Args:
      key: of the number.
      values: ns, one from each round; negative ones are dropped.
      source: of the number, as text.
      ends: ns of single batches, which widen the range to at most MOST to each side.
      least: the least range, as a part of the median: rounds close in time differ less
        than later ones would.
    Returns:
      One measurement, or none without values or if half of them are far from the median.
    """
    values = [v for v in values if v >= 0]
    if not values:
        return []
    middle = statistics.median(values)
    near = [v for v in values if abs(v - middle) <= MOST * middle]
    if 2 * len(near) <= len(values):
        return []
    shown = [*_most(near), *ends]
    low = min(middle * (1 - least), max(min(shown), middle * (1 - MOST)))
    high = max(middle * (1 + least), min(max(shown), middle * (1 + MOST)))
    rounds = f"{len(values)} round{'s' * (len(values) > 1)}"
    return [Measured(key, middle, f"{source}, {rounds}", low, high)]


def _outside(doc: Mapping[str, Any]) -> float:
    """The least range of what the host of a virtual machine handles: IPIs and wake-ups.

    They were measured to take a third more half an hour later, while the rounds of one
    minute agreed with each other.
    """
    return MOST if doc.get("guest", True) else LEAST


def _most(values: Sequence[float]) -> list[float]:
    """The limits of the middle eight in ten of the values; empty without any."""
    return np.quantile(values, (0.1, 0.9)).tolist() if len(values) else []


def _rounds(doc: Mapping[str, Any]) -> Rounds:
    sets = [v for k, v in doc.items() if k.startswith("micro") and isinstance(v, dict)]
    return [
        {k: v for k, v in s.items() if _ROUND.fullmatch(k) and isinstance(v, list)}
        for s in sets
    ]


def _times(rows: Sequence[Row], what: str, field: str) -> dict[int, float]:
    """A field of the rows of kind `what`, by their number of pages."""
    return {int(r.get("n", 0)): float(r[field]) for r in rows if r["what"] == what}


def _interrupting(rows: Sequence[Row]) -> list[Row]:
    """Rows whose calls interrupted another CPU, as far as that was counted."""
    return [r for r in rows if r.get("tlb_ipis_per_call", 1.0) >= ALONE]


def _shootdowns(doc: Mapping[str, Any], source: str) -> list[Measured]:
    """First and further CPUs of a shootdown, from rounds with spinning threads.

    CPUs of the same node give the number; those of another one widen its range.
    """
    rounds = _rounds(doc)
    near = _extra(_rounds({k: v for k, v in doc.items() if k != OTHER_NODE}))
    every = _extra(rounds)
    extra = near or every
    if 1 not in extra:
        return []
    words = f"{source}: mprotect with a thread spinning, less without"
    # The range covers calls on other numbers of pages, and CPUs of another node.
    ends = _most([ns for calls in extra[1] for ns in calls])
    ends += [statistics.median(calls) for calls in every[1]] if every != near else []
    ones, most = [statistics.median(calls) for calls in extra[1]], max(extra)
    least = _outside(doc)
    made = spread("cost.flush_first", ones, words, ends, least)
    if most > 1 and made:
        more = [statistics.median(calls) - made[0].ns for calls in extra[most]]
        next_ = [max(ns, 0.0) / (most - 1) for ns in more]
        words = f"{source}: {most} threads, less one"
        made += spread("cost.flush_next", next_, words, least=least)
    return made


def _extra(rounds: Rounds) -> dict[int, list[list[float]]]:
    """By number of spinning threads: ns that calls take more with them, by round.

    Calls on other numbers of pages have the same shootdown.
    """
    extra: dict[int, list[list[float]]] = {}
    for r in rounds:
        quiet = _times(r.get("remote=0", ()), PROTECT, "median_ns")
        for name, rows in r.items():
            busy = _times(_interrupting(rows), PROTECT, "median_ns")
            more = [busy[n] - quiet[n] for n in quiet if n in busy and n <= CEILING + 1]
            cpus = int(name.removeprefix("remote="))
            if more and cpus > 0:
                extra.setdefault(cpus, []).append(more)
    return extra


def _full(rounds: Rounds, source: str) -> list[Measured]:
    """A full flush: a call on 34 pages, less its time without the flush."""
    found = []
    for r in rounds:
        for name in ("remote=0", "remote=-1"):
            # The minimum, since interference only adds.
            least = _times(r.get(name, ()), PROTECT, "min_ns")
            ones = {n: ns for n, ns in least.items() if n <= CEILING}
            beyond = [n for n in least if n > CEILING + 1]
            if CEILING + 1 not in least or len(ones) < 2 or not beyond:
                continue
            # With another ceiling both are flushed in the same way.
            if least[CEILING + 1] >= least[max(ones)]:
                continue
            n = min(beyond, key=lambda n: abs(n - 128))
            entry = (least[n] - least[CEILING + 1]) / (n - CEILING - 1)
            own = float(np.polyfit(list(ones), list(ones.values()), 1)[1])
            found.append(least[CEILING + 1] - own - (CEILING + 1) * entry)
    words = f"{source}: mprotect of 34 pages, less its own time and that of its entries"
    return spread("cost.local_full", [ns for ns in found if ns > 0], words)


def _targets(doc: Mapping[str, Any], source: str) -> list[Measured]:
    words = f"{source}: gaps in the clock of a spinning thread"
    by_key: dict[str, list[Row]] = {}
    for r in doc["target_and_futex"]:
        # If the gaps differ much, other things interrupted the thread too.
        if r["what"] == LOSS and r["gap_ns_p75"] < (1 + MOST) * r["gap_ns_p25"]:
            key = "target.page" if r["pages"] <= CEILING else "target.full"
            by_key.setdefault(key, []).append(r)
    made = []
    for key, rows in by_key.items():
        ends = [r[f"gap_ns_{end}"] for end in ("p25", "p75") for r in rows]
        gaps = [r["gap_ns_median"] for r in rows]
        made += spread(key, gaps, words, _most(ends), _outside(doc))
    return made


def _copies(rounds: Rounds, source: str) -> list[Measured]:
    words = f"{source}: copies in order from and to memory"
    page, ends = _batches(rounds, IN_ORDER)
    huge, outer = ([PMD_PAGES * ns for ns in some] for some in (page, ends))
    held = "copies of 2 MiB from the cache to memory"
    cached, most = _batches(rounds, FROM_CACHE)
    if not cached:
        # Rows from before: both ends in the innermost cache, which is the least.
        held = "copies within the cache"
        cached, most = _batches(rounds, WARM)
    alone = _paired(rounds, ALONE_COLD, IN_ORDER)
    return [
        *spread("cost.copy_4k", page, words, ends),
        *spread("cost.copy_2m", huge, f"{words}, 512 of 4 KiB", outer),
        *spread("cost.copy_hot", cached, f"{source}: {held}", most),
        *spread("cost.copy_first", alone, f"{source}: single copies, less in order"),
    ]


def _access(rounds: Rounds, doc: Mapping[str, Any], source: str) -> list[Measured]:
    made = []
    for key, what, words in (
        ("access.fault", FAULT, "a read fault of the zero page"),
        ("access.walk", WALK, "a load from another page, less from a next line"),
    ):
        found, ends = _batches(rounds, what)
        made += spread(key, found, f"{source}: {words}", ends)
    rows = [r for r in doc["target_and_futex"] if r["what"].startswith(TRIP)]
    words = f"{source}: half a futex round trip, both ends pinned"
    trips, ends = _batches([{"": rows}], *{r["what"] for r in rows})
    half, outer = ([ns / 2 for ns in some] for some in (trips, ends))
    return [*made, *spread("access.wake", half, words, outer, _outside(doc))]


def _batches(rounds: Rounds, *what: str) -> tuple[list[float], list[float]]:
    """Medians of the rows of these kinds, and the limits of most of their batches."""
    rows = [r for some in rounds for rows in some.values() for r in rows]
    rows = [r for r in rows if r["what"] in what]
    ends = [[r[end] for r in rows if end in r] for end in ("p10_ns", "p90_ns")]
    return [r["median_ns"] for r in rows], [statistics.median(e) for e in ends if e]


def _paired(rounds: Rounds, what: str, less: str) -> list[float]:
    """Medians of the rows of kind `what`, less those of kind `less` in the same set."""
    found = []
    for rows in (rows for r in rounds for rows in r.values()):
        more, base = (_times(rows, name, "median_ns") for name in (what, less))
        found += [more[n] - base[n] for n in more if n in base]
    return found
