"""The command line: `jaxmig COMMAND ...`, also `python -m jaxmig`.

One module a command, each with `add()` (its parser) and `run()` (what it does).
"""

from jaxmig.cli.app import main

__all__ = ["main"]
