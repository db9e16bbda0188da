"""Which release introduced a rule of a caller.

The callers' rules decide what is on a list; those of `jaxmig/linux/releases.py` decide
how a list is migrated.
"""

import re
from typing import Final

from jaxmig.calls.syscalls.session import NotModelled

# The posted series, by the release on which they were written.
POSTED: Final = {"v4": (6, 2), "batch-copy": (6, 18)}


def since(kernel: str, first: str) -> bool:
    """Whether a release is `first` or a later one.

    A point release (6.18.0) counts as its release, and a user's own row (6.3-mine) as
    the one that its name begins with.

    Raises:
      NotModelled: for a name that begins with no release.
    """
    return _number(kernel) >= _number(first)


def _number(kernel: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", kernel)
    if found:
        return int(found[1]), int(found[2])
    if kernel not in POSTED:
        raise NotModelled(
            f"what callers list on kernel {kernel!r}; name it after a release, as 6.3-mine"
        )
    return POSTED[kernel]
