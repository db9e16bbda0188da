"""Published figures, unchanged, with the mail threads that they are from."""

from typing import Final, NamedTuple


class Cover(NamedTuple):
    """pmbench on a two-socket Intel server; changes in percent."""

    ipi_change: float
    rate_change: float
    source: str


class Timed(NamedTuple):
    """Seconds before and after; the change in percent as published."""

    before: float
    after: float
    change: float
    source: str


class PublishedRates(NamedTuple):
    """GB/s by copy engine and order of the folios."""

    kernel: str
    source: str
    figures: dict[str, dict[int, float]]


class Moved(NamedTuple):
    """A rate of move_pages(), GB/s end to end."""

    what: str
    order: int
    folios: int
    copy: str
    gbs: float


COVER: Final = Cover(
    -99.1,
    291.7,
    "Huang Ying, migrate_pages(): batch TLB flushing, RFC 2022 to v5 2023",
)
MEMHOG: Final = Timed(
    2.068,
    1.161,
    -43.9,
    "Xin Hao, reply to migrate_pages(): batch TLB flushing v4, 8 Feb 2023",
)
BW_MEM: Final = Timed(
    0.035,
    0.024,
    -32.0,
    "Xin Hao, reply to the RFC of migrate_pages(): batch TLB flushing, 2022",
)
ARM_DEFERRED: Final = (
    "Barry Song, Yicong Yang, arm64: support batched/deferred tlb shootdown, 2023; "
    "asked for by Jonathan Cameron in the batching thread, not answered there"
)
MEMHOG_CAUSE: Final = (
    "arm64 defers no flush before 6.6; even with it flushes explain 2.08 of 3.46 us a "
    "page, and the copy is said to have got faster too, which no flush explains"
)

# Percent of the migratepages run, before batching.
PROFILE_BEFORE: Final = {
    "migrate_folio_extra": 51.07,
    "folio_copy": 42.43,
    "folio_migrate_flags": 8.19,
    "try_to_migrate": 32.35,
    "ptep_clear_flush": 27.78,
    "rmap_walk_anon": 33.99,
}
# Percent of all samples of the system, after it.
PROFILE_AFTER: Final = {
    "migrate_pages": 18.57,
    "migrate_folio_move": 16.29,
    "move_to_new_folio": 12.73,
    "migrate_folio_extra": 12.52,
}
PROFILE_CAUSE: Final = (
    "the published profile leaves 12 % of migrate_pages() to everything but "
    "migrate_folio_move(), less than unmapping alone took before: flushes that are not "
    "waited for, as arm64 has them since 6.6, and locks and LRU counted inside it"
)

GARG_SOURCE: Final = (
    "Shivank Garg, Accelerate page migration with batch copying and hardware offload, "
    "RFC V3, 23 Sep 2025"
)
GARG_CAUSE: Final = (
    "only the copies are this machine's; bookkeeping is the default machine's, per "
    "folio or per page as in 6.3, and folios between 4 KiB and 2 MiB are copied at the "
    "price of 4 KiB"
)
_SIZES: Final = (0, 2, 4, 5, 6, 7, 8, 9)  # orders of 4 KiB ... 2 MiB


_LATER: Final = (0, 2, 4, 6, 8, 9)


def _all(*figures: float) -> dict[int, float]:
    return dict(zip(_SIZES, figures, strict=True))


def _later(*figures: float) -> dict[int, float]:
    return dict(zip(_LATER, figures, strict=True))


# GB/s by copy engine and order of the folios.
GARG: Final[dict[str, dict[int, float]]] = {
    "cpu": _all(3.73, 5.53, 5.90, 6.34, 6.50, 6.86, 6.92, 10.67),
    "threads:1": {0: 3.84, 9: 10.94},
    "threads:2": {0: 4.04, 9: 17.80},
    "threads:4": {0: 4.72, 9: 31.41},
    "threads:8": {0: 4.91, 9: 33.50},
    "threads:12": _later(4.84, 8.75, 10.16, 11.72, 14.09, 34.70),
    "threads:16": _all(4.77, 8.95, 10.36, 11.03, 11.58, 13.88, 13.00, 35.89),
    "dma:1": _all(2.75, 2.86, 3.28, 4.57, 5.03, 4.69, 4.78, 12.50),
    "dma:2": {9: 14.23},
    "dma:4": {9: 26.84},
    "dma:8": {9: 45.27},
    "dma:12": _later(4.60, 8.90, 11.26, 14.90, 13.79, 59.94),
    "dma:16": _all(4.61, 9.08, 11.14, 13.95, 13.69, 15.47, 15.44, 63.69),
}

