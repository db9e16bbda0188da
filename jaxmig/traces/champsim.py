"""ChampSim's packed traces: 64 bytes an instruction, usually compressed by xz.

An instruction has up to four addresses that it loads from and two that it stores to;
0 means none.  A record says nothing of time, thread or size.

Source: struct input_instr in inc/trace_instruction.h of ChampSim.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.traces.accesses import Rows, TraceError, rows
from jaxmig.traces.source import Source

INSTRUCTION: Final = np.dtype(
    [
        ("ip", "<u8"),
        ("branch", "u1", 2),  # is one, is taken
        ("registers", "u1", 6),  # two written, four read
        ("store", "<u8", 2),
        ("load", "<u8", 4),
    ]
)
PIECE: Final = 1 << 14  # instructions


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses; what an instruction loads comes before what it stores.

    Raises:
      TraceError: the file ends within an instruction, or cannot be such a trace.
    """
    done = 0
    while data := source.read(PIECE * INSTRUCTION.itemsize):
        whole, rest = divmod(len(data), INSTRUCTION.itemsize)
        made = np.frombuffer(data, INSTRUCTION, whole)
        # Branch bytes are 0 or 1: anything else is another format's file.
        odd = np.flatnonzero((made["branch"] > 1).any(axis=1))
        if odd.size or rest:
            at = done + (int(odd[0]) if odd.size else whole)
            problem = "no instruction of ChampSim" if odd.size else "cut"
            text = f"instruction {at + 1} (byte {at * INSTRUCTION.itemsize}): {problem}"
            raise TraceError(
                f"{source.name}: {text}; give an uncut trace of 64 bytes each"
            )
        done += whole
        address = np.concatenate([made["load"], made["store"]], axis=1).ravel()
        store = np.tile([False] * 4 + [True] * 2, whole)
        block = rows(address[address != 0], store=store[address != 0])
        if len(block):
            yield block
