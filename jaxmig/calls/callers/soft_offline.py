"""Soft offlining: pages with too many corrected errors are emptied and never used again.

Each call has one page.  A large folio is split first; the split unmaps the pages of a
file, and the clean ones among them are dropped.

Source: soft_offline_in_use_page(), mf_isolate_folio() in mm/memory-failure.c, Linux 6.1
to 7.1.
"""

import errno

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from jaxmig.calls.callers.candidates import Candidates, isolable
from jaxmig.calls.callers.divide import divide, pieces
from jaxmig.calls.callers.lists import Lists
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.calls.syscalls.session import NotModelled, Session
from jaxmig.calls.syscalls.space import Heads
from jaxmig.engine.migrate import replace
from jaxmig.state import conditions as cond, frame
from jaxmig.state.machine import NOWHERE


def run(request: Request) -> CallerOutcome:
    """Every page of the process on the old nodes, in address order."""
    work = _SoftOffline(request)
    c = Candidates.of(request.session.view(), request.space, request.old)
    large = (c.order > 0) & (c.kind != frame.HUGETLB)
    # Folios between two large ones are handled together.
    for part in np.split(np.arange(len(c)), np.flatnonzero(large)):
        if len(part) and large[part[0]]:
            work.split(c.take(part[:1]))
            part = part[1:]
        work.offline(c.head[part])
    busy = -errno.EBUSY if work.busy or work.lists.failed else 0
    lists = work.lists
    return CallerOutcome(lists.ret, lists.short or busy, lists.calls)


class _SoftOffline:
    """The work, and whether some page could not even be isolated."""

    def __init__(self, request: Request) -> None:
        self.session, self.node = request.session, request.node
        self.lists = Lists(
            request.session, request.node, request.mode, "memory_failure"
        )
        self.busy = False

    def split(self, folio: Candidates) -> None:
        """Soft offline all pages of a large folio, if it can be split."""
        s, head, pages = self.session, int(folio.head[0]), int(folio.size[0])
        first = self._divided(head, pages)
        self.busy |= first > 0
        if first == pages:
            return
        frames = pieces(head, pages)
        now = Candidates.at(s.view(), frames)
        dropped = (now.kind == frame.FILE) & ~now.has(frame.DIRTY)
        dropped &= np.arange(pages) >= first
        _drop(s, frames[dropped])
        # Pieces that held only zeros are unmapped and free, but for the current one.
        unused = now.refs == 0
        unused[first] = False
        _free(s, frames[unused])
        left = frames[(np.arange(pages) >= first) & ~dropped & ~unused]
        self._check_frames(len(left))
        self.offline(left)

    def _divided(self, head: int, pages: int) -> int:
        """The page whose soft offlining split the folio; `pages` if none could.

        Each page of the folio tries in turn.
        """
        for turn in range(pages):
            before = self._found(head)
            if divide(self.session, head):
                return turn
            # What has not changed at all will not: nothing wore off, no PMD was split.
            if self._found(head) == before:
                break
        return pages

    def _found(self, head: int) -> bytes:
        """What a try may change of a folio: its row and what stands in its way."""
        view = self.session.view()
        rows = [view.frame[head]]
        if view.conditions is not None:
            rows.append(view.conditions[head])
        return np.concatenate(rows).tobytes()

    def _check_frames(self, pages: int) -> None:
        """Refuse a machine that has no frames for the pieces of its large folios."""
        wanted = min(pages, self.session.free(self.node))
        if wanted and int(self.session.state.top[self.node, 0]) < wanted:
            problem = "the machine was made without frames for pieces of large folios"
            raise NotModelled(f"{problem}; play this as a scenario file")

    def offline(self, heads: Heads) -> None:
        """Soft offline pages, and hugetlb folios as a whole."""
        s = self.session
        if len(heads) == 0:
            return
        huge = frame.kind(s.view().flags(heads)) == frame.HUGETLB
        s.wait(heads, cond.LOCKED)
        s.wait(heads[~huge], cond.WRITEBACK)
        c = Candidates.at(s.view(), heads)
        free = isolable(s, c)
        self.busy |= not free.all()
        c = c.take(free)
        if self.lists.alike(c):
            self._move(c.head)
            return
        for head in c.head:
            self._move(np.asarray([head]))

    def _move(self, heads: Heads) -> None:
        """Migrate lists of one folio each, whose old frames are never used again."""
        s, lists = self.session, self.lists
        c = Candidates.at(s.view(), heads)
        nfree, done = np.array(s.state.nfree), s.counts["pgmigrate_success"]
        if len(heads) == 1:
            lists.one(heads)
        else:
            lists.each(c, list(range(len(heads) + 1)))
        _poison(s, c, nfree, s.counts["pgmigrate_success"] - done, self.node)


def _drop(session: Session, frames: Heads) -> None:
    """invalidate_inode_page() of unmapped pages, whose frames are never used again."""
    if len(frames):
        rows = np.array(session.state.frame)
        rows[frames] = (0, 0, 0, NOWHERE)
        session.rewind(replace(session.state, frame=jnp.asarray(rows)))


def _free(session: Session, frames: Heads) -> None:
    """Free pieces that have no user left after the split."""
    if len(frames):
        node = int(session.view().node(frames)[0])
        _drop(session, frames)
        session.rewind(
            replace(session.state, nfree=session.state.nfree.at[node].add(len(frames)))
        )


def _poison(
    session: Session,
    candidates: Candidates,
    nfree: Int32[np.ndarray, " nodes"],
    moved: int,
    node: int,
) -> None:
    """Keep the source frames of moved folios from being allocated again.

    `nfree` is what was free before `moved` base pages went to `node`.  Source:
    migrate_folio_done(), which leaves the sources to mm/memory-failure.c.
    """
    # Pages of the hugetlb pool are not counted as free memory.
    if moved == 0 or (candidates.kind == frame.HUGETLB).any():
        return
    back = np.asarray(session.state.nfree) - nfree
    # On the target node the frames taken hide the frames freed.
    back[node] = 0
    back[node] = moved - back.sum()
    session.rewind(replace(session.state, nfree=session.state.nfree - back))
