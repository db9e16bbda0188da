"""Fields that lines of perf script, tracefs and trace-cmd have in common."""

import re
from typing import Final

WRITE: Final = 2  # X86_PF_WRITE, bit of error_code
FAULT: Final = re.compile(
    rb"address=0x([0-9a-f]{1,16})\b.*error_code=0x([0-9a-f]{1,8})\b"
)
FAULTS: Final = (b"page_fault_user", b"page_fault_kernel")

NO_ADDRESS: Final = "events without an address"


def nanoseconds(seconds: bytes, fraction: bytes) -> int:
    """ns of a time in seconds, with 3 to 9 digits after the point."""
    return int(seconds) * 10**9 + int(fraction.ljust(9, b"0"))


def fault(event: bytes, body: bytes) -> tuple[int, bool] | None:
    """Address of a page fault, and whether a store caused it; None for other events.

    Source: DEFINE_EVENT page_fault_user in arch/x86/include/asm/trace/exceptions.h.
    """
    if event.rpartition(b":")[2] not in FAULTS:
        return None
    found = FAULT.search(body)
    if found is None:
        return None
    return int(found[1], 16), bool(int(found[2], 16) & WRITE)
