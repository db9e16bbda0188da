"""arm64: without interrupts the time is that of one trip of the timetable.

Source: Xin Hao's replies to the batching series; Barry Song and Yicong Yang's series.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from jaxmig.state.machine import PAGE_BYTES
from jaxmig.time import machines
from jaxmig.time.machines import Profile
from jaxmig.time.timeline import Timetable, timetable
from jaxmig.time.timeline.timetable import BROADCAST, NONE
from jaxmig.tools.reproduce import published
from jaxmig.tools.reproduce.profiles import profiles
from jaxmig.tools.reproduce.row import Row, inputs_of

CALIBRATED: Final = (
    "all costs are shares of the profile before batching of 2.068 s / 262,144 pages: "
    "the figure before is where they come from, the figure after is predicted"
)
GIB_PAGES: Final = (1 << 30) // PAGE_BYTES
US_A_PAGE: Final = 7.889e-6  # 2.068 s of 1 GiB, before batching


def trip_ns(timetable: Timetable, awake: int = 0) -> int:
    """One trip of a timetable, ns, with `awake` CPUs to interrupt at each flush."""
    kinds = timetable.kind
    interrupts = int(((kinds != NONE) & (kinds < BROADCAST)).sum())
    each = (
        timetable.flush_first + timetable.flush_next * (awake - 1)
        if awake
        else timetable.flush_lazy
    )
    unmap = int((timetable.count.astype(int) * timetable.unit).sum())
    flush = interrupts * each + int((kinds == BROADCAST).sum()) * timetable.broadcast
    large = (timetable.pages - timetable.folios) // 511
    moves = (
        large * timetable.move_huge + (timetable.folios - large) * timetable.move_base
    )
    engine = (
        large * timetable.engine_huge
        + (timetable.folios - large) * timetable.engine_base
    )
    beyond = max(timetable.folios - max(timetable.fits, large), 0) * timetable.beyond
    beyond += max(large - timetable.fits, 0) * timetable.beyond_huge
    return (
        timetable.call + unmap + flush + engine + moves + timetable.first_copy + beyond
    )


ARM_KEYS: Final = (
    *("cost.alloc", "cost.bookkeeping", "cost.walk", "cost.remap", "cost.switch"),
    *("cost.copy_4k", "cost.tlbi", "cost.dsb"),
)


def arm64() -> Iterator[Row]:
    """memhog with its profiles, bw_mem and pmbench on arm64: flush effects alone."""
    p = machines.load("arm64-2n128c")
    inputs = inputs_of(p, *ARM_KEYS)
    yield from _memhog(p, (*inputs, CALIBRATED))
    yield from profiles(p, inputs)
    yield from _bw_mem(p, inputs)
    yield Row(
        "arm64-kunpeng-pmbench",
        "pmbench's memory between two nodes, 20 times, with the deferred flush",
        None,
        None,
        -50.0,
        _seconds(p, GIB_PAGES, "6.3") / GIB_PAGES * 1e6,
        _seconds(p, GIB_PAGES, "6.6") / GIB_PAGES * 1e6,
        "us/page",
        "6.6",
        inputs,
        published.ARM_DEFERRED,
        cause="published as 'more than 50 %', on another machine with contended TLBIs",
    )


@lru_cache(maxsize=16)
def _seconds(profile: Profile, pages: int, kernel: str) -> float:
    return trip_ns(timetable(profile, pages, kernel=kernel)) / 1e9


def _memhog(profile: Profile, inputs: tuple[str, ...]) -> Iterator[Row]:
    pub = published.MEMHOG
    for name, kernel in (
        ("arm64-memhog", "v4"),
        ("arm64-memhog", "6.3"),
        ("arm64-memhog", "6.6"),
        ("arm64-memhog-hypothesis", "6.6"),
    ):
        guess = name.endswith("hypothesis")
        what = "migratepages of memhog, 1 GiB"
        yield Row(
            name,
            what + ", if arm64's deferred flush was in it" if guess else what,
            pub.before,
            pub.after,
            pub.change,
            _seconds(profile, GIB_PAGES, "6.2"),
            _seconds(profile, GIB_PAGES, kernel),
            "s",
            kernel,
            inputs,
            published.ARM_DEFERRED if guess else pub.source,
            fitted_before=True,
            cause=published.MEMHOG_CAUSE,
        )


def _bw_mem(profile: Profile, inputs: tuple[str, ...]) -> Iterator[Row]:
    """The size was not published: pages = seconds before / 7.889 us."""
    pub = published.BW_MEM
    pages = round(pub.before / US_A_PAGE)
    for kernel in ("v4", "6.3", "6.6"):
        yield Row(
            "arm64-bw_mem",
            f"lmbench bw_mem, {pages} pages: published before / 7.889 us",
            pub.before,
            pub.after,
            pub.change,
            _seconds(profile, pages, "6.2"),
            _seconds(profile, pages, kernel),
            "s",
            kernel,
            (*inputs, "pages = 0.035 s / 7.889 us; only the change is predicted"),
            pub.source,
            fitted_before=True,
            fitted_after=True,
            cause=published.MEMHOG_CAUSE,
        )
