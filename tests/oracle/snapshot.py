"""The canonical picture of a world, for comparing two implementations.

``{"pages": {process: {vpn: page}}, "folios": [folio, ...], "free": {node: n}}``

* a page: ``state`` ("present", "migration", "zero"), ``level`` ("pte", "pmd",
  "huge"), ``node``, ``token`` (its contents), ``folio`` (index into "folios"),
  ``sub`` (base page inside the folio), ``write``, ``young``, ``dirty``,
  ``soft_dirty``, ``uffd_wp``, ``anon_exclusive``, ``prot_none`` ("", "hint" or
  "mprotect") and ``entry`` ("" or WRITE, READ_EXCLUSIVE, READ).  There is one for
  every base page, also under a huge entry; pages never touched are left out.
* a folio: ``order``, ``kind``, ``node``, ``contents`` (tokens), ``refcount``,
  ``mapcounts``, ``dirty``, ``mlocked``, ``locked``, ``isolated``, ``buffers``,
  ``conditions`` (names of the states that the next test would find, sorted).

Folios are numbered by first appearance: processes in file order, pages by address,
and behind them what is only in the page cache.  No frame number appears.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .folio import Entry, Folio

if TYPE_CHECKING:
    from .world import World


def snapshot(world: World) -> dict:
    """Take the picture described at the top of this file."""
    numbers: dict[int, int] = {}
    folios: list[Folio] = []
    for folio in _in_order(world):
        if id(folio) not in numbers:
            numbers[id(folio)] = len(folios)
            folios.append(folio)
    pages = {
        name: {
            entry.vpn + i: _page(entry, i, numbers)
            for entry in process.entries_in(0, 1 << 62)
            for i in range(entry.nr)
        }
        for name, process in world.processes.items()
    }
    return {
        "pages": pages,
        "folios": [_folio(f) for f in folios],
        "free": dict(sorted(world.free.items())),
    }


def _in_order(world: World) -> list[Folio]:
    """Every folio, mapped ones by process and address, then the others."""
    found = []
    for process in world.processes.values():
        found += [e.folio for e in process.entries_in(0, 1 << 62) if e.folio]
    return found + world.unmapped


def _page(entry: Entry, i: int, numbers: dict[int, int]) -> dict:
    """One base page under an entry."""
    if entry.folio is None:
        return {"state": "zero", "level": entry.level}
    prot = "mprotect" if entry.region.prot_none else "hint" if entry.hint else ""
    return {
        "state": entry.state,
        "level": entry.level,
        "node": entry.folio.node,
        "token": entry.folio.contents[entry.sub + i],
        "folio": numbers[id(entry.folio)],
        "sub": entry.sub + i,
        "write": entry.write,
        "young": entry.young,
        "dirty": entry.dirty,
        "soft_dirty": entry.soft_dirty,
        "uffd_wp": entry.uffd_wp,
        "anon_exclusive": entry.exclusive,
        "prot_none": prot,
        "entry": entry.kind,
    }


def _folio(folio: Folio) -> dict:
    """One folio."""
    # Whether a hugetlb folio has no, one or many references of the page cache is the
    # release's affair: the picture has one.
    cache = folio.hugetlb_refs - 1 if folio.hugetlb else 0
    return {
        "order": folio.order,
        "kind": folio.kind,
        "node": folio.node,
        "contents": list(folio.contents),
        "refcount": folio.refcount - cache,
        "mapcounts": folio.mapcounts(),
        "dirty": folio.dirty,
        "mlocked": folio.mlocked,
        "locked": folio.locked,
        "isolated": folio.isolated,
        "buffers": folio.buffers,
        "conditions": _conditions(folio),
    }


def _conditions(folio: Folio) -> list[str]:
    """Names of the states that are there; poison is a page's, and stays with its piece."""
    states = folio.states.items()
    names = [n for n, s in states if n != "poisoned" and s.standing()]
    return sorted(names + ["poisoned"] * bool(folio.poison))
