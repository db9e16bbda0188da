"""The rules of a call as data: one compiled program serves every release and mode.

`word(rules)` packs what `rules.py` fixes into the bits of one int32, and `switches()`
unpacks them where they are asked.  A word that is known while a program is traced is
folded by the compiler, so that nothing is lost where a program serves one rule only.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Array, Int32

from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Flag = Any  # Bool[Array, ""], or numpy's where the rules are known
# Switches of a release that the forms going one folio at a time ask for.
RELEASE: Final = (
    "thp_counts_large",
    "async_first",
    "crossing_opens_next",
    "checks_pte_accessible",
    "arm64_defers",
    "counts_nr_split",
    "split_flushes_batch",
    "splits_partially_mapped",
    "split_trylocks",
    "pieces_ascend",
    "moves_freed_driver_pages",
    "keeps_mask",
)
CALL: Final = (
    "batched",
    "asynchronous",
    "waits_for_writeback",
    "memalloc",
    "nosplit",
    "longterm_pin",
    "broadcasts",
    "invlpgb",
)


@pytree
class Switches:
    """What `Rules` says, a flag each; see there and in releases.py."""

    thp_counts_large: Flag
    async_first: Flag
    crossing_opens_next: Flag
    checks_pte_accessible: Flag
    arm64_defers: Flag
    counts_nr_split: Flag
    split_flushes_batch: Flag
    splits_partially_mapped: Flag
    split_trylocks: Flag
    pieces_ascend: Flag
    moves_freed_driver_pages: Flag
    keeps_mask: Flag
    batched: Flag
    asynchronous: Flag  # mode is ASYNC
    waits_for_writeback: Flag  # mode is SYNC: the others give such folios up
    memalloc: Flag
    nosplit: Flag
    longterm_pin: Flag
    broadcasts: Flag
    invlpgb: Flag

    @property
    def may_sleep(self) -> Flag:
        """Whether some stage of the call may sleep."""
        return ~self.asynchronous & ~self.memalloc

    @property
    def two_stages(self) -> Flag:
        """migrate_pages_sync(): asynchronously first, then one by one."""
        return self.async_first & ~self.asynchronous


def refuse_own_rule(r: Rules) -> None:
    """A row of one's own may hold a function, which no bit can stand for."""
    if r.release.defers is not None:
        raise ValueError(
            f"kernel {r.release.name!r}: a rule of one's own for deferring holds where "
            "all batches are worked at once: base pages, enough memory, no log, no jit"
        )


def word(r: Rules) -> np.int32:
    """The rules as bits, in the order of the fields of `Switches`.

    Raises ValueError for a release with a rule of its own.
    """
    refuse_own_rule(r)
    call = {
        "batched": r.release.batched,
        "asynchronous": r.mode == "async",
        "waits_for_writeback": r.mode == "sync",
        "memalloc": r.memalloc,
        "nosplit": r.nosplit,
        "longterm_pin": r.reason == "longterm_pin",
        "broadcasts": r.broadcasts,
        "invlpgb": r.invlpgb,
    }
    bits = [getattr(r.release, name) for name in RELEASE] + [call[n] for n in CALL]
    return np.int32(sum(int(on) << i for i, on in enumerate(bits)))


def switches(bits: np.int32 | Int32[Array, ""]) -> Switches:
    """The flags of a word."""
    count = len(RELEASE) + len(CALL)
    return Switches(*(((bits >> i) & 1) == 1 for i in range(count)))
