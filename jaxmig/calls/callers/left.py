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
    """What a call left of a list that nothing but memory kept from moving.

    Only pieces of split folios stay then: the last of those that were listed.

    Args:
      candidates: the folios of the list, as they were before the call.
      after: the machine's memory after it.
      moved: base pages that it moved.
      ascend: whether tails were listed in ascending order; their head comes last.
    Returns:
      int32[pieces], head frames in the kernel's order.
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
