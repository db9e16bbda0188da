"""A progress bar on stderr, on a terminal only."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from tqdm import tqdm  # type: ignore[import-untyped]

from jaxmig.host import busy

TIMES: Final = "|{bar}| {elapsed}, {remaining} left{postfix}"
BAR: Final = "{desc}: {percentage:3.0f} %" + TIMES
REDRAWN_S: Final = 1.0
COMPILING_S: Final = 3.0  # of a compilation, after which it is said


@contextlib.contextmanager
def progress(steps: int, title: str) -> Iterator[Callable[..., None]]:
    """Yield a function to call after each of `steps` steps, with the step's name.

    Its second argument is the part of a step that was done, 1 by default; its third, a
    number of steps to add to the total.
    """
    with tqdm(
        total=steps,
        desc=title,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        delay=0.5,  # a short run needs no bar
        bar_format=BAR,
    ) as bar:

        def tick(what: str, done: float = 1, more: float = 0) -> None:
            bar.total += more
            bar.set_description_str(f"{title}: {what}", refresh=False)
            bar.update(done)

        with redrawn(bar):
            yield tick


@contextlib.contextmanager
def amount(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the amount just done, of `total` in all.

    With a total of 0, which means unknown, the bar shows no time left.
    """
    with tqdm(
        total=total or None,
        desc=title,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        delay=0.5,
        unit_scale=True,
        bar_format=BAR if total else None,
    ) as bar:

        def done(n: int) -> None:
            bar.update(n)

        with redrawn(bar):
            yield done


@contextlib.contextmanager
def redrawn(bar: Any) -> Iterator[None]:
    """Draw the bar every second, also during long calls and compilations."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(REDRAWN_S):
            late = busy.compiling_s() > COMPILING_S
            bar.set_postfix_str("compiling" if late else "", refresh=False)
            bar.refresh()

    thread = threading.Thread(target=watch, daemon=True)
    if not bar.disable:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
