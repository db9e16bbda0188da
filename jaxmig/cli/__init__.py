"""The command line: `jaxmig COMMAND ...`, also `python -m jaxmig`.

One module a command, with `run()` (what it does); its options are in `parsers`.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    if argv is None:
        # An exception while numpy and jax are imported could end anywhere in them.
        signal.signal(signal.SIGINT, _leave)
        # Nothing that is imported is garbage; looking for some takes a tenth of it.
        gc.disable()
    from jaxmig.cli import app

    return app.main(sys.argv[1:] if argv is None else argv, alone=argv is None)


def _leave(*_: object) -> None:
    os.write(2, b"\njaxmig: interrupted\n")
    os._exit(130)


__all__ = ["main"]
