"""Compilation in advance, for scripts."""

from collections.abc import Sequence
from typing import Any

from jaxmig.engine.migrate import checked, executable
from jaxmig.linux.releases import BOTH
from jaxmig.linux.rules import rules
from jaxmig.state.machine import Machine


def warm_up(
    state: Machine,
    folios: Any,
    node: int,
    *,
    kernels: Sequence[str] = BOTH,
    mode: str = "sync",
    donate: bool = False,
) -> None:
    """Compile `jaxmig.migrate_pages()` for machines and lists of these classes.

    Sizes are rounded up to one of four steps per octave, and sizes with the same step
    share programs; so do all releases, modes and architectures.  Where folios are large,
    lists of up to 16,384 base pages in all have a program of their own.

    Args:
      state, folios, node, mode, donate: as for `jaxmig.migrate_pages()`; nothing is
        migrated or donated.
      kernels: releases that will be called.
    Raises:
      ValueError: for what `jaxmig.migrate_pages()` refuses.
    """
    args, _ = checked(state, folios, node)
    for kernel in kernels:
        executable(rules(kernel, mode), donate, *args)
