"""memhog's two perf profiles on arm64: shares of functions before and after batching.

Before batching, shares are of the whole migratepages run, and the machine's costs come
from them.  After it, perf counted the whole system, so that only shares of
migrate_pages() itself can be compared; no cost comes from these.

Source: Xin Hao, replies to migrate_pages(): batch TLB flushing v4, 8 Feb 2023.
"""

from collections.abc import Iterator, Mapping

from jaxmig.linux.releases import release
from jaxmig.time.machines import Profile
from jaxmig.tools.reproduce import published
from jaxmig.tools.reproduce.row import Row


def spent(profile: Profile, kernel: str) -> Mapping[str, float]:
    """ns per base page in each function of the profiles, on arm64."""
    made = release(kernel)
    deferred = made.batched and made.arm64_defers
    tlbi, dsb = profile["cost.tlbi"], profile["cost.dsb"]
    clear = tlbi if deferred else tlbi + dsb
    wait = dsb / 512 if deferred else 0.0
    unmap = profile["cost.walk"] + clear
    flags, copy, remap = (
        profile["cost.switch"],
        profile["cost.copy_4k"],
        profile["cost.remap"],
    )
    rest = profile["cost.alloc"] + profile["cost.bookkeeping"]
    return {
        "total": unmap + wait + flags + copy + remap + rest,
        "migrate_folio_extra": flags + copy,
        "folio_copy": copy,
        "folio_migrate_flags": flags,
        "try_to_migrate": unmap,
        "ptep_clear_flush": clear,
        "rmap_walk_anon": unmap + remap,
        # Without its lock and LRU work, which the model has only as a total.
        "migrate_folio_move": flags + copy + remap,
        "move_to_new_folio": flags + copy,
    }


def profiles(profile: Profile, inputs: tuple[str, ...]) -> Iterator[Row]:
    """A row for each function and release."""
    before = spent(profile, "6.2")
    for name, share in published.PROFILE_BEFORE.items():
        yield Row(
            "arm64-memhog-profile",
            f"{name}(), memhog 1g, before batching",
            share,
            None,
            None,
            100 * before[name] / before["total"],
            None,
            "% of migratepages",
            "6.2",
            inputs,
            published.MEMHOG.source,
            fitted_before=True,
        )
    whole = published.PROFILE_AFTER["migrate_pages"]
    for kernel in ("v4", "6.3", "6.6"):
        after = spent(profile, kernel)
        for name, share in published.PROFILE_AFTER.items():
            if name not in after:
                continue
            yield Row(
                "arm64-memhog-profile",
                f"{name}(), memhog 1g, after batching",
                None,
                100 * share / whole,
                None,
                None,
                100 * after[name] / after["total"],
                "% of migrate_pages",
                kernel,
                inputs,
                published.MEMHOG.source,
                cause=published.PROFILE_CAUSE,
            )
