"""The engine's machine as the same canonical picture that the oracle draws of its world.

`Before(scenario, machine, layout)` remembers which contents belong to which token;
its `snapshot(machine)` then gives the dict described in oracle/snapshot.py.  Numbers of
frames and entries, and what only pads arrays, do not appear in it.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
from jaxmig.calls.syscalls import Area
from jaxmig.calls.syscalls.space import View
from jaxmig.sources.scenario import Scenario
from jaxmig.state import conditions as cond, frame, pte
from jaxmig.state.frame import FLAGS, MAPCOUNT
from jaxmig.state.machine import NOWHERE, PMD_PAGES, WORDS, Machine
from jaxmig.state.pte import BITS, PFN
from jaxmig.tools.world import Layout

KINDS = {
    frame.ANON: "anon",
    frame.SHMEM: "shmem",
    frame.FILE: "file",
    frame.KSM: "ksm",
    frame.SWAPCACHE: "swapcache",
    frame.MOVABLE_OPS: "movable_ops",
    frame.HUGETLB: "hugetlb",
}
ENTRIES = {
    pte.READ: "READ",
    pte.READ_EXCLUSIVE: "READ_EXCLUSIVE",
    pte.WRITABLE: "WRITE",
}
PTE_BITS = {
    "write": pte.WRITE,
    "young": pte.YOUNG,
    "dirty": pte.DIRTY,
    "soft_dirty": pte.SOFT_DIRTY,
    "uffd_wp": pte.UFFD_WP,
    "anon_exclusive": pte.EXCLUSIVE,
}
MARKS = {
    "freed": cond.FREED,
    "released": cond.RELEASED,
    "isolated": cond.ISOLATED,
    "young": cond.YOUNG,
}
Picture = dict[str, Any]


@functools.cache
def _numbers(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of contents, sorted by their word 0, and those words: all differ."""
    parts = (np.arange(i, min(i + 4096, frames)) for i in range(0, frames, 4096))
    words = np.concatenate([contents_of(ids)[:, 0] for ids in parts])
    order = np.argsort(words)
    return order, words[order]


def contents_of(ids: np.ndarray) -> np.ndarray:
    """`contents.page_of()` with numpy, which compiles nothing for a new length."""
    words = np.arange(WORDS, dtype=np.uint32) * np.uint32(0x85EBCA6B)
    x = ids.astype(np.uint32)[:, None] * np.uint32(0x9E3779B9) + words
    x = (x ^ (x >> 16)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 13)


class Before:
    """What is known of a machine before its first call."""

    def __init__(self, scenario: Scenario, m: Machine, layout: Layout) -> None:
        self.scenario, self.layout = scenario, layout
        self.token_of: dict[int, int] = {}
        token = 1
        # A region's pages are numbered on, whether or not they have frames.
        for region in scenario.regions:
            area = self.area(region.processes[0], region.start)
            _, pfn, _ = entries(m, area)
            for i in np.flatnonzero(pfn != NOWHERE).tolist():
                self.token_of[int(pfn[i])] = token + i
            token += region.n_pages
        flags = np.asarray(m.frame[:, FLAGS])
        used = np.flatnonzero((flags & frame.KIND) != frame.FREE)
        self.padding = np.setdiff1d(used, list(self.token_of))
        if m.memory is not None:
            self.ids, self.words = _numbers(m.frame.shape[0])

    def area(self, process: str, start: int) -> Area:
        """The area of a process that begins at an address."""
        areas = self.layout.spaces[process].areas
        return next(a for a in areas if a.start == start >> 12)

    def tokens(self, m: Machine, pfn: np.ndarray) -> dict[int, int | None]:
        """Frame -> token of its contents, -1 if one of its 1024 words is wrong.

        Pages of zeros have token 0.
        """
        if m.memory is None or not pfn.size:
            return dict.fromkeys(pfn.tolist())
        rows = np.asarray(m.memory)[pfn]
        zeros = (np.asarray(m.frame)[pfn, FLAGS] & frame.ZERO) != 0
        at = np.searchsorted(self.words, rows[:, 0])
        ids = self.ids[np.minimum(at, self.ids.size - 1)]
        same = (rows == contents_of(ids)).all(axis=1)
        found = {
            int(p): self.token_of.get(int(i), -1) if ok else -1
            for p, i, ok in zip(pfn, ids, same, strict=True)
        }
        blank = pfn[zeros & ~rows.any(axis=1)].tolist()
        return found | dict.fromkeys(blank, 0)

    def snapshot(self, m: Machine) -> Picture:
        """The canonical picture of `m`."""
        return _Drawing(self, m).draw()


