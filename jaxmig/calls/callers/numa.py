"""NUMA balancing: a hint fault moves the folio that a CPU of another node touched.

The scan makes entries of the process PROT_NONE; the fault makes them accessible again,
whether the folio has moved or not.  Other processes' entries of the same page do not
change.

Source: task_numa_work() in kernel/sched/fair.c, change_pte_range() and prot_numa_skip()
in mm/mprotect.c, change_huge_pmd() in mm/huge_memory.c, do_numa_page() in mm/memory.c,
migrate_misplaced_page() and migrate_misplaced_folio() in mm/migrate.c, Linux 6.1 to 7.1.
Not modelled: tiering, the rate limit of promotions, flushes of the scan.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxmig.calls.callers.candidates import Candidates, Mask, on_lru
from jaxmig.calls.callers.lists import Lists
from jaxmig.calls.callers.releases import since
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.calls.syscalls.scan import mapped
from jaxmig.calls.syscalls.session import Session
from jaxmig.engine.migrate import replace
from jaxmig.linux.folio import GUP_PIN_COUNTING_BIAS
from jaxmig.state import conditions as cond, frame, pte
from jaxmig.state.machine import NOWHERE, PMD_PAGES, Tlb


def run(request: Request) -> CallerOutcome:
    """A fault on every folio whose entries the scan protects, in address order."""
    s = request.session
    c = Candidates.of(s.view(), request.space, request.old)
    c = c.take(_scanned(request, c))
    # Every hint is gone after its fault, wherever the folio is then.
    entries = _entries(request, c)
    c = c.take(_worth_moving(request, c))
    c = c.take(on_lru(s, c))
    _protect(s, entries)
    lists = Lists(s, request.node, request.mode, "numa_misplaced")
    if lists.alike(c):
        lists.each(c, list(range(len(c) + 1)))
    else:
        for head, pages in zip(c.head, c.size.tolist(), strict=True):
            # migrate_balanced_pgdat(): without room the fault does not even try.
            if s.free(request.node) >= pages:
                lists.one(np.asarray([head]))
    _unprotect(s, entries)
    return CallerOutcome(lists.ret, 0, lists.calls)


def _scanned(request: Request, candidates: Candidates) -> Mask:
    """Folios whose entries get a hint."""
    private = ~_of_area(request, candidates, "shared")
    readonly = _of_area(request, candidates, "file") & ~_of_area(
        request, candidates, "writable"
    )
    wanted = (
        _of_area(request, candidates, "accessible")
        & ~_of_area(request, candidates, "hugetlb")
        & ~readonly
    )
    wanted &= ~np.isin(candidates.kind, (frame.KSM, frame.HUGETLB, frame.MOVABLE_OPS))
    wanted &= ~((candidates.kind == frame.FILE) & candidates.dirty)
    by_pmd = _by_pmd(candidates)
    kernel = request.session.kernel
    # folio_maybe_dma_pinned() cannot tell a pin from very many references.
    many = (candidates.order == 0) & (candidates.refs >= GUP_PIN_COUNTING_BIAS)
    pinned = candidates.marked(cond.PIN_HELD) | many
    if not since(kernel, "6.10"):
        # Who has a page to himself has its only reference; each PTE of a large folio
        # has one, and private data, too.
        alone = (candidates.refs == 1) & ~candidates.blocked(cond.NO_MAPPING)
        return wanted & (by_pmd | alone | ~private)
    several = pinned | _several(request, candidates)
    if since(kernel, "6.19"):
        return wanted & ~pinned & ~(private & several)
    return wanted & (by_pmd | ~(private & several))


def _worth_moving(request: Request, candidates: Candidates) -> Mask:
    """Folios that the fault tries to move."""
    shared = _several(request, candidates)
    code = _of_area(request, candidates, "executable")
    stays = code & shared & (candidates.kind == frame.FILE)
    stays |= candidates.node == request.node  # a local fault
    if not since(request.session.kernel, "6.10"):
        # do_numa_page() maps back what PageCompound() says of.
        stays |= (candidates.order > 0) & ~_by_pmd(candidates)
    if not since(request.session.kernel, "6.7"):
        stays |= _by_pmd(candidates) & shared
    return ~stays


def _several(request: Request, candidates: Candidates) -> Mask:
    """Whether several processes map each folio, as far as the release can tell."""
    return candidates.view.shared(
        candidates.head, request.session.release.knows_sharers
    )


def _of_area(request: Request, candidates: Candidates, field: str) -> Mask:
    """A field of the Area of each folio."""
    return np.asarray([getattr(a, field) for a in request.space.areas], bool)[
        candidates.area
    ]


def _by_pmd(candidates: Candidates) -> Mask:
    """Whether PMD leaves map a folio, and not PTEs."""
    chain = candidates.view.frame[candidates.head, frame.RMAP]
    return (chain >= candidates.view.geometry.ptes) & (chain != NOWHERE)


def _entries(request: Request, candidates: Candidates) -> np.ndarray:
    """Numbers of the process's entries of some folios."""
    found = [np.zeros(0, np.int64)]
    view = request.session.view()
    for a in request.space.areas:
        rows = mapped(view, a, 0, a.pages)
        leaf = a.first_pmd + rows.page // PMD_PAGES
        entry = np.where(rows.by_pte, a.first_pte + rows.page, leaf)
        found.append(entry[np.isin(rows.head, candidates.head)])
    return np.concatenate(found)


def _protect(session: Session, entries: np.ndarray) -> None:
    """Make entries PROT_NONE and drop their translations: the scan has flushed them."""
    if len(entries) == 0:
        return
    table = np.array(session.state.pte)
    table[entries, pte.BITS] |= pte.PROT_NONE
    m = session.state
    session.rewind(
        replace(
            m,
            pte=jnp.asarray(table),
            tlb=_without(m.tlb, entries),
            huge_tlb=_without(m.huge_tlb, entries),
        )
    )


def _without(tlb: Tlb, entries: np.ndarray) -> Tlb:
    held = np.asarray(tlb.entry)
    kept = np.where(np.isin(held, entries), NOWHERE, held)
    return dataclasses.replace(tlb, entry=jnp.asarray(kept))


def _unprotect(session: Session, entries: np.ndarray) -> None:
    """do_numa_page() makes the entries of folios that have not moved accessible again."""
    left = (session.view().pte[entries, pte.BITS] & pte.PROT_NONE) != 0
    if left.any():
        table = np.array(session.state.pte)
        table[entries[left], pte.BITS] &= ~pte.PROT_NONE
        session.rewind(replace(session.state, pte=jnp.asarray(table)))
