"""The migrator's work as segments: unmap some folios, flush, and move unmapped folios.

In a serial release each folio is a segment.  In a batched one the base pages of a batch
are a segment; a folio whose flush cannot be deferred (a PMD, or any page on arm64 before
6.6) is a segment by itself, and all folios of the batch are moved after its last segment.
Times are whole ns of the profile.

Source: unmap_and_move(), migrate_pages_batch() in mm/migrate.c; try_to_migrate_one() in
mm/rmap.c, Linux 6.2 and 6.3.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from jaxmig.host.refused import Refused
from jaxmig.linux.releases import release
from jaxmig.linux.rules import rules
from jaxmig.state.machine import PMD_PAGES
from jaxmig.time import cost
from jaxmig.time.machines import Profile

NONE, PAGE, BATCH, WHOLE, BROADCAST, BROADCAST_ALL = range(6)  # flushes of a segment
# PAGE: one INVLPG by interrupt.  BATCH: the batch's deferred flush.  WHOLE: a PMD's full
# flush.  BROADCAST: in hardware without interrupts, of the segment's folios or of all.


LONGEST: Final = 10**9  # ns from the first unmap of a batch to its last remap


class TimetableError(Refused, ValueError):
    """A migration that cannot be put on a timeline; one line that says why."""


@dataclasses.dataclass(frozen=True)
class Timetable:
    """One trip of all folios to the other node: segments, in arrays of one length; prices.

    A segment unmaps `count` folios from `first` on, one every `unit` ns, flushes, and
    moves the last `moved` unmapped folios.  A copy engine copies all of these first; the
    CPU copies each folio as it moves it.  The last segment is empty: the trip's end.

    A trip is one call, which takes `call` before its first folio.  Its first copy of a
    base page takes `first_copy` more.  Folios from the `fits`-th on, which exceed the
    cache, take `beyond` or `beyond_huge` more.
    """

    first: np.ndarray
    count: np.ndarray
    unit: np.ndarray
    kind: np.ndarray
    moved: np.ndarray
    move_base: int  # moving one base page, ns
    move_huge: int
    engine_base: int  # an engine's copy of one base page, ns; 0 if the CPU copies
    engine_huge: int
    flush_first: int
    flush_next: int
    flush_lazy: int
    broadcast: int  # of the segment's folios
    broadcast_all: int
    handler_page: int
    handler_full: int
    call: int
    first_copy: int
    fits: int
    beyond: int
    beyond_huge: int
    folios: int
    pages: int
    batches: int
    pause: int = 0  # between two trips, ns
    room: tuple[int, int] = (0, 0)  # for segments and window; see `alike`

    @property
    def window(self) -> int:
        """The most folios that are between unmap and remap, or just were."""
        most = int(self.moved.max(initial=1))
        return max(2 * max(most, int(self.count.max(initial=1))), self.room[1])


def _checked(timetable: Timetable) -> Timetable:
    """Check that times of each batch fit int32 ns from its beginning.

    Raises:
      TimetableError: a batch takes too long.
    """
    unit = int(timetable.unit.max(initial=0))
    each = unit + timetable.engine_base + timetable.move_base + max(timetable.beyond, 0)
    large = (
        unit
        + timetable.engine_huge
        + timetable.move_huge
        + max(timetable.beyond_huge, 0)
    )
    folios = max(
        int(timetable.count.max(initial=0)), int(timetable.moved.max(initial=0))
    )
    huge = min((timetable.pages - timetable.folios) // (PMD_PAGES - 1), folios)
    took = timetable.call + timetable.first_copy + huge * large + (folios - huge) * each
    if took > LONGEST:
        line = f"a batch of {folios:,} folios takes {took / 1e9:.1f} s"
        raise TimetableError(f"{line}, more than 1 s; give a lower --batch")
    return timetable


def alike(tables: Sequence[Timetable]) -> list[Timetable]:
    """The timetables padded to the largest, so that they share a compiled program."""
    room = max(len(t.first) for t in tables), max(t.window for t in tables)
    return [dataclasses.replace(t, room=room) for t in tables]


def timetable(
    profile: Profile,
    folios: int,
    huge: int = 0,
    *,
    kernel: str = "6.3",
    batch: int = 512,
    copy: str = "cpu",
    pause: int = 0,
    mappings: int = 1,
    cached: bool = False,
) -> Timetable:
    """The timetable of one trip of folios to the other node on a machine.

    Prices are those of `cost`, so that a trip takes as long as the modelled call.

    Args:
      folios: all of them; the first `huge` have 2 MiB, the others 4 KiB.
      kernel: the release that migrates.
      batch: base pages at which a batch is closed, 0: never; serial kernels have none.
      copy: the copy engine, "cpu", "threads:N" or "dma:N".
      pause: between two trips, ns: the next call, or the next program.
      mappings: of each folio; beyond the first, of processes that run nowhere.
      cached: whether the folios are of the page cache: shmem or a file's.
    Returns:
      Segments and prices in ns.
    Raises:
      ValueError: for a user's release with its own rule for deferring flushes.
      TimetableError: a batch longer than a second.
    """
    made = release(kernel)
    if made.defers is not None:
        raise ValueError(
            f"kernel {kernel!r}: programs run on Linux's own releases only"
        )
    arm = profile.arch == "arm64"
    deferred = made.batched and (not arm or made.arm64_defers)
    p = {k: round(v) for k, v in profile.values().items()}
    limit = (batch or 1 << 30) if made.batched else 1
    # A serial release has no batch for an engine to copy.
    policy: cost.Policy = "batched" if made.batched else "serial"
    engine = made.batched and copy != "cpu"
    cache = _Cache.of(profile, folios, huge)
    how = policy, mappings, cached, cache.hot
    fit = cost.channels(copy, limit, made.offloads)
    small = _Folio.of(profile, fit, 1, *how)
    fit = cost.channels(copy, min(huge, -(-limit // PMD_PAGES)), made.offloads)
    large = _Folio.of(profile, fit, PMD_PAGES, *how)
    issue = (p["cost.tlbi"] if arm else p["cost.defer"] * deferred) * mappings
    spans = list(_batches(folios, huge, limit, made.crossing_opens_next))
    later = (BROADCAST if arm else BATCH) if deferred else NONE
    now = BROADCAST if arm else PAGE
    units = round(small.unmap + issue), round(large.unmap + issue * arm)
    rows = [r for a, b in spans for r in _segments(a, b, huge, *units, later, now)]
    rows.append((folios, 0, 1, NONE, 0))
    ns = cost.weights(profile, policy=policy)
    table = Timetable(
        *_columns(rows, bool(rules(kernel, arch=profile.arch).invlpgb)),
        move_base=max(round(small.move + small.copy * (not engine)), 1),
        move_huge=max(round(large.move + large.copy * (not engine)), 1),
        engine_base=round(small.copy * engine),
        engine_huge=round(large.copy * engine),
        flush_first=p.get("cost.flush_first", 0),
        flush_next=p.get("cost.flush_next", 0),
        flush_lazy=p.get("cost.flush_lazy", 0),
        broadcast=p["cost.dsb"] if arm else p.get("cost.broadcast", 0),
        broadcast_all=p.get("cost.broadcast_all", 0),
        handler_page=p.get("target.page", 0),
        handler_full=p.get("target.full", 0),
        call=round(ns["calls"]["other"]),
        first_copy=0 if engine else round(ns["copies_first"]["copy"] * cache.first),
        fits=cache.fits,
        beyond=0 if engine else round(small.beyond),
        beyond_huge=0 if engine else round(large.beyond),
        folios=folios,
        pages=huge * PMD_PAGES + folios - huge,
        batches=len(spans) if made.batched else 0,
        pause=pause,
    )
    return _checked(table)


@dataclasses.dataclass(frozen=True)
class _Folio:
    """The cost of a folio, ns: up to its migration entries, its copy, and after it.

    `beyond` is the additional cost of its copy if it is not in the cache.
    """

    unmap: float
    copy: float
    move: float
    beyond: float

    @staticmethod
    def of(
        profile: Profile,
        copy: str,
        pages: int,
        policy: cost.Policy,
        mappings: int,
        cached: bool,
        held: float,
    ) -> "_Folio":
        """The cost of a folio that is moved at the first try, by the prices of `cost`.

        Args:
          copy: the copy engine, "cpu", "threads:N" or "dma:N".
          pages: base pages of the folio.
          mappings: of the folio.
          cached: whether it is of the page cache.
          held: the part of its pages that the cache held before.
        Returns:
          Costs in ns.
        """
        w = cost.weights(profile, copy=copy, policy=policy)
        kind, end = ("pmds", "_huge") if pages > 1 else ("ptes", "")
        cleared = w[f"{kind}_cleared"]["unmap"] * mappings
        cleared += w["cleared_later"]["unmap"] * (mappings - 1)
        set_ = w[f"{kind}_set"]["remap"] * mappings
        set_ += w["set_later"]["remap"] * (mappings - 1)
        moved = w["moves"]["other"] + w["folios_moved"]["other"]
        hot = w[f"pages_hot{end}"]["copy"] * held
        return _Folio(
            w["allocs"]["alloc"]
            + w["alloc_pages"]["alloc"] * pages
            + w["tries"]["other"]
            + cleared,
            (w[f"pages_copied{end}"]["copy"] + hot) * pages,
            moved + w["folios_cached"]["other"] * cached + set_,
            w["pages_beyond"]["copy"] * pages,
        )


class _Cache(NamedTuple):
    """The effect of the CPU's cache on a trip's copies.

    Attributes:
      hot: the part of all copied pages that it held before.
      fits: folios that it holds together with their copies, with a 2 MiB folio that
        fits in part.
      first: whether the first copy costs more than the others, 0 or 1.
    """

    hot: float
    fits: int
    first: int

    @staticmethod
    def of(profile: Profile, folios: int, huge: int) -> "_Cache":
        """As `terms.derived` computes it for a call that moves all folios."""
        small, large = folios - huge, huge * PMD_PAGES
        counts = dict.fromkeys(cost.PRICED, 0) | {"calls": 1, "pages_copied": small}
        found = cost.derived(counts | {"pages_copied_huge": large}, profile)
        fit = small + large - found["pages_beyond"]
        fits = -(-fit // PMD_PAGES) if fit < large else huge + fit - large
        hot = found["pages_hot"] + found["pages_hot_huge"]
        return _Cache(hot / max(small + large, 1), fits, found["copies_first"])


def _columns(rows: "list[Row]", broadcast: bool) -> list[np.ndarray]:
    """The table's columns; with INVLPGB flushes become broadcasts."""
    columns = [np.asarray(column, np.int32) for column in zip(*rows, strict=True)]
    if broadcast:
        kinds = np.asarray([NONE, BROADCAST, BROADCAST_ALL, BROADCAST, BROADCAST])
        columns[3] = kinds[columns[3]].astype(np.int32)
    return columns