def entries(m: Machine, a: Area) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entry, frame (or NOWHERE) and bits behind each base page of an area."""
    words, page = np.asarray(m.pte), np.arange(a.pages)
    entry, sub = a.first_pte + page, page * 0
    mapped = pte.PRESENT | pte.MIGRATION
    if a.first_pmd >= 0:
        leaf = a.first_pmd + page // PMD_PAGES
        whole = (words[leaf, BITS] & mapped) != 0
        entry = np.where(whole, leaf, entry)
        sub = np.where(whole, page % PMD_PAGES, 0)
    bits = words[entry, BITS]
    there = ((bits & mapped) != 0) & ((bits & pte.ZERO_PAGE) == 0)
    return entry, np.where(there, words[entry, PFN] + sub, NOWHERE), bits


class _Drawing:
    """One picture in the making."""

    def __init__(self, before: Before, m: Machine) -> None:
        self.before, self.m, self.view = before, m, View.of(m)
        self.rows = np.asarray(m.frame)
        c = m.conditions
        none = np.zeros((self.rows.shape[0], cond.WORDS), np.int32)
        self.left, self.marks = cond.unpack(none if c is None else np.asarray(c))
        used = np.flatnonzero((self.rows[:, FLAGS] & frame.KIND) != frame.FREE)
        self.used = np.setdiff1d(used, before.padding)
        self.token = before.tokens(m, self.used)
        words = np.asarray(m.pte)[m.geometry.ptes :]
        leaf = (words[:, BITS] & (pte.PRESENT | pte.MIGRATION)) == pte.PRESENT
        # Present PMD leaves of each folio, by its head frame.
        self.leaves = Counter(words[leaf, PFN].tolist())
        # Folios in order of appearance: head frame -> (number, name of the kind).
        self.folios: dict[int, tuple[int, str]] = {}

    def draw(self) -> Picture:
        scenario = self.before.scenario
        pages: dict[str, dict[int, Picture]] = {}
        for name, space in self.before.layout.spaces.items():
            # Areas are ascending, as regions are.
            mine = [r for r in scenario.regions if name in r.processes]
            mine = [r for r in mine for _ in range(1 + r.mapped_twice)]
            found: dict[int, Picture] = {}
            for area, region in zip(space.areas, mine, strict=True):
                fork = region.kind == "anon" and len(region.processes) > 1
                self.area(found, area, "cow" if fork else region.kind)
            pages[name] = found
        folios = [self.folio(h, kind) for h, (_, kind) in self.folios.items()]
        nodes, free = scenario.machine.nodes, np.asarray(self.m.nfree).tolist()
        assert not any(free[nodes:])  # nodes that nobody uses, see alike.py
        return {
            "pages": pages,
            "folios": folios + in_order(self.unmapped()),
            "free": dict(enumerate(free[:nodes])),
        }

    def area(self, found: dict[int, Picture], a: Area, kind: str) -> None:
        """The pages of one area."""
        entry, pfn, bits = entries(self.m, a)
        there = pfn != NOWHERE
        head = np.where(there, self.view.head(np.where(there, pfn, 0)), NOWHERE)
        for i in range(a.pages):
            word, h, f = int(bits[i]), int(head[i]), int(pfn[i])
            if word & pte.ZERO_PAGE:
                found[a.start + i] = {"state": "zero", "level": "pte"}
            if h == NOWHERE:
                continue
            number, _ = self.folios.setdefault(h, (len(self.folios), kind))
            level = "pmd" if entry[i] >= self.m.geometry.ptes else "pte"
            page = self.page(word, "huge" if a.hugetlb else level)
            found[a.start + i] = page | {
                "node": int(self.view.node(f)),
                "token": self.token.get(f, -1),
                "folio": number,
                "sub": f - h,
            }

    def page(self, word: int, level: str) -> Picture:
        """What the entry of one page says."""
        migrating = bool(word & pte.MIGRATION)
        hint = "hint" if word & pte.PROT_NONE else ""
        return {
            "state": "migration" if migrating else "present",
            "level": level,
            "prot_none": "mprotect" if word & pte.VM_PROT_NONE else hint,
            "entry": ENTRIES[word & pte.KIND] if migrating else "",
            **{name: bool(word & bit) for name, bit in PTE_BITS.items()},
        }

    def folio(self, head: int, kind: str) -> Picture:
        """One folio."""
        refs, _, flags, _ = (int(x) for x in self.rows[head])
        span = np.arange(head, head + (1 << (flags & frame.ORDER)))
        maps = self.rows[span, MAPCOUNT]
        # A leaf maps all pages of the folio and is counted in the head's row.
        maps = maps + np.where(span == head, 0, self.leaves.get(head, 0))
        marks = int(self.marks[head])
        driver = kind == "movable_ops"
        isolated = not (flags & frame.LRU or driver or marks & cond.ISOLATED)
        return {
            "order": flags & frame.ORDER,
            "kind": kind,
            "node": int(self.view.node(head)),
            "contents": [self.token.get(f, -1) for f in span.tolist()],
            "refcount": refs + isolated,
            "mapcounts": maps.tolist(),
            "dirty": bool(flags & frame.DIRTY or marks & cond.UNWRITTEN),
            "mlocked": bool(flags & frame.MLOCKED),
            "locked": bool(flags & frame.LOCKED),
            "isolated": isolated,
            "buffers": bool(flags & frame.PRIVATE),
            "conditions": self.conditions(head, flags, marks),
        }

    def conditions(self, head: int, flags: int, marks: int) -> list[str]:
        """Names of the states that the next test would find there."""
        names = [name for name, bit in MARKS.items() if marks & bit]
        states = zip(cond.STATES, self.left, strict=True)
        names += [name for name, left in states if left[head] > 0]
        if flags & frame.SPLIT_QUEUED:
            names.append("partially_mapped")
        if flags & frame.HURT:
            names.append("poisoned")
        return sorted({*names})

    def unmapped(self) -> list[Picture]:
        """Folios that only the page cache knows."""
        flags = self.rows[self.used, FLAGS]
        heads = self.used[(flags & frame.TAIL) == 0].tolist()
        rest = [h for h in heads if h not in self.folios]
        kinds = frame.kind(self.rows[rest, FLAGS]).tolist()
        return [self.folio(h, KINDS[k]) for h, k in zip(rest, kinds, strict=True)]


def in_order(folios: list[Picture]) -> list[Picture]:
    """Folios that nobody maps, in an order that does not depend on frame numbers."""
    return sorted(folios, key=str)


def canonical(picture: Picture, content: bool) -> Picture:
    """The oracle's picture, with unmapped folios in the same order."""
    folios = [dict(f) for f in picture["folios"]]
    pages = {p: {v: dict(e) for v, e in m.items()} for p, m in picture["pages"].items()}
    mapped = [e for found in pages.values() for e in found.values() if "folio" in e]
    if not content:
        for f in folios:
            f["contents"] = [None] * len(f["contents"])
        for page in mapped:
            page["token"] = None
    used = 1 + max((e["folio"] for e in mapped), default=-1)
    folios[used:] = in_order(folios[used:])
    return {"pages": pages, "folios": folios, "free": picture["free"]}
