"""NUMA balancing: a hint fault moves the folio that was touched from far away.

The scan leaves PROT_NONE in the entries of the process that it thinks worth a fault; the
fault maps the page again, whether the folio has moved or not.  Other processes' entries
of the same page stay ordinary.

Source: task_numa_work() in kernel/sched/fair.c, change_pte_range() and prot_numa_skip()
in mm/mprotect.c, change_huge_pmd() in mm/huge_memory.c, do_numa_page() in mm/memory.c,
migrate_misplaced_page() and migrate_misplaced_folio() in mm/migrate.c, Linux 6.1 to 7.1.
Not modelled: tiering, the rate limit of promotions, flushes of the scan.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxmig import conditions as cond, frame, pte
from jaxmig.callers.candidates import Candidates, Mask, on_lru
from jaxmig.callers.lists import Lists
from jaxmig.callers.releases import since
from jaxmig.callers.request import Outcome, Request
from jaxmig.machine import NOWHERE, PMD_PAGES, Tlb
from jaxmig.migrate import replace
from jaxmig.policy.folio import GUP_PIN_COUNTING_BIAS
from jaxmig.syscalls.scan import mapped
from jaxmig.syscalls.session import Session


def run(r: Request) -> Outcome:
    """A fault on every folio that the scan leaves a hint on, in address order."""
    s = r.s
    c = Candidates.of(s.view(), r.space, r.old)
    c = c.take(_scanned(r, c))
    # Every hint is gone after its fault, wherever the folio is then.
    entries = _entries(r, c)
    c = c.take(_worth_moving(r, c))
    c = c.take(on_lru(s, c))
    _protect(s, entries)
    lists = Lists(s, r.node, r.mode, "numa_misplaced")
    if lists.alike(c):
        lists.each(c, list(range(len(c) + 1)))
    else:
        for head, pages in zip(c.head, c.size.tolist(), strict=True):
            # migrate_balanced_pgdat(): without room the fault does not even try.
            if s.free(r.node) >= pages:
                lists.one(np.asarray([head]))
    _unprotect(s, entries)
    return Outcome(lists.ret, 0, lists.calls)


def _scanned(r: Request, c: Candidates) -> Mask:
    """Folios whose entries get a hint."""
    private = ~_of_area(r, c, "shared")
    readonly = _of_area(r, c, "file") & ~_of_area(r, c, "writable")
    wanted = _of_area(r, c, "accessible") & ~_of_area(r, c, "hugetlb") & ~readonly
    wanted &= ~np.isin(c.kind, (frame.KSM, frame.HUGETLB, frame.MOVABLE_OPS))
    wanted &= ~((c.kind == frame.FILE) & c.dirty)
    by_pmd = _by_pmd(c)
    kernel = r.s.kernel
    # folio_maybe_dma_pinned() cannot tell a pin from very many references.
    many = (c.order == 0) & (c.refs >= GUP_PIN_COUNTING_BIAS)
    pinned = c.marked(cond.PIN_HELD) | many
    if not since(kernel, "6.10"):
        # Who has a page to himself has its only reference; each PTE of a large folio
        # has one, and private data, too.
        alone = (c.refs == 1) & ~c.blocked(cond.NO_MAPPING)
        return wanted & (by_pmd | alone | ~private)
    several = pinned | _several(r, c)
    if since(kernel, "6.19"):
        return wanted & ~pinned & ~(private & several)
    return wanted & (by_pmd | ~(private & several))


def _worth_moving(r: Request, c: Candidates) -> Mask:
    """What the fault does not leave where it is."""
    shared = _several(r, c)
    code = _of_area(r, c, "executable")
    stays = code & shared & (c.kind == frame.FILE)
    stays |= c.node == r.node  # a local fault
    if not since(r.s.kernel, "6.10"):
        # do_numa_page() maps back what PageCompound() says of.
        stays |= (c.order > 0) & ~_by_pmd(c)
    if not since(r.s.kernel, "6.7"):
        stays |= _by_pmd(c) & shared
    return ~stays


def _several(r: Request, c: Candidates) -> Mask:
    """Whether several processes map each folio, as far as the release can tell."""
    return c.view.shared(c.head, r.s.release.knows_sharers)


def _of_area(r: Request, c: Candidates, what: str) -> Mask:
    """What is said of the area of each folio."""
    return np.asarray([getattr(a, what) for a in r.space.areas], bool)[c.area]


def _by_pmd(c: Candidates) -> Mask:
    """Whether leaves map a folio, and not PTEs."""
    chain = c.view.frame[c.head, frame.RMAP]
    return (chain >= c.view.geometry.ptes) & (chain != NOWHERE)


def _entries(r: Request, c: Candidates) -> np.ndarray:
    """Numbers of the process's entries of some folios."""
    found = [np.zeros(0, np.int64)]
    view = r.s.view()
    for a in r.space.areas:
        rows = mapped(view, a, 0, a.pages)
        leaf = a.first_pmd + rows.page // PMD_PAGES
        entry = np.where(rows.by_pte, a.first_pte + rows.page, leaf)
        found.append(entry[np.isin(rows.head, c.head)])
    return np.concatenate(found)


def _protect(s: Session, entries: np.ndarray) -> None:
    """Leave hints; the scan has flushed what TLBs held of these entries."""
    if len(entries) == 0:
        return
    table = np.array(s.state.pte)
    table[entries, pte.BITS] |= pte.PROT_NONE
    m = s.state
    s.rewind(
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


def _unprotect(s: Session, entries: np.ndarray) -> None:
    """do_numa_page() maps what has not moved as it was."""
    left = (s.view().pte[entries, pte.BITS] & pte.PROT_NONE) != 0
    if left.any():
        table = np.array(s.state.pte)
        table[entries[left], pte.BITS] &= ~pte.PROT_NONE
        s.rewind(replace(s.state, pte=jnp.asarray(table)))