def _batches(
    folios: int, huge: int, limit: int, opens_next: bool
) -> list[tuple[int, int]]:
    """[first, end) of each batch: closed by the folio that reaches the limit."""
    spans, first, pages = [], 0, 0
    for q in range(huge):
        if opens_next and pages and pages + PMD_PAGES > limit:
            spans.append((first, q))
            first, pages = q, 0
        pages += PMD_PAGES
        if pages >= limit and not opens_next:
            spans.append((first, q + 1))
            first, pages = q + 1, 0
    q = max(first, huge)
    while first < folios:
        q = min(q + max(limit - pages, 0), folios)
        spans.append((first, q))
        first, pages = q, 0
    return spans


Row = tuple[int, int, int, int, int]


def _segments(
    begin: int, end: int, huge: int, base: int, pmd: int, later: int, now: int
) -> list[Row]:
    """The segments of one batch: each PMD by itself, base pages together if deferred."""
    large = max(min(huge, end) - begin, 0)
    whole = BROADCAST if BROADCAST in (later, now) else WHOLE
    rows = [(begin + i, 1, pmd, whole, 0) for i in range(large)]
    rest = end - begin - large
    if rest and later != NONE:
        rows.append((begin + large, rest, base, later, 0))
    elif rest:
        rows += [(begin + large + i, 1, base, now, 0) for i in range(rest)]
    first, count, unit, kind, _ = rows[-1]
    rows[-1] = (first, count, unit, kind, end - begin)
    return rows


DEFAULT_LIMITS: Final = tuple(1 << i for i in range(14))
