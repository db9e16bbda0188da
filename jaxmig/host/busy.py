"""What this process is busy with for seconds and cannot count: compiling."""

import contextlib
import time
from collections.abc import Iterator

_since: dict[object, float] = {}


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """A program is compiled inside, in any thread."""
    key = object()
    _since[key] = time.monotonic()
    try:
        yield
    finally:
        del _since[key]


def compiling_s() -> float:
    """For how many seconds a program has been compiled now; 0 if none is."""
    begun = min(list(_since.values()), default=None)
    return 0.0 if begun is None else time.monotonic() - begun
