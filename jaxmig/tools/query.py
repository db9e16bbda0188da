"""Questions about a machine, answered on the host with numpy."""

import numpy as np
from jaxtyping import Int32

from jaxmig.state import arguments, frame, pte
from jaxmig.state.machine import PMD_PAGES, Machine


def folios_on(state: Machine, node: int) -> Int32[np.ndarray, " folios"]:
    """Head frames of the folios mapped on a node, each once, in order of the entries.

    Entries are in address order for each process in turn, PMD leaves after all PTEs.

    Raises:
      ValueError: for a node that the machine lacks.
    """
    node = arguments.node(state, node)
    words = np.asarray(state.pte)
    bits = words[:, pte.BITS]
    mapped = (bits & (pte.PRESENT | pte.ZERO_PAGE)) == pte.PRESENT
    pfn = words[mapped, pte.PFN]
    heads = pfn[pfn // state.geometry.frames_per_node == node]
    rows = np.asarray(state.frame)
    tail = (rows[heads, frame.FLAGS] & frame.TAIL) != 0
    heads = heads[~tail]
    _, first = np.unique(heads, return_index=True)
    return heads[np.sort(first)]


def pages_by_node(state: Machine) -> list[int]:
    """Base pages mapped on each node; a page that two processes map counts twice."""
    words = np.asarray(state.pte)
    present = (words[:, pte.BITS] & (pte.PRESENT | pte.ZERO_PAGE)) == pte.PRESENT
    size = np.where((words[:, pte.BITS] & pte.HUGE) != 0, PMD_PAGES, 1)[present]
    node = words[present, pte.PFN] // state.geometry.frames_per_node
    counts = np.bincount(node, weights=size, minlength=state.geometry.nodes)
    return [int(n) for n in counts]
