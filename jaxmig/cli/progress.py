"""A progress bar on stderr, on a terminal only."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm  # type: ignore[import-untyped]


@contextlib.contextmanager
def progress(steps: int, title: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that says what was just done, `steps` times in all."""
    with tqdm(
        total=steps,
        desc=title,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        delay=0.5,  # a short run needs no bar
        bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed}",
    ) as bar:

        def tick(what: str) -> None:
            bar.set_description_str(f"{title}: {what}", refresh=False)
            bar.update()

        yield tick


@contextlib.contextmanager
def amount(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """Yields a function that says how much more was done, `total` in all.

    A total of 0 is not known: what was done is shown, and no time left.
    """
    known = "{desc}: {percentage:3.0f} %|{bar}| {elapsed}, {remaining} left"
    with tqdm(
        total=total or None,
        desc=title,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        delay=0.5,
        unit_scale=True,
        bar_format=known if total else None,
    ) as bar:

        def done(n: int) -> None:
            bar.update(n)

        yield done
