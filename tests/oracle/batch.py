"""migrate_pages_batch(): unmap a list, flush once, move folio by folio."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import tlb
from .attempt import UNMAP, migrate_folio_unmap
from .folio import Folio
from .kernel import EAGAIN, ENOMEM, Kernel, Request, Stats
from .move import finish, move_to_new_folio, undo_source, undo_target
from .split import try_split_folio


@dataclass
class Batch:
    """The arguments and local variables of migrate_pages_batch()."""

    k: Kernel
    request: Request
    mode: str
    folios: list[Folio]
    ret: list[Folio]
    split: list[Folio] | None
    stats: Stats
    passes: int
    failed: int = 0
    retry: int = 0
    thp_retry: int = 0
    retry_pages: int = 0
    moving: list[tuple[Folio, Folio]] = field(default_factory=list)
    saved: int = 0  # -ENOMEM (v4 also -EDEADLOCK), returned after the move phase

    def count_retry(self, folio: Folio) -> None:
        """-EAGAIN: one more folio for the next pass."""
        self.retry += 1
        self.thp_retry += self.k.is_thp(folio)
        self.retry_pages += folio.nr

    def count_failed(self, folio: Folio) -> None:
        """One more failed folio; its pages are counted by the caller."""
        self.failed += 1
        self.stats.thp_failed += self.k.is_thp(folio)

    def count_succeeded(self, folio: Folio) -> None:
        """One more migrated folio."""
        self.stats.succeeded += folio.nr
        self.stats.thp_succeeded += self.k.is_thp(folio)

    def start_pass(self) -> None:
        """Each pass starts its retry counters anew."""
        self.retry = self.thp_retry = self.retry_pages = 0

    def end_passes(self) -> None:
        """What would still be retried has failed."""
        self.failed += self.retry
        self.stats.thp_failed += self.thp_retry
        self.stats.failed_pages += self.retry_pages


def migrate_pages_batch(b: Batch) -> int:
    """migrate_pages_batch() of 6.3 and later: failures, or -ENOMEM."""
    b.k.lists += 1
    unmap_phase(b)
    # Without memory and with nothing unmapped even a pending flush stays pending.
    if not (b.saved and not b.moving):
        b.k.hook("unmap")
        tlb.flush_pending(b.k)
        b.k.hook("flush")
        copy_batch(b)
        move_phase(b)
    put_back(b)
    return b.saved or b.failed


def copy_batch(b: Batch) -> None:
    """RFC v6: an engine copies what is eligible, in one sweep and before the rest.

    Its result is ignored: the marks on the new folios tell.
    """
    if not b.k.engine:
        return
    b.moving.sort(key=lambda pair: not _eligible(pair[0]))
    for src, dst in b.moving:
        dst.copied = _eligible(src)


def _eligible(src: Folio) -> bool:
    """No driver's page, and no reference too many.

    Reading: this look at the references is no attempt.
    """
    return not (src.movable_ops or src.held("extra_ref") or src.held("pinned"))


def unmap_phase(b: Batch) -> None:
    """All passes of the unmap phase; stops early when memory ends."""
    b.retry = 1
    for _ in range(b.passes):
        if not b.retry:
            break
        b.start_pass()
        for folio in list(b.folios):
            if _split_partially_mapped(b, folio):
                continue
            # A busy folio waits for the next pass while the others stay unmapped.
            rc, dst = migrate_folio_unmap(b.k, b.request, folio, b.mode)
            if rc == ENOMEM:
                if no_memory(b, folio):
                    return
            else:
                unmapped(b, folio, dst, rc)
    b.end_passes()


def unmapped(b: Batch, folio: Folio, dst: Folio | None, rc: int) -> None:
    """Every result of an unmap attempt but -ENOMEM."""
    if rc == EAGAIN:
        b.count_retry(folio)
        return
    b.folios.remove(folio)
    if rc == UNMAP:
        assert dst is not None
        # Both folios stay locked until the move phase is done with them.
        b.moving.append((folio, dst))
    elif rc == 0:
        b.count_succeeded(folio)
    else:
        b.ret.append(folio)
        b.count_failed(folio)
        b.stats.failed_pages += folio.nr


def no_memory(b: Batch, folio: Folio) -> bool:
    """-ENOMEM: split a large folio, or end the unmap phase (True)."""
    b.count_failed(folio)
    if folio.large and not b.request.nosplit:
        rc = _split(b, folio)
        if rc == 0:
            return False
        # The pinner wants every page moved, so even a failed split is tried again.
        if b.request.reason == "longterm_pin" and rc == EAGAIN:
            b.count_retry(folio)
            # Up to 6.3 it is counted as failed now and once more as a retry.
            if b.k.release.has("longterm_counted_once"):
                b.failed -= 1
                b.stats.thp_failed -= b.k.is_thp(folio)
            return False
    b.stats.failed_pages += folio.nr + b.retry_pages
    b.stats.thp_failed += b.thp_retry
    # What is unmapped already is still moved before the error is returned.
    b.saved = ENOMEM
    return True


def _split(b: Batch, folio: Folio) -> int:
    """Split a folio of the list; 0 or the reason why not."""
    pieces = try_split_folio(b.k, folio, b.mode)
    if not isinstance(pieces, list):
        return pieces
    assert b.split is not None
    b.folios.remove(folio)
    b.split += pieces
    b.stats.thp_split += b.k.is_thp(folio)
    b.stats.split += 1
    return 0


def _split_partially_mapped(b: Batch, folio: Folio) -> bool:
    """6.10: a partly unmapped folio on the deferred-split queue is split first.

    Reading: the state marks the folio, its mappings stay as they are; only
    anonymous folios are ever queued; a refused split lets it migrate whole.
    """
    if not b.k.release.has("split_partially_mapped"):
        return False
    if not folio.large or folio.nr <= 2 or b.split is None:
        return False
    if folio.kind not in ("anon", "cow", "swapcache"):
        return False
    # A refused split is no failure: the folio migrates whole.
    if not folio.test("partially_mapped") or _split(b, folio):
        return False
    b.count_failed(folio)
    return True


def move_phase(b: Batch, once: bool = False) -> None:
    """All passes of the move phase over what is unmapped."""
    b.retry = 1
    for _ in range(b.passes):
        if not b.retry:
            break
        b.start_pass()
        # A copy of the list, since what succeeds or fails leaves it.
        for pair in list(b.moving):
            _move(b, pair)
        if once:
            b.retry = 0
    b.end_passes()


def _move(b: Batch, pair: tuple[Folio, Folio]) -> None:
    """migrate_folio_move(): a folio that is busy stays locked and unmapped."""
    src, dst = pair
    b.k.moves += 1
    rc = move_to_new_folio(b.k, dst, src, b.mode)
    if rc == EAGAIN:
        b.count_retry(src)
        return
    # Every other result takes the pair off both lists.
    b.moving.remove(pair)
    if rc == 0:
        finish(b.k, b.request, src, dst)
        b.count_succeeded(src)
        return
    undo_source(b.k, src)
    undo_target(b.k, dst)
    b.ret.append(src)
    b.count_failed(src)
    b.stats.failed_pages += src.nr


def put_back(b: Batch) -> None:
    """The "out" label: what is still unmapped is mapped again and given up."""
    # These were counted as failed when the passes ended.
    for src, dst in b.moving:
        undo_source(b.k, src)
        b.ret.append(src)
        undo_target(b.k, dst)
    b.moving = []
