"""The command line: `jaxmig COMMAND ...`, also `python -m jaxmig`.

Each command has a module with its `run()`; its options are in `parsers`.  Everything here
is about arguments, files and text: nothing is computed, and no other folder imports this
one.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    if argv is None:
        # KeyboardInterrupt during an import could be caught inside numpy or jax.
        signal.signal(signal.SIGINT, _leave)
        # Imports make no garbage; looking for it takes a tenth of their time.
        gc.disable()
    from jaxmig.cli import app

    return app.main(sys.argv[1:] if argv is None else argv, alone=argv is None)


def _leave(*_: object) -> None:
    os.write(2, b"\njaxmig: interrupted\n")
    os._exit(130)


__all__ = ["main"]
