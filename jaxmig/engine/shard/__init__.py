"""One machine on many devices: frames, contents, entries and lists dealt out on a mesh.

mesh = jax.make_mesh((4,), ("pages",))
sharded = shard.deal(state, mesh)
sharded, result = shard.migrate_pages(sharded, folios, 1, kernel="6.3")
state = shard.collect(sharded)

    deal.py      which shard keeps which row
    sharded.py   a machine cut up, and put together again
    arrange.py   free frames in an order in which pages stay on their shards
    post.py      rows that other shards keep: boxes of fixed size, collectives
    table.py     the pages a shard is working on, as a small machine
    window.py    the stretch of the list that comes next
    work.py      what is done with it
    contents.py  copies within a shard and across
    tlbs.py      the end of a call
    call.py      the call

A page gets the frame that one device would give it, the next on its node's stack.  With
"striped" frames it stays on its shard if that frame is on it, as with memory in address
order, or after `arrange`.
"""

from jaxmig.engine.shard.arrange import arrange
from jaxmig.engine.shard.call import migrate_pages
from jaxmig.engine.shard.sharded import Sharded, collect, deal

__all__ = ["Sharded", "arrange", "collect", "deal", "migrate_pages"]
