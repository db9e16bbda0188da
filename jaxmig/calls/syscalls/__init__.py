"""The system calls that migrate pages: what they refuse, isolate and return.

They run on the host, over numpy views of the page tables, and hand lists of folios to
the compiled migrate_pages() of `jaxmig.engine.migrate`.
"""

from jaxmig.calls.syscalls.mbind import mbind
from jaxmig.calls.syscalls.migratepages import migrate_pages
from jaxmig.calls.syscalls.movepages import move_pages
from jaxmig.calls.syscalls.nodes import parse_nodes
from jaxmig.calls.syscalls.scan import MOVE, MOVE_ALL, STRICT, kernel_list
from jaxmig.calls.syscalls.session import NotModelled, Session, SleepsForever
from jaxmig.calls.syscalls.space import Area, Space, pages_by_node

__all__ = [
    "MOVE",
    "MOVE_ALL",
    "STRICT",
    "Area",
    "NotModelled",
    "Session",
    "SleepsForever",
    "Space",
    "kernel_list",
    "mbind",
    "migrate_pages",
    "move_pages",
    "pages_by_node",
    "parse_nodes",
]
