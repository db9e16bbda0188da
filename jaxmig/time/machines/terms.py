"""The cost of each counter on a machine: the terms whose sum is a call's time.

A request that interrupts C CPUs costs `flush_first` for the first and `flush_next` for
each further one.  As (flush_first - flush_next) for each request and flush_next for each
IPI that is linear in the counters.  A request that interrupts no CPU costs `flush_lazy`.

arm64 has no IPIs: a cleared entry costs a TLBI and a wait for it, a deferred one only the
TLBI, a batch one wait.  With INVLPGB a request is one broadcast, however many CPUs hold
the mm, and IPIs cost nothing.  Assumed there: every mm has a global ASID (Linux assigns
one from 4 CPUs on), and TLBSYNC takes equally long on all machines.

Source: try_to_migrate_one(), arch_tlbbatch_flush() and flush_tlb_mm_range(), Linux 6.3
to 6.18; the batch's copy by Shivank Garg, batch copying RFC V3, 2025.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np

from jaxmig.time.machines.profile import Arch, Bound, Profile, ProfileError

Policy = Literal["serial", "batched"]
PHASES: Final = ("alloc", "unmap", "flush", "copy", "remap", "other")
PRICED: Final = (
    *("allocs", "alloc_pages", "tries", "ptes_cleared", "pmds_cleared"),
    *("ptes_deferred", "flushes_immediate", "flushes_immediate_lazy"),
    *("flushes_batch", "flushes_batch_lazy", "ipis_immediate", "ipis_batch"),
    *("nr_tlb_local_flush_one", "nr_tlb_local_flush_all", "moves", "folios_moved"),
    *("pages_copied", "pages_copied_huge", "copies_wasted", "pages_by_cpu"),
    *("ptes_set", "pmds_set", "lru_drains", "folios_cached", "calls"),
)
# Numbers that follow from the counters of a whole call.
DERIVED: Final = (
    *("cleared_later", "set_later", "pages_beyond"),
    *("pages_hot", "pages_hot_huge", "copies_first"),
)
PMD_PAGES: Final = 512


class Term(NamedTuple):
    """`ns` for each `counter`, in a phase and at a place in the code.

    Places: call, alloc, lock, walk, clear (ptep_clear_flush), defer, flush (the batch's),
    copy, engine (a batch's copy), switch, cached, drain, remap.
    """

    counter: str
    phase: str
    place: str
    ns: Any  # a float, or an array with an element for each machine


class Priced(Protocol):
    """A profile, or many in one: its numbers, and the speed-ups of its copy engines."""

    @property
    def name(self) -> str: ...
    def __getitem__(self, key: str) -> Any: ...
    def copy_speedups(self, copy: str) -> tuple[float, float]: ...


def derived(counts: Mapping[str, int], profile: Profile) -> dict[str, int]:
    """The counts with the numbers of `DERIVED`.

    A try walks a folio's mappings; each beyond one a try is a later one.  Source and
    destination pages of a call share the cache: what does not fit is `pages_beyond`, and of
    the rest `machine.hot` per cent are there before.  A call's first 4 KiB are
    `copies_first`.  Several calls are taken to be equally long.
    """
    tries, cache = counts["tries"], int(profile["machine.cache"])
    cleared, set_ = (
        counts[f"ptes_{what}"] + counts[f"pmds_{what}"] for what in ("cleared", "set")
    )
    small, huge = counts["pages_copied"], counts["pages_copied_huge"]
    fits = max(counts["calls"], 1) * (cache // 2)
    beyond = max(small + huge - fits, 0) if cache else 0
    held = profile["machine.hot"] / 100 * (1 - beyond / max(small + huge, 1))
    hot = round(small * held)
    return {
        **counts,
        "cleared_later": max(cleared - tries, 0),
        "set_later": max(set_ - tries, 0),
        "pages_beyond": beyond,
        "pages_hot": hot,
        "pages_hot_huge": round(huge * held),
        "copies_first": min(counts["calls"], small - hot),
    }


@lru_cache(maxsize=256)
def terms(
    profile: Profile, copy: str, policy: Policy, arch: Arch, bound: Bound
) -> tuple[Term, ...]:
    """The terms of a profile; several may have the same counter, phase and place.

    Args:
      copy: the copy engine, "cpu", "threads:N" or "dma:N".
      arch: whose TLB maintenance is priced.
      bound: the numbers themselves, or one end of their ranges.
    Returns:
      Terms in ns.
    Raises:
      ProfileError: a copy engine that it does not have, or no costs for `arch`.
    """
    return build(profile.at(bound), copy, policy, arch)


def build(priced: Priced, copy: str, policy: Policy, arch: Arch) -> tuple[Term, ...]:
    """The terms of a profile, or of many at once.

    Args:
      copy: the copy engine, "cpu", "threads:N" or "dma:N".
      arch: whose TLB maintenance is priced.
    Returns:
      Terms in ns, arrays if the numbers are arrays.
    Raises:
      ProfileError: as `terms`.
    """
    flush = {"x86": _ipis, "x86-invlpgb": _broadcast, "arm64": _tlbi}[arch]
    try:
        maintenance = flush(priced, "flush" if policy == "batched" else "clear")
    except KeyError as key:
        raise ProfileError(
            f"{priced.name}: {key} missing: no costs for {arch}"
        ) from None
    return (*_software(priced, policy), *maintenance, *_copies(priced, copy, policy))


def _software(priced: Priced, policy: Policy) -> list[Term]:
    lock, switch, check = (
        priced["cost.bookkeeping"],
        priced["cost.switch"],
        priced["cost.move_check"],
    )
    # The source of the gain is unknown, so both are reduced in proportion: neither can
    # become negative.
    both = lock + switch
    gain = priced["cost.batch_gain"] / np.where(both == 0, 1, both)
    gain = gain if policy == "batched" else 0
    terms = [
        Term("allocs", "alloc", "alloc", priced["cost.alloc"]),
        Term("alloc_pages", "alloc", "alloc", priced["cost.alloc_page"]),
        Term("tries", "other", "lock", lock),
        Term("moves", "other", "switch", check),
        # The check is part of the switch: a move at the first try costs only the switch.
        Term("folios_moved", "other", "switch", switch - check - gain * switch),
        Term("folios_moved", "other", "lock", -gain * lock),
        Term("lru_drains", "other", "drain", priced["cost.lru_drain"]),
        Term("calls", "other", "call", priced["cost.call"]),
        Term("folios_cached", "other", "cached", priced["cost.cached"]),
        Term(
            "cleared_later",
            "unmap",
            "walk",
            priced["cost.walk_next"] - priced["cost.walk"],
        ),
        Term(
            "set_later",
            "remap",
            "remap",
            priced["cost.remap_next"] - priced["cost.remap"],
        ),
    ]
    for kind in ("ptes", "pmds"):
        terms.append(Term(f"{kind}_cleared", "unmap", "walk", priced["cost.walk"]))
        terms.append(Term(f"{kind}_set", "remap", "remap", priced["cost.remap"]))
    return terms


def _ipis(priced: Priced, local: str) -> list[Term]:
    first, more = priced["cost.flush_first"], priced["cost.flush_next"]
    lazy = priced["cost.flush_lazy"] - (first - more)
    terms = _local(priced, local)
    for kind, place in (("immediate", "clear"), ("batch", "flush")):
        terms.append(Term(f"flushes_{kind}", "flush", place, first - more))
        terms.append(Term(f"flushes_{kind}_lazy", "flush", place, lazy))
        terms.append(Term(f"ipis_{kind}", "flush", place, more))
    return terms


def _broadcast(priced: Priced, local: str) -> list[Term]:
    return [
        *_local(priced, local),
        Term("flushes_immediate", "flush", "clear", priced["cost.broadcast"]),
        Term("flushes_batch", "flush", "flush", priced["cost.broadcast_all"]),
    ]


def _local(priced: Priced, full: str) -> list[Term]:
    return [
        Term("nr_tlb_local_flush_one", "flush", "clear", priced["cost.local_page"]),
        Term("nr_tlb_local_flush_all", "flush", full, priced["cost.local_full"]),
        Term("ptes_deferred", "flush", "defer", priced["cost.defer"]),
    ]


def _tlbi(priced: Priced, _: str) -> list[Term]:
    tlbi, dsb = priced["cost.tlbi"], priced["cost.dsb"]
    return [
        Term("ptes_cleared", "flush", "clear", tlbi + dsb),
        Term("pmds_cleared", "flush", "clear", tlbi + dsb),
        # A deferred entry has no immediate price, but still its TLBI.
        Term("ptes_deferred", "flush", "clear", -(tlbi + dsb)),
        Term("ptes_deferred", "flush", "defer", tlbi),
        Term("flushes_batch", "flush", "flush", dsb),
    ]


def _copies(priced: Priced, copy: str, policy: Policy) -> list[Term]:
    small, huge = priced.copy_speedups(copy)
    place = "copy"
    if policy == "serial":
        small = huge = 1.0
    elif copy != "cpu":
        place = "engine"
    page = priced["cost.copy_4k"] / small
    pages = [
        Term("pages_copied", "copy", place, page),
        # The CPU checks references before it copies; an engine has copied by then.
        Term("copies_wasted", "copy", place, page if place == "engine" else 0.0),
        # These pages were counted as the engine's above; nearly all are of small folios.
        Term("pages_by_cpu", "copy", "copy", priced["cost.copy_4k"] - page),
        Term(
            "pages_copied_huge",
            "copy",
            place,
            priced["cost.copy_2m"] / PMD_PAGES / huge,
        ),
    ]
    if place == "engine":
        return pages  # engines copy from memory to memory, without the CPU's caches
    part = priced["cost.copy_2m"] / PMD_PAGES
    # A cached copy never costs more than one from memory, even if measurements differ.
    less = [
        np.minimum(priced["cost.copy_hot"] - ns, 0)
        for ns in (priced["cost.copy_4k"], part)
    ]
    return [
        *pages,
        Term("pages_beyond", "copy", place, priced["cost.copy_beyond"]),
        Term("copies_first", "copy", place, priced["cost.copy_first"]),
        Term("pages_hot", "copy", place, less[0]),
        Term("pages_hot_huge", "copy", place, less[1]),
    ]