# Some folios of 2 MiB.
GARG_FEW: Final = tuple(
    Moved(f"{folios} x 2 MiB by move_pages, copied by {copy}", 9, folios, copy, gbs)
    for copy, figures in (
        ("cpu", (7.96, 9.08, 10.59)),
        ("threads:1", (6.43, 10.12, 10.81)),
        ("dma:1", (6.52, 11.21, 12.61)),
    )
    for folios, gbs in zip((1, 64, 512), figures, strict=True)
)

# Without the rows of 8 to 16 channels, which are not legible.
GARG_LATER: Final[dict[str, PublishedRates]] = {
    "v4": PublishedRates(
        "7.0",
        "Shivank Garg, the same series, RFC V4, 9 Mar 2026, on 7.0-rc2",
        {
            "cpu": _later(3.55, 5.66, 6.16, 7.12, 6.93, 10.88),
            "dma:1": _later(2.63, 2.92, 3.16, 4.75, 7.38, 12.64),
            "dma:2": _later(3.20, 4.68, 5.16, 7.42, 8.05, 14.40),
            "dma:4": _later(3.78, 6.45, 7.36, 9.70, 11.68, 27.16),
        },
    ),
    "v5": PublishedRates(
        "7.1",
        "Shivank Garg, the same series, RFC V5, 28 Apr 2026, on 7.1-rc1",
        {
            "cpu": _later(3.31, 5.61, 6.66, 7.01, 7.13, 11.02),
            "dma:1": _later(2.16, 2.58, 3.00, 4.56, 4.62, 12.65),
        },
    ),
}

ZIYAN_SOURCE: Final = (
    "Zi Yan, Accelerate page migration and use memcg for PMEM management, RFC, Apr 2019"
)
ZIYAN_CAUSE: Final = "a lone page pays for the whole system call, which is not priced"
ZIYAN_ALONE: Final = (
    "the engines' speed was measured with 16 THPs copied together; starting the threads "
    "for each folio is not priced"
)
ZIYAN: Final = (
    Moved("one page of 4 KiB", 0, 1, "cpu", 0.312),
    Moved("512 pages of 4 KiB, serial", 0, 512, "cpu", 0.854),
    Moved("one THP, one thread", 9, 1, "cpu", 2.387),
    Moved("one THP, copied by 2 threads", 9, 1, "threads:2", 3.478),
    Moved("one THP, copied by 4 threads", 9, 1, "threads:4", 5.474),
    Moved("one THP, copied by 8 threads", 9, 1, "threads:8", 7.846),
    Moved("one THP, copied by 16 threads", 9, 1, "threads:16", 7.423),
    Moved("16 THPs, copied one by one by 2 threads", 9, 16, "threads:2", 3.610),
    Moved("16 THPs, copied one by one by 4 threads", 9, 16, "threads:4", 6.385),
    Moved("16 THPs, copied one by one by 8 threads", 9, 16, "threads:8", 8.039),
    Moved("16 THPs, copied one by one by 16 threads", 9, 16, "threads:16", 8.137),
    Moved("16 THPs, copied together by 2 threads", 9, 16, "threads:2", 4.138),
    Moved("16 THPs, copied together by 4 threads", 9, 16, "threads:4", 7.382),
    Moved("16 THPs, copied together by 8 threads", 9, 16, "threads:8", 9.023),
    Moved("16 THPs, copied together by 16 threads", 9, 16, "threads:16", 9.907),
    Moved("one THP, 16 IOAT channels", 9, 1, "dma:16", 4.322),
)
