"""Compilation in advance, for later calls of a command and for scripts.

XLA compiles without Python's lock, and for much of it uses only one thread.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from jaxmig.engine.migrate import Executable, checked, compiling
from jaxmig.linux.releases import BOTH
from jaxmig.linux.rules import Rules, rules, structure
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
    share programs; so do releases that batch in the same way.  The programs of several
    kernels are compiled in parallel.

    Args:
      state, folios, node, mode, donate: as for `jaxmig.migrate_pages()`; nothing is
        migrated or donated.
      kernels: releases that will be called.
    Raises:
      ValueError: for what `jaxmig.migrate_pages()` refuses.
    """
    args, _ = checked(state, folios, node)
    asked: dict[Rules, list[Callable[[], Executable]]] = {}
    for r in (rules(kernel, mode) for kernel in kernels):
        asked.setdefault(structure(r), []).append(compiling(r, donate, *args))
    with ThreadPoolExecutor() as threads:
        # Rules of one structure may share a program, so one thread compiles them all.
        list(
            threads.map(lambda some: [compiled() for compiled in some], asked.values())
        )


class Ahead:
    """A thread that compiles calls with arguments like those of a first one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._begun: dict[Rules, Future[Executable]] = {}

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def begin(self, mine: Rules, later: list[Rules], *args: Any) -> None:
        """Start to compile calls of other structures than `mine` that donate."""
        for r in later:
            if structure(r) not in {structure(mine), *self._begun}:
                made = self._thread.submit(compiling(r, True, *args))
                self._begun[structure(r)] = made

    def wait(self, rules: Rules) -> None:
        """Wait for the program of these rules, if its compilation was started."""
        if structure(rules) in self._begun:
            self._begun[structure(rules)].result()
