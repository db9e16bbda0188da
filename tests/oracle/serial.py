"""migrate_pages() up to 6.2: one folio from start to end, then the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from .attempt import unmap_and_move
from .folio import Folio
from .hugetlb import unmap_and_move_huge_page
from .kernel import EAGAIN, ENOMEM, Kernel, Request, Stats
from .split import try_split_folio

PASSES = 10


@dataclass
class Serial:
    """The local variables of the serial migrate_pages()."""

    k: Kernel
    request: Request
    stats: Stats = field(default_factory=Stats)
    failed: int = 0
    large_failed: int = 0
    retry: int = 1
    large_retry: int = 1
    thp_retry: int = 0
    retry_pages: int = 0
    ret: list[Folio] = field(default_factory=list)
    split: list[Folio] = field(default_factory=list)
    pieces: bool = False  # the second phase: failures of small folios do not count


def migrate_pages(k: Kernel, request: Request, folios: list[Folio]) -> int:
    """migrate_pages() of 6.1 and 6.2; ``folios`` keeps what did not migrate."""
    s = Serial(k, request)
    rc = _phase(s, folios)
    # Second phase: only the pieces, one pass, since failures do not count.
    if rc == 0 and s.split:
        s.ret = folios + s.ret
        folios[:] = s.split
        s.split, s.pieces, s.retry = [], True, 1
        rc = _phase(s, folios)
    if rc == 0:
        rc = s.failed + s.large_failed
    folios[:0] = s.ret
    # All pieces of the split folios went: as if nothing had failed.
    if not folios:
        rc = 0
    k.account(s.stats)
    return rc


def _phase(s: Serial, folios: list[Folio]) -> int:
    """Up to ten passes over the list; -ENOMEM ends them all."""
    for number in range(PASSES):
        if not (s.retry or s.large_retry):
            break
        s.retry = s.large_retry = s.thp_retry = s.retry_pages = 0
        # A copy, because what is done with leaves the list.
        for folio in list(folios):
            # For the hook, every attempt is a list and a move.
            s.k.lists += 1
            s.k.moves += 1
            attempt = unmap_and_move_huge_page if folio.hugetlb else unmap_and_move
            rc = attempt(s.k, s.request, folio, number > 2)
            if rc == ENOMEM:
                if _no_memory(s, folio, folios):
                    return ENOMEM
            else:
                _dispatch(s, folio, folios, rc)
    s.failed += s.retry
    s.large_failed += s.large_retry
    s.stats.thp_failed += s.thp_retry
    s.stats.failed_pages += s.retry_pages
    return 0


def _dispatch(s: Serial, folio: Folio, folios: list[Folio], rc: int) -> None:
    """Success, retry or a lasting failure (the table of section 1.3)."""
    is_thp = s.k.is_thp(folio)
    if rc == EAGAIN:
        _retry(s, folio)
        return
    folios.remove(folio)
    if rc == 0:
        s.stats.succeeded += folio.nr
        s.stats.thp_succeeded += is_thp
        return
    s.ret.append(folio)
    _failed(s, folio)
    s.stats.failed_pages += folio.nr


def _failed(s: Serial, folio: Folio) -> None:
    """One more failed folio, large and small apart."""
    if folio.large:
        s.large_failed += 1
        s.stats.thp_failed += s.k.is_thp(folio)
    elif not s.pieces:
        s.failed += 1


def _retry(s: Serial, folio: Folio) -> None:
    """Try this folio again in the next pass, if there is one."""
    if folio.large:
        s.large_retry += 1
        s.thp_retry += s.k.is_thp(folio)
    elif not s.pieces:
        s.retry += 1
    # Pages are remembered in the second phase too.
    s.retry_pages += folio.nr


def _no_memory(s: Serial, folio: Folio, folios: list[Folio]) -> bool:
    """-ENOMEM: split a large folio, or abort (True)."""
    _failed(s, folio)
    if folio.large and not s.request.nosplit:
        pieces = try_split_folio(s.k, folio, s.request.mode)
        if isinstance(pieces, list):
            s.stats.thp_split += s.k.is_thp(folio)
            folios.remove(folio)
            s.split += pieces
            return False
        # Counted as failed above and again as a retry: Linux did so until 6.5.
        if s.request.reason == "longterm_pin" and pieces == EAGAIN:
            _retry(s, folio)
            return False
    s.stats.failed_pages += folio.nr + s.retry_pages
    s.stats.thp_failed += s.thp_retry
    # Pieces of earlier splits go back to the caller with everything else.
    folios[:0] = s.split
    s.split = []
    return True
