"""ChampSim's packed traces: 64 or 96 bytes per instruction, usually compressed by xz.

An instruction has up to four addresses that it loads from and two that it stores to, in
CloudSuite's traces four; 0 means none.  A record has no time, thread or size.  A file
does not name its layout: it is the one in which every record at the file's beginning
looks like an instruction.

Source: struct input_instr and struct cloudsuite_instr in inc/trace_instruction.h of
ChampSim.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.programs.traces.accesses import (
    KERNEL_START,
    USER_END,
    Rows,
    TraceError,
    rows,
)
from jaxmig.programs.traces.source import HEAD, Source

INSTRUCTION: Final = np.dtype(
    [
        ("ip", "<u8"),
        ("branch", "u1", 2),  # is one, is taken
        ("registers", "u1", 6),  # two written, four read
        ("store", "<u8", 2),
        ("load", "<u8", 4),
    ]
)
CLOUDSUITE: Final = np.dtype(
    {
        "names": ["ip", "branch", "registers", "store", "load", "asid"],
        # A C compiler aligns the addresses: six bytes before them, six at the end.
        "formats": ["<u8", ("u1", 2), ("u1", 8), ("<u8", 4), ("<u8", 4), ("u1", 2)],
        "offsets": [0, 8, 10, 24, 56, 88],
        "itemsize": 96,
    }
)
PIECE: Final = 1 << 14  # instructions
LEAST: Final = 1 << 12  # bytes: below, nothing is ever mapped


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses; the loads of an instruction come before its stores.

    Raises:
      TraceError: the file ends within an instruction, or cannot be such a trace.
    """
    layout, done = _layout(source.head), 0
    size = layout.itemsize
    while data := source.read(PIECE * size):
        whole, rest = divmod(len(data), size)
        made = np.frombuffer(data, layout, whole)
        odd = np.flatnonzero(_odd(made))
        if odd.size or rest:
            at = done + (int(odd[0]) if odd.size else whole)
            problem = "no instruction of ChampSim" if odd.size else "cut"
            text = f"instruction {at + 1} (byte {at * size}): {problem}"
            raise TraceError(
                f"{source.name}: {text}; give an uncut trace of 64 bytes each, or of "
                "CloudSuite's 96"
            )
        done += whole
        address = np.concatenate([made["load"], made["store"]], axis=1)
        store = np.zeros(address.shape, bool)
        store[:, made["load"].shape[1] :] = True
        there = address != 0
        block = rows(address[there], store=store[there])
        if len(block):
            yield block


def _layout(head: bytes) -> np.dtype:
    """The layout in which the first records all are instructions; else ChampSim's own."""
    # If the head is the whole file, its records must be complete.
    short = len(head) < HEAD
    layouts = (INSTRUCTION, CLOUDSUITE)
    for layout in sorted(layouts, key=lambda t: short and len(head) % t.itemsize > 0):
        made = np.frombuffer(head, layout, len(head) // layout.itemsize)
        address = np.concatenate([made["load"], made["store"]], axis=1)
        low = ((address > 0) & (address < LEAST)).any()
        if len(made) and made["ip"].all() and not low and not _odd(made).any():
            return layout
    return INSTRUCTION


def _odd(made: np.ndarray) -> np.ndarray:
    """Records that no CPU can have executed, bool[records]."""
    address = np.concatenate([made["load"], made["store"]], axis=1)
    hole = (address >= USER_END) & (address < KERNEL_START)
    # Branch bytes are 0 or 1: anything else is another format's file.
    return np.asarray((made["branch"] > 1).any(axis=1) | hole.any(axis=1))
