"""The target that an argument names, with warnings about it on stderr."""

import os
from typing import TYPE_CHECKING

from jaxmig.cli.errors import say
from jaxmig.cli.progress import amount

if TYPE_CHECKING:
    from jaxmig.sources.targets import Target


def target(text: str, pid: int | None) -> "Target":
    """Resolve a target, with a progress bar while a long trace is read."""
    from jaxmig.sources import targets  # `jaxmig snapshot` needs none

    file = targets.file_of(text)
    size = os.stat(file).st_size if file else 0
    with amount(size, f"reading {text}") as done:
        found = targets.resolve(text, pid, done)
    say_laid_out(text, found.laid_out)
    return found


def say_laid_out(name: str, pages: int) -> None:
    """Warn that the addresses of some pages are made up, if any are."""
    if pages:
        say(
            f"{name}: pagemap cannot be read: {pages:,} pages are laid out by the "
            "counts of numa_maps, area by area and node by node"
        )
