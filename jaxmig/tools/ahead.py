"""Programs compiled before they are asked for: of later calls, of a script's.

XLA compiles without Python's lock, much of it with one thread.
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

    Sizes between two steps, four an octave, share their programs, and so do releases
    that batch alike.  The programs of several kernels are compiled side by side.

    Args:
      state, folios, node, mode, donate: as for `jaxmig.migrate_pages()`; nothing is
        migrated, and nothing given away.
      kernels: releases that will be called.
    Raises:
      ValueError: for what `jaxmig.migrate_pages()` refuses.
    """
    args, _ = checked(state, folios, node)
    asked: dict[Rules, list[Callable[[], Executable]]] = {}
    for r in (rules(kernel, mode) for kernel in kernels):
        asked.setdefault(structure(r), []).append(compiling(r, donate, *args))
    with ThreadPoolExecutor() as threads:
        # Those of one structure may be one program, which one thread compiles once.
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
        """Compile calls that give their machine away, but not that of `mine`."""
        for r in later:
            if structure(r) not in {structure(mine), *self._begun}:
                made = self._thread.submit(compiling(r, True, *args))
                self._begun[structure(r)] = made

    def wait(self, rules: Rules) -> None:
        """Until the program of these rules is there, if it was begun."""
        if structure(rules) in self._begun:
            self._begun[structure(rules)].result()
