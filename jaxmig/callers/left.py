"""What a call of migrate_pages() has left of its list."""

import numpy as np

from jaxmig import frame
from jaxmig.syscalls.scan import order_of
from jaxmig.syscalls.space import Heads, View


def left_of(before: View, after: View, folios: Heads) -> Heads:
    """Folios that are still there, and pieces of split ones."""
    if before.geometry.orders == (0,):
        whole = folios
    else:
        spans = zip(folios.tolist(), order_of(before, folios).tolist(), strict=True)
        whole = np.concatenate([_frames(after, h, o) for h, o in spans])
    old, new = before.frame[whole], after.frame[whole]
    flags = new[:, frame.FLAGS]
    # A frame that was given up may serve another folio of the same list by now.
    same = frame.order(old[:, frame.FLAGS] ^ flags) == 0
    taken = same & (old[:, frame.RMAP] != new[:, frame.RMAP])
    return whole[((flags & frame.KIND) != frame.FREE) & ~taken].astype(np.int32)


def _frames(after: View, head: int, order: int) -> Heads:
    """A folio that is whole, or all its pieces."""
    if order == 0 or after.flags(np.asarray([head]))[0] & frame.ORDER == order:
        return np.asarray([head], np.int32)
    return np.arange(head, head + (1 << order), dtype=np.int32)
