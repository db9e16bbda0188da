"""Text with an access on each line: `[CPU] R|W|L|S|M ADDRESS[,SIZE]`, addresses in hex.

valgrind's lackey writes ` L 1ffeff7c,8`, and `M` for an instruction that loads and
stores; Pin's pinatrace writes `0x401000: R 0x7ffe10`.  Instruction fetches (`I`) are
skipped, as are lines that begin with #, == or --.

Source: lk_main.c of valgrind 3.19; pinatrace.cpp of Intel Pin.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.programs.traces.accesses import Rows, across, both, rows
from jaxmig.programs.traces.source import Match, Source

LINE: Final = re.compile(
    rb"(?m)^(?:I[ \t][^\n]*+"  # first, as most lines are fetches
    rb"|[ \t]*+(?:(?:0x)?[0-9a-fA-F]{1,16}:[ \t]++)?(?:(\d{1,6})[ \t]++)?"
    rb"([RWLSM])[ \t]++(?:0x)?([0-9a-fA-F]{1,16})(?:,(\d{1,4}))?[ \t]*+"
    rb"|[ \t]*+(?:#[^\n]*+)?|==[^\n]*+|--[^\n]*+)$"
)
ADVICE: Final = "no access; lines are like ` L 1ffeff7c,8`"


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    for number, found in source.matches(LINE, ADVICE):
        kept = [m for m in found if m[1]]
        if kept:
            at = [int(m[2], 16) for m in kept]
            source.check(
                np.asarray(at, np.uint64),
                lambda i, n=number, f=found: [j for j, m in enumerate(f, n) if m[1]][i],
            )
            yield _block(kept)


def _block(found: list[Match]) -> Rows:
    cpu, kind, address, size = zip(*found, strict=True)
    made = rows(
        [int(a, 16) for a in address],
        cpu=[int(c) if c else -1 for c in cpu],
        store=[k in b"WS" for k in kind],
    )
    modify = np.array([k == b"M" for k in kind])
    sizes = np.array([int(s or 1) for s in size])
    if modify.any():
        times = np.where(modify, 2, 1)
        second = np.repeat(modify, times)
        pairs = both(made[modify])
        made, sizes = np.repeat(made, times), np.repeat(sizes, times)
        made[second] = pairs
    return across(made, sizes)
