"""Loops of `probe.c` as machine code, for timings too short for an interpreter.

A call through ctypes releases Python's lock, so threads can spin and answer on their own
CPUs while another one measures.
"""

import base64
import ctypes
import mmap
import platform
import sys
import time
from collections.abc import Callable
from typing import Final

from jaxmig.tools.calibrate.fit import CalibrationError

_CODE: Final = (
    "QVdBVkFVQVRVU0iF0g+EnQAAAEmJ9UjB5gxIjVr/Me1MjQQ3QbwKAAAAQb8BAAAAQb4DAAAAZi4P"
    "H4QAAAAAAEiJ+E2F7XQWDx+EAAAAAADGAAFIBQAQAABMOcB18g+u6A8xD67oSMHiIInARTHSSAnC"
    "TIngSYnRTIn6DwUPrugPMQ+u6EjB4iCJwEgJwkyJ4EwpykgB1UyJ8g8FSIPrAXOeW0iJ6F1BXEFd"
    "QV5BX8Mx7VtIiehdQVxBXUFeQV/DSYn4SYnySYnRSYnLD67oDzEPruhIweIgicBIizdICcJIidFI"
    "hfZ1SA8fhAAAAAAAD67oDzEPruhIic9IweIgicFICdFIichIKfhMOc5zDUw52HIISYkE8kiDxgFJ"
    "iwBIhcB0zEiJ8MMPH4QAAAAAADH2SInww2YuDx+EAAAAAABIidEPrugPMQ+u6InASMHiIEgJwkiN"
    "Qf9JidFIhcl0G0G4ABAAAGYuDx+EAAAAAABMicHzpEiD6AFz9Q+u6A8xD67oSMHiIInASAnCSInQ"
    "TCnIw2ZmLg8fhAAAAAAAZpAPrugPMQ+u6InASMHiIEgJwkiNRv9JidBIhfZ0DA8fAEiLP0iD6AFz"
    "9w+u6A8xD67oMclIhf+JwA+UwUjB4iBMKcFICcJIjQQRw2YPH0QAAA+u6A8xD67oSMHiIInASAnC"
    "SYnQSIX2dB5IweYMSI0ENw8fgAAAAAAPtg9IgccAEAAASDnHdfEPrugPMQ+u6EjB4iCJwEgJwkiJ"
    "0EwpwMOQQVdIidFBVkFVQVRVUw+u6A8xD67oSMHiIInASAnCSIlUJPhIhcl0dEUx/0iF9kmJ8EG5"
    "ygAAAEAPlMVMjWH/QQ+Ux7uAAAAAQA+27UG+gQAAAEG9AQAAAA8fhAAAAAAAiwdJOcB0HmYPH4QA"
    "AAAAAEUx0kyJyEiJ3kiJ6g8FiwdMOcB160SJP0Ux0kyJyEyJ9kyJ6g8FSYPsAXPED67oDzEPruiJ"
    "wEjB4iBIi0wk+FtICcJdQVxIidBBXUFeSCnIQV/D"
)
# Where each function begins (`nm probe.o`), and how many arguments it takes.
_AT: Final = {
    "protect": (0x000, 3),
    "spin": (0x0C0, 4),
    "copy": (0x140, 3),
    "chase": (0x1A0, 2),
    "touch": (0x1F0, 2),
    "ping": (0x240, 3),
}


class Probe:
    """The functions of `probe.c`, in ticks of the time stamp counter.

    Raises:
      CalibrationError: not x86-64 Linux, or memory that may not be executed.
    """

    def __init__(self) -> None:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise CalibrationError(
                f"nothing can be timed on {platform.machine()} {sys.platform}, only on "
                "x86-64 Linux; calibrate from perf or /proc/vmstat instead"
            )
        code = base64.b64decode(_CODE)
        rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        try:
            self._memory = mmap.mmap(-1, mmap.PAGESIZE, prot=rights)
        except OSError as error:
            raise CalibrationError(
                f"no memory that may be executed ({error.strerror}): a security policy "
                "forbids --measure; calibrate from perf or /proc/vmstat instead"
            ) from None
        self._memory.write(code)
        start = address(self._memory)
        self.protect, self.spin, self.copy, self.chase, self.touch, self.ping = (
            _function(start + at, n) for at, n in _AT.values()
        )
        self.ns_per_tick = self._tick()

    def _tick(self) -> float:
        """ns of a tick, over about 20 ms; CPUs that run 6.1 have a constant counter."""
        loop = (ctypes.c_uint64 * 1)()
        loop[0] = ctypes.addressof(loop)
        start = time.perf_counter_ns()
        ticks = self.chase(ctypes.addressof(loop), 10_000_000)
        return (time.perf_counter_ns() - start) / ticks


def address(area: mmap.mmap) -> int:
    """The address of a writable mapping."""
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def _function(at: int, arguments: int) -> Callable[..., int]:
    return ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * arguments)(at)
