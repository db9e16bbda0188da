"""Programs of later calls, compiled while the first one is laid out, runs, is checked."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from jaxmig.migrate import Executable, compiling
from jaxmig.rules import Rules, structure


class Ahead:
    """A thread that compiles calls with arguments like those of a first one.

    XLA compiles without Python's lock, much of it with one thread.
    """

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

    def wait(self, r: Rules) -> None:
        """Until the program of these rules is there, if it was begun."""
        if structure(r) in self._begun:
            self._begun[structure(r)].result()
