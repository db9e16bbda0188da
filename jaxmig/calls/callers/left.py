"""The folios of its list that a call of migrate_pages() has not moved."""

import numpy as np

from jaxmig.calls.callers.candidates import Candidates
from jaxmig.calls.syscalls.scan import order_of
from jaxmig.calls.syscalls.space import Heads, View
from jaxmig.state import frame


def left_of(before: View, after: View, folios: Heads) -> Heads:
    """Folios that have not moved, and the pieces of those that were split."""
    if before.geometry.orders == (0,):
        whole = folios
    else:
        spans = zip(folios.tolist(), order_of(before, folios).tolist(), strict=True)
        whole = np.concatenate([_frames(after, h, o) for h, o in spans])
    old, new = before.frame[whole], after.frame[whole]
    flags = new[:, frame.FLAGS]
    # A frame that was freed may hold another folio of the same list by now.
    same = frame.order(old[:, frame.FLAGS] ^ flags) == 0
    taken = same & (old[:, frame.RMAP] != new[:, frame.RMAP])
    return whole[((flags & frame.KIND) != frame.FREE) & ~taken].astype(np.int32)


def pieces_left(candidates: Candidates, after: View, moved: int, ascend: bool) -> Heads:
    """The same in the kernel's order, of a list in whose way is nothing but memory.

    Only pieces stay then, the last of those that are listed; `moved`: base pages that
    went; `ascend`: how the tails are listed, the head comes behind them.
    """
    left = int(candidates.size.sum()) - moved
    flags = after.flags(candidates.head)
    split = (candidates.order > 0) & (frame.order(flags) == 0)
    split &= (flags & frame.KIND) != frame.FREE
    listed = [np.zeros(0, np.int32)]
    for head, pages in zip(
        candidates.head[split], candidates.size[split].tolist(), strict=True
    ):
        tails = head + np.arange(1, pages, dtype=np.int32)
        listed += [tails if ascend else tails[::-1], head[None]]
    return np.concatenate(listed)[-left:] if left else listed[0]


def _frames(after: View, head: int, order: int) -> Heads:
    """The folio if it is still whole, or all its pieces."""
    if order == 0 or after.flags(np.asarray([head]))[0] & frame.ORDER == order:
        return np.asarray([head], np.int32)
    return np.arange(head, head + (1 << order), dtype=np.int32)
